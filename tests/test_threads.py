"""Threads: each call gives one thread's values bit for bit, and the state that all share is as it was."""

import os
import sys
import threading
import time
import warnings
from contextlib import nullcontext
from copy import deepcopy
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import needs_compiler
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.poutine import runtime
from torch import fx, nn
from torch.distributions import Distribution, Normal

import pyrovae
from pyrovae import exclusive as exclusive_module
from pyrovae.argument_checks import argument_checks, flags
from pyrovae.compile import function, startup
from pyrovae.compile.graph import capture
from pyrovae.compile.watching import watched
from pyrovae.exclusive import exclusive
from pyrovae.inference import discriminative
from pyrovae.models.distributions import DiagonalNormal
from pyrovae.models.networks import MLP
from pyrovae.models.scopes import Workspace, copied, hidden, isolated_store, kept_modes
from pyrovae.seeding import Noise


@pytest.fixture(autouse=True)
def _often():
    """Threads that are switched as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def together(*calls, timeout=60.0):
    """What each call gives, or raises, in a thread of its own; all of them end."""
    found, gate = [None] * len(calls), threading.Barrier(len(calls))

    def run(number):
        gate.wait()
        try:
            found[number] = calls[number]()
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
    return found


def shared_state(*pairs):
    """All that a process has once, and the modes and forwards of these pairs."""
    modules = [module for pair in pairs for module in pair.modules()]
    return (
        flags(),
        torch.get_rng_state().tolist(),
        dict(pyro.get_param_store()._params),
        list(runtime._PYRO_STACK),
        list(runtime._DIM_ALLOCATOR._stack),
        list(warnings.filters),
        [module.training for module in modules],
        ["forward" in vars(module) for module in modules],
        torch.is_grad_enabled(),
    )


def dropping_vae():
    """A VAE whose encoder drops half of its units in training: a mode that is another thread's shows at once."""
    vae = pyrovae.mlp_vae((4,), hidden_dims=(5,))
    trunk = nn.Sequential(MLP((4,), (5,), hidden_dims=(), activation="relu", activate_last=True), nn.Dropout(0.5))
    return pyrovae.VAE(vae.prior, vae.likelihood, DiagonalNormal(trunk, 5, 2)).train()


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of fits that are cut short
torch.manual_seed(0)
X = (torch.rand(10, 4) > 0.5).float()
GAPPY = torch.where(torch.tensor([True, False, False, False]), torch.nan, X[:2])


def fitted(pair, x, *args, **options):
    own = deepcopy(pair)
    history = pyrovae.fit(own, x, *args, progress=False, device="cpu", **options)
    return torch.cat([p.detach().flatten() for p in own.state_dict().values()]).numpy(), history.epochs.loss.values


def values(estimate):
    return [estimate.pointwise[name].values for name in sorted(estimate.pointwise)]


def cases():
    vae, linear, mixture = dropping_vae(), pyrovae.linear_vae(4, 2), pyrovae.GaussianMixture((4,), 2)
    bayesian, labels = pyrovae.BayesianGaussianMixture((4,), 2), np.arange(10) % 2
    softmax, y = pyrovae.DiscriminativeClassifier((4,), 2), X + torch.arange(10.0)[:, None]
    by_bayes = pyrovae.GenerativeClassifier({0: vae, 1: linear}, evidence=partial(pyrovae.iwae, num_particles=5))
    svi = {"epochs": 2, "batch_size": 4, "compile": False}
    nuts = {"method": "nuts", "num_chains": 1, "num_draws": 2, "num_warmup": 2}
    calls = {
        "fit": lambda: fitted(vae, X, validation=X[:3], **svi),
        "fit bf16": lambda: fitted(deepcopy(vae).float(), X, precision="bf16", **svi),
        "fit by EM": lambda: fitted(mixture, y, num_restarts=1, max_iterations=2),
        "fit by L-BFGS": lambda: fitted(softmax, y, labels, max_iterations=3),
        "fit by NUTS": lambda: fitted(bayesian, y, **nuts),
        "elbo": lambda: values(pyrovae.elbo(vae, X, num_particles=3)),
        "iwae": lambda: values(pyrovae.iwae(vae, X, num_particles=7)),
        "exact": lambda: values(pyrovae.exact(linear, X)),
        "calibrate": lambda: [pyrovae.calibrate(linear, num_simulations=20, num_draws=3).tests["statistic"].values],
        "sample": lambda: [vae.sample(5, seed=1).numpy(), mixture.sample(5, seed=1).numpy()],
        "encode": lambda: [linear.encode(X).detach().numpy(), linear.reconstruct(X).detach().numpy()],
        "impute": lambda: [vae.impute(GAPPY, num_draws=2, num_steps=2).numpy()],
        "classify": lambda: [by_bayes.predict_log_proba(X[:3]).detach().numpy()],
    }
    return calls, (vae, linear, mixture, bayesian, softmax, by_bayes)


def alike(one, other):
    return not isinstance(other, BaseException) and all(map(partial(np.array_equal, equal_nan=True), one, other))


def test_every_call_in_a_thread_gives_the_values_of_one_thread_and_leaves_what_all_share():
    calls, pairs = cases()
    alone, before = {name: call() for name, call in calls.items()}, shared_state(*pairs)
    names = list(calls)

    def round_from(first):
        return lambda: [calls[name]() for name in names[first:] + names[:first]]

    starts = range(0, len(names), 5)
    for first, found in zip(starts, together(*map(round_from, starts)), strict=True):
        if isinstance(found, BaseException):
            raise found
        for name, one in zip(names[first:] + names[:first], found, strict=True):
            assert alike(alone[name], one), name
    assert shared_state(*pairs) == before
    with pytest.raises(ValueError, match="scale"):
        Normal(0.0, -1.0)


def test_without_the_lock_the_same_calls_break_each_other(monkeypatch):
    vae = dropping_vae()
    call = lambda: values(pyrovae.iwae(vae, X, num_particles=7))  # noqa: E731
    alone, modes = call(), [module.training for module in vae.modules()]
    monkeypatch.setattr("pyrovae.exclusive._alone", nullcontext)
    generator = torch.get_rng_state()
    try:
        found = together(*[lambda: [call() for _ in range(10)]] * 4)
        assert not all(not isinstance(each, BaseException) and all(alike(alone, one) for one in each) for each in found)
    finally:  # what they have left behind
        runtime._PYRO_STACK.clear()
        runtime._DIM_ALLOCATOR._stack.clear()
        pyro.enable_validation(True)
        torch.set_rng_state(generator)
        for module, mode in zip(vae.modules(), modes, strict=True):
            module.training = mode


def test_one_pair_is_evaluated_while_it_is_fitted_and_both_end():
    vae = dropping_vae()
    before = shared_state(vae)
    fit = lambda: pyrovae.fit(vae, X, epochs=5, batch_size=2, compile=False, progress=False)  # noqa: E731
    history, estimate = together(fit, lambda: pyrovae.iwae(vae, X, num_particles=50))
    assert np.isfinite(history.epochs.loss.values).all() and np.isfinite(estimate.mean)
    assert shared_state(vae) == before


@pytest.mark.usefixtures("interpreted")
def test_compiled_steps_in_two_threads_are_those_of_one():
    def run(name):
        def model(x):
            z = pyro.sample(name, pyro.distributions.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)

        guide = pyro.infer.autoguide.AutoDelta(model, init_loc_fn=pyro.infer.autoguide.init_to_mean)
        svi = pyrovae.CompiledSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
        return [svi.step(X[:, 0]) for _ in range(5)]

    alone = run("alone")
    assert together(lambda: run("one"), lambda: run("other")) == [alone, alone]


def test_a_loop_of_bodies_does_not_keep_another_thread_out():
    arrived, turns = threading.Event(), []

    def loop():
        while not arrived.is_set() and len(turns) < 500:
            with exclusive():
                time.sleep(1e-3)
                turns.append(None)

    def late():
        asked = len(turns)
        with exclusive():
            arrived.set()
            return len(turns) - asked

    assert together(loop, late)[1] < 50  # 5 ms of them, and what a busy machine adds


def test_who_stands_in_the_queue_is_passed_by_nobody():
    order = []

    def late():
        with exclusive():
            order.append("late")

    for _ in range(3):
        with exclusive():
            thread = threading.Thread(target=late, daemon=True)
            thread.start()
            end = time.monotonic() + 10
            while not exclusive_module._queue.locked() and time.monotonic() < end:
                time.sleep(1e-3)
        with exclusive():  # at once, as a loop of batches does
            order.append("again")
        thread.join(10)
    assert order == ["late", "again"] * 3


def test_whatever_draws_or_sets_what_all_share_waits_for_another_threads_turn(tmp_path):
    mixture, vae = pyrovae.GaussianMixture((2,), 2), pyrovae.mlp_vae((4,), hidden_dims=(5,))
    conditional, labels = mixture.conditional([[0.0, torch.nan]]), torch.tensor([0, 1])
    folder = pyrovae.save(tmp_path / "state", vae)

    def entering(context):
        with context:
            pass

    calls = {
        "mlp_vae": lambda: pyrovae.mlp_vae((4,), hidden_dims=(5,)),
        "conv_vae": lambda: pyrovae.conv_vae((1, 4, 4), channels=(2,), strides=(2,)),
        "linear_vae": lambda: pyrovae.linear_vae(4, 2),
        "mlp_ae": lambda: pyrovae.mlp_ae((4,), hidden_dims=(5,)),
        "a mixture": lambda: pyrovae.GaussianMixture((4,), 2),
        "a Bayesian mixture": lambda: pyrovae.BayesianGaussianMixture((4,), 2),
        "a softmax": lambda: pyrovae.DiscriminativeClassifier((4,), 2),
        "load": lambda: pyrovae.load(folder),
        "sample": lambda: vae.sample(2, seed=0),
        "a component's draw": lambda: mixture.components.draw(labels),
        "a conditional's draw": lambda: conditional.sample((2,)),
        "a copy": lambda: copied(vae),
        "modes": lambda: entering(kept_modes(vae)),
        "checks": lambda: entering(argument_checks(False)),
        "a store": lambda: entering(isolated_store()),
        "handlers": lambda: entering(hidden()),
    }
    threads = {name: threading.Thread(target=call, daemon=True) for name, call in calls.items()}
    with Workspace(noise=Noise(0)).turn():
        before = torch.get_rng_state()
        for thread in threads.values():
            thread.start()
        time.sleep(0.2)
        ended = [name for name, thread in threads.items() if not thread.is_alive()]
        after = torch.get_rng_state()
    for thread in threads.values():
        thread.join(10)
    assert not ended and torch.equal(after, before)
    assert not any(thread.is_alive() for thread in threads.values())


def test_a_builder_in_another_thread_draws_from_the_callers_generator():
    torch.manual_seed(3)
    alone = pyrovae.mlp_vae((4,), hidden_dims=(5,)).state_dict()
    torch.manual_seed(3)
    made, build = [], lambda: made.append(pyrovae.mlp_vae((4,), hidden_dims=(5,)).state_dict())
    with Workspace(noise=Noise(0)).turn():
        thread = threading.Thread(target=build, daemon=True)
        thread.start()
        thread.join(0.1)
    thread.join(10)
    assert all(torch.equal(alone[name], value) for name, value in made[0].items())


def test_loading_in_another_thread_leaves_the_callers_generator_as_it_was(tmp_path):
    folder, before = pyrovae.save(tmp_path / "state", pyrovae.mlp_vae((4,), hidden_dims=(5,))), torch.get_rng_state()
    with Workspace(noise=Noise(0)).turn():
        thread = threading.Thread(target=lambda: pyrovae.load(folder), daemon=True)
        thread.start()
        thread.join(0.1)
    thread.join(10)
    assert torch.equal(torch.get_rng_state(), before)


class _Nested(pyrovae.VAE):
    """A model that calls the package in its own turn, where the class says so."""

    is_calling = False
    calls = 0

    def model(self, x=None, *, size=1):
        if _Nested.is_calling:
            _Nested.calls += 1
            self.other.sample(2, seed=0)
            pyrovae.iwae(self.other, X[:2], num_particles=2)
        return super().model(x, size=size)


def test_a_model_may_call_the_package_in_its_own_turn(monkeypatch):
    parts = pyrovae.mlp_vae((4,), hidden_dims=(5,))
    pair = _Nested(parts.prior, parts.likelihood, parts.posterior)
    pair.__dict__["other"] = pyrovae.linear_vae(4, 2)
    options = {"epochs": 1, "batch_size": 5, "compile": False}

    def results():
        return fitted(pair, X, **options), values(pyrovae.elbo(pair, X, num_particles=2))

    plain = results()
    monkeypatch.setattr(_Nested, "is_calling", True)
    nested = results()
    assert all(alike(one, other) for one, other in zip(plain, nested, strict=True)) and _Nested.calls


def test_pyros_own_svi_in_another_thread_does_not_wait_for_ever():
    vae = pyrovae.mlp_vae((4,), hidden_dims=(5,))
    other = deepcopy(vae)

    def model(x):
        other.sample(2, seed=0)  # asks for the lock inside of Pyro's handlers, which do not
        return vae.model(x)

    svi = pyro.infer.SVI(model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    try:
        together(lambda: [svi.step(X) for _ in range(5)], lambda: [pyrovae.elbo(other, X) for _ in range(5)])
    finally:  # Pyro keeps its handlers for all threads: either may have raised
        runtime._PYRO_STACK.clear()
        runtime._DIM_ALLOCATOR._stack.clear()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_in_a_turn_gives_everything_back(error):
    vae = dropping_vae()
    before = shared_state(vae)

    def guide(x=None, *, size=1):
        pyro.param("left", torch.zeros(()))
        torch.rand(())
        with poutine.trace():
            raise error

    vae.guide = guide
    for call in (lambda: pyrovae.iwae(vae, X), lambda: pyrovae.fit(vae, X, epochs=1, progress=False)):
        with pytest.raises(error):
            call()
        assert shared_state(vae) == before
    (entered,) = together(lambda: exclusive().__enter__(), timeout=5)
    assert entered is None


def test_builders_do_not_draw_from_a_generator_that_is_another_threads_in_its_turn():
    vae = pyrovae.mlp_vae((4,), hidden_dims=(5,))
    alone = values(pyrovae.elbo(vae, X, num_particles=4))
    build = lambda: [pyrovae.mlp_vae((4,)) and pyrovae.GaussianMixture((4,), 2) for _ in range(30)]  # noqa: E731
    found = together(lambda: [values(pyrovae.elbo(vae, X, num_particles=4)) for _ in range(5)], build)
    assert all(alike(alone, one) for one in found[0])


def test_a_network_in_another_thread_keeps_its_statistics_while_a_step_is_captured():
    watched_one, other = (nn.BatchNorm1d(4, dtype=X.dtype) for _ in range(2))
    with watched(watched_one):
        watched_one(X)
        together(lambda: other(X + 1))
    assert not watched_one.running_mean.any() and other.running_mean.all()


def test_handlers_of_the_caller_do_not_reach_into_an_estimate():
    vae = pyrovae.mlp_vae((4,), hidden_dims=(5,))
    alone = values(pyrovae.elbo(vae, X))
    with poutine.trace() as seen, poutine.scale(scale=1 / 50), pyro.plate("data", 3):
        assert alike(alone, values(pyrovae.elbo(vae, X)))
    assert not [name for name in seen.trace.nodes if name in ("latent", "obs")]


@pytest.mark.parametrize("compile", [False, True])
def test_handlers_of_the_caller_do_not_reach_into_a_fit(compile, interpreted):
    vae = pyrovae.mlp_vae((4,), hidden_dims=(5,))
    first, second = deepcopy(vae), deepcopy(vae)
    how = {"epochs": 2, "batch_size": 10, "compile": compile, "progress": False}
    alone = pyrovae.fit(first, X, **how)
    with poutine.trace() as seen, poutine.scale(scale=1 / 50), pyro.plate("data", 3):
        inside = pyrovae.fit(second, X, **how)
    assert inside.epochs.loss.equals(alone.epochs.loss)
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    assert not [name for name in seen.trace.nodes if name in ("latent", "obs")]


def test_checks_of_distributions_are_one_flag():
    before = Distribution._validate_args
    together(*[lambda: pyrovae.elbo(pyrovae.mlp_vae((4,)), X)] * 3)
    assert Distribution._validate_args is before


def test_blas_has_its_threads_back_when_the_last_of_overlapping_searches_has_left(monkeypatch):
    limits = [2]

    class Pools:
        def limit(self, limits_=1, user_api=None, **_):
            self.before, limits[0] = limits[0], 1
            return self

        def restore_original_limits(self):
            limits[0] = self.before

    monkeypatch.setattr(discriminative, "_pools", Pools)
    one, other = discriminative._one_blas_thread(), discriminative._one_blas_thread()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert limits == [1]
    other.__exit__(None, None, None)
    assert limits == [2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_does_not_wait_for_a_thread_that_it_has_not(monkeypatch):
    monkeypatch.setattr(exclusive_module, "LONGEST", 0.1)
    inside, done = threading.Event(), threading.Event()

    def hold():
        with exclusive():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    child = os.fork()
    if not child:
        threading.Timer(5, os._exit, (1,)).start()
        with exclusive():
            os._exit(0)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_the_callers_state_while_another_thread_is_in_its_turn():
    inside, before = threading.Event(), (flags(), id(vars(pyro.get_param_store())))

    def hold():
        with Workspace().turn():
            inside.set()
            time.sleep(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    child = os.fork()
    if not child:
        os._exit(int((flags(), id(vars(pyro.get_param_store()))) != before or bool(runtime._PYRO_STACK)))
    thread.join()
    assert os.waitpid(child, 0)[1] == 0

    def enter():
        with exclusive():
            return True

    assert together(enter)[0] is True  # the parent has let the lock go


@needs_compiler
@pytest.mark.slow
def test_torch_compiles_in_another_thread_beside_a_compiled_svi():
    """Without one lock of both, 53 of 63 of the other's compilations failed."""

    done = threading.Event()

    def others():
        compiled = 0
        while not done.is_set():
            torch._dynamo.reset()
            x, k = torch.rand(33, 7), compiled + time.time() % 1  # in no cache
            function = lambda x, k=k: (x * k).sin().sum(-1)  # noqa: E731
            assert torch.allclose(torch.compile(function)(x), function(x), atol=1e-4)
            compiled += 1
        return compiled

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([6]).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 1.0))

    def ours():
        try:
            for _ in range(3):
                pyro.clear_param_store()
                anew = pyro.optim.SGD({"lr": 0.1, "weight_decay": 1e-3 * (time.time() % 1)})
                pyrovae.CompiledSVI(model, guide, anew, Trace_ELBO()).step(torch.ones(6))
        finally:
            done.set()
        return "compiled"

    found = together(others, ours, timeout=300.0)
    assert found[1] == "compiled" and found[0] > 1, found


def test_a_compilation_waits_for_torchs_own(monkeypatch):
    from torch._dynamo.convert_frame import compile_lock

    graph, began = fx.symbolic_trace(nn.Identity()), threading.Event()
    monkeypatch.setattr(function, "compiled_quickly", lambda *_: began.set())
    with compile_lock:
        thread = threading.Thread(target=function.compile_graph, args=(graph, [torch.ones(1)]), daemon=True)
        thread.start()
        assert not began.wait(0.3)
    assert began.wait(30.0)
    thread.join(30.0)
    with compile_lock:  # a capture does too
        thread = threading.Thread(target=capture, args=(torch.neg, [torch.ones(1)]), daemon=True)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(30.0)
    assert not thread.is_alive()


def test_a_compilation_that_is_done_again_says_why(monkeypatch, caplog):
    def fails():
        raise OSError("no room for one file")

    monkeypatch.setattr(startup, "few_files", fails)
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: "as inductor does")
    with caplog.at_level("INFO", logger="pyrovae"):
        assert startup.compiled_quickly(fx.symbolic_trace(nn.Identity()), [torch.ones(1)], {}) == "as inductor does"
    assert "OSError: no room for one file" in caplog.text
