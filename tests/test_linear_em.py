"""EM of linear pairs: the closed form of whole items, an EM in loops where entries are missing, weights, floors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import pyrovae
from pyrovae.inference.em import Climb
from pyrovae.models.linear_gaussian import LinearGaussian, seen_log_prob


def items(seed, *, count=60, features=4, codes=1, share=0.0):
    """Items of a linear-Gaussian model, a share of the entries missing completely at random; no row misses all."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, codes)) @ rng.normal(size=(codes, features)) * 1.5
    x = x + 5 * rng.normal(size=features) + rng.normal(size=x.shape) * np.linspace(0.4, 0.9, features)
    hidden = rng.random(x.shape) < share
    hidden[hidden.all(1), 0] = False
    return np.where(hidden, np.nan, x)


def pair_for(x, codes=1, **options):
    torch.manual_seed(0)
    return pyrovae.linear_vae(x.shape[1], codes, **options).double()


def fitted(x, codes=1, *, likelihood="normal", tol=1e-9, pair=None, **options):
    pair = pair_for(x, codes, likelihood=likelihood) if pair is None else pair
    return pair, pyrovae.fit(pair, x, method="em", tol=tol, progress=False, **options)


def model_of(pair):
    network, scale = pair.likelihood.network, pair.likelihood.family.scale
    variance = scale.square().expand(len(network.bias))
    return LinearGaussian(network.weight.detach(), network.bias.detach(), variance.detach())


def log_likelihood(w, mu, variance, x):
    """The mean over items of scipy's log-density of the seen sub-vector under N(mu, W W' + diag variance)."""
    c = w @ w.T + np.diag(variance)
    seen = [~np.isnan(row) for row in x]
    return np.mean([multivariate_normal(mu[s], c[np.ix_(s, s)]).logpdf(r[s]) for s, r in zip(seen, x, strict=True)])


def em_in_loops(x, codes, per_entry, iterations):
    """EM of factor analysis with entries missing, item by item, from standard normal weights; (W, mu, variance)."""
    rng = np.random.default_rng(7)
    features = x.shape[1]
    w, mu, variance = rng.normal(size=(features, codes)), np.nanmean(x, 0), np.nanvar(x, 0)
    for _ in range(iterations):
        left, right = np.zeros((features, codes + 1, codes + 1)), np.zeros((features, codes + 1))
        each = []
        for row in x:
            s = np.flatnonzero(~np.isnan(row))
            covariance = np.linalg.inv(np.eye(codes) + (w[s].T / variance[s]) @ w[s])
            z = covariance @ (w[s].T / variance[s]) @ (row[s] - mu[s])
            one = np.append(z, 1.0)
            second = np.outer(one, one)
            second[:codes, :codes] += covariance
            left[s] += second
            right[s] += row[s, None] * one
            each.append((s, row, one, covariance))
        solved = np.stack([np.linalg.solve(a, b) for a, b in zip(left, right, strict=True)])
        w, mu = solved[:, :codes], solved[:, codes]
        squares, counts = np.zeros(features), np.zeros(features)
        for s, row, one, covariance in each:
            squares[s] += (row[s] - solved[s] @ one) ** 2 + np.einsum("di,ij,dj->d", w[s], covariance, w[s])
            counts[s] += 1
        variance = squares / counts if per_entry else np.full(features, squares.sum() / counts.sum())
    return w, mu, variance


def test_whole_items_give_the_closed_form_and_a_guide_that_is_exact():
    x = items(0, features=5, codes=2)
    pair, history = fitted(x, 2, tol=1e-12)
    value = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    rest = value[2:].mean()  # Tipping and Bishop 1999, equation 8
    best = -0.5 * (5 * np.log(2 * np.pi) + np.log(value[:2]).sum() + 3 * np.log(rest) + 5)
    exact = pyrovae.exact(pair, x)
    assert float(exact.mean) == pytest.approx(best, abs=1e-9)
    assert -history.epochs.loss.values[-1] == pytest.approx(best, abs=1e-9)
    assert np.diff(history.epochs.loss.values).max() < 1e-12
    assert float(pyrovae.elbo(pair, x, analytic=True).mean) == pytest.approx(best, abs=1e-9)
    seen, _ = fitted(x, 2, tol=1e-12, pair=pair_for(x, 2, missing=True))
    assert torch.allclose(seen.encode(x), pair.encode(x), atol=1e-4)
    # control: at other weights of the guide the bound is lower
    with torch.no_grad():
        pair.posterior.loc.weight *= 1.1
    assert float(pyrovae.elbo(pair, x, analytic=True).mean) < best - 1e-3


@pytest.mark.parametrize("likelihood", ["normal", "normal(per_entry=True)"])
def test_no_iteration_goes_downhill_and_the_likelihood_is_that_of_seen_marginals(likelihood):
    x = items(1, share=0.3)
    pair, history = fitted(x, likelihood=likelihood, missing=True)
    assert history.config["converged"]
    assert np.diff(history.epochs.loss.values).max() < 1e-12
    model = model_of(pair)
    brute = log_likelihood(*(each.numpy() for each in (model.weight, model.offset, model.variance)), x)
    assert -history.epochs.loss.values[-1] == pytest.approx(brute, abs=1e-10)
    assert seen_log_prob(model, torch.from_numpy(x)).mean().item() == pytest.approx(brute, abs=1e-10)
    assert float(pyrovae.exact(pair, x, missing=True).mean) == pytest.approx(brute, abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("per_entry", "iterations"), [(False, 100), (True, 250)])
def test_the_maximum_is_that_of_an_em_in_loops(per_entry, iterations):
    x = items(2, count=40, features=5, share=0.3)
    likelihood = f"normal(per_entry={per_entry})" if per_entry else "normal"
    _, history = fitted(x, likelihood=likelihood, missing=True, tol=1e-11)
    ends = [log_likelihood(*em_in_loops(x, 1, per_entry, n), x) for n in (10, iterations)]
    assert -history.epochs.loss.values[-1] == pytest.approx(ends[1], abs=1e-6)
    assert ends[0] < ends[1] - 1e-4  # control: ten iterations are not enough


@pytest.mark.slow
def test_filling_with_the_mean_and_svi_fall_short_of_the_maximum(record_property):
    x = items(3, count=300, features=6, codes=2, share=0.3)
    x = x - np.nanmean(x, 0)
    _, history = fitted(x, 2, missing=True)
    best = -history.epochs.loss.values[-1]
    filled, _ = fitted(np.nan_to_num(x), 2)
    assert float(pyrovae.exact(filled, x, missing=True).mean) < best - 0.1  # nats per item
    by_svi = pair_for(x, 2, missing=True)
    pyrovae.fit(by_svi, x, missing=True, epochs=100, learning_rate=2e-2, progress=False)
    shortfall = best - float(pyrovae.exact(by_svi, x, missing=True).mean)
    record_property("nats per item that SVI falls short of EM's maximum", shortfall)
    assert shortfall > 0  # EM is at the maximum


@pytest.mark.parametrize("some_missing", [False, True])
def test_a_weight_is_a_number_of_copies(some_missing):
    x = items(4, share=0.3 if some_missing else 0.0)
    weight = np.arange(len(x)) % 4
    ends = []
    for each, given in ((x, {"weight": weight}), (np.repeat(x, weight, 0), {})):
        with pytest.warns(UserWarning, match="EM has not converged"):
            pair, history = fitted(each, tol=0, max_iterations=8, missing=True, **given)
        ends.append((pair, history))
    for a, b in zip(*(pair.state_dict().values() for pair, _ in ends), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    assert np.allclose(*(history.epochs.loss for _, history in ends), rtol=0, atol=1e-10)
    with pytest.warns(UserWarning, match="EM has not converged"):
        other, _ = fitted(x, tol=0, max_iterations=8, missing=True)
    assert not torch.allclose(model_of(other).weight, model_of(ends[0][0]).weight, atol=1e-3)


@pytest.mark.slow
def test_a_scale_at_its_floor_a_fixed_scale_and_standardised_columns():
    x = items(5, share=0.2)
    with pytest.warns(pyrovae.VarianceFloorWarning, match=r"holds up the scale of x\[:, 0\]"):
        pair, history = fitted(x, likelihood="normal(per_entry=True, floor=0.5)", missing=True)
    scale = pair.likelihood.family.scale.detach()
    assert float(scale.min()) == pytest.approx(0.5, rel=1e-9)
    assert np.diff(history.epochs.loss.values).max() < 1e-12
    fixed, _ = fitted(x, likelihood="normal(scale=0.5)", missing=True)
    assert float(fixed.likelihood.family.scale) == 0.5
    _, free_history = fitted(x, likelihood="normal(per_entry=True)", missing=True)
    units = x * np.array([1e3, 1.0, 1e-2, 1.0])
    wide, wide_history = fitted(
        units, missing=True, pair=pair_for(x, likelihood="normal(per_entry=True)", standardize=True)
    )
    seen = ~np.isnan(x)
    volume = (seen @ np.log([1e3, 1.0, 1e-2, 1.0])).mean()
    assert -wide_history.epochs.loss.values[-1] == pytest.approx(
        -free_history.epochs.loss.values[-1] - volume, abs=1e-6
    )
    assert float(pyrovae.exact(wide, units, missing=True).mean) == pytest.approx(
        -wide_history.epochs.loss.values[-1], abs=1e-10
    )


def test_a_second_fit_goes_on_and_a_pair_that_is_not_linear_has_no_em():
    x = items(6, share=0.2)
    pair, first = fitted(x, missing=True)
    _, second = fitted(x, missing=True, pair=pair)
    assert second.config["iterations"] <= 2
    assert second.epochs.loss.values[-1] <= first.epochs.loss.values[-1] + 1e-12
    for other in (
        pyrovae.mlp_vae((4,), likelihood="normal"),
        pyrovae.linear_vae(4, 1, likelihood="student_t"),
        pyrovae.linear_vae(4, 1, prior="mixture"),
        pyrovae.linear_vae(4, 1, posterior="full"),
        pyrovae.linear_vae(4, 1, covariate_dim=1),
    ):
        assert set(pyrovae.methods.methods_of(other)) == {"svi"}
    single = pyrovae.linear_vae(4, 1)  # in float32
    pyrovae.fit(single, x.astype(np.float32), method="em", missing=True, progress=False)
    assert torch.allclose(single.likelihood.network.weight.double(), model_of(pair).weight, atol=1e-3)


def test_a_fit_that_fails_leaves_the_columns_unmeasured():
    """What is measured of the items stays only where the fit comes to its end; the pair's dtype must hold it."""
    torch.manual_seed(0)
    x = torch.randn(40, 3, dtype=torch.float64)
    pair = pyrovae.linear_vae(3, 1, standardize=True).double()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Climb, "go_on", raising(KeyboardInterrupt))
        pyrovae.fit(pair, x, method="em", progress=False)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    pyrovae.fit(pair, 1000 * x, method="em", progress=False)  # the first fit that ends measures
    fresh = pyrovae.linear_vae(3, 1, standardize=True).double()
    pyrovae.fit(fresh, 1000 * x, method="em", progress=False)
    assert abs(pyrovae.exact(pair, 1000 * x).mean - pyrovae.exact(fresh, 1000 * x).mean) < 1e-6
    with pyrovae.warned.gathered():
        wide = pyrovae.linear_vae(3, 1, standardize=True)
        with pytest.raises(ValueError, match="the standard deviation of each column of x"):
            pyrovae.fit(wide, (1e25 * x).float(), method="em", progress=False)


def raising(error):
    def raises(*_, **__):
        raise error

    return raises


def test_squares_that_are_too_large_for_floats_are_refused():
    x = 1e200 * np.random.default_rng(0).normal(size=(60, 3))
    vae = pyrovae.linear_vae(3, 2, likelihood=pyrovae.Normal(scale=1.0)).double()
    with pytest.raises(FloatingPointError, match="scale x, or raise the floor"):
        pyrovae.fit(vae, x, method="em", progress=False)
