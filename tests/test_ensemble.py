"""An ensemble's density is the weighted sum of its members'."""

import copy
import functools

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

import pyrovae
from pyrovae import Batch, Ensemble
from pyrovae.evaluation import Session, log_mean
from pyrovae.evaluation.members import by_members
from pyrovae.models.particles import particles

WEIGHTS = (0.2, 0.8)


def linear(latent_dim, seed, offset=0.0):
    torch.manual_seed(seed)
    vae = pyrovae.linear_vae(3, latent_dim).double()
    with torch.no_grad():
        vae.likelihood.network.bias.fill_(offset)
    return vae


@pytest.fixture
def members():
    return [linear(1, 1), linear(2, 2, offset=1.0)]


@pytest.fixture
def x():
    return torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def summed(estimator, members, x, weights=WEIGHTS):
    values = [estimator(member, x).pointwise["value"].to_numpy() for member in members]
    return logsumexp(np.log(weights)[:, None] + np.stack(values), axis=0)


@pytest.mark.parametrize("estimator", [pyrovae.exact, pytest.param(pyrovae.quadrature, marks=pytest.mark.slow)])
def test_log_p_is_that_of_the_weighted_sum_to_1e_10(members, x, estimator):
    value = estimator(Ensemble(members, WEIGHTS), x).pointwise["value"].to_numpy()
    assert np.abs(value - summed(estimator, members, x)).max() < 1e-10
    assert np.abs(value - summed(estimator, members, x, WEIGHTS[::-1])).max() > 1e-2  # the control


def test_model_and_guide_are_those_of_the_mixture(members, x):
    """exp(mean weight - log p) lies at 1 within 4 standard errors, of 6 items: a false alarm once in 2,600 runs."""
    ensemble = Ensemble(members, WEIGHTS)
    torch.manual_seed(0)
    with torch.no_grad():
        log_weight = particles(ensemble, x, 20_000).log_weight
    truth = torch.from_numpy(summed(pyrovae.exact, members, x))
    ratio = (log_weight - truth).exp()
    off = (ratio.mean(0) - 1).abs() / (ratio.std(0) / 20_000**0.5)
    assert bool((off < 4).all()), off
    equal = torch.from_numpy(summed(pyrovae.exact, members, x, (0.5, 0.5)))  # the control: weights left out
    ratio = (log_weight - equal).exp()
    assert bool(((ratio.mean(0) - 1).abs() / (ratio.std(0) / 20_000**0.5) > 4).any())


def test_bounds_of_the_members_give_one_of_the_mixture_with_its_error(members, x):
    ensemble, truth = Ensemble(members, WEIGHTS), summed(pyrovae.exact, members, x)
    estimator = functools.partial(pyrovae.iwae, num_particles=300)
    estimate = estimator(ensemble, x)
    assert estimate.bound == "lower" and estimate.kind == "iwae(300)"
    value, se = (estimate.pointwise[name].to_numpy() for name in ("value", "se"))
    assert np.abs(value - summed(estimator, members, x)).max() < 1e-10
    assert (np.abs(value - truth) < 5 * se + 0.05).all()
    parts = [estimator(member, x).pointwise for member in members]
    share = np.exp(np.log(WEIGHTS)[:, None] + np.stack([part["value"] for part in parts]) - value)
    assert np.allclose(se, np.sqrt((share**2 * np.stack([part["se"] for part in parts]) ** 2).sum(0)))
    gap = pyrovae.exact(ensemble, x) - estimate  # one pair under two estimators
    assert np.isfinite(gap.mean)
    assert pyrovae.elbo(ensemble, x, num_particles=8).mean < truth.mean() + 0.5


def test_items_are_drawn_of_each_member_by_its_weight():
    """3,000 items: the share of a member within 4 standard errors, a false alarm once in 16,000 runs."""
    ensemble = Ensemble([linear(1, 1, -100.0), linear(2, 2, 100.0)], WEIGHTS)
    share = (ensemble.sample(3000, seed=0).mean(1) < 0).double().mean()
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / 3000) ** 0.5
    mean = ensemble.decode(torch.zeros(1, 3, dtype=torch.float64))
    assert torch.allclose(mean, torch.full((1, 3), 60.0, dtype=torch.float64))


@by_members
def bare_iwae(pair, x, *, num_particles=1000, seed=0):
    """`pyrovae.iwae` without what it says of the weights, which takes most of its time."""
    session = Session("bare", pair)
    columns = session.from_particles(x, lambda t: log_mean(t.log_weight), num_particles=num_particles, seed=seed)
    return session.estimate({name: columns[name] for name in ("value", "se")}, bound="lower")


def test_members_of_one_state_have_noise_of_their_own():
    """The error of 400 items is that of 2 K draws: their sd, of error 3.5 %, is 1 and not 2^0.5 as of K draws twice."""
    member = linear(1, 1)
    x = member.sample(400, seed=0)
    ensemble = Ensemble([member, copy.deepcopy(member)])
    estimate = bare_iwae(ensemble, x, num_particles=100, seed=3)
    assert estimate.pointwise.attrs["seed"] == 3
    off = estimate.pointwise["value"] - pyrovae.exact(member, x).pointwise["value"]
    assert 0.85 < float((off / estimate.pointwise["se"]).std()) < 1.15
    # the errors of a grid are no noise: two times the same density has its error
    twice, grid = (pyrovae.quadrature(pair, x[:1]).pointwise["se"] for pair in (ensemble, member))
    assert np.allclose(twice, grid, rtol=1e-9, atol=0) and (grid > 0).all()


def test_the_rows_for_arviz_are_members_by_their_weights(members, x):
    """The mean over 1,000 rows is the mixture: each member's share is within 1 / 1,000 of its weight."""
    rows = Ensemble(members).log_likelihood(x, evidence=pyrovae.exact)
    assert np.abs(logsumexp(rows.numpy(), 0) - np.log(2) - summed(pyrovae.exact, members, x, (0.5, 0.5))).max() < 1e-10
    ensemble = Ensemble(members, WEIGHTS)
    with pytest.raises(ValueError, match=r"num_draws must be given, .*weights \(0.2, 0.8\)"):
        ensemble.log_likelihood(x, evidence=pyrovae.exact)
    rows = ensemble.log_likelihood(x, evidence=pyrovae.exact, num_draws=1000)
    assert rows.shape == (1000, 6)
    mixed = logsumexp(rows.numpy(), 0) - np.log(1000)
    assert np.abs(mixed - summed(pyrovae.exact, members, x)).max() < 0.01
    assert np.abs(mixed - summed(pyrovae.exact, members, x, (0.5, 0.5))).max() > 0.05  # the control
    of_first = rows[:, 0] == pyrovae.exact(members[0], x).pointwise["value"].values[0]
    assert abs(int(of_first.sum()) - 200) <= 1 and bool(of_first[:500].any()) and bool(of_first[500:].any())


@pytest.mark.slow  # ArviZ takes seconds to import
def test_the_rest_of_the_package_takes_it(members, x, tmp_path):
    ensemble = Ensemble(members, WEIGHTS)
    assert torch.equal(ensemble.encode(x), torch.cat([member.encode(x) for member in members], -1))
    assert pyrovae.to_arviz(ensemble, x, num_draws=3).posterior["latent"].shape == (1, 3, 6, 3)
    still = ensemble.frozen()
    assert not list(still.parameters()) and not any(list(member.parameters()) for member in still.members)
    assert pyrovae.exact(still, x).mean == pyrovae.exact(ensemble, x).mean
    pyrovae.save(tmp_path / "state", ensemble)
    other = Ensemble([linear(1, 5), linear(2, 6)], WEIGHTS)
    loaded = pyrovae.load(tmp_path / "state", like=other)
    assert pyrovae.exact(loaded, x).mean == pyrovae.exact(ensemble, x).mean != pyrovae.exact(other, x).mean
    assert loaded.members[0].likelihood is loaded.likelihood.parts[0]
    twin = copy.deepcopy(ensemble).float()
    assert twin.members[1].prior().mean.dtype == torch.float32


def test_members_that_have_no_mixture_are_named(members):
    other = pyrovae.linear_vae(4, 1).double()
    mass = pyrovae.linear_vae(3, 1, likelihood="bernoulli").double()
    positive = pyrovae.linear_vae(3, 1, likelihood="gamma").double()
    for bad, message in (
        ([], "members must be a list of at least one pair"),
        ([members[0], other], r"one event_shape: .* is \(3,\), and that of members\[1\] \(normal\) is \(4,\)"),
        ([members[0], mass], r"one base measure: .*\(normal\) is density, .*\(bernoulli\) is mass"),
        ([members[0], positive], r"one support"),
        ([members[0], linear(1, 3).float()], "one dtype and device"),
    ):
        with pytest.raises(ValueError, match=message):
            Ensemble(bad)
    with pytest.raises(TypeError, match=r"members\[1\] must be a pair with a p\(x\)"):
        Ensemble([members[0], pyrovae.mlp_ae((3,))])
    for weights, message in (([1.0], r"shape \(2,\)"), ([0.5, 0.6], "sum to 1"), ([0.0, 1.0], "positive")):
        with pytest.raises(ValueError, match=message):
            Ensemble(members, weights)


# members given covariates -------------------------------------------------------------------------------------------


@pytest.fixture
def given(x):
    """An ensemble of two priors, one that depends on the covariates, with its items and their covariates."""
    torch.manual_seed(3)
    pairs = [pyrovae.linear_vae(3, d, covariate_dim=2, prior=p) for d, p in ((1, "standard"), (2, "conditional"))]
    torch.nn.init.normal_(pairs[1].prior.network.layers[-1].weight, std=0.5)
    return Ensemble([pair.double() for pair in pairs], WEIGHTS), pyrovae.data.Split(
        x, None, covariates=torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )


def test_log_p_given_covariates_is_that_of_the_members_to_1e_10(given):
    ensemble, items = given
    value = pyrovae.exact(ensemble, items).pointwise["value"].to_numpy()
    assert np.abs(value - summed(pyrovae.exact, ensemble.members, items)).max() < 1e-10
    by_keyword = pyrovae.exact(ensemble, items.x, covariates=items.covariates)
    assert np.array_equal(by_keyword.pointwise["value"], value) and by_keyword.pointwise.attrs["given"] == "covariates"
    other = pyrovae.exact(ensemble, items.x, covariates=items.covariates.flip(0)).pointwise["value"].to_numpy()
    assert np.abs(value - other).max() > 1e-2  # the control: covariates of other items
    assert ensemble.log_likelihood(items, evidence=pyrovae.exact, num_draws=4, seed=1).shape == (4, 6)
    assert ensemble.sample(6, covariates=items.covariates, seed=0).shape == (6, 3)
    assert not torch.equal(ensemble.reconstruct(items), ensemble.reconstruct(items.x, covariates=0 * items.covariates))
    misshapen = pyrovae.data.Split(items.x, None, covariates=torch.zeros(6, 3))
    for wrong, words in ((items.x, "covariates are needed"), (misshapen, r"covariates must have shape \(6, 2\)")):
        with pytest.raises(ValueError, match=words):
            pyrovae.exact(ensemble, wrong)
    with pytest.raises(
        ValueError, match=r"must have one number of covariates: .* is 2, and that of members\[1\].* is 0"
    ):
        Ensemble([ensemble.members[0], linear(1, 1)])
    with pytest.raises(ValueError, match="covariates came, and this Ensemble takes none"):
        pyrovae.exact(Ensemble([linear(1, 1)]), items.x, covariates=items.covariates)


@pytest.mark.slow
def test_model_and_guide_given_covariates_are_those_of_the_mixture(given):
    """As above: a false alarm once in 2,600 runs."""
    ensemble, items = given
    torch.manual_seed(0)
    with torch.no_grad():
        log_weight = particles(ensemble, Batch(items.x, items.covariates), 20_000).log_weight
    truth = torch.from_numpy(summed(pyrovae.exact, ensemble.members, items))
    ratio = (log_weight - truth).exp()
    assert bool(((ratio.mean(0) - 1).abs() / (ratio.std(0) / 20_000**0.5) < 4).all())


def test_counts_of_members_have_an_exposure():
    torch.manual_seed(0)
    pairs = [pyrovae.linear_vae(3, 1, likelihood="poisson").double() for _ in range(2)]
    ensemble, x = Ensemble(pairs, WEIGHTS), torch.poisson(torch.full((4, 3), 2.0, dtype=torch.float64))
    items = pyrovae.data.Split(x, None, exposure=torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64))
    estimator = functools.partial(pyrovae.iwae, num_particles=50)
    value = estimator(ensemble, items).pointwise["value"].to_numpy()
    assert np.abs(value - summed(estimator, pairs, items)).max() < 1e-10
    assert np.abs(value - summed(estimator, pairs, x)).max() > 0.1  # the control: an exposure that is dropped
    z, e = torch.randn(4, 2, dtype=torch.float64), items.exposure
    assert torch.allclose(ensemble.decode(z, exposure=e), ensemble.decode(z) * e[:, None])
