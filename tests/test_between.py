"""Between two batches of a run: states that are written by what they cost, and go on bit for bit from any batch."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest
import torch
from conftest import long_but, needs_compiler
from test_ranks import run as run_in_processes
from torch import nn

import pyrovae
from pyrovae.callbacks import Callback
from pyrovae.inference.checkpoint import MANIFEST, RUN
from pyrovae.inference.checkpoint.manifest import encoded
from pyrovae.inference.snapshots import Snapshots, in_words, name_of, place_of, places_in
from pyrovae.inference.svi import loop as loop_module
from pyrovae.inference.svi import pace
from pyrovae.inference.svi.between import Between
from pyrovae.inference.svi.loop import Loop
from pyrovae.inference.svi.pace import Pace
from pyrovae.inference.svi.resume import Resume
from pyrovae.models.distributions import DiagonalNormal, Likelihood, StandardNormal
from pyrovae.models.networks import MLP
from pyrovae.models.semi_supervised import SemiSupervisedVAE
from pyrovae.seeding import Noise

X = torch.rand(16, 5, generator=torch.Generator().manual_seed(0))
STEPS = 3  # of an epoch: two of 6 items and one of 4
QUICK = {"batch_size": 6, "progress": False}


class Normed(nn.Module):
    """A network with noise of its own and buffers, one of which a state dict leaves out."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.2)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen += 1
        return torch.tanh(self.drop(self.norm(self.first(x.flatten(1))))) + 1e-2 * self.seen


def built(seed=0):
    torch.manual_seed(seed)
    likelihood = Likelihood(MLP((2,), (5,)), pyrovae.Bernoulli(), (5,))
    return pyrovae.VAE(StandardNormal(2), likelihood, DiagonalNormal(Normed(), 4, 2))


def linear(seed=0):
    torch.manual_seed(seed)
    return pyrovae.linear_vae(5, 2)


def everything(pair):
    return torch.cat([t.detach().double().flatten() for t in (*pair.parameters(), *pair.buffers())])


def fitted(make=built, seed=0, **options):
    """The history and all tensors of a pair from `seed`."""
    pair, x = make(seed), options.pop("x", X if options.get("binarize") else X.round())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = pyrovae.fit(pair, x, **{"epochs": 2, "compile": False, **QUICK, **options})
    return history.epochs.drop_vars("seconds"), everything(pair), history.config


def is_same(one, other):
    return one[0].equals(other[0]) and torch.equal(one[1], other[1])


class Mean(Callback):
    """A callback with a state: the mean of the losses."""

    def __init__(self):
        self.count, self.mean = 0, 0.0

    def epoch(self, run, row):
        self.count += 1
        self.mean += (row["loss"] - self.mean) / self.count

    def state_dict(self):
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state):
        self.count, self.mean = state["count"], state["mean"]


def kept_at_each_batch(folder, monkeypatch, run, every=1):
    """Run with a state at each batch; a copy of the folder for each of them, by its place."""
    copies, write = {}, Snapshots.write

    def copied(snapshots, place, *rest):
        write(snapshots, place, *rest)
        copies[place] = folder / f"at-{place[0]}-{place[1]}"
        shutil.copytree(folder / "run", copies[place])

    with monkeypatch.context() as patch:
        patch.setattr(Snapshots, "write", copied)
        whole = run(checkpoint=folder / "run", checkpoint_every=every)
    return whole, copies


HELD_OUT = X[:5]


def test_a_run_goes_on_from_every_batch_to_the_same_bits(tmp_path, monkeypatch):
    options = {"binarize": True, "validation": HELD_OUT, "patience": 9, "schedule": "plateau", "warmup": 1}
    mean, validated = Mean(), loop_module.validated
    scored = list[int]()
    monkeypatch.setattr(loop_module, "validated", lambda *given: scored.append(1) or validated(*given))
    without = fitted(callbacks=[mean], **options)
    whole, copies = kept_at_each_batch(
        tmp_path, monkeypatch, lambda **more: fitted(callbacks=[Mean()], **options, **more)
    )
    assert is_same(whole, without)  # that states were written changes nothing
    assert list(copies) == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    control = shutil.copytree(copies[0, 2], tmp_path / "control")
    for (epochs, batch), folder in list(copies.items())[:-1]:
        again = Mean()
        scored.clear()
        found = fitted(seed=1, callbacks=[again], checkpoint=folder, resume=True, **options)
        assert is_same(found, whole), (epochs, batch)
        assert (again.count, again.mean) == (mean.count, mean.mean) and len(scored) == 2 - epochs
        assert (found[2]["resumed_after"], found[2]["resumed_batch"]) == (epochs - 1 if epochs else None, batch)
    monkeypatch.setattr(Noise, "go_on", lambda noise, states: None)  # noise that begins anew
    assert not is_same(fitted(seed=1, callbacks=[Mean()], checkpoint=control, resume=True, **options), whole)


def semi(seed=0):
    torch.manual_seed(seed)
    return SemiSupervisedVAE((5,), 3, 2, hidden_dims=(8,))


def gaps(seed=0):
    torch.manual_seed(seed)
    return pyrovae.mlp_vae((5,), 2, hidden_dims=(4,), likelihood="normal", missing=True)


def table(seed=0):
    torch.manual_seed(seed)
    columns = [pyrovae.Column("a", "real"), pyrovae.Column("b", "binary"), pyrovae.Column("c", "categorical", range(4))]
    return pyrovae.table_vae(columns, latent_dim=2, hidden_dims=(4,))


def counts(seed=0):
    torch.manual_seed(seed)
    return pyrovae.mlp_vae((5,), 2, hidden_dims=(4,), likelihood="poisson", covariate_dim=1)


LABELED = {"y": [0, 1, 2] * 5 + [0], "labeled_batch_size": 7}
WEIGHT = torch.arange(16.0) % 4  # some of 0
WITH_GAPS = X.where(X > 0.2, math.nan)
ROWS = torch.stack([X[:, 0], X[:, 1].round(), (4 * X[:, 2]).floor()], 1)
RUNS = {  # beside the first, which is that of the test above
    "networks": (built, {"binarize": True, "beta": 0.5, "warmup": 2, "validation": HELD_OUT}),
    "unlabeled": (
        semi,
        {**LABELED, "unlabeled": X.flip(0).round(), "binarize": True, "validation": (HELD_OUT, [0, 1, 2, 0, 1])},
    ),
    "labeled": (semi, {**LABELED, "unlabeled": None, "labeled_batch_size": 6}),
    "importance": (linear, {"objective": "iwae", "num_particles": 2, "optimizer": "sgd", "clip_norm": 1.0}),
    "gaps": (
        gaps,
        {
            "x": WITH_GAPS,
            "missing": True,
            "weight": WEIGHT,
            "validation": pyrovae.data.Split(WITH_GAPS[:9], None, weight=WEIGHT[:9], missing=True),
            "num_particles": 2,
            "warmup": 2,
        },
    ),
    "table": (table, {"x": ROWS.where(X[:, :3] > 0.2, math.nan), "missing": True, "num_particles": 2}),
    "counts": (counts, {"x": (9 * X).floor(), "exposure": 1.0 + X[:, 0], "covariates": X[:, 1:2], "free_bits": 0.1}),
}


def alike_from_every_batch(folder, monkeypatch, make, options, every=1):
    """Whether runs from each state of a run, by other weights, come to its bits."""
    whole, copies = kept_at_each_batch(folder, monkeypatch, lambda **more: fitted(make, **options, **more), every)
    assert len(copies) == math.ceil(2 * STEPS / every) and is_same(fitted(make, **options), whole)
    starts = list(copies.values())[:-1]
    ends = [fitted(make, seed=1, checkpoint=start, resume=True, **options) for start in starts]
    assert all(end[2]["compiled"] == whole[2]["compiled"] == options.get("compile", False) for end in ends)
    return [is_same(end, whole) for end in ends]


@pytest.mark.slow
@pytest.mark.parametrize("name", long_but("unlabeled", "gaps", of=RUNS))
def test_so_do_other_runs(tmp_path, monkeypatch, name):
    assert all(alike_from_every_batch(tmp_path, monkeypatch, *RUNS[name]))


@pytest.mark.long
@needs_compiler
@pytest.mark.parametrize("name", RUNS)
def test_so_does_a_compiled_run(tmp_path, monkeypatch, name):
    make, options = RUNS[name]
    assert all(alike_from_every_batch(tmp_path, monkeypatch, make, {**options, "compile": True}))


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
def test_so_does_a_captured_step(tmp_path, monkeypatch):
    make, options = RUNS["networks"]
    assert all(alike_from_every_batch(tmp_path, monkeypatch, make, {**options, "compile": True}, every=4))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        '{"binarize": True}',
        pytest.param(
            '{"weight": torch.arange(201) % 4, "missing": X > 0.8, "validation": X[:50].round(), "num_particles": 2}',
            marks=pytest.mark.long,
        ),
        pytest.param('{"binarize": True, "compile": True}', marks=[needs_compiler, pytest.mark.long]),
    ],
    ids=["networks", "gaps", "compiled"],
)
def test_so_do_two_processes_which_write_by_the_clock_of_the_first(tmp_path, options):
    body = f"""
    import shutil
    from pathlib import Path
    from pyrovae.inference.snapshots import Snapshots
    import pyrovae.models.distributions as D
    from pyrovae.models.networks import MLP
    from pyrovae.inference.svi import pace
    folder = Path({str(tmp_path)!r})
    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.drop = torch.nn.Linear(64, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.2)
        def forward(self, x):
            return torch.tanh(self.drop(self.norm(self.first(x.flatten(1))))) + self.norm.running_mean
    def make(seed=0):
        torch.manual_seed(seed)
        likelihood = D.Likelihood(MLP((3,), (1, 8, 8)), pyrovae.Bernoulli(), (1, 8, 8))
        if "missing" in options:
            return pair(likelihood="bernoulli", missing=True, seed=seed)
        return pyrovae.VAE(D.StandardNormal(3), likelihood, D.DiagonalNormal(Normed(), 4, 3))
    def all_of(model):
        return torch.cat([t.detach().double().flatten() for t in (*model.parameters(), *model.buffers())])
    options = dict(epochs=2, batch_size=67, **{options})
    x = X.round() if "missing" in options else X
    whole = make()
    found["compiled"] = fit(whole, x, **options).config["compiled"]
    write, places = Snapshots.write, []
    def copied(snapshots, place, *rest):
        write(snapshots, place, *rest)
        places.append(place)
        if ranks.is_first:
            shutil.copytree(folder / "run", folder / f"at-{{place[0]}}-{{place[1]}}")
        ranks.gathered(None)
    Snapshots.write = copied
    fit(make(), x, checkpoint=folder / "run", checkpoint_every=1, **options)
    found["places"] = ranks.gathered(places)
    Snapshots.write = write
    alike = []
    for place in places[:-1]:
        again = make(seed=1)
        fit(again, x, checkpoint=folder / f"at-{{place[0]}}-{{place[1]}}", resume=True, **options)
        alike.append(bool(torch.equal(all_of(again), all_of(whole))))
    found["alike"] = ranks.gathered(alike)
    now, step, places = [0.0], Loop.step, []
    def slow(loop, *batch):
        now[0] += 200.0 * ranks.is_first
        return step(loop, *batch)
    def noted(snapshots, place, *rest):
        write(snapshots, place, *rest)
        places.append(place)
        now[0] += 30.0 * ranks.is_first
    pace.clock, Loop.step, Snapshots.write = (lambda: now[0]), slow, noted
    fit(make(), x, checkpoint=folder / "slow", **options | dict(epochs=3))
    found["by the clock"] = ranks.gathered(places)
    """
    found = run_in_processes(body, 2, tmp_path)
    assert found["compiled"] == ("compile" in options)
    each = [[0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0]]
    assert found["places"] == [each, each]
    assert found["alike"] == [[True] * 5] * 2
    first, second = found["by the clock"]
    assert first == second and 3 <= len(first) <= 6 and first[-1] == [3, 0]


# when a state is due --------------------------------------------------------------------------------


class Clock:
    """Seconds that go by as they are told to."""

    def __init__(self, monkeypatch):
        self.now = 1e6
        monkeypatch.setattr(pace, "clock", lambda: self.now)


@pytest.mark.parametrize("length", [60.0, 3600.0, 86400.0])
@pytest.mark.parametrize("cost", [0.003, 0.03, 0.2, 2.0])
@pytest.mark.parametrize("batch", [0.1, 20.0])
def test_states_take_under_a_hundredth_of_a_run_and_five_minutes_are_lost(monkeypatch, length, cost, batch):
    """Where the guess is right. One of over 3 s is written after five minutes, whatever its share is: the next test."""
    clock = Clock(monkeypatch)
    begun, paced, kept, lost, count = clock.now, Pace(guess=cost), clock.now, 0.0, 0
    batch = max(batch, length / 2_000)
    while clock.now - begun < length:
        clock.now += batch
        lost = max(lost, clock.now - kept)
        if paced.is_due():
            with paced.writing():
                clock.now += cost
            kept, count = clock.now, count + 1
    with paced.writing():  # the end
        clock.now += cost
    share = paced.spent / (clock.now - begun)
    assert share <= max(0.01, cost / length)
    assert lost <= 300.0 + batch
    if length >= 3600.0:  # and it is no miser
        assert count >= 0.5 * length * min(0.01 / cost, 1 / (2 * batch))


def test_five_minutes_come_before_the_share(monkeypatch):
    clock = Clock(monkeypatch)
    paced = Pace(guess=0.05)
    with paced.writing():
        clock.now += 30.0
    clock.now += 299.0
    assert not paced.is_due()
    clock.now += 1.0
    assert paced.is_due()


def timed(monkeypatch, batch, cost=0.0):
    """A clock by which each batch and each state take so long; the places that are written."""
    clock, step, write, places = Clock(monkeypatch), Loop.step, Resume.write, []
    monkeypatch.setattr(loop_module, "TURN", 0.0)  # as of batches that take so long

    def stepped(loop, *given):
        clock.now += batch
        return step(loop, *given)

    def written(resume, place):
        write(resume, place)
        clock.now += cost
        places.append(place)

    monkeypatch.setattr(Loop, "step", stepped)
    monkeypatch.setattr(Resume, "write", written)
    return places


def test_the_first_state_is_guessed_from_what_the_disk_takes(tmp_path, monkeypatch):
    clock, sync, paces = time.monotonic, os.fsync, []

    def slow(handle):
        slow.taken += 2.0
        sync(handle)

    monkeypatch.setattr(
        Pace, "__init__", lambda paced, guess, init=Pace.__init__: paces.append(guess) or init(paced, guess)
    )
    fitted(epochs=1, checkpoint=tmp_path / "quick")
    slow.taken = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock() + slow.taken)
    monkeypatch.setattr(os, "fsync", slow)
    fitted(epochs=1, checkpoint=tmp_path / "slow")
    assert paces[0] < 2.0 and 10.0 < paces[1] < 40.0  # of five waits of two seconds each


def test_a_run_of_seconds_writes_its_end_and_one_of_hours_within_its_epoch(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        places = timed(patch, batch=0.01, cost=0.03)
        fitted(epochs=4, checkpoint=tmp_path / "short")
        assert places == [(4, 0)]
    with monkeypatch.context() as patch:
        places = timed(patch, batch=110.0, cost=5.0)
        fitted(linear, epochs=2, batch_size=1, checkpoint=tmp_path / "long")  # two epochs of half an hour
        steps = [16 * epochs + batch for epochs, batch in places]
        assert max(b - a for a, b in zip([0, *steps], steps, strict=False)) <= 4 and len(steps) < 12
    assert [p.name for p in (tmp_path / "short").glob("epoch-*")] == ["epoch-000003"]
    assert len(list((tmp_path / "long").glob("epoch-*"))) == 2


class Counting(Callback):
    """Counts epochs, which is a state, and raises at the end of one of them."""

    def __init__(self, breaks_in=None):
        self.count, self.breaks_in = 0, breaks_in

    def epoch(self, run, row):
        self.count += 1
        if self.count == self.breaks_in:
            raise RuntimeError("pruned")

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_a_callback_that_raises_costs_no_batch_and_is_called_again(tmp_path):
    whole = fitted(epochs=4)
    with pytest.raises(RuntimeError, match="pruned"):
        fitted(epochs=4, checkpoint=tmp_path / "run", callbacks=[Counting(breaks_in=2)])
    (state,) = (tmp_path / "run").glob("epoch-*")
    assert place_of(state.name)[0] == 1 and place_of(state.name)[1] > 0  # all batches of the second epoch
    again = Counting()
    resumed = fitted(epochs=4, seed=1, checkpoint=tmp_path / "run", resume=True, callbacks=[again])
    assert is_same(resumed, whole) and again.count == 4


def test_the_seconds_of_an_epoch_are_those_of_its_batches(tmp_path, monkeypatch):
    """A state that is written between two epochs is of neither: its cost was taken off the next one's time."""
    write = Resume.write

    def slow(resume, place):
        time.sleep(0.05)
        write(resume, place)

    monkeypatch.setattr(Resume, "write", slow)
    start = time.perf_counter()
    x = X.round()
    options = {"epochs": 3, "compile": False, "checkpoint": tmp_path / "run", "checkpoint_every": 1}
    seconds = pyrovae.fit(built(), x, **QUICK, **options).epochs["seconds"].values
    assert (seconds > 0).all() and seconds.sum() < time.perf_counter() - start - 0.05 * 3


def test_every_must_be_a_number_of_batches_with_a_folder(tmp_path):
    for every, error, words in (
        (0, ValueError, "at least 1"),
        (1.5, TypeError, "integer"),
        (True, TypeError, "integer"),
    ):
        with pytest.raises(error, match=f"checkpoint_every must be .*{words}"):
            fitted(checkpoint=tmp_path / "run", checkpoint_every=every)
    with pytest.raises(ValueError, match="checkpoint_every=2 is a number of batches between two checkpoints: name"):
        fitted(checkpoint_every=2)
    with pytest.raises(ValueError, match="checkpoint_every is an argument of SVI, and this fit is by EM"):
        pyrovae.fit(pyrovae.GaussianMixture((5,), 2), X, checkpoint_every=2)
    assert not (tmp_path / "run").exists()


def test_names_say_where_a_run_was(tmp_path):
    for place, name, words in (
        ((1, 0), "epoch-000000", "epoch 1"),
        ((0, 1), "epoch-000000-batch-000001", "1 batch of epoch 1"),
        ((12, 1207), "epoch-000012-batch-001207", "1,207 batches of epoch 13"),
        ((10**6, 10**6), "epoch-1000000-batch-1000000", "1,000,000 batches of epoch 1000001"),
    ):
        assert (name_of(place), place_of(name), in_words(place)) == (name, place, words)
        (tmp_path / name).mkdir()
    (tmp_path / "epoch-1").mkdir()
    assert places_in(tmp_path) == [(10**6, 10**6), (12, 1207), (1, 0), (0, 1)]
    assert places_in(tmp_path / "nowhere") == [] and place_of(".epoch-000000-new-1-2") is None


# what breaks ----------------------------------------------------------------------------------------


class Breaking(nn.Module):
    """A network whose output is NaN in one step of those that train."""

    def __init__(self, at):
        super().__init__()
        self.linear, self.at = nn.Linear(5, 4), at
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.count += 1
        return self.linear(x) * torch.where(self.count == self.at + 1, math.nan, 1.0)


def breaking(at):
    def make(seed=0):
        torch.manual_seed(seed)
        likelihood = Likelihood(MLP((2,), (5,)), pyrovae.Bernoulli(), (5,))
        return pyrovae.VAE(StandardNormal(2), likelihood, DiagonalNormal(Breaking(at), 4, 2))

    return make


def broken(make, steps=None, **options):
    """The error of a run, its weights, and how many steps it took."""
    pair, taken, step = make(0), [], Loop.step
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(Loop, "step", lambda loop, *batch: taken.append(loop.taken) or step(loop, *batch))
        with pytest.raises(FloatingPointError) as error:
            pyrovae.fit(pair, X.round(), compile=False, **{"epochs": 1, **QUICK, "batch_size": 1, **options})
    return str(error.value), torch.cat([p.detach().flatten() for p in pair.parameters()]), taken


@pytest.mark.parametrize(
    "batch", [pytest.param(4.0, marks=pytest.mark.slow), 11.0]
)  # looked at after three steps and one; after every second one
def test_a_loss_that_is_not_finite_is_seen_within_seconds(tmp_path, monkeypatch, batch):
    at = 6
    words, weights, taken = broken(breaking(at))
    assert max(taken) == 15  # without a clock: at the epoch's end
    assert f"at step {at + 1} (batch {at + 1} of epoch 1)" in words
    timed(monkeypatch, batch)
    sooner, same, taken = broken(breaking(at), checkpoint=tmp_path / "run")
    assert sooner == words and torch.equal(same, weights) and max(taken) <= at + 4
    without_folder, same, taken = broken(breaking(at))
    assert without_folder == words and torch.equal(same, weights) and max(taken) <= at + 4
    # what is left is the last finite state, from which the run would break again
    states = places_in(tmp_path / "run")
    assert states[0] in ((0, at - 1), (0, at))
    again, same, _ = broken(breaking(at), checkpoint=tmp_path / "run", resume=True)
    assert again == words and torch.equal(same, weights)


def test_a_state_that_is_not_finite_is_not_written(tmp_path):
    words, weights, taken = broken(breaking(4), checkpoint=tmp_path / "run", checkpoint_every=5)
    assert max(taken) == 4 and "at step 5 " in words and torch.equal(weights, broken(breaking(4))[1])
    assert places_in(tmp_path / "run") == [(0, 3)]


def test_a_source_that_fails_costs_no_batch(tmp_path, monkeypatch):
    whole = fitted()
    with monkeypatch.context() as patch:
        room = Between.room
        patch.setattr(loop_module, "TURN", 0.0)  # else a turn of several steps may pass over the one meant
        patch.setattr(Between, "room", lambda between: room(between) if between.loop.taken != 4 else 1 // 0)
        with pytest.raises(ZeroDivisionError):
            fitted(checkpoint=tmp_path / "run")
    assert places_in(tmp_path / "run") == [(1, 1)]
    assert is_same(fitted(seed=1, checkpoint=tmp_path / "run", resume=True), whole)


class Loud(Callback):
    ended = False

    def end(self, run):
        self.ended = True


@pytest.mark.usefixtures("ctrl_c_is_heard")
@pytest.mark.parametrize("at", [pytest.param(3, marks=pytest.mark.slow), 1])
def test_a_signal_waits_for_the_batch_whose_state_it_leaves(tmp_path, monkeypatch, at):
    """The contract of `Between`: what comes in a step is dealt with after it, and not inside a turn."""
    whole, step, loud = fitted(), Loop.step, Loud()

    def asks(loop, *batch):
        if loop.taken == at - 1:
            signal.raise_signal(signal.SIGINT)
            assert not loop.between.is_whole
        return step(loop, *batch)

    with monkeypatch.context() as patch:
        patch.setattr("pyrovae.inference.svi.loop.TURN", 0.0)
        patch.setattr(Loop, "step", asks)
        with pytest.raises(KeyboardInterrupt):
            fitted(checkpoint=tmp_path / "run", callbacks=[loud])
    assert places_in(tmp_path / "run") == [(0, at)] and loud.ended
    assert is_same(fitted(seed=1, checkpoint=tmp_path / "run", resume=True), whole)


# what is in the folder ------------------------------------------------------------------------------


def rewritten(folder, change):
    """The state with another manifest and other tensors, whose digests fit."""
    import hashlib

    from safetensors.torch import load_file, save_file

    manifest, tensors = json.loads((folder / MANIFEST).read_text()), load_file(folder / RUN)
    change(manifest["run"], tensors)
    save_file(tensors, folder / RUN)
    manifest["run"]["sha256"] = hashlib.sha256((folder / RUN).read_bytes()).hexdigest()
    (folder / MANIFEST).write_bytes(encoded(manifest))


def test_a_state_of_an_earlier_version_goes_on(tmp_path):
    whole = fitted()
    fitted(epochs=1, checkpoint=tmp_path / "run")

    def older(run, tensors):
        del run["within"], run["good_at"]
        assert not any(name.startswith("within.") for name in tensors)

    rewritten(tmp_path / "run" / "epoch-000000", older)
    assert is_same(fitted(seed=1, checkpoint=tmp_path / "run", resume=True), whole)


def test_a_forged_place_is_an_error(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        room = Between.room
        patch.setattr(loop_module, "TURN", 0.0)  # else a turn of several steps may pass over the one meant
        patch.setattr(Between, "room", lambda between: room(between) if between.loop.taken != 2 else 1 // 0)
        with pytest.raises(ZeroDivisionError):
            fitted(checkpoint=tmp_path / "run", binarize=True)
    name = "epoch-000000-batch-000002"
    pristine = shutil.copytree(tmp_path / "run" / name, tmp_path / "pristine")
    for change, words in (
        (lambda run, tensors: run["within"].update(batch=99), "after batch 99, and an epoch of this run has 3"),
        (lambda run, tensors: run["within"].update(batch=True), "after batch True"),
        (lambda run, tensors: tensors.pop("within.losses"), "losses are absent"),
        (lambda run, tensors: tensors.update({"within.losses": torch.zeros(3)}), r"losses are of shape \(3,\)"),
        (lambda run, tensors: tensors.pop("within.0.noise.0"), "'within.0.noise.0' is no state of a generator"),
        (lambda run, tensors: tensors.update({"within.draws": torch.zeros(9)}), "'within.draws' is no state"),
    ):
        shutil.rmtree(tmp_path / "run" / name)
        shutil.copytree(pristine, tmp_path / "run" / name)
        rewritten(tmp_path / "run" / name, change)
        pair, before = built(seed=1), everything(built(seed=1))
        with pytest.raises(pyrovae.CheckpointError, match=words), warnings.catch_warnings():
            warnings.simplefilter("error")  # such as that of a buffer, which the state restores
            pyrovae.fit(
                pair, X, epochs=2, compile=False, binarize=True, checkpoint=tmp_path / "run", resume=True, **QUICK
            )
        assert torch.equal(everything(pair), before)


@pytest.mark.slow
def test_a_damaged_state_within_an_epoch_costs_what_lies_after_the_one_before(tmp_path, monkeypatch, caplog):
    whole, copies = kept_at_each_batch(tmp_path, monkeypatch, lambda **more: fitted(**more))
    folder = copies[1, 2]
    assert places_in(folder) == [(1, 2), (1, 1)]
    file = folder / name_of((1, 2)) / RUN
    file.write_bytes(file.read_bytes()[:-1])
    assert is_same(fitted(seed=1, checkpoint=folder, resume=True), whole)
    assert "goes on after 1 batch of epoch 2" in caplog.text
    assert places_in(folder) == [(2, 0), (1, 1)]  # and the damaged one is gone


# a process that is killed ---------------------------------------------------------------------------

RUN_AND_SAY = """
    import sys, warnings, torch, pyrovae
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(int(sys.argv[2]))
    x = torch.rand(600, 5, generator=torch.Generator().manual_seed(0))
    vae = pyrovae.mlp_vae((5,), hidden_dims=(8,))
    options = {"checkpoint": sys.argv[1], "resume": True, "checkpoint_every": 7} if sys.argv[1] != "none" else {}
    pyrovae.fit(vae, x, epochs=2, batch_size=20, binarize=True, progress=False, compile=False, **options)
    print(sum(float(p.double().sum()) for p in vae.parameters()).hex())
"""


@pytest.mark.slow
def test_a_run_that_is_killed_within_its_epochs_goes_on_to_the_same_bits(tmp_path):
    """Three kills, each of a process with other weights; `analysis/killed_runs.py` makes 200."""
    (tmp_path / "run.py").write_text(textwrap.dedent(RUN_AND_SAY))

    def start(folder, seed):
        command = [sys.executable, str(tmp_path / "run.py"), folder, str(seed)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    whole = start("none", 0).communicate(timeout=300)[0].split()[-1]
    folder, kills = tmp_path / "run", 0
    for attempt in range(3):
        process, before = start(str(folder), attempt), places_in(folder)
        while process.poll() is None and places_in(folder) == before:
            time.sleep(0.001)
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        kills += process.wait(timeout=60) == -signal.SIGKILL
        process.stdout.close()
    assert kills and places_in(folder)[0] < (2, 0)
    assert start(str(folder), 9).communicate(timeout=300)[0].split()[-1] == whole


@pytest.mark.slow
def test_the_command_line_has_it_too(tmp_path, monkeypatch, capsys):
    from pyrovae.cli import main

    np.save(tmp_path / "x.npy", X.numpy())
    command = [
        "fit",
        str(tmp_path / "x.npy"),
        "--hidden-dims",
        "4",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--compile",
        "no",
    ]
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        room = Between.room
        patch.setattr(loop_module, "TURN", 0.0)
        patch.setattr(
            Between,
            "room",
            lambda between: room(between) if between.loop.taken != 2 else (_ for _ in ()).throw(OSError),
        )
        assert main([*command, "--out", str(out), "--checkpoint-every", "2"]) != 0
    assert f"`pyrovae fit --resume --out {out}` goes on after 2 batches of epoch 1" in capsys.readouterr().err
    assert main(["fit", "--resume", "--out", str(out), "--checkpoint-every", "1"]) == 0
    assert "goes on after 2 batches of epoch 1\n" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "other"), "--checkpoint-every", "0"]) == 2
    assert "--checkpoint-every must be" in capsys.readouterr().err
