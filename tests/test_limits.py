"""Counts, seeds, tolerances and paths that no machine can take: a sentence, before anything is allocated."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae import argument_checks, checks, memory, plotting
from pyrovae.data.batches import batches, order
from pyrovae.evaluation import latent
from pyrovae.inference.svi.schedule import schedule_of
from pyrovae.methods import SVI
from pyrovae.models.networks import MLP

TOO_MANY = 10**13
BEYOND = 2**63  # of what torch and NumPy count with


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    return pyrovae.linear_vae(5, 2)


@pytest.fixture(scope="module")
def x(pair):
    return pair.sample(20, seed=0)


def mixture():
    return pyrovae.BayesianGaussianMixture((5,), 2)


QUIET = {"progress": False}
Y = torch.arange(20) % 2

# by the argument: a call with that many, and as few as must still do
COUNTS = {
    "iwae num_particles": (lambda pair, x, n: pyrovae.iwae(pair, x[:2], num_particles=n), 5),
    "elbo num_particles": (lambda pair, x, n: pyrovae.elbo(pair, x, num_particles=n), 1),
    "ais num_chains": (lambda pair, x, n: pyrovae.ais(pair, x[:2], num_chains=n, num_steps=2, **QUIET), None),
    "ais num_steps": (lambda pair, x, n: pyrovae.ais(pair, x[:2], num_steps=n, num_chains=2, **QUIET), None),
    "bdmc n": (lambda pair, x, n: pyrovae.bdmc(pair, n, num_steps=2, **QUIET), None),
    "calibrate num_draws": (lambda pair, x, n: pyrovae.calibrate(pair, num_draws=n, num_simulations=20), 1),
    "calibrate num_simulations": (lambda pair, x, n: pyrovae.calibrate(pair, num_simulations=n, num_draws=1), 20),
    "gaps num_particles": (
        lambda pair, x, n: pyrovae.gaps(
            pair, x[:1], pyrovae.exact(pair, x[:1]), num_particles=n, max_steps=2, num_evaluation=2, **QUIET
        ),
        None,
    ),
    "gaps num_evaluation": (
        lambda pair, x, n: pyrovae.gaps(
            pair, x[:1], pyrovae.exact(pair, x[:1]), num_evaluation=n, max_steps=2, num_particles=6, **QUIET
        ),
        None,
    ),
    "to_arviz num_draws": (lambda pair, x, n: pyrovae.to_arviz(pair, x, num_draws=n), None),
    "sample n": (lambda pair, x, n: pair.sample(n), 1),
    "model size": (lambda pair, x, n: pair.model(size=n), 1),
    "mixture's model size": (lambda pair, x, n: pyrovae.GaussianMixture((5,), 2).model(size=n), 1),
    "mixture's guide size": (lambda pair, x, n: pyrovae.GaussianMixture((5,), 2).guide(size=n), 1),
    "Bayesian mixture's model size": (lambda pair, x, n: mixture().model(size=n), 1),
    "classes' model size": (lambda pair, x, n: pyrovae.gaussian_classifier((5,), 2).model(size=n), 1),
    "impute num_draws": (lambda pair, x, n: pair.impute(x.clone().fill_(torch.nan)[:1], num_draws=n), 1),
    "fit num_particles": (lambda pair, x, n: pyrovae.fit(pair, x, epochs=1, num_particles=n, **QUIET), None),
    "fit num_chains": (
        lambda pair, x, n: pyrovae.fit(mixture(), x, method="nuts", num_chains=n, num_draws=1, **QUIET),
        None,
    ),
    "fit num_draws": (
        lambda pair, x, n: pyrovae.fit(mixture(), x, method="nuts", num_chains=1, num_draws=n, **QUIET),
        None,
    ),
    "draws n": (lambda pair, x, n: mixture().draws(n), 1),
    "log_prob num_draws": (lambda pair, x, n: mixture().log_prob(x, num_draws=n), 1),
    "mixture's sample n": (lambda pair, x, n: pyrovae.GaussianMixture((5,), 2).sample(n), 1),
    "class's sample n": (lambda pair, x, n: pyrovae.gaussian_classifier((5,), 2).sample(0, n), 1),
    "latent_dim": (lambda pair, x, n: pyrovae.mlp_vae((5,), n), 1),
    "hidden_dims": (lambda pair, x, n: pyrovae.mlp_ae((5,), hidden_dims=[n]), 1),
    "event_shape": (lambda pair, x, n: pyrovae.mlp_vae((n, n)), 1),
    "event_shape ": (lambda pair, x, n: pyrovae.conv_vae((1, n, n)), 8),
    "channels": (lambda pair, x, n: pyrovae.conv_ae((1, 8, 8), channels=[n], strides=[1]), 1),
    "latent_dim ": (lambda pair, x, n: pyrovae.conv_ae((1, 8, 8), n), 1),
    "features": (lambda pair, x, n: pyrovae.linear_vae(n, 2), 2),
    "out_shape": (lambda pair, x, n: MLP((5,), (n,)), 1),
    "num_components": (lambda pair, x, n: pyrovae.GaussianMixture((5,), n), 1),
    "num_components ": (lambda pair, x, n: pyrovae.BayesianGaussianMixture((5,), n), 2),
    "num_classes": (lambda pair, x, n: pyrovae.gaussian_classifier((5,), n), 2),
    "num_classes ": (lambda pair, x, n: pyrovae.DiscriminativeClassifier((5,), n), 2),
    "hidden_dims ": (lambda pair, x, n: pyrovae.Judge.fit(x, Y, hidden_dims=(n,), max_iter=1), None),
    "num_pairs": (lambda pair, x, n: latent.fixed_pairs(20, n), 1),
    "num": (lambda pair, x, n: latent.sampling_laws(x, num=n), 1),
    "num ": (lambda pair, x, n: latent.control_images(x, Y, num=n), 1),
    "num_null": (lambda pair, x, n: latent.aggregate(x, train_codes=x, num_null=n), 2),
    "num_projections": (lambda pair, x, n: latent.aggregate(x, train_codes=x, num_null=2, num_projections=n), 2),
    "n": (lambda pair, x, n: order(n, seed=0, epoch=0), 1),
}


@pytest.mark.parametrize("which", COUNTS)
def test_what_memory_does_not_hold_is_refused_with_what_it_would_take(which, pair, x):
    call, few = COUNTS[which]
    argument = which.split()[-1]
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    with pytest.raises(ValueError, match=rf"{argument}\b.*would take at least .*B of memory, and .* is free here: "):
        call(pair, x, TOO_MANY)
    with pytest.raises(ValueError, match=rf"({argument}|H) must be an integer of at most 2\^63 - 1"):
        call(pair, x, BEYOND)
    assert all(torch.equal(before[name], value) for name, value in pair.state_dict().items())
    if few is not None:  # the negative control
        call(pair, x, few)


def test_a_chunk_that_max_bytes_lets_grow_too_large(pair, x, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device=None: 10**8)
    pyrovae.elbo(pair, x, num_particles=5, max_bytes=2**62)  # all codes there are take little
    with pytest.raises(ValueError, match=r"max_bytes=4,611.* would take at least .* and 100 MB is free here"):
        pyrovae.elbo(pair, x, num_particles=10**6, max_bytes=2**62)


def test_what_is_bounded_by_the_items_may_be_huge(pair, x):
    assert len(next(batches(x, 2**62, seed=0, epoch=0))) == 20
    assert pyrovae.elbo(pair, x[:2], num_particles=1, max_bytes=1).mean < 0  # one code at a time


@pytest.mark.parametrize(
    ("name", "call"),
    {
        "bins": lambda n: plotting.gap_histogram([0.1, 0.2], bins=n),
        "n": lambda n: plotting.normal_quantile_grid(n),
        "n_cols": lambda n: plotting.sample_sheet(np.zeros((2, 3, 3)), n_cols=n),
    }.items(),
)
def test_what_no_figure_shows(name, call):
    call(4)
    with pytest.raises(ValueError, match=f"{name} must be an integer of at most 10,000, got 1000000000"):
        call(10**9)


@pytest.mark.parametrize("size", [0, -1, 1.5, "3", None, True])
def test_sizes_of_a_plate(pair, size):
    for part in (pair, mixture(), pyrovae.GaussianMixture((5,), 2), pyrovae.gaussian_classifier((5,), 2)):
        with pytest.raises((TypeError, ValueError), match="size must be an integer of at least 1, got "):
            part.model(size=size)


@pytest.mark.parametrize("dim", [2, -1, 1.5, "1", None])
def test_dimensions_that_codes_do_not_have(dim):
    with pytest.raises(ValueError, match="dims must be two of the codes' dimensions 0 to 1"):
        plotting.latent_scatter(np.zeros((3, 2)), [0, 1, 0], dims=(0, dim))


def test_a_number_of_a_device_and_of_an_item():
    with pytest.raises(ValueError, match="device must be 'auto' or a torch device, got 9223372036854775808"):
        checks.device(BEYOND)
    with pytest.raises(IndexError, match="index 9223372036854775808 is out of bounds"):
        pyrovae.data.MappedArray(np.zeros((3, 2)))[BEYOND]


def test_more_starts_than_there_are_places_to_start_at(pair, x):
    with pytest.raises(ValueError, match="num_starts must be an integer of at most 513, got 514"):
        pyrovae.gaps(pair, x, pyrovae.exact(pair, x), num_starts=514, progress=False)


def test_an_allocator_that_runs_out_is_said_in_words(pair, x, monkeypatch):
    for home in (checks, checks.arguments):  # a whole number asks for memory too
        monkeypatch.setattr(home, "affordable", lambda *args, **named: None)
    size = TOO_MANY * 2 * pair.prior.loc.element_size()  # of all codes
    with pytest.raises(pyrovae.checks.NotEnoughMemoryError, match=rf"sample needs more memory .* {size} bytes"):
        pair.sample(TOO_MANY)
    with pytest.raises(MemoryError, match=r"mlp_vae needs more memory than there is"):
        pyrovae.mlp_vae((TOO_MANY,))

    @checks.allocating
    def other() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match=r"^something else$"):
        other()


def test_epochs_without_end_can_be_interrupted_at_once(x):
    import torch._dynamo  # noqa: F401  # by torch's optimisers as they start: an interrupt would leave it half imported

    pair = pyrovae.linear_vae(5, 2)

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    checked, before = argument_checks.flags(), signal.signal(signal.SIGALRM, interrupt)
    start = time.perf_counter()
    # and again, as somebody presses the keys again: what a handler raises is dropped by Python where the collector has
    # just called Python code, as hypothesis does and torch in a destructor (2 of 1,200 after the tests before this one)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 5.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            pyrovae.fit(pair, x, epochs=BEYOND - 1, schedule="cosine", warmup=BEYOND - 1, compile=False, progress=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.perf_counter() - start < 30  # a machine may be busy; the epochs would take longer than there is time
    assert all(parameter.isfinite().all() for parameter in pair.parameters())
    assert argument_checks.flags() == checked
    with pytest.raises(ValueError, match="epochs must be an integer of at most"):
        pyrovae.fit(pair, x, epochs=BEYOND)


def test_the_rate_of_a_run_without_end(pair):
    options = SVI(epochs=BEYOND - 1, learning_rate=0.01, schedule="cosine", warmup=BEYOND - 1, compile=False)
    plan = options.plan(pair, torch.zeros(1, 1), seed=0)
    steps = plan.epochs * 1000
    schedule = schedule_of(plan, 1000)
    assert [plan.learning_rate * schedule.factor(step) for step in (0, steps // 2)] == pytest.approx([0.01, 0.005])
    assert plan.weight(0, 1000) == pytest.approx(1 / (plan.epochs * 1000))


@pytest.mark.parametrize("tol", [0, 1e-300, 5e-324, 1e-16, -1.0, float("nan"), float("inf"), 10**400])
def test_a_tolerance_that_no_quadrature_reaches(pair, x, tol):
    with pytest.raises(ValueError, match=r"tol must be (at least 2.2e-16 nats|a finite number greater than 0).* got "):
        pyrovae.quadrature(pair, x, tol=tol)


def test_a_tolerance_that_anything_meets_says_how_far_off_it_is(pair, x):
    estimate = pyrovae.quadrature(pair, x[:2], tol=1e300)
    away = abs(estimate.pointwise.value - pyrovae.exact(pair, x[:2]).pointwise.value)
    assert bool((away <= estimate.pointwise.se).all())


SEEDED = {
    "iwae": lambda pair, x, seed: pyrovae.iwae(pair, x, num_particles=5, seed=seed),
    "sample": lambda pair, x, seed: pair.sample(2, seed=seed),
    "fit": lambda pair, x, seed: pyrovae.fit(pyrovae.linear_vae(5, 2), x, epochs=1, seed=seed, **QUIET),
    "em": lambda pair, x, seed: pyrovae.fit(pyrovae.GaussianMixture((5,), 1), x, seed=seed, num_restarts=1, **QUIET),
    "binarize": lambda pair, x, seed: pyrovae.data.binarize(x.sigmoid(), seed=seed),
    "batches": lambda pair, x, seed: next(batches(x, 2, seed=seed, epoch=0)),
    "fixed_pairs": lambda pair, x, seed: latent.fixed_pairs(20, 2, seed),
    "scatter": lambda pair, x, seed: plotting.latent_scatter(x.numpy(), seed=seed),
}


@pytest.mark.parametrize("which", SEEDED)
def test_seeds_that_no_generator_takes(which, pair, x):
    call = SEEDED[which]
    most = 2**64 if which == "binarize" else 2**128  # torch's own generator, or a seed that is hashed
    for seed in (most - 1, np.int64(3), np.uint64(2**63)):
        call(pair, x, seed)
    for seed in (most, 10**1000, -1):
        with pytest.raises(ValueError, match=r"seed must be an integer of at (most|least)"):
            call(pair, x, seed)
    with pytest.raises(TypeError, match="seed must be an integer"):
        call(pair, x, 1.5)


def test_a_seed_means_the_same_whatever_integer_it_is(pair):
    assert torch.equal(pair.sample(3, seed=np.uint64(7)), pair.sample(3, seed=7))
    # scikit-learn's own generators take 32 bits
    with pytest.raises(ValueError, match=r"seed must be an integer of at most 2\^32 - 1, got 4294967296"):
        pyrovae.Judge.fit(torch.eye(4), [0, 0, 1, 1], seed=2**32)


PATHS = {
    "data.load": ("name_or_path", lambda pair, x, path: pyrovae.data.load(path)),
    "data.load's root": ("root", lambda pair, x, path: pyrovae.data.load("mnist", root=path)),
    "save": ("path", lambda pair, x, path: pyrovae.save(path, pair)),
    "load": ("path", lambda pair, x, path: pyrovae.load(path)),
    "checkpoint": ("checkpoint", lambda pair, x, path: pyrovae.fit(pair, x, epochs=1, checkpoint=path, **QUIET)),
}
NO_PATHS = {
    "~no-such-user/x": "no user of that name",
    "a\0b": "a NUL character",
    "a" * 5000: r"5,002 characters\): .*[Tt]oo long",
    "a/" * 5000: r"10,002 characters\): .*[Tt]oo long",
    "\ud800": "no file's name can have",
}


@pytest.mark.parametrize("which", PATHS)
def test_paths_that_no_file_system_holds(which, pair, x, tmp_path, monkeypatch):
    argument, call = PATHS[which]
    monkeypatch.chdir(tmp_path)
    before = pair.likelihood.network.weight.clone()
    for path, words in NO_PATHS.items():
        with pytest.raises(ValueError, match=f"{argument} must be the path of a file or folder, got .*{words}"):
            call(pair, x, path)
    with pytest.raises(ValueError, match=f"{argument} must be the path of a file or folder, got ''$"):
        call(pair, x, "")
    for path in (b"x", 3):
        with pytest.raises(TypeError, match=f"{argument} must be the path of a file or folder, got {path!r}"):
            call(pair, x, path)
    assert not any(tmp_path.iterdir())
    assert torch.equal(before, pair.likelihood.network.weight)


def test_a_tilde_is_the_home_folder_wherever_a_path_is_taken(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pyrovae.save("~/state", pair)
    assert (tmp_path / "state" / "manifest.json").is_file()
    assert torch.equal(pyrovae.load("~/state").likelihood.network.weight, pair.likelihood.network.weight)


@pytest.mark.parametrize("out", ["a\0b", "~no-such-user/x", "a" * 300])
def test_the_command_line_says_so_too(out, capsys, tmp_path, monkeypatch):
    from pyrovae.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["fit", "digits", "--out", out]) == 2
    assert "pyrovae: --out must be the path of a file or folder, got" in capsys.readouterr().err
    assert main(["fit", "digits", "--out", "run", "--seed", str(2**64)]) == 2
    assert "pyrovae: --seed must be an integer of at most 2^64 - 1, got" in capsys.readouterr().err
