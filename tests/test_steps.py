"""`fit(compile=..., precision=...)`: the same numbers by another way, counted, or nothing changed."""

from __future__ import annotations

import copy
import logging
import math
import random
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import long_but, needs_compiler
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import pyrovae
from pyrovae.compile.function import COMPILED_IN, SAVED_A_STEP, SAVED_AN_ELEMENT, pays
from pyrovae.inference.steps import CompiledFitStep, EagerStep, with_bf16
from pyrovae.inference.svi.loop import Loop
from pyrovae.inference.svi.optimizer import OptimizerChoice
from pyrovae.inference.svi.run import PosteriorCollapseWarning, require_ties_last
from pyrovae.models.layers import seen

SOME = torch.rand(23, 1, 4, 3, generator=torch.Generator().manual_seed(0))
TWENTY = SOME[:20]  # whose batches of 5 are all of one size, so that one graph takes them


def pair(seed=0, **options):
    torch.manual_seed(seed)
    options = {"hidden_dims": (8,), "likelihood": pyrovae.Normal(scale=0.1), **options}
    return pyrovae.mlp_vae((1, 4, 3), latent_dim=3, **options)


def quiet_fit(model, x=SOME, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PosteriorCollapseWarning)
        return pyrovae.fit(model, x, *args, progress=False, **{"epochs": 3, "batch_size": 5, **options})


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def adam(learning_rate):
    return OptimizerChoice.of("adam", learning_rate)


def labels():
    return torch.arange(23) % 3


CASES = {
    "as it is": (pair, (), {}),
    "warm-up": (pair, (), {"beta": 2.0, "warmup": 2, "schedule": "cosine"}),
    "binarised": (lambda: pair(likelihood="bernoulli"), (), {"binarize": True}),
    "importance-weighted": (pair, (), {"objective": "iwae", "num_particles": 3}),
    "particles": (pair, (), {"num_particles": 2}),
    "convolutions": (lambda: pyrovae.conv_vae((1, 4, 3), channels=(4, 4), strides=(1, 2)), (), {"binarize": True}),
    "autoencoder": (lambda: pyrovae.mlp_ae((1, 4, 3), hidden_dims=(8,)), (), {}),
    "classifier": (lambda: pyrovae.DiscriminativeClassifier((1, 4, 3), 3), (labels(),), {"method": "svi"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_a_captured_fit_is_the_eager_one(case, dtype, interpreted):
    make, args, options = CASES[case]
    torch.manual_seed(0)
    eager = make().to(dtype)
    captured = copy.deepcopy(eager)
    one = quiet_fit(eager, SOME, *args, compile=False, **options)
    two = quiet_fit(captured, SOME, *args, compile=True, **options)
    assert (one.config["compiled"], two.config["compiled"]) == (False, True)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    assert two.epochs.loss.values == pytest.approx(one.epochs.loss.values, rel=tolerance)
    torch.testing.assert_close(weights(captured), weights(eager), rtol=0, atol=100 * tolerance)


@pytest.mark.slow
@needs_compiler
def test_ten_epochs_with_a_rest_compile_once_and_wait_for_nothing(monkeypatch):
    waits = Waits()
    steps = Loop.steps

    def watched(loop, *args):
        with waits:
            return steps(loop, *args)

    monkeypatch.setattr(Loop, "steps", watched)
    eager, compiled = pair(), pair()
    one = quiet_fit(eager, epochs=10, compile=False)
    first = waits.seen
    quiet_fit(pair(), epochs=1, compile=False)
    assert waits.seen == 2 * first  # the checks of the very first step
    waits.seen = 0
    two = quiet_fit(compiled, epochs=10, compile=True)
    assert two.config["compiles"] == 1 and one.config["compiles"] == 0
    assert waits.seen == 0
    assert two.epochs.loss.values == pytest.approx(one.epochs.loss.values, rel=1e-5)
    monkeypatch.setattr(EagerStep, "__call__", lambda step, *args: torch.tensor(step.loss(*args[1:]).item()))
    quiet_fit(pair(), epochs=1, compile=False)  # a step that looks at its loss
    assert waits.seen >= 5


class Waits(TorchDispatchMode):
    """How often the value of a tensor went to the host."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_an_eager_step_calls_one_optimiser_once(monkeypatch):
    calls = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda adam, *args: calls.append(adam) or step(adam, *args))
    quiet_fit(pair(), epochs=2, compile=False)
    assert len(calls) == 10 and len(set(map(id, calls))) == 1


@pytest.mark.long
@needs_compiler
def test_the_step_of_a_perceptron_is_ten_kernels(monkeypatch):
    """What lies between matrix products, rates and counts, and the update: an optimiser a parameter would be ten more.

    The powers of Adam's corrections are taken once, and not in the update's loops over entries.
    """
    from torch._inductor.async_compile import AsyncCompile

    made = []
    compile = AsyncCompile.cpp_pybinding
    monkeypatch.setattr(AsyncCompile, "cpp_pybinding", lambda *args: made.append(args) or compile(*args))
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((1, 28, 28), 20)
    with torch._inductor.config.patch(force_disable_caches=True):
        quiet_fit(vae, torch.rand(256, 1, 28, 28).round(), batch_size=256, epochs=1, compile=True)
    assert len(made) == 10
    assert sum("pow(" in code for *_, code in made) == 1 and not any("pow(" in code for *_, code in made[-1:])


class Reading(nn.Module):
    """An encoder that reads an item row by row."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.rows, self.out = kind, nn.LSTM(3, 8, batch_first=True), nn.Linear(12, 3)
        self.scale, self.first = nn.Linear(12, 3), nn.Linear(12, 12)

    def forward(self, x):
        h = x.flatten(1)
        if self.kind == "LSTM":
            h = torch.cat([h[:, :4], self.rows(x[:, 0])[0][:, -1]], 1)
        elif self.kind == "reentrant":
            h = checkpoint(torch.tanh, self.first(h), use_reentrant=True)
        elif self.kind == "compiled by the user":
            h = torch.compile(torch.tanh, backend="eager")(h)
        return dist.Normal(self.out(h), self.scale(h).exp()).to_event(1)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kind", long_but("reentrant", of=["LSTM", "reentrant", "compiled by the user"]))
@pytest.mark.usefixtures("float32")
def test_a_network_that_is_no_graph_is_trained_eagerly(kind, monkeypatch, caplog):
    """Whatever torch raises, and when: an LSTM's graph in float32 is captured and compiled, and fails when called."""
    monkeypatch.setattr("pyrovae.inference.svi.choice.pays", lambda *work: True)

    def reading():
        vae = pair()
        vae.posterior = Reading(kind)
        return vae

    torch.manual_seed(0)
    vae = reading()
    start = copy.deepcopy(vae)
    with caplog.at_level(logging.WARNING, logger="pyrovae"):
        history = quiet_fit(vae, epochs=1)
    assert not history.config["compiled"] and "fit runs eagerly" in caplog.text
    other = copy.deepcopy(start)
    quiet_fit(other, epochs=1, compile=False)
    assert torch.equal(weights(vae), weights(other))
    before = weights(start)
    with pytest.raises((pyrovae.CaptureError, pyrovae.CompilerError)):
        quiet_fit(start, epochs=1, compile=True)
    assert torch.equal(weights(start), before)


@pytest.mark.parametrize(("size", "sound"), [(1e15, True), (1e25, False), (math.inf, False), (math.nan, False)])
@pytest.mark.usefixtures("float32")
def test_either_step_ends_where_a_gradients_square_does(size, sound, interpreted):
    """In whose place Adam would keep infinity, and never move again."""
    for make in (EagerStep, CompiledFitStep):
        module = nn.Linear(2, 3)
        named = dict(module.named_parameters())
        loss = lambda x, n, module=module: (x * module.weight).sum()  # noqa: E731
        step = (
            EagerStep(loss, named, adam(0.1)) if make is EagerStep else CompiledFitStep(loss, module, named, adam(0.1))
        )
        x = torch.zeros(2)
        if make is CompiledFitStep:
            step.prepare(x, 3)
        step(1.0, x, 3)
        x = torch.tensor([0.0, size])
        before = weights(module)
        step(1.0, x, 3)
        assert step.all_finite is sound and step.taken == 1 + sound
        assert torch.equal(weights(module), before) is not sound


class Sharing(nn.Module):
    """A decoder with further biases that lie in the memory of the first, of its weights, or are views with gaps."""

    def __init__(self, *ways):
        super().__init__()
        self.f, array = nn.Linear(3, 12), torch.zeros(12).numpy()
        if "an array" in ways:
            self.f.bias.data = torch.from_numpy(array)
        views = {
            "whole": lambda: self.f.bias.data,
            "part": lambda: self.f.bias.data[2:7],
            "row": lambda: self.f.weight.data[4],
            "an array": lambda: torch.from_numpy(array[2:]),
            "gaps": lambda: self.f.weight.data[:, 1],
        }
        self.others = nn.ParameterList([views[way]() for way in ways])

    def forward(self, z):
        weighed = [(k + 1) * torch.tanh(b).sum() for k, b in enumerate(self.others)]
        return (self.f(z) + sum(weighed) * z[..., :1]).unflatten(-1, (1, 4, 3))


def sharing(*ways):
    vae = pair()
    torch.manual_seed(1)
    vae.likelihood.network = Sharing(*ways)
    return vae


def by_hand(vae, x, epochs, rate):
    """The same fit by a loop over parameters, each update where it lies."""
    optimizer = torch.optim.Adam(vae.parameters(), lr=rate, foreach=False)

    class OneByOne:
        found_inf = None

        def __init__(self, loss, named, *_):
            self.eager = EagerStep(
                loss, {name: p.detach().clone().requires_grad_() for name, p in named.items()}, adam(rate)
            )
            self.loss = loss

        def __getattr__(self, name):
            return getattr(self.eager, name)

        def __call__(self, factor, *args):
            optimizer.zero_grad()
            loss = self.loss(*args)
            loss.backward()
            optimizer.step()
            return loss.detach()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrovae.inference.svi.choice.EagerStep", OneByOne)
        return quiet_fit(vae, x, epochs=epochs, learning_rate=rate, compile=False)


def test_parameters_that_share_memory_are_updated_one_by_one(interpreted):
    ways = ("whole", "part", "row")
    hand = sharing(*ways)
    expected = by_hand(hand, TWENTY, 2, 0.02)
    for compile in (False, True):
        vae = sharing(*ways)
        history = quiet_fit(vae, TWENTY, epochs=2, learning_rate=0.02, compile=compile)
        assert history.config["compiled"] is compile
        assert history.epochs.loss.values == pytest.approx(expected.epochs.loss.values, rel=1e-5)
        torch.testing.assert_close(weights(vae), weights(hand), rtol=0, atol=1e-5)
        network = vae.likelihood.network
        at = network.f.bias.data_ptr(), network.f.bias[2:].data_ptr(), network.f.weight[4].data_ptr()
        assert tuple(p.data_ptr() for p in network.others) == at
    assert not torch.equal(weights(hand), weights(sharing(*ways)))


def test_a_view_with_gaps_is_trained_as_a_graph_or_refused(interpreted):
    """A fused Adam would write to what lies between."""
    hand, vae = sharing("gaps"), sharing("gaps")
    by_hand(hand, TWENTY, 2, 0.02)
    quiet_fit(vae, TWENTY, epochs=2, learning_rate=0.02, compile=True)
    torch.testing.assert_close(weights(vae), weights(hand), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"'likelihood\.network\.others\.0' of shape \(12,\) has strides \(3,\)"):
        quiet_fit(sharing("gaps"), epochs=2, compile=False)


def test_memory_that_a_move_to_another_device_would_untie_is_refused():
    elsewhere, here = torch.device("meta"), torch.device("cpu")  # meta: a device that every machine has
    tied = r"'likelihood\.network\.f\.bias' and 'likelihood\.network\.others\.0' share memory on cpu.* a move to meta"
    with pytest.raises(ValueError, match=tied):
        require_ties_last(sharing("whole"), here, elsewhere)
    require_ties_last(sharing("whole"), here, torch.device("cpu:0"))
    same = pair()
    same.again = same.likelihood  # one module in two places is moved as one
    require_ties_last(same, here, elsewhere)


def test_memory_of_two_storages_is_refused_by_names_or_runs_eagerly(monkeypatch, caplog):
    names = r"'likelihood\.network\.f\.bias' and parameter 'likelihood\.network\.others\.0' share memory"
    with pytest.raises(pyrovae.CaptureError, match=names):
        quiet_fit(sharing("an array"), epochs=1, compile=True)
    monkeypatch.setattr("pyrovae.inference.svi.choice.pays", lambda *work: True)
    with caplog.at_level(logging.WARNING, logger="pyrovae"):
        assert not quiet_fit(sharing("an array"), epochs=1).config["compiled"]
    assert "fit runs eagerly: parameter 'likelihood" in caplog.text and "share memory" in caplog.text


def test_kernels_of_one_group_write_to_no_memory_twice():
    whole = torch.randn(6)
    named = {"a": whole, "b": whole[:3], "c": torch.ones(2), "d": whole[2:4], "e": whole[3:]}
    named = {name: nn.Parameter(p) for name, p in named.items()}
    step = EagerStep(lambda: None, named, adam(0.1))
    assert step.order == ["a", "c", "b", "d", "e"]  # each after those that it meets
    assert [len(group["params"]) for group in step.optimizer.param_groups] == [2, 1, 1, 1]


def test_weights_of_convolutions_that_share_memory_stay_together():
    torch.manual_seed(0)
    vae = pyrovae.conv_vae((1, 4, 3), channels=(4, 4), strides=(1, 2))
    layers = [m for m in vae.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    layers = [m for m in layers if min(m.weight.shape[:2]) > 1]  # with one channel either order is the other
    layers[0].extra = nn.Parameter(layers[0].weight.data[:2])
    layers[1].kept = layers[1].weight.data
    quiet_fit(vae, SOME.round(), epochs=1, compile=False)
    assert layers[0].extra.data_ptr() == layers[0].weight.data_ptr()
    assert layers[1].kept.data_ptr() == layers[1].weight.data_ptr()


@needs_compiler
@pytest.mark.slow
def test_parameters_of_two_kinds_are_summed_over_processes():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, dtype=torch.float64))

    found = []
    for make in (EagerStep, CompiledFitStep):
        two = Two()
        loss = lambda x, size, two=two: (two.a * x).square().sum() + (two.b**3).sum()  # noqa: E731
        named, summed = dict(two.named_parameters()), []
        reduce = lambda flat, summed=summed: summed.append(flat.dtype)  # noqa: E731
        step = (
            CompiledFitStep(loss, two, named, adam(0.1), reduce)
            if make is CompiledFitStep
            else EagerStep(loss, named, adam(0.1), reduce)
        )
        x = torch.arange(3.0)
        if make is CompiledFitStep:
            step.prepare(x, 3)
        losses = [float(step(1.0, x, 3)) for _ in range(5)]
        assert summed == [torch.float64] * 5
        found.append((losses, two.a.tolist(), two.b.tolist()))
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_the_choice_is_a_function_of_steps_and_shapes(monkeypatch):
    steps = math.ceil(COMPILED_IN / (SAVED_A_STEP + 1000 * SAVED_AN_ELEMENT))
    assert pays(steps + 1, 1000) and not pays(steps - 1, 1000)
    asked = []
    monkeypatch.setattr("pyrovae.inference.svi.choice.pays", lambda *work: asked.append(work) or False)
    history = quiet_fit(pair(), epochs=4)
    # 4 whole batches an epoch; what each layer gives: 8 + activation + 12, and 8 + 3 + 3 + activation
    per_item = 2 * (8 + 8 + 12) - 12 + 2 * (8 + 8) - 16
    assert asked[0][0] == 16
    assert asked[0][1] % 5 == 0 and per_item * 5 <= asked[0][1] <= 3 * per_item * 5
    assert history.config["compile"] == "auto" and not history.config["compiled"]
    monkeypatch.setattr("pyrovae.inference.svi.choice.pays", lambda *work: True)
    mixture = pyrovae.GaussianMixture((1, 4, 3), 2, covariance="diagonal")
    assert not quiet_fit(mixture, method="svi").config["compiled"]  # its component is summed out


@pytest.mark.long
def test_without_a_compiler(without_compiler):
    done = without_compiler(
        """
        import logging, torch, pyrovae
        from pyrovae.inference.svi import choice
        lines = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())
        logging.getLogger("pyrovae").addHandler(handler)
        def pair():
            torch.manual_seed(0)
            return pyrovae.mlp_vae((3,), 2, hidden_dims=(4,))
        x = torch.ones(6, 3)
        vae, state = pair(), torch.random.get_rng_state()
        try:
            pyrovae.fit(vae, x, compile=True, epochs=1, progress=False)
        except pyrovae.CompilerError as error:
            print("g++ or clang++ on the path" in str(error))
        print(all(torch.equal(p, q) for p, q in zip(vae.parameters(), pair().parameters())))
        print(torch.equal(state, torch.random.get_rng_state()), len(lines))
        choice.pays = lambda *work: True
        history, other = pyrovae.fit(vae, x, epochs=2, progress=False), pair()
        print(len(lines), "fit runs eagerly" in lines[0], history.config["compiled"])
        pyrovae.fit(other, x, epochs=2, compile=False, progress=False)
        print(all(torch.equal(p, q) for p, q in zip(vae.parameters(), other.parameters())))
        """
    )
    assert done.stdout.split() == ["True", "True", "True", "0", "1", "True", "False", "True"]


class TestWhatIsNotFinite:
    @pytest.mark.usefixtures("float32")
    def test_a_compiled_loss_that_is_not_finite_takes_the_weights_back(self, interpreted):
        order = list(pyrovae.data.batches(torch.arange(23.0)[:, None], 5, seed=0, epoch=1))
        x = SOME.clone()
        vae, other = pair(), pair()
        x[int(order[3][0])] = 1e25  # seen in the first epoch already
        first = next(
            i
            for i, b in enumerate(pyrovae.data.batches(torch.arange(23.0), 5, seed=0, epoch=0))
            if int(order[3][0]) in b.tolist()
        )
        words = rf"at step {first + 1} \(batch {first + 1} of epoch 1\): log p\(x \| z\)"
        with pytest.raises(FloatingPointError, match=words):
            quiet_fit(vae, x, compile=True)
        with pytest.raises(FloatingPointError):
            quiet_fit(other, x, compile=False)
        torch.testing.assert_close(weights(vae), weights(other))
        assert torch.isfinite(weights(vae)).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("step", [1, 4, 5, 6, 13])
    @pytest.mark.parametrize(("compile", "replayed"), [(False, 100), (True, 100), (False, 1)])
    def test_the_weights_are_those_of_the_last_finite_loss_wherever_it_breaks(
        self, step, compile, replayed, interpreted, monkeypatch
    ):
        """Also across epochs; what a step draws does not depend on what was replayed, or from where."""
        monkeypatch.setattr("pyrovae.inference.svi.loop.REPLAYED", replayed)

        class Breaks(pyrovae.Normal):
            def __init__(self, at):
                super().__init__(scale=0.1)
                self.at = at
                self.register_buffer("count", torch.zeros(()))

            def forward(self, loc):
                if self.training:
                    self.count += 1
                return super().forward(torch.where(self.count == self.at + 1, math.nan, loc))

        def fitted(at, **options):
            vae = pair(likelihood=Breaks(at))
            quiet_fit(vae, compile=compile, **options)
            return vae

        broken = pair(likelihood=Breaks(step))
        words = rf"at step {step + 1} \(batch {step % 5 + 1} of epoch {step // 5 + 1}\)"
        with pytest.raises(FloatingPointError, match=words):
            quiet_fit(broken, compile=compile)
        before = []
        good = pair(likelihood=Breaks(-1))

        with pytest.MonkeyPatch.context() as patch:
            take = Loop.step
            patch.setattr(Loop, "step", lambda loop, *batch: before.append(weights(loop.module)) or take(loop, *batch))
            quiet_fit(good, compile=compile)
        assert torch.equal(weights(broken), before[max(0, step - 1)])


class TestHalfPrecision:
    @pytest.mark.usefixtures("float32")
    def test_the_networks_alone(self):
        vae, x = pair(), SOME.float()
        with seen(vae) as found:
            quiet = vae.posterior(x)
            vae.likelihood(quiet.mean)
        names = {part: name for name, part in vae.named_modules()}
        assert [names[part] for part in found.networks] == [
            "posterior.network",
            "posterior.loc",
            "posterior.raw_log_scale",
            "likelihood.network",
        ]
        inside = []
        linear = nn.functional.linear

        class Types(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                if func is linear:
                    inside.append(out.dtype)
                return out

        with with_bf16(found.networks), Types():
            q = vae.posterior(x)
            p = vae.likelihood(q.mean)
        assert set(inside) == {torch.bfloat16} and len(inside) == 5
        assert {q.mean.dtype, q.stddev.dtype, p.mean.dtype} == {torch.float32}
        again = vae.posterior(x)
        assert torch.equal(again.mean, quiet.mean)  # as before
        # 8 bits of a mantissa
        torch.testing.assert_close(q.mean, quiet.mean, rtol=0.02, atol=0.02)
        assert not torch.equal(q.mean, quiet.mean)

    def test_a_part_that_draws_is_no_network(self):
        class Draws(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(3, 3)

            def forward(self, x):
                return pyro.sample("own", dist.Normal(self.inner(x), 1.0).to_event(2))

        outer = nn.Sequential(Draws())
        with seen(outer) as found:
            outer(torch.ones(2, 3))
        assert found.networks == [outer[0].inner]

    @pytest.mark.usefixtures("float32")
    def test_a_fit_is_near_the_one_in_float32_and_validation_is_in_float32(self, monkeypatch):
        digits = pyrovae.data.load("digits")
        x, held_out = digits.train.x.round(), digits.test.x.round()
        losses = {}
        for precision in ("float32", "bf16"):
            torch.manual_seed(0)
            vae = pyrovae.mlp_vae((1, 8, 8), 5, hidden_dims=(64,))
            h = quiet_fit(vae, x, validation=held_out, epochs=5, batch_size=64, precision=precision, compile=False)
            losses[precision] = h.epochs
            assert vae.posterior.loc.weight.dtype == torch.float32 and h.config["precision"] == precision
            with torch.no_grad():
                q = vae.posterior(held_out)
                bound = vae.likelihood(q.mean).log_prob(held_out).mean()
            assert math.isfinite(float(bound))
        gap = losses["bf16"].loss.values - losses["float32"].loss.values
        # seen: 0.01 nats of 17 to 40; a fit with another seed differs by 0.1 and more
        assert 0 < abs(gap[-1]) < 0.1

    @pytest.mark.usefixtures("float32")
    def test_refusals(self):
        with pytest.raises(ValueError, match="precision='bf16' is for a pair in float32"):
            quiet_fit(pair().double(), precision="bf16")
        with pytest.raises(ValueError, match="GaussianMixture has none"):
            quiet_fit(pyrovae.GaussianMixture((1, 4, 3), 2), method="svi", precision="bf16")
        with pytest.raises(ValueError, match="precision"):
            quiet_fit(pair(), precision="half")
        with pytest.raises(ValueError, match="compile"):
            quiet_fit(pair(), compile="always")
        with pytest.raises(ValueError, match="summed out"):
            quiet_fit(pyrovae.GaussianMixture((1, 4, 3), 2), method="svi", compile=True)
        with pytest.raises(ValueError, match="compile is an argument of SVI"):
            quiet_fit(pyrovae.GaussianMixture((1, 4, 3), 2), epochs=None, batch_size=None, compile=True)


def test_a_draw_without_a_gradient_runs_eagerly_where_the_choice_is_free(monkeypatch, caplog):
    """Its gradient is a score function's, of which a graph would know nothing."""

    class Coin(nn.Module):
        event_shape, latent_dim, is_normalized = (2,), 1, True

        def __init__(self):
            super().__init__()
            self.logit = nn.Parameter(torch.zeros(()))

        def model(self, x=None, *, size=1):
            with pyro.plate("data", size if x is None else len(x)):
                z = pyro.sample("latent", dist.Bernoulli(0.5))
                return pyro.sample("obs", dist.Normal(z[..., None].expand(*z.shape, 2), 1.0).to_event(1), obs=x)

        def guide(self, x=None, *, size=1):
            with pyro.plate("data", size if x is None else len(x)):
                return pyro.sample("latent", dist.Bernoulli(logits=self.logit))

    with pytest.raises(pyrovae.CaptureError, match=r"'latent' \(Bernoulli\).*no reparameterised draw"):
        quiet_fit(Coin(), torch.ones(6, 2), compile=True)
    monkeypatch.setattr("pyrovae.inference.svi.choice.pays", lambda *work: True)
    with caplog.at_level(logging.WARNING, logger="pyrovae"):
        history = quiet_fit(Coin(), torch.ones(6, 2))
    assert not history.config["compiled"]
    assert len(caplog.records) == 1 and "fit runs eagerly" in caplog.text


class OfTheUsers(nn.Module):
    """A pair that a user wrote, with more in it than fit's own have."""

    event_shape, latent_dim, is_normalized = (1, 4, 3), 2, True

    def __init__(self, kind=""):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.calls = kind, 0
        self.encoder, self.decoder = nn.Conv2d(1, 4, (4, 3)), nn.Linear(2, 12)
        self.volume = nn.Conv3d(1, 1, 2)
        self.points = nn.Parameter(torch.randn(2, 1, 4, 3))
        self.register_buffer("shared", torch.zeros(1, 2, 2, 2))
        self.alias = self.shared
        self.register_buffer("count", torch.zeros(()), persistent=False)

    def model(self, x=None, *, size=1):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("latent", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("obs", dist.Normal(self.decoder(z).view(-1, 1, 4, 3), 1.0).to_event(3), obs=x)

    def guide(self, x=None, *, size=1):
        pyro.module("encoder", self.encoder)
        scale = 1.0
        if self.kind == "counter":
            self.calls += 1
            scale = min(1.0, self.calls / 50)
        elif self.kind == "python":
            scale = 0.5 + random.random()
        elif self.kind == "numpy":
            scale = 0.5 + np.random.random()
        elif self.kind == "late" and self.training:
            scale = pyro.param("shift", torch.tensor(1.0)).exp()
        elif self.kind == "breaks":
            self.count += 1
            scale = torch.where(self.count == 8, math.nan, 1.0 + 0.01 * self.count)
        with pyro.plate("data", size if x is None else len(x)):
            z = self.encoder(x).flatten(1).view(-1, 2, 2).sum(1) + self.points.view(2, -1).mean()
            return pyro.sample("latent", dist.Normal(z, scale).to_event(1))


class TestPairsOfUsers:
    def test_weights_and_buffers_of_every_shape_pass_and_keep_their_place(self):
        pair = OfTheUsers()
        before = [(id(p), p.stride()) for p in pair.parameters()]
        assert quiet_fit(pair, compile=False).epochs.loss[-1] < 20
        assert pair.alias is pair.shared
        assert [(id(p), p.stride()) for p in pair.parameters()] == before

    @pytest.mark.parametrize("kind", ["counter", "python", "numpy", "hook"])
    def test_what_a_graph_would_freeze_is_refused_or_runs_eagerly(self, kind, monkeypatch, caplog):
        pair = OfTheUsers(kind)
        if kind == "hook":

            def frozen(p):
                p.grad.zero_()

            pair.points.register_post_accumulate_grad_hook(frozen)
        with pytest.raises(pyrovae.CaptureError):
            quiet_fit(pair, compile=True)
        monkeypatch.setattr("pyrovae.inference.svi.choice.pays", lambda *work: True)
        with caplog.at_level(logging.WARNING, logger="pyrovae"):
            assert not quiet_fit(pair).config["compiled"]
        assert "fit runs eagerly" in caplog.text

    def test_a_parameter_that_only_training_has_is_seen(self):
        with pytest.raises(ValueError, match=r"pyro\.param 'shift' is not among"):
            quiet_fit(OfTheUsers("late"))

    @pytest.mark.parametrize("compile", [False, True])
    def test_buffers_that_are_not_saved_are_put_back_too(self, compile, interpreted):
        """The eighth draw breaks, in the eighth step; the weights are those before the seventh."""
        pair, state = OfTheUsers("breaks"), torch.random.get_rng_state()
        with pytest.raises(FloatingPointError, match="at step 8 "):
            quiet_fit(pair, compile=compile)
        assert float(pair.count) == 6
        assert torch.equal(state, torch.random.get_rng_state())

    def test_a_capture_leaves_a_batch_norms_statistics(self, interpreted):
        """They are the eager run's: 5 updates, and none for the two captures."""
        found = []
        for compile in (False, True):
            torch.manual_seed(0)
            vae = pyrovae.mlp_vae((1, 4, 3), hidden_dims=(8,), likelihood="normal")
            layers = vae.posterior.network.layers
            vae.posterior.network.layers = nn.Sequential(*layers, nn.BatchNorm1d(8))
            quiet_fit(vae, epochs=1, compile=compile)
            found.append(vae.posterior.network.layers[-1])
        eager, captured = found
        assert eager.num_batches_tracked == captured.num_batches_tracked
        torch.testing.assert_close(captured.running_var, eager.running_var, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(captured.running_mean, eager.running_mean, rtol=1e-5, atol=1e-6)

    def test_buffers_that_nobody_can_write_are_left(self):
        vae = pair()
        vae.register_buffer("sparse", torch.eye(3).to_sparse())
        vae.register_buffer("unknown", torch.full((1,), math.nan).expand(5))
        quiet_fit(vae, epochs=1, compile=False)
        assert vae.unknown.isnan().all()

    @pytest.mark.usefixtures("float32")
    def test_a_networks_own_forward_is_put_back(self):
        vae, calls = pair(), []
        network = vae.likelihood.network
        own = network.forward
        network.forward = lambda *args: calls.append(1) or own(*args)
        mine = network.forward
        quiet_fit(vae, epochs=2, precision="bf16", compile=False)
        assert network.forward is mine and len(calls) >= 10

    def test_steps_are_counted_though_parameters_take_turns(self):
        class Turns(OfTheUsers):
            def guide(self, x=None, *, size=1):
                self.calls += 1
                loc = self.decoder.weight.mean() if self.calls % 2 else self.points.mean()
                scale = math.nan if self.calls == 10 else 1.0
                with pyro.plate("data", size if x is None else len(x)):
                    return pyro.sample("latent", dist.Normal(loc.expand(2), scale).to_event(1))

        with pytest.raises(FloatingPointError, match="at step 9 "):  # the first of ten calls was a look
            quiet_fit(Turns(), compile=False)


# torch's default dtype ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_dtype_changes_no_digit(dtype):
    x = torch.randn(12, 3, dtype=torch.float32, generator=torch.Generator().manual_seed(0)).to(dtype)
    y, before = torch.arange(12) % 2, torch.get_default_dtype()
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(3, 1).to(dtype)
    softmax = pyrovae.DiscriminativeClassifier((3,), 2).to(dtype)
    found = []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            pairs = copy.deepcopy([vae, softmax])
            pyrovae.fit(pairs[0], x, validation=x, epochs=2, batch_size=5, progress=False)
            pyrovae.fit(pairs[1], x, y, method="svi", epochs=2, batch_size=5, progress=False)
            estimates = [
                pyrovae.elbo(pairs[0], x, num_particles=3),
                pyrovae.iwae(pairs[0], x, num_particles=3),
                pyrovae.quadrature(pairs[0], x[:2]),
                pyrovae.exact(pairs[0], x),
            ]
        finally:
            torch.set_default_dtype(before)
        tensors = [p.detach() for pair in pairs for p in pair.parameters()]
        found.append(([e.pointwise for e in estimates], tensors))
    assert all(p.dtype == dtype for p in found[1][1])
    assert all(map(torch.equal, found[0][1], found[1][1]))
    assert all(one.equals(other) for one, other in zip(found[0][0], found[1][0], strict=True))


def test_more_updates_are_counted_than_float32_counts():
    pair = pyrovae.linear_vae(3, 1)
    step = EagerStep(lambda x: pair.decode(x).square().sum(), dict(pair.likelihood.named_parameters()), adam(1e-3))
    step(1.0, torch.zeros(2, 1))
    step.count.fill_(2**24)
    step(1.0, torch.zeros(2, 1))
    assert step.taken == 2**24 + 1
