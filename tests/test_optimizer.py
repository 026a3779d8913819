"""`fit(optimizer=..., clip_norm=...)`: torch's own numbers, eager and compiled, and what fits no pair refused."""

from __future__ import annotations

import copy
import logging
import math
from functools import partial

import pyro
import pytest
import torch
from conftest import long_but, needs_compiler
from test_steps import pair, quiet_fit, weights
from torch import nn

import pyrovae
from pyrovae.compile import optimizers
from pyrovae.compile.clipping import clip_factor, global_norm
from pyrovae.compile.optimizers import Rule, kinds_by_name, register_rule
from pyrovae.inference.steps import CompiledFitStep, EagerStep
from pyrovae.inference.svi.loop import Loop
from pyrovae.inference.svi.optimizer import OptimizerChoice
from pyrovae.inference.svi.resume import Resume
from pyrovae.methods import SVI

AdamW, SGD, RMSprop = torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop
STATED = {
    "adam": ("adam", partial(torch.optim.Adam)),
    "adamw": ("adamw", partial(AdamW)),
    "sgd": ("sgd", partial(SGD)),
    "AdamW with its options": (partial(AdamW, weight_decay=0.3, betas=(0.8, 0.95)),) * 2,
    "Nesterov": (partial(SGD, momentum=0.9, nesterov=True),) * 2,
    "Pyro's AdamW": (pyro.optim.AdamW({"weight_decay": 0.3}), partial(AdamW, weight_decay=0.3)),
    "a class": (torch.optim.NAdam, torch.optim.NAdam),
    "no rule": (partial(RMSprop, alpha=0.9), partial(RMSprop, alpha=0.9)),
    "an option of the constructor": (partial(torch.optim.Adagrad, initial_accumulator_value=0.3),) * 2,
    "Pyro's own": (
        pyro.optim.ClippedAdam({"clip_norm": 0.01}),
        partial(pyro.optim.clipped_adam.ClippedAdam, clip_norm=0.01),
    ),
}
WITHOUT_RULE = ("a class", "no rule", "an option of the constructor")


class Line(nn.Module):
    """A least-squares fit whose loss is a function of its batch alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.shift = nn.Linear(3, 2), nn.Parameter(torch.tensor([0.4, -0.3]))

    def loss(self, x, size):
        return (self.layer(x) * self.shift.exp() - x[:, :2].tanh()).square().sum() / size


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, generator=generator) for _ in range(12)]


def by_hand(kind, rate, clip_norm=None, factors=None):
    """The same steps in plain torch."""
    line = Line()
    how = {"fused": True} if getattr(kind, "func", kind) in (torch.optim.Adam, AdamW, SGD) else {}
    optimizer = kind(line.parameters(), lr=rate, **how)
    losses = []
    for number, x in enumerate(batches()):
        if factors is not None:
            optimizer.param_groups[0]["lr"] = rate * factors[number]
        optimizer.zero_grad()
        loss = line.loss(x, 5)
        loss.backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(line.parameters(), clip_norm)
        optimizer.step()
        losses.append(loss.item())
    return weights(line), losses


def by_step(make, optimizer, rate, clip_norm=None):
    """The same by a step of fit."""
    line = Line()
    named = dict(line.named_parameters())
    choice = OptimizerChoice.of(optimizer, rate)
    if make is EagerStep:
        step = EagerStep(line.loss, named, choice, None, clip_norm)
    else:
        step = CompiledFitStep(line.loss, line, named, choice, None, clip_norm)
        step.prepare(batches()[0], 5)
    losses = [float(step(1.0, x, 5)) for x in batches()]
    assert step.all_finite and step.taken == 12
    return weights(line), losses


@pytest.mark.parametrize("case", STATED)
def test_an_eager_step_is_torchs_to_the_bit(case):
    optimizer, kind = STATED[case]
    ours, theirs = by_step(EagerStep, optimizer, 0.05), by_hand(kind, 0.05)
    assert torch.equal(ours[0], theirs[0]) and ours[1] == theirs[1]
    other = by_hand(partial(torch.optim.Adagrad), 0.05)  # another optimiser is seen
    assert not torch.allclose(ours[0], other[0], atol=1e-3)


@pytest.mark.parametrize("case", [name for name in STATED if name not in WITHOUT_RULE])
def test_a_compiled_step_is_the_eager_one(case, interpreted):
    optimizer, _ = STATED[case]
    compiled, eager = by_step(CompiledFitStep, optimizer, 0.05), by_step(EagerStep, optimizer, 0.05)
    torch.testing.assert_close(compiled[0], eager[0], rtol=0, atol=1e-6)
    assert compiled[1] == pytest.approx(eager[1], rel=1e-5)


@pytest.mark.parametrize("clip_norm", [0.05, 1.0, 1e3])
def test_gradients_are_clipped_as_by_clip_grad_norm(clip_norm, interpreted):
    kind = partial(SGD, momentum=0.5)
    expected, free = by_hand(kind, 0.05, clip_norm), by_hand(kind, 0.05)
    for make in (EagerStep, CompiledFitStep):
        ours = by_step(make, kind, 0.05, clip_norm)
        torch.testing.assert_close(ours[0], expected[0], rtol=0, atol=1e-7 if make is EagerStep else 1e-6)
    assert torch.allclose(expected[0], free[0], atol=1e-6) is (clip_norm == 1e3)


def test_the_norm_is_that_of_the_sum_over_processes(interpreted):
    """Two processes with half of the loss each are one with all of it."""

    def halves(x, size, line):
        return line.loss(x, size) / 2

    expected = by_step(EagerStep, "sgd", 0.05, 0.5)
    for make in (EagerStep, CompiledFitStep):
        line = Line()
        named, choice = dict(line.named_parameters()), OptimizerChoice.of("sgd", 0.05)
        how = (line, named, choice) if make is CompiledFitStep else (named, choice)
        step = make(partial(halves, line=line), *how, lambda summed: summed.mul_(2), 0.5)
        if make is CompiledFitStep:
            step.prepare(batches()[0], 5)
        losses = [float(step(1.0, x, 5)) for x in batches()]
        torch.testing.assert_close(weights(line), expected[0], rtol=0, atol=1e-6)
        assert losses == pytest.approx(expected[1], rel=1e-5)
    assert not torch.allclose(
        by_step(EagerStep, "sgd", 0.05, 0.25)[0], expected[0], atol=1e-4
    )  # clipped before the sum


def test_the_norm_of_small_digits_is_taken_in_float32():
    gradients = [torch.full((1000,), 100.0, dtype=torch.float16), torch.full((2, 2), 100.0)]
    norm = global_norm(gradients)  # whose squares float16 does not hold
    assert norm.dtype == torch.float32 and float(norm) == pytest.approx(100 * math.sqrt(1004), rel=1e-6)
    assert float(clip_factor(norm, float(norm) + 1e-3)) == 1.0
    assert global_norm([*gradients, torch.ones(1, dtype=torch.float64)]).dtype == torch.float64


def test_a_norm_that_is_not_finite_freezes_either_step(interpreted):
    for make in (EagerStep, CompiledFitStep):
        for kind in ("sgd", pyro.optim.ClippedAdam({})):
            line = Line()
            named, choice = dict(line.named_parameters()), OptimizerChoice.of(kind, 0.05)
            how = (line, named, choice) if make is CompiledFitStep else (named, choice)
            step = make(line.loss, *how, None, 1.0)
            if make is CompiledFitStep:
                step.prepare(batches()[0], 5)
            step(1.0, batches()[0], 5)
            before = weights(line)
            step(1.0, batches()[0] * math.nan, 5)
            step(1.0, batches()[1], 5)
            assert not step.all_finite and step.taken == 1 and torch.equal(weights(line), before)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("case", long_but("Nesterov", of=["AdamW with its options", "Nesterov", "Pyro's own"]))
def test_a_fit_by_compiled_steps_is_the_eager_one(case):
    optimizer, _ = STATED[case]
    one, two = pair(), pair()
    options = {"optimizer": optimizer, "learning_rate": 0.01, "clip_norm": 5.0, "schedule": "cosine"}
    eager = quiet_fit(one, compile=False, **options)
    compiled = quiet_fit(two, compile=True, **options)
    assert compiled.config["compiled"] and compiled.epochs.loss.values == pytest.approx(
        eager.epochs.loss.values, rel=1e-5
    )
    torch.testing.assert_close(weights(two), weights(one), rtol=0, atol=1e-4)


class TestTorchsObject:
    """Over the pair's parameters, whose groups have options of their own."""

    def groups(self, vae, **last):
        *first, bias = vae.parameters()
        return AdamW([{"params": first, "weight_decay": 0.5}, {"params": [bias], "lr": 0.02, **last}], lr=0.01)

    def test_its_groups_have_their_own_options_and_rates(self, interpreted):
        found = []
        for compile in (False, True):
            vae, by_torch = pair(), pair()
            optimizer = self.groups(vae, weight_decay=0.0)
            history = quiet_fit(vae, epochs=1, batch_size=23, optimizer=optimizer, compile=compile)
            assert not optimizer.state and history.config["learning_rate"] == 0.01
            assert history.config["optimizer"] == (
                f"AdamW({len(list(vae.parameters())) - 1} parameters: lr=0.01, weight_decay=0.5; "
                "1 parameters: lr=0.02, weight_decay=0.0)"
            )
            found.append(weights(vae))
            with torch.no_grad():  # a first step of Adam is the rate, against the gradient's sign
                for name, p in vae.named_parameters():
                    start = dict(by_torch.named_parameters())[name]
                    rate, decay = (0.02, 0.0) if p is list(vae.parameters())[-1] else (0.01, 0.5)
                    moved = (p - (1 - rate * decay) * start).abs()
                    assert moved.max() == pytest.approx(rate, rel=1e-3)
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)

    def test_one_group_is_the_class_with_its_options(self):
        one, two = pair(), pair()
        quiet_fit(one, optimizer=AdamW(one.parameters(), lr=0.01, weight_decay=0.3), compile=False)
        quiet_fit(two, optimizer=partial(AdamW, weight_decay=0.3), learning_rate=0.01, compile=False)
        assert torch.equal(weights(one), weights(two))

    def test_other_parameters_are_named(self):
        vae = pair()
        some = list(vae.parameters())[1:]
        first = next(iter(dict(vae.named_parameters())))
        with pytest.raises(
            ValueError, match=f"optimizer must hold the pair's trained parameters, and it lacks '{first}'"
        ):
            quiet_fit(vae, optimizer=SGD(some))
        with pytest.raises(ValueError, match=r"it holds \d+ that it does not train, of shape .* and lacks"):
            quiet_fit(vae, optimizer=SGD(pair().parameters()))
        vae.requires_grad_(False)
        next(vae.parameters()).requires_grad_(True)
        with pytest.raises(ValueError, match=r"it holds \d+ that it does not train"):
            quiet_fit(vae, optimizer=SGD(vae.parameters()))

    def test_one_that_has_taken_steps_is_refused(self):
        vae = pair()
        optimizer = SGD(vae.parameters(), momentum=0.9)
        sum(p.sum() for p in vae.parameters()).backward()
        optimizer.step()
        with pytest.raises(ValueError, match="optimizer has taken steps, and a fit begins with a new one"):
            quiet_fit(vae, optimizer=optimizer)

    def test_a_state_from_the_constructor_on_is_no_step(self):
        """As Adagrad has: a new one is the class with its options, and one that has taken a step is refused."""
        one, two = pair(), pair()
        options = {"initial_accumulator_value": 0.3}
        optimizer = torch.optim.Adagrad(one.parameters(), lr=0.01, **options)
        assert optimizer.state
        optimizer.state[nn.Parameter(torch.zeros(1))]  # whoever looks makes an empty one
        quiet_fit(one, optimizer=optimizer, compile=False)
        quiet_fit(two, optimizer=partial(torch.optim.Adagrad, **options), learning_rate=0.01, compile=False)
        assert torch.equal(weights(one), weights(two))
        sum(p.sum() for p in one.parameters()).backward()
        optimizer.step()
        with pytest.raises(ValueError, match="optimizer has taken steps, and a fit begins with a new one"):
            quiet_fit(one, optimizer=optimizer)

    @pytest.mark.parametrize("first", [True, False])
    def test_a_group_at_rate_zero_stays_wherever_it_stands(self, first):
        vae = pair()
        frozen, *moved = vae.parameters()
        start = frozen.detach().clone()
        still, moving = {"params": [frozen], "lr": 0.0}, {"params": moved, "lr": 1e-5}
        optimizer = SGD([still, moving] if first else [moving, still], lr=0.3)
        history = quiet_fit(vae, optimizer=optimizer, epochs=1, compile=False)
        assert torch.equal(frozen, start) and not torch.equal(weights(vae), weights(pair()))
        assert history.config["learning_rate"] == float(history.epochs.learning_rate[0]) == 1e-5
        expected = pair()
        next(expected.parameters()).requires_grad_(False)
        quiet_fit(expected, optimizer="sgd", learning_rate=1e-5, epochs=1, compile=False)
        assert torch.equal(weights(vae), weights(expected))

    @pytest.mark.parametrize(
        ("rates", "message"), [((0.0, 0.0), "greater than 0, got 0"), ((0.1, math.inf), "got inf")]
    )
    def test_rates_that_no_fit_can_have_are_refused(self, rates, message):
        first, *rest = pair().parameters()
        optimizer = SGD([{"params": [first], "lr": rates[0]}, {"params": rest, "lr": rates[1]}], lr=0.3)
        with pytest.raises(ValueError, match=f"the optimizer's lr must be a finite number .*{message}"):
            SVI(optimizer=optimizer)


def test_the_rate_is_the_options_unless_the_optimizer_states_its_own():
    rates = {
        ("adamw", None): 1e-3,
        ("adamw", 0.02): 0.02,
        (partial(SGD, lr=1e-6), None): 1e-6,
        (partial(SGD, lr=1e-6), 1e-6): 1e-6,
        (SGD, 1e-7): 1e-7,
    }
    for (optimizer, rate), expected in rates.items():
        given = {} if rate is None else {"learning_rate": rate}
        history = quiet_fit(pair(), epochs=1, optimizer=optimizer, **given)
        assert history.config["learning_rate"] == expected == float(history.epochs.learning_rate[0])
    with pytest.raises(ValueError, match=r"learning_rate=0.2 and the optimizer's lr=0.1 differ: leave one of them out"):
        SVI(optimizer=pyro.optim.Adam({"lr": 0.1}), learning_rate=0.2)
    # the default, where somebody states it, is a rate like any other
    differ = r"learning_rate={} and the optimizer's lr=0.1 differ: leave one of them out"
    with pytest.raises(ValueError, match=differ.format("0.001")):
        quiet_fit(pair(), optimizer=partial(SGD, lr=0.1), learning_rate=1e-3)
    with pytest.raises(ValueError, match=differ.format("0.001")):
        SVI(learning_rate=1e-3).with_options({"optimizer": partial(SGD, lr=0.1)})
    assert SVI(optimizer=partial(SGD, lr=0.1)).with_options({"epochs": 2}).optimizer_choice().learning_rate == 0.1
    assert repr(SVI().learning_rate) == "0.001" == repr(copy.deepcopy(SVI()).learning_rate)
    posterior = pyrovae.BayesianGaussianMixture((2,), 2).double()
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).double()
    history = quiet_fit(posterior, x, method="svi", epochs=2, batch_size=None, optimizer=partial(SGD, lr=1e-4))
    assert history.config["learning_rate"] == 1e-4
    with pytest.raises(ValueError, match=differ.format("0.02")):
        quiet_fit(posterior, x, method="svi", optimizer=partial(SGD, lr=0.1), learning_rate=0.02)
    classes = pyrovae.GenerativeClassifier({c: pyrovae.linear_vae(3, 1) for c in (0, 1)}, evidence=pyrovae.exact)
    with pytest.raises(ValueError, match=differ.format("0.001")):
        quiet_fit(classes, torch.zeros(9, 3), [0, 1, 1] * 3, optimizer=partial(SGD, lr=0.1), learning_rate=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adan", r"optimizer must be one of 'adam', .*'sgd', got 'adan' \(did you mean 'adam'\?\)|got 'adan'"),
        (3, "optimizer must be an optimiser of torch's or Pyro's, got 3: give a name, a class such as"),
        (partial(AdamW, [nn.Parameter(torch.ones(1))]), "a partial with positional arguments"),
        (partial(AdamW, decay=0.1), "optimizer=AdamW with {'decay': 0.1}: .*unexpected keyword argument 'decay'"),
        (partial(AdamW, weight_decay=-1.0), "Invalid weight_decay value"),
        (partial(SGD, maximize=True), "optimizer has maximize=True, and fit lowers a loss"),
        (torch.optim.LBFGS, "optimizer=LBFGS looks at a loss several times a step"),
        (pyro.optim.ClippedAdam({"lrd": 0.99}), "optimizer has lrd=0.99, a decay of the rate: leave it out, and give"),
        (
            type("Searching", (SGD,), {"step": lambda self, closure: closure()}),
            r"optimizer=Searching has a step\(closure\) that needs its closure",
        ),
        (pyro.optim.Adam(lambda name: {}), "options from a function of a parameter's name"),
        (pyro.optim.Adam({}, {"clip_norm": 1.0}), "optimizer has clip_args, which clip each parameter by itself"),
        (
            pyro.optim.ExponentialLR({"optimizer": SGD, "optim_args": {"lr": 0.1}, "gamma": 0.1}),
            "optimizer is a PyroLRScheduler of Pyro's, and no optimiser alone",
        ),
    ],
)
def test_what_is_no_optimizer_of_a_fit_is_told_what_is(optimizer, message):
    with pytest.raises((TypeError, ValueError), match=message):
        SVI(optimizer=optimizer)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, "1"])
def test_a_clip_norm_is_positive(clip_norm):
    with pytest.raises((TypeError, ValueError), match="clip_norm"):
        SVI(clip_norm=clip_norm)


class TestWithoutARule:
    def test_it_runs_eagerly_and_says_so(self, monkeypatch, caplog):
        monkeypatch.setattr("pyrovae.inference.svi.choice.pays", lambda *work: True)
        with caplog.at_level(logging.WARNING, logger="pyrovae"):
            history = quiet_fit(pair(), optimizer=RMSprop, epochs=1)
        assert not history.config["compiled"] and history.config["optimizer"] == "RMSprop"
        assert "fit runs eagerly: a compiled step has no rule for RMSprop: take Adam, AdamW, " in caplog.text

    def test_compile_true_names_what_has_one(self):
        vae = pair()
        before = weights(vae)
        with pytest.raises(pyrovae.CaptureError, match=r"no rule for RMSprop: take Adam, AdamW, .*register_rule"):
            quiet_fit(vae, optimizer=RMSprop, compile=True)
        with pytest.raises(pyrovae.CaptureError, match="amsgrad=True of the optimizer is not known to a compiled step"):
            quiet_fit(vae, optimizer=partial(torch.optim.Adam, amsgrad=True), compile=True)
        assert torch.equal(weights(vae), before)

    def test_a_rule_of_ones_own_is_one_class(self, monkeypatch, interpreted):
        monkeypatch.setattr(optimizers, "_RULES", dict(optimizers._RULES))

        class Signs(torch.optim.Optimizer):
            """Steps of one length, whatever the gradient's is."""

            def __init__(self, params, lr=0.1, pull=0.0):
                super().__init__(params, {"lr": lr, "pull": pull})

            @torch.no_grad()
            def step(self, closure=None):
                for group in self.param_groups:
                    for p in group["params"]:
                        p.sub_(group["lr"] * (p.grad.sign() + group["pull"] * p))

        class SignsRule(Rule):
            optimizer_class, options, state = Signs, frozenset({"pull"}), ()

            def scalars(self, group, rate, count):
                return [rate * torch.ones_like(count)]

            def update(self, p, g, state, scalars, group):
                return p - scalars[0] * (g.sign() + group["pull"] * p), {}

            def stored_step(self, step):
                return None

        register_rule(SignsRule())
        assert kinds_by_name()["signs"] is Signs
        found = []
        for compile in (False, True):
            vae = pair()
            optimizer = "signs" if compile else partial(Signs, pull=0.0)
            history = quiet_fit(vae, optimizer=optimizer, learning_rate=1e-4, compile=compile)
            assert history.config["compiled"] is compile and history.config["optimizer"] == "Signs"
            found.append(weights(vae))
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)

        class Other(Rule):
            optimizer_class = type(
                "Signs", (torch.optim.Optimizer,), {"__module__": "elsewhere", "__qualname__": "Signs"}
            )

        with pytest.raises(ValueError, match="the name 'signs' is taken by"):
            register_rule(Other())
        SignsRule.optimizer_class = type(
            "Signs", (Signs,), {"__module__": Signs.__module__, "__qualname__": Signs.__qualname__}
        )
        register_rule(SignsRule())  # a cell that runs again
        assert kinds_by_name()["signs"] is SignsRule.optimizer_class


RESUMED = {
    "AdamW": {"optimizer": partial(AdamW, weight_decay=0.3), "clip_norm": 2.0},
    "SGD with momentum": {"optimizer": partial(SGD, momentum=0.9), "schedule": "cosine", "learning_rate": 1e-5},
    "SGD": {"optimizer": "sgd", "learning_rate": 1e-5},
    "no rule": {"optimizer": torch.optim.NAdam},
    "numbers in its state": {"optimizer": pyro.optim.ClippedAdam({"clip_norm": 0.1}), "compile": False},
    "compiled": {"optimizer": partial(AdamW, weight_decay=0.3), "compile": True},
    "compiled, Pyro's": {"optimizer": pyro.optim.ClippedAdam({"clip_norm": 0.1}), "compile": True},
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case == "compiled, Pyro's" else ()) for case in RESUMED]
)
def test_a_run_that_was_killed_goes_on_bit_for_bit(case, tmp_path, interpreted):
    options = {"epochs": 4, "learning_rate": 0.01, **RESUMED[case]}
    whole, start = pair(), pair()
    expected = quiet_fit(whole, **options)
    killed, seen = copy.deepcopy(start), []

    epoch = Loop.epoch

    def killed_after_two(loop, number):
        seen.append(number)
        return epoch(loop, number) if number < 2 else 1 // 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "epoch", killed_after_two)
        with pytest.raises(ZeroDivisionError):
            quiet_fit(killed, checkpoint=tmp_path / "run", **options)
    again = copy.deepcopy(start)
    history = quiet_fit(again, checkpoint=tmp_path / "run", resume=True, **options)
    assert seen == [0, 1, 2] and history.config["resumed_after"] == 1
    assert torch.equal(weights(again), weights(whole))
    assert history.epochs.loss.values.tolist() == expected.epochs.loss.values.tolist()
    with pytest.raises(ValueError, match=r"this is another: optimizer: '.*' before, 'RMSprop' now"):
        quiet_fit(copy.deepcopy(start), checkpoint=tmp_path / "run", resume=True, **{**options, "optimizer": RMSprop})


def test_other_groups_and_another_class_of_the_same_name_do_not_go_on(tmp_path):
    start = pair()
    names = [name for name, _ in start.named_parameters()]
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    assert len(halves[0]) == len(halves[1])  # so that the words do not tell them apart

    def in_groups(vae, first, second):
        named = dict(vae.named_parameters())
        fast, slow = ([named[name] for name in half] for half in (first, second))
        return SGD([{"params": fast, "lr": 1e-5}, {"params": slow, "lr": 1e-6}])

    one, other = copy.deepcopy(start), copy.deepcopy(start)
    options = {"checkpoint": tmp_path / "groups", "compile": False}
    quiet_fit(one, epochs=1, optimizer=in_groups(one, *halves), **options)
    with pytest.raises(ValueError, match=r"this is another: optimizer_groups: \[\['.*"):
        quiet_fit(other, epochs=2, resume=True, optimizer=in_groups(other, *halves[::-1]), **options)
    history = quiet_fit(other, epochs=2, resume=True, optimizer=in_groups(other, *halves), **options)
    assert history.config["resumed_after"] == 0

    class Mine(SGD):
        pass

    Mine.__name__ = "SGD"
    options = {"checkpoint": tmp_path / "class", "learning_rate": 1e-5, "compile": False}
    quiet_fit(copy.deepcopy(start), epochs=1, optimizer="sgd", **options)
    with pytest.raises(ValueError, match=r"this is another: optimizer_class: 'SGD' before, 'test_optimizer.*Mine' now"):
        quiet_fit(copy.deepcopy(start), epochs=2, resume=True, optimizer=Mine, **options)


def test_a_run_of_a_version_that_had_adam_alone_goes_on(tmp_path, monkeypatch):
    """Its tensors had another name, and its facts nothing of the options that came later."""
    later = ("optimizer_numbers", "optimizer_class", "optimizer_groups", "schedule", "callbacks", "stopped")
    facts_of = Resume._run_metadata

    def facts_as_before(self):
        facts = facts_of(self)
        asked = {name: value for name, value in facts["asked"].items() if name not in ("optimizer", "clip_norm")}
        asked.pop("callbacks")
        return {name: value for name, value in facts.items() if name not in later} | {"asked": asked}

    whole, again = pair(), pair()
    expected = quiet_fit(whole, epochs=4)
    with monkeypatch.context() as patch:
        patch.setattr("pyrovae.inference.svi.resume.STATE", "adam.")
        patch.setattr(Resume, "_run_metadata", facts_as_before)
        quiet_fit(copy.deepcopy(again), epochs=2, checkpoint=tmp_path / "run")
    options = {"epochs": 4, "checkpoint": tmp_path / "run", "resume": True}
    with pytest.raises(ValueError, match="this is another: optimizer: 'Adam' before, 'SGD' now"):
        quiet_fit(again, optimizer="sgd", **options)
    history = quiet_fit(again, **options)
    assert torch.equal(weights(again), weights(whole)) and history.config["resumed_after"] == 1
    assert history.epochs.loss.values.tolist() == expected.epochs.loss.values.tolist()


def test_the_config_says_the_optimizer_in_words():
    words = {
        "adam": "Adam",
        partial(AdamW, weight_decay=0.1, betas=(0.8, 0.9)): "AdamW(betas=(0.8, 0.9), weight_decay=0.1)",
        partial(SGD, lr=0.1, momentum=0.9, foreach=True): "SGD(momentum=0.9)",
        pyro.optim.ClippedAdam({"clip_norm": 5.0}): "ClippedAdam(clip_norm=5.0)",
    }
    for optimizer, expected in words.items():
        assert str(OptimizerChoice.of(optimizer, 0.1)) == expected
