"""A run that was stopped goes on bit for bit, from a folder that no kill, no damage and no full disk can spoil."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import needs_compiler
from torch import nn

import pyrovae
from pyrovae.data import MappedArray
from pyrovae.inference.checkpoint import MANIFEST, RUN, WEIGHTS
from pyrovae.inference.checkpoint.manifest import manifest_digest
from pyrovae.inference.snapshots import Snapshots
from pyrovae.models.distributions import DiagonalNormal, Likelihood, StandardNormal
from pyrovae.models.networks import MLP

X = pyrovae.data.load("digits").train.x[:300]
HELD_OUT = pyrovae.data.load("digits").test.x[:50]
QUICK = {"batch_size": 64, "binarize": True, "progress": False}


class Normed(nn.Module):
    """A network with buffers, one of which a state dict leaves out."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(64, 8), nn.BatchNorm1d(8)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen += 1
        return torch.tanh(self.norm(self.first(x.flatten(1)))) + 1e-3 * self.seen


def normed():
    likelihood = Likelihood(MLP((2,), (1, 8, 8)), pyrovae.Bernoulli(), (1, 8, 8))
    return pyrovae.VAE(StandardNormal(2), likelihood, DiagonalNormal(Normed(), 8, 2))


PAIRS = {
    "mlp": lambda: pyrovae.mlp_vae((1, 8, 8), hidden_dims=(8,)),
    "conv": lambda: pyrovae.conv_vae((1, 8, 8), channels=(4, 4), strides=(2, 1)),
    "normed": normed,
}


def built(kind="mlp", seed=0):
    torch.manual_seed(seed)
    return PAIRS[kind]()


def each(folder):
    """A checkpoint after each epoch, of 300 items."""
    return {} if folder is None else {"checkpoint_every": 5}


def fitted(folder=None, *, kind="mlp", seed=0, epochs=5, **options):
    """A pair from `seed`, its history and all of its tensors after so many epochs."""
    pair = built(kind, seed)
    if options.get("precision") == "bf16":
        pair.float()  # no other dtype has it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = pyrovae.fit(pair, X, epochs=epochs, checkpoint=folder, **QUICK | each(folder) | options)
    return history, [t.detach().clone() for t in (*pair.parameters(), *pair.buffers())]


def same_run(one, other):
    (first, theirs), (second, ours) = one, other
    alike = first.epochs.drop_vars("seconds").equals(second.epochs.drop_vars("seconds"))
    return alike and len(theirs) == len(ours) and all(map(torch.equal, theirs, ours))


def names(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mlp", {}),
        ("mlp", {"validation": HELD_OUT, "patience": 4, "beta": 0.5, "warmup": 2}),
        ("mlp", {"objective": "iwae", "num_particles": 3}),
        ("conv", {"precision": "bf16"}),  # its weights are channels_last while they train
        ("normed", {}),
        pytest.param("normed", {"compile": True, "beta": 2.0, "warmup": 4}, marks=[needs_compiler, pytest.mark.long]),
        pytest.param("conv", {"compile": True}, marks=[needs_compiler, pytest.mark.long]),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, kind, options):
    whole = fitted(kind=kind, **options)
    fitted(tmp_path / "run", kind=kind, epochs=3, **options)
    # from weights of its own, which count for nothing; the choice of a compiler stands in the folder
    then = options | ({"compile": "auto"} if "compile" in options else {})
    again = fitted(tmp_path / "run", kind=kind, seed=1, resume=True, **then)
    assert same_run(whole, again)
    assert again[0].config["resumed_after"] == 2 and whole[0].config["resumed_after"] is None
    assert again[0].config["compiled"] == whole[0].config["compiled"]
    once_more = fitted(tmp_path / "run", kind=kind, seed=2, resume=True, **then)  # it is complete
    assert same_run(whole, once_more)


def test_another_start_is_another_run():  # the control of the test above
    assert not same_run(fitted(epochs=1), fitted(epochs=1, seed=1))


def test_a_classifier_and_a_bayesian_mixture_resume_too(tmp_path):
    digits = pyrovae.data.load("digits").train
    found = []
    for folder in (None, tmp_path / "classifier"):
        for epochs in (4,) if folder is None else (2, 4):
            torch.manual_seed(epochs)
            net = pyrovae.DiscriminativeClassifier((1, 8, 8), 10, hidden_dims=(6,))
            if folder is None:
                torch.manual_seed(2)
                net = pyrovae.DiscriminativeClassifier((1, 8, 8), 10, hidden_dims=(6,))
            options = {"checkpoint": folder, "resume": epochs == 4 and folder is not None}
            pyrovae.fit(net, digits.x, digits.y, epochs=epochs, progress=False, **options)
        found.append(net.predict_log_proba(digits.x[:20]))
    assert torch.equal(*found)
    x, found = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), []
    for folder in (None, tmp_path / "mixture"):
        for epochs in (6,) if folder is None else (3, 6):
            mixture = pyrovae.BayesianGaussianMixture((2,), 2).double()
            options = {"checkpoint": folder, "resume": epochs == 6 and folder is not None}
            pyrovae.fit(mixture, x, epochs=epochs, learning_rate=0.02, progress=False, **options)
        found.append(torch.cat([p.detach().flatten() for p in mixture.parameters()]))
    assert torch.equal(*found)


def test_a_snapshot_is_a_saved_state_and_two_are_kept(tmp_path):
    history, tensors = fitted(tmp_path / "run")
    assert names(tmp_path / "run") == ["epoch-000003", "epoch-000004"]
    pair = pyrovae.load(tmp_path / "run" / "epoch-000004")
    assert all(map(torch.equal, pair.parameters(), tensors))
    assert history.config["checkpoint"] == str(tmp_path / "run")


def test_a_run_that_had_stopped_early_stays_so(tmp_path):
    options = {"validation": HELD_OUT, "patience": 1, "learning_rate": 0.3, "epochs": 40}
    first = fitted(tmp_path / "run", **options)
    assert first[0].epochs.sizes["epoch"] < 40
    assert same_run(first, fitted(tmp_path / "run", seed=1, resume=True, **options))


RUN_AND_SAY = """
    import sys, warnings, torch, pyrovae
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(int(sys.argv[2]))
    x = pyrovae.data.load("digits").train.x[:300]
    vae = pyrovae.mlp_vae((1, 8, 8), hidden_dims=(8,))
    print("begins", flush=True)
    pyrovae.fit(vae, x, epochs=60, batch_size=64, binarize=True, progress=False, checkpoint=sys.argv[1], resume=True)
    print(sum(float(p.double().sum()) for p in vae.parameters()).hex())
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    # at moments that fall while it trains, or while it writes
    (tmp_path / "run.py").write_text(textwrap.dedent(RUN_AND_SAY))

    def start(folder, seed=0):
        command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / folder), str(seed)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    whole = start("whole").communicate(timeout=120)[0].split()[-1]
    kills = 0
    for attempt, how in enumerate((signal.SIGKILL, signal.SIGTERM)):
        process = start("killed", seed=attempt)
        assert process.stdout.readline() == "begins\n"
        while not list((tmp_path / "killed").glob("epoch-*")):
            time.sleep(0.002)
        time.sleep(0.037 * attempt)
        process.send_signal(how)
        kills += process.wait(timeout=60) == (143 if how == signal.SIGTERM else -how)
    found = start("killed", seed=9).communicate(timeout=120)[0].split()[-1]
    assert found == whole and kills


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("file", [MANIFEST, WEIGHTS, RUN])
def test_a_damaged_snapshot_costs_an_epoch_and_two_are_an_error(tmp_path, caplog, file):
    whole = fitted(epochs=4)
    fitted(tmp_path / "run", epochs=3)
    damage(tmp_path / "run" / "epoch-000002" / file)
    with caplog.at_level(logging.WARNING, logger="pyrovae"):
        assert same_run(whole, fitted(tmp_path / "run", seed=1, resume=True, epochs=4))
    assert "goes on after epoch 2" in caplog.text and file in caplog.text
    for folder in (tmp_path / "run").glob("epoch-*"):
        (folder / file).write_bytes(b"")
    before = built(seed=1)
    pair = built(seed=1)
    with pytest.raises(pyrovae.CheckpointError) as raised:
        pyrovae.fit(pair, X, epochs=4, checkpoint=tmp_path / "run", resume=True, **QUICK)
    words = str(raised.value)
    assert words.startswith(f"checkpoint={tmp_path / 'run'}: none of its states can be read, and nothing is left to go")
    assert "fit again into another folder" in words and words.count(str(tmp_path)) == 1
    assert all(f"{name}/{file}" in words for name in names(tmp_path / "run"))
    assert all(map(torch.equal, pair.parameters(), before.parameters()))


def test_without_a_complete_snapshot_a_run_starts_afresh(tmp_path):
    whole = fitted()
    for name in (None, ".epoch-000000-new-17-5"):  # no folder; one of a run that was killed as it wrote its first
        folder = tmp_path / str(name)
        if name is not None:
            (folder / name).mkdir(parents=True)
            (folder / name / WEIGHTS).write_bytes(b"half")
        assert same_run(whole, fitted(folder, resume=True))
        assert names(folder) == ["epoch-000003", "epoch-000004"]


def test_a_folder_of_something_else_is_refused_before_anything_is_changed(tmp_path):
    fitted(tmp_path / "run", epochs=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, error, words in (
        ("run", FileExistsError, "holds a run: resume=True"),
        ("mine", FileExistsError, "holds 'thesis.tex'"),
        ("file", NotADirectoryError, "is a file"),
        ("file/within", NotADirectoryError, "checkpoint=.*within cannot be written: Not a directory; name another"),
    ):
        with pytest.raises(error, match=words):
            fitted(tmp_path / name, resume=False)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        fitted(tmp_path / "mine", resume=True)


@pytest.mark.usefixtures("float32")
def test_another_run_is_not_gone_on_with(tmp_path):
    fitted(tmp_path / "run", epochs=2)
    for options, words in (
        ({"beta": 2.0}, "beta: 1.0 before, 2.0 now"),
        ({"seed": 1}, "seed"),
        ({"compile": True}, "compile: False before, True now"),
        ({"batch_size": 32}, "batch_size: 64 before, 32 now"),
        ({"validation": HELD_OUT}, "validation_items: None before"),
        ({"epochs": 1}, "epochs=1 is the total, and the run has 2 already"),
    ):
        with pytest.raises(ValueError, match=words):
            pyrovae.fit(built(), X, checkpoint=tmp_path / "run", resume=True, **QUICK | {"epochs": 3} | options)
    with pytest.raises(ValueError, match="items: "):
        pyrovae.fit(built(), X.flip(0), epochs=3, checkpoint=tmp_path / "run", resume=True, **QUICK)
    with pytest.raises(pyrovae.CheckpointError, match=r"tensors\.likelihood"):
        wide = pyrovae.mlp_vae((1, 8, 8), hidden_dims=(9,))
        pyrovae.fit(wide, X, epochs=3, checkpoint=tmp_path / "run", resume=True, **QUICK)
    with pytest.raises(pyrovae.CheckpointError, match="dtype: saved float32, here float64"):
        pyrovae.fit(built().double(), X, epochs=3, checkpoint=tmp_path / "run", resume=True, **QUICK)
    fitted(tmp_path / "cosine", epochs=2, schedule="cosine")
    with pytest.raises(ValueError, match="epochs: 2 before, 3 now"):  # the rate would have gone another way
        fitted(tmp_path / "cosine", epochs=3, schedule="cosine", resume=True)


def resumed(folder, x, *, epochs=2, resume=True, **options):
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae(tuple(x.shape[1:]), hidden_dims=(4,), likelihood="normal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pyrovae.PosteriorCollapseWarning)
        return vae, pyrovae.fit(vae, x, epochs=epochs, checkpoint=folder, resume=resume, progress=False, **options)


@pytest.mark.parametrize("which", ["x", "validation"])
def test_a_file_whose_rows_have_changed_is_another_run(tmp_path, which):
    rows = np.random.default_rng(0).random((500, 3), dtype=np.float32)
    for name in ("x", "validation"):
        np.save(tmp_path / f"{name}.npy", rows)

    def maps():
        return (MappedArray(np.load(tmp_path / f"{name}.npy", mmap_mode="r")) for name in ("x", "validation"))

    x, held_out = maps()
    resumed(tmp_path / "run", x, validation=held_out, epochs=1, resume=False)
    changed = rows.copy()
    changed[1:499] = changed[1:499][::-1]  # all but the first and the last
    np.save(tmp_path / f"{which}.npy", changed)
    x, held_out = maps()
    name = "items" if which == "x" else "validation_items"
    with pytest.raises(ValueError, match=f"this is another: {name}: "):
        resumed(tmp_path / "run", x, validation=held_out)
    np.save(tmp_path / f"{which}.npy", rows)  # the control
    x, held_out = maps()
    first, _ = resumed(tmp_path / "run", x, validation=held_out)
    second, _ = resumed(None, x, validation=held_out, resume=False)
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_labels_that_have_changed_are_another_run(tmp_path):
    digits = pyrovae.data.load("digits").train

    def fit(y, validation, epochs):
        net = pyrovae.DiscriminativeClassifier((1, 8, 8), 10, hidden_dims=(6,))
        options = {"checkpoint": tmp_path / "run", "resume": True, "progress": False, "epochs": epochs}
        return pyrovae.fit(net, digits.x[:200], y, validation=(digits.x[:50], validation), **options)

    y, held_out = digits.y[:200], digits.y[:50]
    fit(y, held_out, 1)
    swapped = y.flip(0)
    for labels, validation, name in ((swapped, held_out, "items"), (y, held_out.flip(0), "validation_items")):
        with pytest.raises(ValueError, match=f"this is another: {name}: "):
            fit(labels, validation, 2)
    assert fit(y, held_out, 2).config["resumed_after"] == 0


def test_another_environment_is_named(tmp_path, monkeypatch):
    x = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    _, history = resumed(tmp_path / "run", x, epochs=1, resume=False)
    threads, cpu = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    assert (history.config["threads"], history.config["cpu"]) == (threads, cpu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed(tmp_path / "run", x, epochs=2)  # the control
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    with pytest.warns(
        UserWarning, match=rf"not bit for bit: threads {threads} before, {threads + 1} now\. For the digits"
    ) as said:
        _, history = resumed(tmp_path / "run", x, epochs=3)
    assert said[0].filename == __file__ and history.config["threads"] == threads + 1
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ABACUS")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "low")
    words = rf"threads {threads + 1} before, {threads} now; cpu {cpu} before, ABACUS now; matmul_precision highest"
    with pytest.warns(UserWarning, match=words):
        resumed(tmp_path / "run", x, epochs=4)


def test_every_method_says_on_how_many_threads():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    mixture, classifier = pyrovae.GaussianMixture((2,), 2), pyrovae.DiscriminativeClassifier((2,), 2)
    for history in (
        pyrovae.fit(mixture, x, num_restarts=1, progress=False),
        pyrovae.fit(classifier, x, y, progress=False),
        pyrovae.fit(pyrovae.gaussian_classifier((2,), 2), x, y, progress=False),
    ):
        assert history.config["threads"] == torch.get_num_threads()
        assert history.config["torch"] == torch.__version__


class Scaled(nn.Module):
    """A network with a plain number that neither its repr nor its state shows."""

    def __init__(self, scale):
        super().__init__()
        self.linear, self.scale = nn.Linear(64, 8), scale

    def forward(self, x):
        return torch.tanh(self.linear(x.flatten(1)) * self.scale)


def test_another_value_of_an_attribute_is_named(tmp_path):
    def fit(scale, epochs):
        torch.manual_seed(0)
        likelihood = Likelihood(MLP((2,), (1, 8, 8)), pyrovae.Bernoulli(), (1, 8, 8))
        vae = pyrovae.VAE(StandardNormal(2), likelihood, DiagonalNormal(Scaled(scale), 8, 2))
        options = {"checkpoint": tmp_path / "run", "resume": True, "epochs": epochs}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pyrovae.PosteriorCollapseWarning)
            pyrovae.fit(vae, X[:64], **QUICK | options)

    fit(1.0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(1.0, 2)  # the control
    with pytest.warns(UserWarning, match="an attribute of a module has another value than before"):
        fit(2.0, 3)


@pytest.mark.parametrize("change", ["dtype", "shape", "absent"])
@pytest.mark.usefixtures("float32")
def test_a_runs_tensors_must_be_those_of_the_pair(tmp_path, change):
    from safetensors.torch import load_file, save_file

    x = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    resumed(tmp_path / "run", x, epochs=1, resume=False)
    folder = tmp_path / "run" / "epoch-000000"
    tensors = load_file(folder / RUN)
    name = next(name for name in tensors if name.endswith("exp_avg"))
    tensors[name] = {"dtype": tensors[name].double(), "shape": tensors[name].flatten()[:1]}.get(change)
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / RUN)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["run"]["sha256"] = hashlib.sha256((folder / RUN).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": manifest_digest(manifest)}, indent=1))
    words = {"dtype": "is torch.float64 of shape", "shape": r"of shape \(1,\), and", "absent": "is absent"}[change]
    with pytest.raises(
        pyrovae.CheckpointError, match=rf"the checkpoint's '{name}' {'' if change != 'shape' else '.*'}{words}"
    ):
        resumed(tmp_path / "run", x)


def test_what_takes_no_checkpoint_says_so(tmp_path):
    digits = pyrovae.data.load("digits").train
    for call, words in (
        (lambda **o: pyrovae.fit(pyrovae.GaussianMixture((1, 8, 8), 2), X, **o), "is an argument of SVI"),
        (lambda **o: pyrovae.fit(pyrovae.gaussian_classifier((1, 8, 8), 10), digits.x, digits.y, **o), "one by one"),
    ):
        with pytest.raises(ValueError, match=words):
            call(checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="name its folder"):
        fitted(resume=True)
    with pytest.raises(TypeError, match="resume must be True or False"):
        fitted(tmp_path / "run", resume="yes")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_keeps_the_epoch_before(tmp_path, monkeypatch):
    whole = fitted()
    fitted(tmp_path / "run", epochs=2)
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"(?i)no space left"):
        fitted(tmp_path / "run", resume=True)
    monkeypatch.undo()
    assert names(tmp_path / "run") == ["epoch-000000", "epoch-000001"]
    assert same_run(whole, fitted(tmp_path / "run", resume=True))


def test_a_copy_of_the_folder_goes_on_as_well(tmp_path):
    fitted(tmp_path / "run", epochs=2)
    shutil.copytree(tmp_path / "run", tmp_path / "elsewhere")
    assert same_run(fitted(), fitted(tmp_path / "elsewhere", seed=3, resume=True))


def test_one_run_at_a_time(tmp_path):
    whole = fitted()
    fitted(tmp_path / "run", epochs=2)
    with Snapshots(tmp_path / "run", True).locked(), pytest.raises(BlockingIOError, match="another process trains in"):
        fitted(tmp_path / "run", resume=True)
    (tmp_path / "run" / ".DS_Store").write_text("")  # what a file manager leaves is no reason to stop
    assert same_run(whole, fitted(tmp_path / "run", resume=True))
    assert (tmp_path / "run" / ".DS_Store").exists()


def test_without_a_compiler_a_compiled_run_goes_on_eagerly_and_says_so(tmp_path, monkeypatch, caplog, interpreted):
    fitted(tmp_path / "run", epochs=2, compile=True)

    def fails(*given, **options):
        raise FileNotFoundError("no compiler")

    monkeypatch.setattr("pyrovae.compile.function.compile_graph", fails)
    pair, before = built(seed=1), built(seed=1)
    with pytest.raises(pyrovae.CompilerError):
        pyrovae.fit(pair, X, epochs=3, checkpoint=tmp_path / "run", resume=True, compile=True, **QUICK)
    assert all(map(torch.equal, pair.parameters(), before.parameters()))
    with caplog.at_level(logging.WARNING, logger="pyrovae"):
        history, _ = fitted(tmp_path / "run", epochs=3, resume=True)
    assert "rounds otherwise than before: " in caplog.text and not history.config["compiled"]


@pytest.mark.usefixtures("float32")
def test_a_loss_that_breaks_right_after_a_resumption_says_what_it_would_have_said(tmp_path):
    errors, left = [], []
    for stop in (None, 2):
        vae, x = built(), X.clone()
        options = {"epochs": 6, "learning_rate": 1e30} | QUICK
        options["batch_size"] = len(X)  # a step an epoch: the first leaves weights that overflow
        with pytest.raises(FloatingPointError) as caught, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if stop is not None:
                pyrovae.fit(vae, x, checkpoint=tmp_path / "run", **options | {"epochs": 1})
                vae = built(seed=1)
                options |= {"checkpoint": tmp_path / "run", "resume": True}
            pyrovae.fit(vae, x, **options)
        errors.append(str(caught.value))
        left.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert errors[0] == errors[1]
    assert torch.equal(*left)


def test_buffers_that_cannot_be_written_and_other_types(tmp_path):
    def make(value=0.0):
        vae = built().to(torch.bfloat16)
        vae.register_buffer("wide", torch.full((1,), value).expand(8))
        return vae

    options = {"checkpoint": tmp_path / "run", **QUICK, "compile": False}
    pyrovae.fit(make(), X, epochs=1, **options)
    pyrovae.fit(make(), X, epochs=2, resume=True, **options)
    with pytest.raises(ValueError, match="buffer 'wide' differs from the checkpoint's and cannot be written"):
        pyrovae.fit(make(1.0), X, epochs=3, resume=True, **options)


def test_other_trained_parameters_are_another_run(tmp_path):
    vae = built()
    vae.likelihood.requires_grad_(False)
    pyrovae.fit(vae, X, epochs=1, checkpoint=tmp_path / "run", **QUICK)
    with pytest.raises(ValueError, match="trained: "):
        fitted(tmp_path / "run", resume=True)


def test_a_pair_whose_state_no_file_can_hold_is_refused_before_it_is_trained(tmp_path):
    class Extra(pyrovae.VAE):
        def get_extra_state(self):
            return {"calls": 1}

        def set_extra_state(self, state):
            pass

    vae = built()
    own = Extra(vae.prior, vae.likelihood, vae.posterior)
    before = [p.detach().clone() for p in own.parameters()]
    with pytest.raises(TypeError, match="_extra_state"):
        pyrovae.fit(own, X, epochs=1, checkpoint=tmp_path / "run", **QUICK)
    assert all(map(torch.equal, own.parameters(), before))
