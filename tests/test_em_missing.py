"""EM of mixtures with entries missing and with weights: brute-force marginals, an EM in loops, scipy at the end."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

import pyrovae
from pyrovae.data import Split
from pyrovae.inference.em.clusters import _of_seen, clusters
from pyrovae.models.components import COVARIANCES

pytestmark = pytest.mark.filterwarnings("ignore::pyrovae.inference.em.VarianceFloorWarning")


FAST = [c if c == "full" else pytest.param(c, marks=pytest.mark.slow) for c in COVARIANCES]


def incomplete(seed, *, items=60, features=3, clusters_=2, share=0.3):
    """Correlated clusters of which a share of the entries is missing completely at random; no row misses all."""
    rng = np.random.default_rng(seed)
    loc = 2.5 * rng.normal(size=(clusters_, features))
    root = rng.normal(size=(clusters_, features, features)) / 1.5
    label = np.arange(items) % clusters_
    x = loc[label] + np.einsum("nij,nj->ni", root[label], rng.normal(size=(items, features)))
    hidden = rng.random(x.shape) < share
    hidden[hidden.all(1), 0] = False
    return np.where(hidden, np.nan, x)


def mixture_for(x, num_components=2, *, covariance="full", floor=None):
    torch.manual_seed(0)
    return pyrovae.GaussianMixture(x.shape[1:], num_components, covariance=covariance, floor=floor).double()


def fitted(x, num_components=2, *, covariance="full", floor=None, **options):
    mixture = mixture_for(x, num_components, covariance=covariance, floor=floor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of fits that are cut short on purpose
        history = pyrovae.fit(mixture, x, missing=True, progress=False, **options)
    return mixture, history


def numbers(mixture):
    """Weights (K,), locations (K, D) and covariances (K, D, D)."""
    parts = mixture.components
    covariances = (parts.scale_tril @ parts.scale_tril.mT).expand(len(parts.loc), -1, -1)
    return tuple(value.detach().numpy() for value in (mixture.weights, parts.loc, covariances))


def table_in_loops(mixture, x):
    """log p(component, x_seen), item by item, by scipy's density of the seen sub-vector."""
    table = np.zeros((len(x), mixture.num_components))
    for k, (weight, loc, covariance) in enumerate(zip(*numbers(mixture), strict=True)):
        for n, row in enumerate(x):
            seen = ~np.isnan(row)
            density = multivariate_normal(loc[seen], covariance[np.ix_(seen, seen)])
            table[n, k] = np.log(weight) + density.logpdf(row[seen])
    return table


def step_in_loops(mixture, x, covariance):
    """The parameters after one iteration of EM without a floor, item by item."""
    table = table_in_loops(mixture, x)
    share = np.exp(table - np.logaddexp.reduce(table, 1, keepdims=True))
    features = x.shape[1]
    locs, scatters, masses = [], [], []
    for k, (_, loc, c) in enumerate(zip(*numbers(mixture), strict=True)):
        filled, spread = np.where(np.isnan(x), 0.0, x), np.zeros((len(x), features, features))
        counts = np.ones_like(x)
        for n, row in enumerate(x):
            missing = np.isnan(row)
            if covariance in ("diagonal", "spherical"):
                counts[n] = ~missing  # the seen entries alone have a maximum
                continue
            gain = c[np.ix_(missing, ~missing)] @ np.linalg.inv(c[np.ix_(~missing, ~missing)])
            filled[n, missing] = loc[missing] + gain @ (row[~missing] - loc[~missing])
            spread[n][np.ix_(missing, missing)] = c[np.ix_(missing, missing)] - gain @ c[np.ix_(~missing, missing)]
        mass = share[:, k, None] * counts
        locs.append((mass * filled).sum(0) / mass.sum(0))
        away = (filled - locs[k]) * counts
        scatters.append(np.einsum("n,nij->ij", share[:, k], away[:, :, None] * away[:, None] + spread))
        masses.append(mass.sum(0))
    by_structure = {
        "full": [s / m[0] for s, m in zip(scatters, masses, strict=True)],
        "tied": [sum(scatters) / len(x)] * len(locs),
        "diagonal": [np.diag(np.diag(s) / m) for s, m in zip(scatters, masses, strict=True)],
        "spherical": [np.eye(features) * np.trace(s) / m.sum() for s, m in zip(scatters, masses, strict=True)],
    }
    return share.mean(0), np.stack(locs), np.stack(by_structure[covariance])


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_iteration_is_that_of_loops_over_items(covariance):
    x = incomplete(0, features=4)
    mixture, _ = fitted(x, covariance=covariance, num_restarts=1, max_iterations=1)
    expected = step_in_loops(mixture, x, covariance)
    # control: filling with the mean, and no variance for what is missing, is another step
    filled = step_in_loops(mixture, np.where(np.isnan(x), np.nanmean(x, 0), x), covariance)
    with pytest.warns(UserWarning, match="EM has not converged"):
        pyrovae.fit(mixture, x, missing=True, num_restarts=0, max_iterations=1, tol=0, progress=False)
    for ours, theirs in zip(numbers(mixture), expected, strict=True):
        assert np.allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    assert not np.allclose(numbers(mixture)[2], filled[2], rtol=1e-3)


@pytest.mark.parametrize("covariance", FAST)
@pytest.mark.parametrize("floor", [None, 0.5])
def test_no_iteration_goes_downhill_and_the_likelihood_is_that_of_seen_marginals(covariance, floor):
    x = incomplete(1)
    mixture, history = fitted(x, 3, covariance=covariance, floor=floor, num_restarts=1, max_iterations=12, tol=0)
    assert np.diff(history.epochs.loss.values).max() < 1e-12
    brute = np.logaddexp.reduce(table_in_loops(mixture, x), 1)
    assert np.allclose(mixture.log_prob(x, missing=True).detach(), brute, atol=1e-10)
    assert history.epochs.loss.values[-1] == pytest.approx(-brute.mean(), abs=1e-10)
    if floor is not None:
        assert np.linalg.eigvalsh(numbers(mixture)[2]).min() >= floor * (1 - 1e-9)
        assert covariance == "spherical" or history.config["floored_components"]


def seen_log_likelihood(free, x, shapes, covariance, floor):
    """The mean seen log-density in torch, at unconstrained numbers: weights, locations, roots of C - floor."""
    count, features = shapes
    logits, loc, root = free[:count], free[count : count * (1 + features)].reshape(count, features), None
    rest, eye = free[count * (1 + features) :], torch.eye(features, dtype=torch.float64)
    if covariance in ("full", "tied"):
        root = rest.reshape(-1, features, features).tril()
        c = root @ root.mT + floor * eye
    else:
        c = torch.diag_embed((rest.square() + floor).reshape(count, -1).expand(count, features))
    terms = []
    for pattern in np.unique(np.isnan(x), axis=0):
        rows = torch.from_numpy(x[(np.isnan(x) == pattern).all(1)][:, ~pattern])
        seen = np.flatnonzero(~pattern)
        p = torch.distributions.MultivariateNormal(loc[:, seen], c[:, seen][:, :, seen])
        terms.append((p.log_prob(rows[:, None]) + logits.log_softmax(0)).logsumexp(1))
    return torch.cat(terms).mean()


def gain_of_scipy(mixture, x, covariance, floor):
    """The nats per item that L-BFGS finds above a mixture, from its parameters moved a little off the floor."""
    w, loc, c = numbers(mixture)
    base = np.float64(floor or 0.0)
    if covariance in ("full", "tied"):
        c = c[:1] if covariance == "tied" else c
        root = np.linalg.cholesky(c - base * np.eye(x.shape[1]) + 1e-6 * np.eye(x.shape[1]))
    else:
        variance = np.einsum("kii->ki", c) - base
        variance = variance[:, :1] if covariance == "spherical" else variance
        root = np.sqrt(variance.clip(min=0) + 1e-6)
    start = np.concatenate([np.log(w), loc.ravel(), root.ravel()])

    def loss(flat):
        free = torch.from_numpy(flat).requires_grad_()
        value = -seen_log_likelihood(free, x, loc.shape, covariance, base)
        (gradient,) = torch.autograd.grad(value, free)
        return value.item(), gradient.numpy()

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100, "ftol": 0, "gtol": 1e-9})
    return -found.fun - mixture.log_prob(x, missing=True).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("floor", [None, 0.5])
def test_scipy_gains_nothing_at_the_end(covariance, floor):
    x = incomplete(2, share=0.25)
    mixture, history = fitted(x, covariance=covariance, floor=floor, num_restarts=1, tol=1e-12, max_iterations=3000)
    assert history.config["converged"]
    assert -1e-5 < gain_of_scipy(mixture, x, covariance, floor) < 1e-6
    if floor and covariance != "spherical":
        assert history.config["floored_components"]
    early, _ = fitted(x, covariance=covariance, floor=floor, num_restarts=1, max_iterations=2)
    if covariance == "full":  # control: after two iterations there is something to gain
        assert gain_of_scipy(early, x, covariance, floor) > 1e-4


def test_complete_items_give_the_bits_of_a_fit_without_missing_entries():
    x = np.nan_to_num(incomplete(3), nan=1.0)
    plain, other, once = (mixture_for(x, covariance="diagonal") for _ in range(3))
    pyrovae.fit(plain, x, num_restarts=1, progress=False)
    pyrovae.fit(other, x, missing=True, num_restarts=1, progress=False)
    pyrovae.fit(once, x, weight=np.ones(len(x)), num_restarts=1, progress=False)
    for a, b, c in zip(*(m.state_dict().values() for m in (plain, other, once)), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("covariance", FAST)
@pytest.mark.parametrize("some_missing", [False, True])
def test_a_weight_is_a_number_of_copies(covariance, some_missing):
    x = incomplete(4) if some_missing else np.nan_to_num(incomplete(4), nan=1.0)
    weight = np.arange(len(x)) % 4  # of 0 as well
    start, _ = fitted(x, covariance=covariance, num_restarts=1, max_iterations=2)
    ends = []
    for items, given in ((x, {"weight": weight}), (np.repeat(x, weight, 0), {})):
        mixture = mixture_for(x, covariance=covariance)
        mixture.load_state_dict(start.state_dict())
        with pytest.warns(UserWarning, match="EM has not converged"):
            history = pyrovae.fit(
                mixture, items, missing=True, num_restarts=0, max_iterations=6, tol=0, progress=False,
                validation=Split(items, weight=given["weight"], missing=True) if given else items, **given
            )  # fmt: skip
        ends.append((mixture, history, mixture.bic(items, missing=True, **given)))
    (a, a_history, a_bic), (b, b_history, b_bic) = ends
    for one, other in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
    for name in ("loss", "validation_elbo"):
        assert np.allclose(a_history.epochs[name], b_history.epochs[name], rtol=0, atol=1e-10)
    assert a_bic == pytest.approx(b_bic, abs=1e-8)
    assert a_history.config["sum_of_weights"] == weight.sum()
    # control: without the weights it is another end
    assert not np.allclose(numbers(a)[1], numbers(start)[1], atol=1e-3)


def test_items_of_weight_zero_are_absent_from_floors_checks_and_starts():
    x = np.nan_to_num(incomplete(5), nan=1.0)
    far = np.concatenate([x, np.full((3, 3), 1e6)])  # which would widen every floor, and draw a cluster
    weight = np.r_[np.ones(len(x)), np.zeros(3)]
    a, b = mixture_for(x), mixture_for(x)
    pyrovae.fit(a, x, num_restarts=1, progress=False)
    pyrovae.fit(b, far, weight=weight, num_restarts=1, progress=False)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="x has 1 items for 2 components"):
        pyrovae.fit(b, x[:2], weight=[1.0, 0.0], progress=False)


def test_clusters_by_distances_over_seen_entries():
    rng = np.random.default_rng(0)
    truth = np.arange(90) % 3
    x = 8 * np.eye(3)[truth] @ rng.normal(size=(3, 5)) + rng.normal(size=(90, 5)) / 3
    x[rng.random(x.shape) < 0.3] = np.nan
    x[np.isnan(x).all(1), 0] = 0.0
    found = [clusters(mixture_for(x, 3), torch.from_numpy(x), seed).numpy() for seed in range(3)]

    def purity(labels, of):
        return np.mean([np.bincount(of[labels == k]).max() for k in np.unique(labels)]) / 30

    assert max(purity(labels, truth) for labels in found) > 0.95
    assert purity(found[0], rng.permutation(truth)) < 0.6  # control


def test_what_was_never_seen_is_named():
    x = incomplete(6)
    with pytest.raises(ValueError, match=r"no entry of x\[:, 2\] was seen"):
        fitted(np.where(np.arange(3) == 2, np.nan, x))
    with pytest.raises(ValueError, match=r"no entry of x\[:, 2\] was seen"):  # but in items that do not count
        fitted(np.where((np.arange(3) == 2) & (np.arange(60)[:, None] > 0), np.nan, x), weight=np.arange(60) > 0)
    whole = np.concatenate([x, np.full((1, 3), np.nan)])
    with pytest.warns(UserWarning, match="1 of 61 items of x have no entry that was seen, the first of them item 60"):
        history = pyrovae.fit(mixture_for(x), whole, missing=True, num_restarts=1, progress=False)
    assert np.isfinite(history.epochs.loss.values).all()
    with pytest.raises(ValueError, match="x must be finite"):
        pyrovae.fit(mixture_for(x), x, progress=False)


@pytest.mark.slow
def test_missing_by_another_column_biases_complete_cases_and_not_em():
    # x2 is missing where x1 is large: at random, and not completely so
    rng = np.random.default_rng(0)
    n = 20_000
    whole = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.7], [0.7, 1.0]], size=n)
    x = whole.copy()
    x[rng.random(n) < 1 / (1 + np.exp(-3 * whole[:, 0])), 1] = np.nan
    mixture, _ = fitted(x, 1, num_restarts=1, tol=1e-10)
    complete = x[~np.isnan(x[:, 1])]
    # the variance of the mean of x2 given x1, from the regression on complete cases (Little and Rubin 2002, 7.2.2)
    residual, slope = 1 - 0.7**2, 0.7
    spread = complete[:, 0].var() * len(complete)
    error = np.sqrt(residual * (1 / len(complete) + complete[:, 0].mean() ** 2 / spread) + slope**2 / n)
    # false alarm of 4 standard errors: 6e-5
    assert abs(mixture.loc[0, 1].item()) < 4 * error
    assert abs(complete[:, 1].mean()) > 10 * complete[:, 1].std() / np.sqrt(len(complete))
    # not at random: what is missing depends on its own value, and EM is off too
    x = whole.copy()
    x[rng.random(n) < 1 / (1 + np.exp(-3 * whole[:, 1])), 1] = np.nan
    biased, _ = fitted(x, 1, num_restarts=1, tol=1e-10)
    assert biased.loc[0, 1].item() < -10 * error


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_groups_of_many_and_of_single_items_score_alike(covariance):
    # blocks of a set that many items share, padding, and parts of a group that is too large for one batch
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 6))
    x[:4500, 2] = np.nan
    x[4500:][rng.random((500, 6)) < 0.4] = np.nan
    mixture = mixture_for(x, 3, covariance=covariance)
    torch.nn.init.normal_(mixture.components.lower, std=0.3)
    rows = np.r_[:5, 4090:4100, 4490:5000]
    empty = np.isnan(x[rows]).all(1)
    table = mixture.log_joint_table(torch.from_numpy(x))[rows].detach().numpy()
    assert np.allclose(table[~empty], table_in_loops(mixture, x[rows][~empty]), atol=1e-10)
    assert np.allclose(table[empty], np.log(mixture.weights.detach().numpy()), atol=1e-12)


def wine(share):
    from sklearn.datasets import load_wine

    x = load_wine().data
    x = (x - x.mean(0)) / x.std(0)
    return np.where(np.random.default_rng(0).random(x.shape) < share, np.nan, x)


def warned_of_drift(x, **options):
    """The message of the warning, or None, and which components the history says drift."""
    made = {name: options.pop(name) for name in ("num_components", "covariance", "floor") if name in options}
    mixture = mixture_for(x, **{"num_components": 1} | made)
    with pyrovae.warned.gathered() as told:
        history = pyrovae.fit(mixture, x, missing=True, num_restarts=1, progress=False, **options)
    words = [str(each.message) for each in told if each.category is pyrovae.SingularDriftWarning]
    assert len(words) < 2
    return words[0] if words else None, history.config.get("drifting_components"), mixture


@pytest.mark.slow
def test_a_covariance_that_goes_on_towards_a_singular_one_is_named():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 6)) @ rng.normal(size=(6, 6))
    few = np.where(rng.random(x.shape) < 0.5, np.nan, x)
    words, which, mixture = warned_of_drift(few[~np.isnan(few).all(1)], max_iterations=100, floor=1e-12)
    assert which == [0] and "after 100 iterations of EM" in words
    c = numbers(mixture)[2][0]
    value, vector = np.linalg.eigh(c / np.sqrt(np.outer(c.diagonal(), c.diagonal())))
    assert f"component 0 (now {value[0]:.2g}, along x[:, {np.square(vector[:, 0]).argmax()}]" in words
    # control: three columns of which one follows from the others, nearly
    near = rng.normal(size=(60, 3))
    near[:, 2] = near[:, 0] + near[:, 1] + 0.03 * rng.normal(size=60)
    words, which, mixture = warned_of_drift(
        np.where(np.arange(180).reshape(60, 3) % 7 == 0, np.nan, near), max_iterations=100, tol=0
    )
    assert (words, which) == (None, [])
    assert mixture.components.conditional_scale[0, 2] < 0.05


@pytest.mark.slow
def test_drift_with_half_of_wine_missing():
    assert warned_of_drift(wine(0.3), max_iterations=100, tol=0)[:2] == (None, [])  # fewer missing
    assert warned_of_drift(wine(0.5), max_iterations=100, covariance="diagonal")[:2] == (None, None)
    words, which, _ = warned_of_drift(wine(0.5), max_iterations=100)
    assert which == [0] and "component 0 (now 0.02" in words
    x = wine(0.6)[:100, :8]
    x = x[~np.isnan(x).all(1)]
    words, which, _ = warned_of_drift(x, max_iterations=100, covariance="tied", num_components=2)
    assert which == [0] and "the tied covariance (now" in words and "covariance='diagonal', fewer" in words
    classifier = pyrovae.gaussian_classifier((8,), 2, covariance="full").double()
    with pytest.warns(pyrovae.SingularDriftWarning, match=r"in class '?0'? \(now"):
        pyrovae.fit(classifier, x, np.arange(len(x)) % 2, missing=True, max_iterations=100, progress=False)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_one_component_has_one_start(share):
    x = incomplete(5, clusters_=1, share=share)
    mixture, history = fitted(x, 1)
    assert len(history.config["log_likelihoods"]) == len(history.config["iterations"]) == 1
    other, _ = fitted(x, 1, seed=3)
    for one, another in zip(mixture.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, another)
    _, history = fitted(x, 2, num_restarts=3, max_iterations=1)
    assert len(history.config["log_likelihoods"]) == 3
    if not share:
        assert np.allclose(numbers(mixture)[2][0], np.cov(x.T, bias=True), rtol=1e-12)
    # going on from parameters that were set is a start beside it
    mixture.components.loc.data += 1
    with pyrovae.warned.gathered():
        again = pyrovae.fit(mixture, x, missing=True, progress=False)
    assert len(again.config["log_likelihoods"]) == 2


def test_clusters_of_items_with_entries_missing_are_those_of_means_of_what_was_seen():
    """Each item is with the nearest of the means of seen entries of the clusters, by a loop: where k-means ends."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(40, 2)) + 2
        x[rng.random(x.shape) < 0.4] = np.nan
        x = x[~np.isnan(x).all(1)]
        weight = np.arange(len(x)) % 3 + 1.0
        labels = _of_seen(x, 3, seed, weight)
        centres = [
            [np.average(c[~np.isnan(c)], weights=weight[labels == k][~np.isnan(c)]) for c in x[labels == k].T]
            for k in range(3)
        ]
        away = np.stack([np.nansum((x - centre) ** 2, 1) for centre in centres], 1)
        assert np.array_equal(away.argmin(1), labels)
