"""`ais` and `bdmc` against closed forms: unbiased on the scale of p(x), and bounds that close in on it."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import torch
from conftest import linear_log_prob, needs_compiler

import pyrovae
from pyrovae import argument_checks
from pyrovae.compile import function
from pyrovae.evaluation import annealing, session
from pyrovae.models.scopes import evaluating


def pair(scale=0.4, seed=0, dim=3):
    torch.manual_seed(seed)
    vae = pyrovae.linear_vae(6, dim, likelihood=pyrovae.Normal(scale=scale)).double()
    with torch.no_grad():
        vae.likelihood.network.weight.normal_()
    return vae


def table(path, plan, step):
    """Equal steps everywhere, and temperatures equally far apart."""
    betas = torch.linspace(0, 1, plan.num_steps + 1, dtype=torch.float64)[:, None].expand(-1, len(path.x))
    return annealing._Table(betas, torch.full((plan.num_steps - 1, len(path.x), path.pair.latent_dim), step).to(path.x))


QUICK = {"num_steps": 40, "num_chains": 8, "progress": False}


@pytest.fixture(autouse=True)
def _short_pilot(monkeypatch):
    """Most of a run of few temperatures is its pilot, and no weight's mean depends on how well it chose the steps."""
    monkeypatch.setattr(annealing, "PILOT", 40)
    monkeypatch.setattr(annealing, "SETTLING", 10)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["prior", "guide"])
def test_the_weights_mean_is_p_of_x(base):
    # r = estimate / p(x) over 300 items has mean 1 within 4 of its own standard errors: false alarm 6e-5
    vae = pair()
    with torch.no_grad():
        vae.posterior.loc.weight.mul_(0.1)
        vae.posterior.raw_log_scale.add_(0.3)
    x = vae.sample(300, seed=1)
    exact = linear_log_prob(vae, x).detach().numpy()
    r = np.exp(pyrovae.ais(vae, x, base=base, **QUICK).pointwise.value.values - exact)
    se = r.std(ddof=1) / math.sqrt(len(r))
    assert abs(r.mean() - 1) < 4 * se
    assert se < 0.1  # sharp enough to see a bias


@pytest.mark.slow
def test_one_step_from_the_guide_is_importance_sampling_with_it(exact_linear_pair):
    # from the exact posterior every weight is p(x)
    x = exact_linear_pair.sample(5, seed=0)
    found = pyrovae.ais(exact_linear_pair, x, base="guide", num_steps=1, progress=False)
    assert np.abs((found - pyrovae.exact(exact_linear_pair, x)).pointwise.value.values).max() < 1e-10
    # and from one that is off, annealing in between: 300 items, false alarm 6e-5
    vae = pair()
    with torch.no_grad():
        vae.posterior.raw_log_scale.add_(0.5)
    x = vae.sample(300, seed=2)
    r = np.exp(pyrovae.ais(vae, x, base="guide", **QUICK).pointwise.value.values - linear_log_prob(vae, x).numpy())
    assert abs(r.mean() - 1) < 4 * r.std(ddof=1) / math.sqrt(len(r)) < 0.4


def test_steps_into_nothing_are_rejected(monkeypatch):
    # the decoder has no value beyond 3.5: trajectories that end there must not be accepted, whatever their energy
    class Walled(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, z):
            return torch.where((z.abs() > 3.5).any(-1, keepdim=True), math.nan, self.network(z))

    vae = pair(scale=1.0)
    x = vae.sample(200, seed=1)
    exact = linear_log_prob(vae, x).detach().numpy()
    vae.likelihood.network = Walled(vae.likelihood.network)
    monkeypatch.setattr(annealing, "_tuned", lambda path, plan, tick: table(path, plan, 0.9))
    values = pyrovae.ais(vae, x, **QUICK).pointwise.value.values
    inside = np.isfinite(values)  # a chain that starts behind the wall has no weight
    assert inside.mean() > 0.9
    assert abs(np.exp(values - exact)[inside].mean() - 1) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 3])
def test_single_chains_of_codes_of_one_dimension(dim):
    # a pilot of one chain has no spread to start from: 200 items, ratios with mean 1, false alarm 6e-5
    vae = pair(scale=1.0, dim=dim)
    x = vae.sample(200, seed=1)
    r = np.exp(
        pyrovae.ais(vae, x, num_chains=1, num_steps=100, progress=False).pointwise.value.values
        - linear_log_prob(vae, x).detach().numpy()
    )
    assert abs(r.mean() - 1) < 4 * r.std(ddof=1) / math.sqrt(len(r)) < 0.6


@pytest.mark.slow
def test_a_prior_without_a_slope_and_half_precision():
    class Box(torch.nn.Module):
        def forward(self):
            edge = 4 * torch.ones(1).double()
            return pyro.distributions.Uniform(-edge, edge).to_event(1)

    vae = pair(scale=1.0, dim=1)
    x = vae.sample(100, seed=0)
    vae.prior = Box()
    gap = pyrovae.ais(vae, x, num_steps=200, progress=False) - pyrovae.quadrature(vae, x, tol=1e-6)
    assert abs(gap.mean) < 4 * gap.se < 0.1
    half = pair(scale=1.0).to(torch.bfloat16)
    items = half.sample(50, seed=0)
    found = pyrovae.ais(half, items, num_steps=50, progress=False), pyrovae.iwae(half, items)
    exact = pyrovae.exact(half, items).pointwise.value.values
    for estimate in found:  # 50 items, false alarm 1e-4; in bfloat16 itself an item is off by nats
        r = np.exp(estimate.pointwise.value.values - exact)
        assert abs(r.mean() - 1) < 4 * r.std(ddof=1) / math.sqrt(50) < 0.5


@pytest.mark.slow
def test_more_temperatures_come_closer_and_the_stated_error_is_what_repeats_show():
    vae = pair()
    x = vae.sample(100, seed=1)
    gaps = [pyrovae.ais(vae, x, num_steps=t, progress=False) - pyrovae.exact(vae, x) for t in (5, 200)]
    assert gaps[0].mean < -0.5  # 5 temperatures are too few, and from below
    # the log's bias is half the squared error, and no more is missing: false alarm 6e-5
    assert abs(gaps[1].mean + 0.5 * float((gaps[1].pointwise.se ** 2).mean())) < 4 * gaps[1].se < 0.1
    # 40 repeats of 3 items as 120 items: the relative standard deviation of each ratio is 0.11, over 5 of them
    repeats = pyrovae.ais(vae, x[:3].repeat(40, 1), num_steps=100, progress=False).pointwise
    seen = repeats.value.values.reshape(40, 3).std(0, ddof=1)
    stated = np.sqrt((repeats.se.values.reshape(40, 3) ** 2).mean(0))
    assert (stated / seen > 0.6).all()
    assert (stated / seen < 1.7).all()


def test_a_deliberately_large_step_is_rejected_rather_than_believed(monkeypatch):
    # without the acceptance step the chains would leave for infinity and the weights be anything
    vae = pair()
    x = vae.sample(200, seed=1)
    monkeypatch.setattr(annealing, "_tuned", lambda path, plan, tick: table(path, plan, 1.2))
    estimate = pyrovae.ais(vae, x, **QUICK)
    assert float(estimate.pointwise.acceptance.mean()) < 0.5
    r = np.exp(estimate.pointwise.value.values - linear_log_prob(vae, x).detach().numpy())
    assert abs(r.mean() - 1) < 4 * r.std(ddof=1) / math.sqrt(len(r))


def test_one_step_is_importance_sampling_from_the_base():
    # no transition at all: the mean of p(x | z) over draws of the prior
    vae = pair(scale=2.0)
    x = vae.sample(2000, seed=1)
    estimate = pyrovae.ais(vae, x, num_steps=1, num_chains=1, progress=False)
    assert np.isnan(estimate.pointwise.se.values).all()
    r = np.exp(estimate.pointwise.value.values - linear_log_prob(vae, x).detach().numpy())
    assert abs(r.mean() - 1) < 4 * r.std(ddof=1) / math.sqrt(len(r))


@pytest.mark.slow
def test_both_ends_of_bdmc_hold_the_evidence():
    vae = pair()
    lower, upper = pyrovae.bdmc(vae, 200, num_steps=300, num_chains=8, progress=False)
    gap = upper - lower
    assert gap.mean + 2 * gap.se < 0.2
    assert gap.mean > -3 * gap.se
    assert gap.se == gap.se_items
    assert lower.pointwise.attrs["items_sha256"] == upper.pointwise.attrs["items_sha256"]
    assert np.isnan(lower.pointwise.se.values).all()
    exact = pyrovae.exact(vae, lower.pointwise.obs.values)
    for end, sign in ((lower, 1), (upper, -1)):  # each on its side of the truth: within 3 standard errors over items
        distance = sign * (exact - end).pointwise.value.values
        assert distance.mean() > -3 * distance.std(ddof=1) / math.sqrt(200)
    assert lower.se == pytest.approx(lower.pointwise.value.values.std(ddof=1) / math.sqrt(200))


def test_chains_that_lie_far_apart_are_flagged(exact_linear_pair, monkeypatch):
    # two temperatures from the prior: the weights of 16 chains are all but one nothing. With the many that it takes,
    # none is flagged
    monkeypatch.setattr(annealing, "PILOT", 20)
    x = 3 * torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    poor, good = (pyrovae.ais(exact_linear_pair, x, num_steps=steps, progress=False) for steps in (1, 60))
    assert poor.pointwise.unreliable.sum() >= 3
    assert f"(6 items, {int(poor.pointwise.unreliable.sum())} unreliable)" in str(poor)
    assert not good.pointwise.unreliable.any()
    lower, upper = pyrovae.bdmc(exact_linear_pair, 2, num_steps=1, progress=False)
    assert "unreliable" not in lower.pointwise and "unreliable" not in upper.pointwise  # their errors are the items'


@pytest.mark.slow
def test_the_reverse_weights_mean_is_one_over_p_of_x():
    # over codes drawn from the posterior, exp(-upper) is unbiased for 1 / p(x): mean of p(x) exp(-upper) is 1
    vae = pair()
    _, upper = pyrovae.bdmc(vae, 400, num_steps=300, num_chains=4, progress=False)
    exact = linear_log_prob(vae, torch.as_tensor(upper.pointwise.obs.values)).detach().numpy()
    r = np.exp(exact - upper.pointwise.value.values)
    assert abs(r.mean() - 1) < 4 * r.std(ddof=1) / math.sqrt(len(r))
    assert r.std(ddof=1) / math.sqrt(len(r)) < 0.1


def test_step_sizes_are_frozen_and_the_same_in_both_directions(monkeypatch):
    used = []
    moved = annealing._Path.moved

    def watched(path, state, beta, step, num_leapfrog):
        used.append((beta, step.clone(), state.z.clone()))
        return moved(path, state, beta, step, num_leapfrog)

    monkeypatch.setattr(annealing._Path, "moved", watched)
    pyrovae.bdmc(pair(), 3, num_steps=12, num_chains=2, progress=False)
    forward, backward = used[-22:-11], used[-11:]
    for there, back in zip(forward, reversed(backward), strict=True):
        assert torch.equal(there[0], back[0])
        assert torch.equal(there[1], back[1])
    betas, steps = torch.stack([b for b, *_ in forward]), torch.stack([step for _, step, _ in forward])
    assert betas.shape == (11, 3)
    assert steps.shape == (11, 3, 3)
    assert (betas.diff(dim=0) > 0).all()
    for one in (betas, steps):
        assert not torch.equal(one[0], one[1])  # one a temperature
        assert not torch.equal(one[:, 0], one[:, 1])  # and an item
    assert not torch.equal(steps[..., 0], steps[..., 1])  # and steps one a direction


@pytest.mark.long
def test_on_a_curved_decoder_too_the_weights_mean_is_p_of_x():
    # against quadrature: 200 items, then 100 repeats of each of 5 as rows of one call; false alarm 4e-4 in all
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((4, 3), 2, hidden_dims=(8,)).double()
    with torch.no_grad():
        for parameter in vae.likelihood.network.parameters():
            parameter.mul_(3)
    x = vae.sample(200, seed=1)
    exact = pyrovae.quadrature(vae, x, tol=1e-6).pointwise.value.values
    r = np.exp(pyrovae.ais(vae, x, **QUICK).pointwise.value.values - exact)
    assert abs(r.mean() - 1) < 4 * r.std(ddof=1) / math.sqrt(200) < 0.1
    repeats = pyrovae.ais(vae, x[:5].repeat(100, 1, 1), seed=1, **QUICK).pointwise.value.values
    r = np.exp(repeats.reshape(100, 5) - exact[:5])
    assert (np.abs(r.mean(0) - 1) < 4 * r.std(0, ddof=1) / 10).all()
    assert (r.std(0, ddof=1) < 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["adaptive", "sigmoid", "linear"])
def test_every_schedule_runs_from_0_to_1_and_is_unbiased(schedule, monkeypatch):
    # 200 items, ratios with mean 1: false alarm 6e-5
    seen = []
    forward = annealing._forward
    monkeypatch.setattr(annealing, "_forward", lambda *args: seen.append(args[2].betas) or forward(*args))
    vae = pair(scale=0.6)
    x = vae.sample(200, seed=3)
    r = np.exp(
        pyrovae.ais(vae, x, schedule=schedule, num_steps=60, progress=False).pointwise.value.values
        - linear_log_prob(vae, x).detach().numpy()
    )
    assert abs(r.mean() - 1) < 4 * r.std(ddof=1) / math.sqrt(len(r)) < 0.2
    (betas,) = seen
    assert betas.shape == (61, 200)
    assert (betas[0] == 0).all()
    assert (betas[-1] == 1).all()
    assert (betas.diff(dim=0) > 0).all()


@pytest.mark.long
def test_adaptive_temperatures_bring_the_two_ends_closer():
    vae = pair(scale=0.2)
    gaps = {}
    for schedule in ("adaptive", "linear"):
        lower, upper = pyrovae.bdmc(vae, 100, num_steps=100, schedule=schedule, progress=False)
        gaps[schedule] = upper - lower
    assert gaps["linear"].mean - gaps["adaptive"].mean > 4 * math.hypot(gaps["linear"].se, gaps["adaptive"].se)


@pytest.mark.slow
def test_pilot_and_run_are_on_random_numbers_of_their_own(monkeypatch):
    seeds = []
    noise = annealing.Noise
    monkeypatch.setattr(annealing, "ROWS", 4)
    for module in (annealing, session):  # of the items, and of the stages
        monkeypatch.setattr(module, "Noise", lambda seed, device: seeds.append(seed) or noise(seed, device))
    pyrovae.bdmc(pair(), 4, num_steps=3, num_chains=2, progress=False)
    pyrovae.ais(pair(), torch.zeros(4, 6), num_steps=3, num_chains=2, progress=False)
    assert len(seeds) == 1 + 2 * 3 + 2 * 2  # the items; of two batches pilot, forward, backward; pilot and forward
    assert len(set(seeds)) == len(seeds)


@pytest.mark.long
@pytest.mark.parametrize("n", [1, 5])
def test_batches_of_items_and_counts_of_one(monkeypatch, n):
    monkeypatch.setattr(annealing, "ROWS", 6)
    vae = pair()
    x = vae.sample(n, seed=2)
    for chains in (1, 3):
        estimate = pyrovae.ais(vae, x, num_chains=chains, num_steps=300, progress=False)
        assert estimate.pointwise.sizes["item"] == n
        assert np.abs((estimate - pyrovae.exact(vae, x)).pointwise.value.values).max() < 4.0


@pytest.mark.slow
def test_a_seed_fixes_it_and_the_callers_state_comes_back():
    vae = pair()
    x = vae.sample(2, seed=0)
    vae.train()
    before = torch.random.get_rng_state()
    first, second, other = (pyrovae.ais(vae, x, seed=s, **QUICK) for s in (3, 3, 4))
    assert first.pointwise.equals(second.pointwise)
    assert first.mean != other.mean
    assert torch.equal(before, torch.random.get_rng_state())
    assert vae.training
    assert all(p.grad is None for p in vae.parameters())


def test_an_interrupted_run_leaves_the_callers_state(monkeypatch):
    vae = pair()
    before, checked = torch.random.get_rng_state(), argument_checks.flags()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(annealing, "_forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pyrovae.ais(vae, vae.sample(2, seed=0), **QUICK)
    assert torch.equal(before, torch.random.get_rng_state())
    assert argument_checks.flags() == checked


def test_what_is_refused():
    vae, x = pair(), torch.zeros(1, 6)
    for name in ("num_chains", "num_steps", "num_leapfrog"):
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got 0"):
            pyrovae.ais(vae, x, **{name: 0})
    with pytest.raises(ValueError, match="base must be one of 'prior', 'guide', got 'gide'; did you mean 'guide'"):
        pyrovae.ais(vae, x, base="gide")
    for call in (lambda p: pyrovae.ais(p, torch.zeros(1, 3)), lambda p: pyrovae.bdmc(p, 3)):
        with pytest.raises(ValueError, match=r"needs a p\(x\), and AE has none"):
            call(pyrovae.mlp_ae((3,)))
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        pyrovae.bdmc(vae, 0)


def counted(monkeypatch, on):
    """Let a density and its slopes be compiled, or not; the calls of the graph."""
    calls, run = [], function.CompiledFunction.__call__
    monkeypatch.setattr(annealing, "pays", lambda *work: on)
    monkeypatch.setattr(
        function.CompiledFunction, "__call__", lambda self, *given: calls.append(self) or run(self, *given)
    )
    return calls


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("base", ["prior", "guide"])
def test_a_compiled_density_leaves_the_chains_where_they_were(monkeypatch, base):
    # two batches of 3 items, and one of 1 that is eager; the pilot run is short, since chains enlarge what is rounded
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((4, 3), 2, hidden_dims=(8,)).double()
    x = torch.rand(7, 4, 3, generator=torch.Generator().manual_seed(1)).round().double()
    state = torch.random.get_rng_state()
    found = []
    for on in (False, True):
        for name, value in {"ROWS": 24, "PILOT": 20, "SETTLING": 5}.items():
            monkeypatch.setattr(annealing, name, value)
        calls = counted(monkeypatch, on)
        found.append((pyrovae.ais(vae, x, base=base, **QUICK), pyrovae.bdmc(vae, 7, base=base, **QUICK)))
        transitions = 20 + 5 - 1 + 39
        # of ais and of bdmc there and back; two starts of each batch, and each program's own first call
        expected = 2 * 2 * (5 * transitions + 2) + 2 * 5 * 39 + 2
        assert len(calls) == (expected if on else 0)
        monkeypatch.undo()
    (eager, (lower, upper)), (compiled, (lower_too, upper_too)) = found
    for one, two in ((eager, compiled), (lower, lower_too), (upper, upper_too)):
        np.testing.assert_allclose(two.pointwise.value, one.pointwise.value, atol=1e-9)
        np.testing.assert_allclose(two.pointwise.acceptance, one.pointwise.acceptance, atol=1e-9)
    assert torch.equal(state, torch.random.get_rng_state())
    with evaluating(vae):
        z = torch.randn(8, 3, 2, dtype=torch.float64)
        path = annealing._Path(vae, x[:3], base)
        one = path.at(z)
        path.graph = calls[-1]
        for name, value in vars(path.at(z)).items():
            torch.testing.assert_close(value, getattr(one, name), rtol=1e-12, atol=1e-12)


def test_without_a_compiler_chains_move_eagerly_with_one_line(monkeypatch, caplog):
    vae = pair()
    x = vae.sample(3, seed=0)
    eager = pyrovae.ais(vae, x, **QUICK)

    def fails(*given, **options):
        raise FileNotFoundError("no compiler")

    monkeypatch.setattr(function, "compile_graph", fails)
    counted(monkeypatch, True)
    with caplog.at_level("WARNING", logger="pyrovae"):
        again = pyrovae.ais(vae, x, **QUICK)
    assert len(caplog.records) == 1 and "no compiler" in caplog.text
    np.testing.assert_array_equal(again.pointwise.value, eager.pointwise.value)
