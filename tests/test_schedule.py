"""`fit(schedule=...)`: torch's own rates, functions looked at before they count, and runs that go on under the same."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from test_steps import SOME, pair, quiet_fit, weights

from pyrovae.inference.svi.loop import Loop
from pyrovae.inference.svi.schedule import Plateau
from pyrovae.methods import SVI

STEPS = 5  # an epoch's, of 23 items in batches of 5


def rates(history):
    return history.epochs.learning_rate.values.tolist()


def halving(step, steps):
    return 0.5 ** (step // STEPS)


def test_a_function_gives_each_steps_factor(interpreted):
    asked, found = [], []

    def noted(step, steps):
        asked.append((step, steps))
        return 0.25 if step % 2 else 1.0

    for compile in (False, True):
        vae = pair()
        history = quiet_fit(vae, epochs=2, learning_rate=0.01, schedule=noted, compile=compile)
        assert rates(history) == [0.01, 0.01 * 0.25]  # of steps 4 and 9
        assert {steps for _, steps in asked} == {10} and {step for step, _ in asked} == set(range(10))
        found.append(weights(vae))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)
    plain = pair()
    quiet_fit(plain, epochs=2, learning_rate=0.01, compile=False)
    assert not torch.allclose(weights(plain), found[0], atol=1e-4)


def test_a_functions_cosine_is_the_named_one():
    one, two = pair(), pair()
    first = quiet_fit(one, schedule="cosine")
    second = quiet_fit(two, schedule=lambda step, steps: 0.5 * (1 + math.cos(math.pi * step / steps)))
    assert torch.equal(weights(one), weights(two)) and rates(first) == rates(second)
    assert (first.config["schedule"], second.config["schedule"]) == ("cosine", "a function")


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, None, "fast"])
def test_a_function_that_gives_no_factor_is_refused_before_a_step(value):
    vae = pair()
    before = weights(vae)
    with pytest.raises(ValueError, match=r"schedule\(14, 15\) is .*: it must be the factor of the learning rate"):
        quiet_fit(vae, schedule=lambda step, steps: value if step == steps - 1 else 1.0)
    assert torch.equal(weights(vae), before)


def test_every_step_of_a_long_run_is_looked_at():
    vae = pair()
    before = weights(vae)
    with pytest.raises(ValueError, match=r"schedule\(12345, 100000\) is nan: it must be the factor"):
        quiet_fit(vae, epochs=20_000, schedule=lambda step, steps: math.nan if step == 12345 else 1.0)
    assert torch.equal(weights(vae), before)


def test_a_factor_that_was_not_looked_at_leaves_the_weights_before_its_step(monkeypatch):
    """Of a run of more steps than are looked at: here 4 of 15."""
    monkeypatch.setattr("pyrovae.inference.svi.schedule.LOOKED_AT", 4)
    asked, vae, expected = [], pair(), pair()

    def late(step, steps):
        asked.append(step)
        return math.nan if step == 10 else 0.5

    with pytest.raises(ValueError, match=r"schedule\(10, 15\) is nan"):
        quiet_fit(vae, schedule=late, compile=False)
    assert asked[:5] == [0, 4, 8, 12, 14]  # at most as many, and the last
    quiet_fit(expected, epochs=2, schedule=lambda step, steps: 0.5, compile=False)
    assert torch.equal(weights(vae), weights(expected))


def test_what_is_no_schedule_is_told_what_is():
    with pytest.raises(ValueError, match="schedule must be one of 'constant', 'cosine', 'plateau', got 'plato'"):
        SVI(schedule="plato")
    with pytest.raises((TypeError, ValueError), match="schedule must be one of"):
        SVI(schedule=3)

    with pytest.raises(TypeError, match=r"schedule=StepLR is a class: give a function schedule\(step, steps\)"):
        SVI(schedule=torch.optim.lr_scheduler.StepLR)


class TestPlateau:
    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_it_is_torchs_rule(self, sign):
        """Scores about a level above and below zero, with gains around the threshold."""
        scores = sign * 50 + np.random.default_rng(0).choice([0.0, -5e-5, 3e-4, -2e-4, 0.1], 400).cumsum() * 1e-2
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        options = {"factor": Plateau.reduction, "patience": Plateau.patience, "threshold": Plateau.threshold}
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, threshold_mode="abs", eps=0, **options)
        ours = Plateau(3)
        for epoch, score in enumerate(scores):
            assert ours.factor(3 * epoch) == ours.factor(3 * epoch + 2)
            assert ours.factor(3 * epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
            theirs.step(score)
            ours.note({"loss": score})
        assert ours.factors[-1] < 1e-5  # it was lowered some times

    def test_torchs_relative_threshold_never_ends_at_a_negative_loss(self):
        """Why the threshold is absolute."""
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        theirs, ours = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), Plateau(1)
        for _ in range(100):
            theirs.step(-100.0)
            ours.note({"loss": -100.0})
        assert optimizer.param_groups[0]["lr"] == 1.0 and ours.factors[-1] == pytest.approx(1e-9)

    def test_it_is_of_the_validation_where_there_is_one(self):
        better = {"validation_elbo": 1.0, "validation_log_loss": -1.0}
        for name, sign in better.items():
            rising, falling = Plateau(1), Plateau(1)
            for epoch in range(12):
                rising.note({"loss": 0.0, name: sign * epoch})
                falling.note({"loss": -float(epoch), name: -sign * epoch})
            assert rising.factors[-1] == 1.0 and falling.factors[-1] == pytest.approx(0.1)

    def test_it_begins_with_the_end_of_the_warm_up(self):
        ours = Plateau(1, warmup=20)
        for _ in range(20):
            ours.note({"loss": 1.0})
        assert ours.factors == [1.0] * 21 and ours.waited == 0

    def test_a_fit_that_stands_still_slows_down(self, monkeypatch):
        monkeypatch.setattr(Plateau, "patience", 1)
        vae = pair()
        history = quiet_fit(vae, epochs=7, learning_rate=1e-12, schedule="plateau", validation=SOME)
        assert rates(history) == pytest.approx([1e-12] * 3 + [1e-13] * 2 + [1e-14] * 2)
        assert history.config["schedule"] == "plateau"


def interrupted(make, folder, after, **options):
    """A run of which two processes saw a part each, and one that saw all."""
    whole, again = make(), make()
    expected = quiet_fit(whole, **options)
    epoch = Loop.epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "epoch", lambda loop, number: epoch(loop, number) if number < after else 1 // 0)
        with pytest.raises(ZeroDivisionError):
            quiet_fit(copy.deepcopy(again), checkpoint=folder, **options)
    history = quiet_fit(again, checkpoint=folder, resume=True, **options)
    assert history.config["resumed_after"] == after - 1
    assert torch.equal(weights(again), weights(whole)) and rates(history) == rates(expected)
    return history


@pytest.mark.parametrize("compile", [False, True])
def test_a_plateau_goes_on_where_it_was(compile, tmp_path, monkeypatch, interpreted):
    monkeypatch.setattr(Plateau, "patience", 1)
    options = {"epochs": 7, "learning_rate": 1e-12, "schedule": "plateau", "validation": SOME, "compile": compile}
    history = interrupted(pair, tmp_path / "run", 4, **options)
    assert rates(history)[-1] == pytest.approx(1e-14)


def test_a_function_goes_on_and_another_is_refused(tmp_path):
    interrupted(pair, tmp_path / "run", 2, epochs=4, schedule=halving)
    options = {"epochs": 6, "checkpoint": tmp_path / "run", "resume": True}
    again = pair()
    before = weights(again)
    others = {"a number": lambda step, steps: halving(step, steps) + 1e-15 * (step == 3), "steps": lambda *a: 1 / a[1]}
    for other in others.values():
        with pytest.raises(ValueError, match="schedule is a function that gives other factors than those of the run's"):
            quiet_fit(again, schedule=other, **options)
    with pytest.raises(ValueError, match="schedule: 'a function' before, 'constant' now"):
        quiet_fit(again, **options)
    assert torch.equal(weights(again), before)
    later = lambda step, steps: halving(step, steps) if step < 20 else 0.7  # noqa: E731  # the same for what was taken
    assert rates(quiet_fit(again, schedule=later, **options))[-1] == pytest.approx(0.7e-3)


def test_a_broken_step_is_replayed_at_the_rates_it_had():
    """What is said of it, and the weights before it, are found by taking the steps since the last kept state again."""

    def bursting(step, steps):
        return halving(step, steps) if step < 12 * STEPS else 1e12

    expected, vae = pair(), pair()
    quiet_fit(expected, epochs=12, schedule=halving, compile=False)
    with pytest.raises(FloatingPointError, match="at step 62 "):
        quiet_fit(vae, epochs=20, schedule=bursting, compile=False)
    assert torch.equal(weights(vae), weights(expected))
