"""The ledger of gaps against closed forms of a linear pair."""

from __future__ import annotations

import copy
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from conftest import linear_posterior, with_exact_posterior
from torch.distributions import AffineTransform

import pyrovae
from pyrovae.evaluation import gaps


def correlated(seed=0):
    """A linear pair whose posteriors no diagonal q can be, and some of its items."""
    torch.manual_seed(seed)
    vae = pyrovae.linear_vae(6, 2, likelihood=pyrovae.Normal(scale=0.5)).double()
    with torch.no_grad():
        vae.likelihood.network.weight.copy_(torch.tensor([[1.0, 0.8]]).repeat(6, 1) + 0.3 * torch.randn(6, 2))
    return vae, vae.sample(8, seed=1)


def best_diagonal_gap(vae):
    """KL(q* || posterior) for the best diagonal q: its precisions are the posterior's own diagonal."""
    w, s = vae.likelihood.network.weight.detach(), vae.likelihood.family.scale
    precision = torch.eye(2).double() + w.T @ w / s**2
    return float(0.5 * (precision.diagonal().log().sum() - precision.logdet()))


def test_the_parts_are_those_of_the_closed_form_and_sum_to_the_gap():
    vae, x = correlated()
    exact = pyrovae.exact(vae, x)
    ledger = pyrovae.gaps(vae, x, exact, progress=False)
    p = ledger.pointwise
    assert np.allclose(p.gap, p.approximation + p.amortization, atol=1e-12)
    assert np.allclose(p.gap, exact.pointwise.value - p.elbo, atol=1e-12)
    truth = best_diagonal_gap(vae)
    assert truth > 0.5  # something to find
    # 8 items, 4 standard errors each (false alarm 5e-4), and the 0.01 nats the search may leave
    error = p.approximation.values - truth
    assert (error < 4 * p.approximation_se.values + 0.01).all()
    assert (error > -4 * p.approximation_se.values).all()
    analytic = exact - pyrovae.elbo(vae, x, analytic=True)
    assert (abs(p.gap.values - analytic.pointwise.value.values) < 4 * p.gap_se.values).all()
    assert (p.amortization.values > -4 * p.amortization_se.values).all()
    assert "at most" in str(ledger)
    assert "at least" in str(ledger)


class Posterior(torch.nn.Module):
    """q(z | x) by a function of x, with a weight that it does not use."""

    def __init__(self, law):
        super().__init__()
        self.law, self.weight = law, torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        return self.law(x)


def test_a_full_covariance_that_is_the_posterior_is_its_own_best():
    vae, x = correlated()

    def law(items):
        exact = linear_posterior(vae, items)
        return dist.MultivariateNormal(exact.loc, scale_tril=exact.scale_tril.expand(len(items), 2, 2))

    pair = pyrovae.VAE(vae.prior, vae.likelihood, Posterior(law))
    ledger = pyrovae.gaps(pair, x, pyrovae.exact(pair, x), progress=False)
    p = ledger.pointwise
    assert np.abs(p.gap.values).max() < 1e-9  # every weight is p(x)
    assert not p.amortization.values.any() and not p.amortization_se.values.any()
    assert "best q among diagonal Normals and q(z | x) itself" in str(ledger)
    expected = linear_posterior(vae, x).loc.numpy()
    assert np.abs(p["loc"].values - expected).max() < 5 * float(p["scale"].max()) / 512**0.5
    assert p.attrs["family"] == gaps.BOTH
    # control: the best diagonal Normal falls short
    assert best_diagonal_gap(vae) > 0.5


def test_a_flow_of_the_items_own_transforms_is_held_against_the_best_of_its_family(exact_linear_pair):
    # an affine flow of a normal, half a posterior sd off and half as wide again: its KL is closed, and its best is
    # the posterior itself, a diagonal Normal
    pair, x = exact_linear_pair, exact_linear_pair.sample(6, seed=0)
    sd = linear_posterior(pair, x).variance.sqrt()[0]

    def law(items):
        base = dist.Normal(linear_posterior(pair, items).loc, sd).to_event(1)
        loc = linear_posterior(pair, items).loc
        move = dist.transforms.AffineTransform(0.5 * sd - 0.5 * loc, 1.5)  # loc + sd / 2 + 1.5 sd e
        return dist.TransformedDistribution(base, [move])

    flow = pyrovae.VAE(pair.prior, pair.likelihood, Posterior(law))
    ledger = pyrovae.gaps(flow, x, pyrovae.exact(flow, x), progress=False)
    p = ledger.pointwise
    kl = 3 * 0.5 * (1.5**2 + 0.5**2 - 1 - 2 * math.log(1.5))
    # 6 items, 4 standard errors each
    assert (np.abs(p.gap.values - kl) < 4 * p.gap_se.values).all() and float(p.gap_se.max()) < 0.1 * kl
    assert (np.abs(p.amortization.values - kl) < 4 * p.amortization_se.values + 0.01).all()
    assert np.abs(p.approximation.values).max() < 0.01
    assert "family" not in p.attrs  # which is that of its transform


def test_a_flow_without_an_inverse_has_gaps_and_no_annealing_from_it():
    class Planar(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loc, self.planar = torch.nn.Linear(5, 2), dist.transforms.Planar(2)

        def forward(self, x):
            return dist.TransformedDistribution(dist.Normal(self.loc(x), 0.5).to_event(1), [self.planar])

    torch.manual_seed(0)
    linear = pyrovae.linear_vae(5, 2)
    pair = pyrovae.VAE(linear.prior, linear.likelihood, Planar())
    x = pair.sample(5, seed=0)
    exact = pyrovae.exact(pair, x)
    elbo = pyrovae.elbo(pair, x, num_particles=4000)
    p = pyrovae.gaps(pair, x, exact, progress=False).pointwise
    error = np.hypot(p.elbo_se.values, elbo.pointwise["se"].values)
    assert (np.abs(p.elbo.values - elbo.pointwise["value"].values) < 4 * error).all()
    assert (p.approximation.values > -4 * p.approximation_se.values).all()
    assert float(p.approximation.mean()) < 0.05  # the posterior is nearly a diagonal Normal
    with pytest.raises(ValueError, match=r"base='guide' needs the density of q\(z \| x\) at any code"):
        pyrovae.ais(pair, x, base="guide", num_steps=3, progress=False)


def test_an_encoder_that_is_already_best_has_no_amortization_gap(exact_linear_pair):
    x = exact_linear_pair.sample(5, seed=0)
    ledger = pyrovae.gaps(exact_linear_pair, x, pyrovae.exact(exact_linear_pair, x), progress=False)
    assert np.abs(ledger.pointwise.amortization.values).max() < 0.01
    assert np.abs(ledger.pointwise.approximation.values).max() < 0.01


def test_many_dimensions_are_told_apart_by_enough_particles():
    # an encoder a fifth too wide on a posterior that its family holds: all of the gap is amortisation
    torch.manual_seed(0)
    pair = pyrovae.linear_vae(40, 20, likelihood=pyrovae.Normal(scale=0.7)).double()
    with torch.no_grad():
        pair.likelihood.network.weight.copy_(torch.linalg.qr(torch.randn(40, 20, dtype=torch.float64)).Q)
    with_exact_posterior(pair)
    with torch.no_grad():
        pair.posterior.raw_log_scale.add_(math.log(1.2))
    x = pair.sample(3, seed=0)
    exact = pyrovae.exact(pair, x)
    truth = float((exact - pyrovae.elbo(pair, x, analytic=True)).mean)
    ledger = pyrovae.gaps(pair, x, exact, progress=False)
    assert truth > 0.5
    assert ledger.mean("amortization")[0] == pytest.approx(truth, abs=0.05)
    assert ledger.mean("approximation")[0] < 0.05
    with pytest.raises(ValueError, match="num_particles must be an integer of at least 42, got 32"):
        pyrovae.gaps(pair, x, exact, num_particles=32)


@pytest.mark.slow
def test_stated_errors_are_what_repeats_show():
    # 3 items, each 30 times with noise of its own: each ratio's relative standard deviation is 0.13
    vae, x = correlated()
    repeats = x[:3].repeat(30, 1)
    run = pyrovae.gaps(vae, repeats, pyrovae.exact(vae, repeats), num_evaluation=200, progress=False).pointwise
    for name in ("approximation", "amortization", "gap"):
        values, stated = (run[each].values.reshape(30, 3) for each in (name, f"{name}_se"))
        ratio = np.sqrt(np.mean(stated**2, 0)) / values.std(0, ddof=1)
        assert (ratio > 0.55).all(), name
        assert (ratio < 1.8).all(), name


def test_the_figures_are_taken_on_noise_that_the_search_and_the_choice_have_not_seen(monkeypatch):
    # else the chosen q is flattered by the noise it was chosen on
    seen = []
    bounds = gaps._Search.bounds

    def spied(self, x, parameters, noise):
        seen.append(noise.flatten())
        return bounds(self, x, parameters, noise)

    monkeypatch.setattr(gaps._Search, "bounds", spied)
    vae, x = correlated()
    pyrovae.gaps(vae, x, pyrovae.exact(vae, x), max_steps=200, progress=False)
    *earlier, last = seen
    assert len(earlier) > 2
    assert torch.isin(last, torch.cat(earlier)).double().mean() < 0.01  # a few of 24 bits agree by chance


def test_evidence_from_below_is_named_and_an_unknown_error_is_not_none():
    vae, x = correlated()
    single = pyrovae.ais(vae, x[:3], num_chains=1, num_steps=100, progress=False)
    ledger = pyrovae.gaps(vae, x[:3], single, progress=False)
    assert "log p(x) itself bounded from below by ais(100)" in str(ledger)
    assert "at most" not in str(ledger)
    assert math.isnan(ledger.mean("gap")[1])
    with pytest.raises(ValueError, match="an ELBO is what it is compared with"):
        pyrovae.gaps(vae, x, pyrovae.elbo(vae, x))
    with pytest.raises(ValueError, match="exact - elbo is a difference of two"):
        pyrovae.gaps(vae, x, pyrovae.exact(vae, x) - pyrovae.elbo(vae, x))


def test_evidence_that_says_it_is_unreliable_says_so_in_the_ledger(monkeypatch):
    monkeypatch.setattr(gaps, "ROUND", 4)
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(5, 2)
    x = vae.sample(4, seed=0)
    evidence = pyrovae.iwae(vae, x, num_particles=20)
    flags = np.array([False, True, True, False])
    flagged = pyrovae.Estimate(evidence.kind, evidence.pointwise.assign(unreliable=("item", flags, {"units": "1"})))
    ledger = pyrovae.gaps(vae, x, flagged, max_steps=2, num_evaluation=10, progress=False)
    assert np.array_equal(ledger.pointwise.unreliable, flags)
    assert "bounded from below by iwae(20), of 2 items unreliably" in str(ledger)


def test_how_evidence_stands_to_log_p_is_read_off_it_whatever_its_name(monkeypatch):
    monkeypatch.setattr(gaps, "ROUND", 4)
    vae, x = correlated()
    exact = pyrovae.exact(vae, x[:4])
    words = {"exact": " at most", "upper": "bounded from above by mine", "lower": "bounded from below by mine"}
    for bound, expected in words.items():
        mine = pyrovae.Estimate("mine", exact.pointwise.assign_attrs(bound=bound))
        ledger = str(pyrovae.gaps(vae, x[:4], mine, max_steps=2, num_evaluation=10, progress=False))
        assert expected in ledger
        assert ("at most" in ledger) is (bound != "lower")  # what a lower bound misses may be in either gap


def test_the_pairs_own_gradients_are_left_alone():
    vae, x = correlated()
    pyrovae.gaps(vae, x[:1], pyrovae.exact(vae, x[:1]), max_steps=2, progress=False)
    assert all(p.grad is None for p in vae.parameters())


def test_overfit_is_a_difference_of_independent_means():
    vae, x = correlated()
    parts = [pyrovae.gaps(vae, half, pyrovae.exact(vae, half), progress=False) for half in (x[:5], x[5:])]
    found = pyrovae.overfit(*parts)
    train, test = (g.pointwise for g in parts)
    assert float(found.encoder) == pytest.approx(float(test.amortization.mean() - train.amortization.mean()))
    assert float(found.decoder) == pytest.approx(float(train.evidence.mean() - test.evidence.mean()))
    expected = math.sqrt(float(train.evidence.var(ddof=1)) / 5 + float(test.evidence.var(ddof=1)) / 3)
    assert float(found.decoder_se) == pytest.approx(expected)


def test_what_is_refused():
    vae, x = correlated()
    exact = pyrovae.exact(vae, x)
    with pytest.raises(ValueError, match="items_sha256 differs"):
        pyrovae.gaps(vae, x[:3], exact)
    other, _ = correlated(1)
    with pytest.raises(ValueError, match="pair_sha256 differs"):
        pyrovae.gaps(other, x, exact)
    with pytest.raises(ValueError, match="num_starts must be an integer of at least 4"):
        pyrovae.gaps(vae, x, exact, num_starts=3)
    with pytest.raises(ValueError, match=r"gaps needs a p\(x\)"):
        pyrovae.gaps(pyrovae.mlp_ae((6,)), x, exact)
    mine = pyrovae.gaps(vae, x[:2], pyrovae.exact(vae, x[:2]), progress=False)
    theirs = pyrovae.gaps(other, x[:2], pyrovae.exact(other, x[:2]), progress=False)
    with pytest.raises(ValueError, match="must be gaps of one pair"):
        pyrovae.overfit(mine, theirs)


class Transformed(torch.nn.Module):
    """The same q(z | x) as a Normal that goes through z -> 1 + 2 z."""

    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def forward(self, x):
        q = self.posterior(x)
        base = dist.Normal((q.mean - 1) / 2, q.stddev / 2).to_event(1)
        return dist.TransformedDistribution(base, [AffineTransform(1.0, 2.0, event_dim=1)])


def test_a_guide_that_goes_through_transforms_has_the_gaps_of_the_same_distribution():
    torch.manual_seed(0)
    pair = pyrovae.linear_vae(5, 2)
    with torch.no_grad():
        pair.posterior.loc.bias.add_(0.3)
    x = pair.sample(6, seed=0)
    exact = pyrovae.exact(pair, x)
    other = pyrovae.VAE(*(copy.deepcopy(part) for part in (pair.prior, pair.likelihood, Transformed(pair.posterior))))
    plain = pyrovae.gaps(pair, x, exact, progress=False).pointwise
    moved = pyrovae.gaps(other, x, pyrovae.exact(other, x), progress=False).pointwise
    # the families are one: only the random numbers differ, 5 standard errors each
    for name in ("elbo", "best_elbo", "approximation", "amortization"):
        error = np.hypot(plain[f"{name}_se"], moved[f"{name}_se"])
        assert bool((abs(plain[name] - moved[name]) < 5 * error + 0.02).all()), name
    assert np.allclose(1 + 2 * moved["loc"], plain["loc"], atol=0.05)
    assert np.allclose(2 * moved["scale"], plain["scale"], atol=0.05)
    # negative control: the transform's log 4 left out of the density would be seen
    assert float(abs(plain["best_elbo"] - moved["best_elbo"] + np.log(4)).min()) > 1.0
