"""Priors by name, and every posterior with each of them: densities, estimates, copies and what is refused."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import constraints

import pyrovae
from pyrovae.models.finite_mixture import FiniteMixture
from pyrovae.models.precision import doubled
from pyrovae.models.registry import registered

PRIORS = ("standard", "mixture(num_components=3)", "vamp(num_components=4)", "flow")
POSTERIORS = ("diagonal", "full", "flow")
RICHER = [("diagonal", PRIORS[3]), ("full", PRIORS[1]), ("flow", PRIORS[2])]  # each part once
WIDE = {"dtype": torch.float64}


def items(n=200):
    """Items in two bent clusters, (n, 5)."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(n, 2, generator=generator)
    codes[: n // 2] += 2.0
    codes[:, 1] -= codes[:, 0].square() / 2
    return codes @ torch.randn(2, 5, generator=generator) / 2 + 0.3 * torch.randn(n, 5, generator=generator)


def pair_of(posterior, prior, latent_dim=2, seed=0, **options):
    torch.manual_seed(seed)
    options = {"hidden_dims": (8,), "likelihood": "normal"} | options
    return pyrovae.mlp_vae((5,), latent_dim, posterior=posterior, prior=prior, **options)


def moved(module, by=0.3):
    """The module with every weight moved, as after a fit: parts that start as N(0, I) are bent."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * torch.randn_like(parameter)
    return module


def integral(p, half=30.0, nodes=501):
    """The integral of a density over the plane, by the rectangle rule."""
    axis = torch.linspace(-half, half, nodes, **WIDE)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        return float(p.log_prob(grid).exp().sum()) * float(axis[1] - axis[0]) ** 2


# densities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [*PRIORS[:3], pytest.param("flow", marks=pytest.mark.slow)])
def test_a_prior_is_a_density_and_is_drawn_from_it(prior):
    p = moved(pair_of("diagonal", prior).double(), 0.1).prior()
    # splines have kinks in their slope, where the rectangle rule is of second order
    assert integral(p) == pytest.approx(1.0, abs=1e-3 if prior == "flow" else 1e-8)
    torch.manual_seed(0)
    z = p.sample((2000,))
    # the share of draws left of 0 in each coordinate against the density's own
    axis = torch.linspace(-30, 30, 501, **WIDE)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = p.log_prob(grid).exp() * float(axis[1] - axis[0]) ** 2
    for j in range(2):
        expected = float(mass[grid[:, j] < -1e-9].sum() + mass[grid[:, j].abs() < 1e-9].sum() / 2)
        sd = math.sqrt(expected * (1 - expected) / len(z))
        assert abs(float((z[:, j] < 0).double().mean()) - expected) < 4.5 * sd + 2e-3  # 8 checks: false alarm 6e-5


def test_a_mixture_of_weights_that_do_not_sum_to_one_is_seen():
    # the control of the test above: logits taken for log-weights
    components = dist.Normal(torch.randn(3, 2, **WIDE), 1.0).to_event(1)
    assert integral(FiniteMixture(torch.zeros(3, **WIDE), components)) == pytest.approx(3.0, abs=1e-6)


def test_a_mixture_is_scipys_and_has_its_moments():
    torch.manual_seed(0)
    part = moved(pyrovae.MixturePrior(2, num_components=3).double())
    p, z = part(), torch.randn(4, 6, 2, **WIDE)
    weights, loc = part.logits.softmax(0).detach().numpy(), part.loc.detach().numpy()
    scale = p.components.stddev.detach().numpy()
    density = sum(
        w * stats.multivariate_normal(m, np.diag(s**2)).pdf(z) for w, m, s in zip(weights, loc, scale, strict=True)
    )
    assert np.allclose(p.log_prob(z).detach(), np.log(density), atol=1e-10)
    with torch.no_grad():
        assert np.allclose(p.log_prob(z), np.log(density), atol=1e-10)  # a part at a time
    draws = p.sample((20_000,))
    assert ((draws.mean(0) - p.mean).abs() < 4.5 * (p.variance / 20_000).sqrt()).all()
    assert torch.allclose(draws.var(0), p.variance, rtol=0.06)
    assert p.expand((4, 6)).log_prob(z).shape == (4, 6) and p.expand((5,)).sample().shape == (5, 2)


def test_many_codes_are_scored_in_parts(monkeypatch):
    p = moved(pyrovae.MixturePrior(2, num_components=3))()
    z = torch.randn(50, 7, 2)
    whole = p.log_prob(z).detach()
    monkeypatch.setattr("pyrovae.models.finite_mixture.TOGETHER", 60)
    with torch.no_grad():
        assert torch.allclose(p.log_prob(z), whole, atol=1e-5)
        assert p.sample((50, 7)).shape == z.shape


def test_the_flow_starts_as_the_standard_normal_and_knows_its_density_by_the_change_of_variables():
    torch.manual_seed(0)
    z = torch.randn(5, 3)
    assert torch.allclose(pyrovae.FlowPrior(3)().log_prob(z), pyrovae.StandardNormal(3)().log_prob(z), atol=1e-5)
    p = moved(pyrovae.FlowPrior(3).double())()
    noise = torch.randn(3, **WIDE)

    def push(e):
        for transform in p.transforms:
            e = transform(e)
        return e

    log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(push, noise))[1]
    expected = dist.Normal(torch.zeros(3, **WIDE), 1.0).log_prob(noise).sum() - log_det
    assert torch.allclose(p.log_prob(push(noise).detach().clone()), expected, atol=1e-9)


# the VampPrior --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_a_vamp_prior_is_the_mean_of_the_posteriors_at_its_pseudo_inputs(posterior):
    pair = moved(pair_of(posterior, "vamp(num_components=4)").double())
    z = torch.randn(6, 2, **WIDE)
    by_hand = torch.stack([pair.posterior(u[None]).log_prob(z) for u in pair.prior.pseudo_inputs])
    assert torch.allclose(pair.prior().log_prob(z), by_hand.logsumexp(0) - math.log(4), atol=1e-9)
    torch.manual_seed(0)
    draws = pair.prior().sample((4000,))
    means = torch.stack([pair.posterior(u[None]).sample((1000,)).mean((0, 1)) for u in pair.prior.pseudo_inputs])
    assert ((draws.mean(0) - means.mean(0)).abs() < 6 * draws.std(0) / 1000**0.5).all()


def test_pseudo_inputs_are_trained_and_so_is_the_encoder_through_them():
    pair = pair_of("diagonal", "vamp(num_components=4)")
    z = torch.randn(6, 2)
    gradients = torch.autograd.grad(
        pair.prior().log_prob(z).sum(), [pair.prior.raw, pair.posterior.loc.weight, pair.posterior.raw_log_scale.bias]
    )
    assert all(gradient.any() for gradient in gradients)


def test_the_posterior_is_the_pairs_own_and_counted_once():
    pair = pair_of("diagonal", "vamp(num_components=4)")
    names = [name for name, _ in pair.named_parameters()]
    assert [name for name in names if name.startswith("prior")] == ["prior.raw"]
    assert set(pair.prior.state_dict()) == {"raw"}


def test_a_copy_has_a_prior_of_its_own_posterior(tmp_path):
    pair, z = pair_of("full", "vamp(num_components=4)"), torch.randn(6, 2)
    value = pair.prior().log_prob(z).detach()
    pyrovae.save(tmp_path / "state", pair)
    loaded = pyrovae.load(tmp_path / "state")
    copies = [copy.deepcopy(pair), pickle.loads(pickle.dumps(pair)), doubled(pair), loaded]
    copies.append(pyrovae.load(tmp_path / "state", like=moved(copy.deepcopy(pair))))
    with torch.no_grad():
        for parameter in pair.posterior.parameters():
            parameter.add_(1.0)
    assert not torch.allclose(pair.prior().log_prob(z), value, atol=0.1)  # control: the prior follows its posterior
    for other in copies:
        dtype = next(other.parameters()).dtype
        assert torch.allclose(other.prior().log_prob(z.to(dtype)).float(), value, atol=1e-4)
        with torch.no_grad():
            other.posterior.loc.bias.add_(5.0)
        assert not torch.allclose(other.prior().log_prob(z.to(dtype)).float(), value, atol=0.1)


def test_pyros_own_svi_trains_the_pair_with_its_prior():
    pair, x = pair_of("diagonal", "vamp(num_components=4)"), items(40)
    before = {name: p.detach().clone() for name, p in pair.named_parameters()}
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO())
    svi.step(x)
    assert all(not torch.equal(p, before[name]) for name, p in pair.named_parameters())


@pytest.mark.parametrize(
    ("likelihood", "low", "high"),
    [("bernoulli", 0, 1), ("continuous_bernoulli", 0, 1), ("poisson", 0, math.inf), ("normal", -math.inf, math.inf)],
)
def test_pseudo_inputs_stay_in_the_support(likelihood, low, high):
    pair = pair_of("diagonal", "vamp(num_components=4)", likelihood=likelihood)
    with torch.no_grad():
        pair.prior.raw.mul_(100)
    u = pair.prior.pseudo_inputs
    assert bool(((u >= low) & (u <= high)).all()) and u.isfinite().all()
    x = (torch.rand(9, 5) > 0.5).float()
    pair.prior.initialise_from(x)
    u = pair.prior.pseudo_inputs
    distance = (u[:, None] - x).abs().amax(-1).amin(-1)
    assert distance.max() < 0.011  # each is an item, but for a hundredth at the ends
    assert len({tuple(row) for row in u.tolist()}) > 1
    pair.prior.initialise_from(x[:2])  # fewer items than pseudo-inputs
    if math.isfinite(low):
        with pytest.raises(ValueError, match="support"):
            pair.prior.initialise_from(x - 1)


def test_what_a_vamp_prior_cannot_do_is_told():
    prior = pyrovae.VampPrior(2, num_components=3)
    for use in (prior, lambda: prior.pseudo_inputs, lambda: prior.initialise_from(torch.zeros(3, 5))):
        with pytest.raises(ValueError, match="build one first"):
            use()
    pair = pair_of("diagonal", prior)
    assert pyrovae.VAE(prior, pair.likelihood, pair.posterior).prior is prior  # the same posterior
    with pytest.raises(ValueError, match="another pair"):
        pair_of("diagonal", prior)
    with pytest.raises(ValueError, match="num_components"):
        pyrovae.VampPrior(2, num_components=0)
    with pytest.raises(ValueError, match="x must have shape"):
        pair.prior.initialise_from(torch.zeros(3, 4))

    with pytest.raises(ValueError, match="covariates are needed"):
        pair_of("diagonal", "vamp", covariate_dim=2).prior.initialise_from(torch.zeros(3, 5))

    class Sphere(nn.Module):
        support = constraints.simplex

        def forward(self, loc):
            return dist.Normal(loc, 1.0)

    with pytest.raises(ValueError, match="states none"):
        pyrovae.VampPrior(2).bind(pair.posterior, (5,), Sphere.support)


# a VampPrior of a pair given covariates


def given_covariates(posterior="diagonal"):
    """A pair given three covariates, in float64, with items and covariates."""
    pair = pair_of(posterior, "vamp(num_components=4)", covariate_dim=3).double()
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(6, 8, generator=generator, **WIDE)
    return pair, draw[:, :5], draw[:, 5:]


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_each_pseudo_input_has_covariates_of_its_own(posterior):
    pair = moved(given_covariates(posterior)[0])
    z = torch.randn(6, 2, **WIDE)
    prior = pair.prior
    rows = zip(prior.pseudo_inputs, prior.pseudo_covariates, strict=True)
    by_hand = torch.stack([pair.posterior(u[None], covariates=c[None]).log_prob(z) for u, c in rows])
    assert torch.allclose(prior().log_prob(z), by_hand.logsumexp(0) - math.log(4), atol=1e-9)
    for parameter in (prior.raw, prior.pseudo_covariates):
        assert torch.autograd.grad(prior().log_prob(z).sum(), parameter)[0].any()


def test_a_linear_pair_with_a_vamp_prior_is_a_mixture_of_regressions():
    torch.manual_seed(0)
    pair, (_, x, c) = pyrovae.linear_vae(5, 2, covariate_dim=3, prior="vamp(num_components=4)"), given_covariates()
    pair.double()
    found = pyrovae.quadrature(pair, x[:3], covariates=c[:3], tol=1e-8).pointwise["value"].values
    prior, network = pair.prior, pair.likelihood.network
    q = pair.posterior(prior.pseudo_inputs, covariates=prior.pseudo_covariates)
    w = network.weight[:, :2]
    covariance = w * q.variance[0] @ w.T + pair.likelihood.family.scale.square() * torch.eye(5, **WIDE)
    for row, holds in ((c[:3], True), (c[3:], False)):  # the second is a control: covariates of other items
        loc = (q.mean @ w.T)[:, None] + row @ network.weight[:, 2:].T + network.bias
        each = torch.distributions.MultivariateNormal(loc, covariance).log_prob(x[:3])
        error = np.abs(found - (each.logsumexp(0) - math.log(4)).detach().numpy()).max()
        assert error < 1e-8 if holds else error > 1e-2


def test_pseudo_covariates_start_at_those_of_the_items_and_are_kept(tmp_path):
    pair, x, c = given_covariates()
    pair.prior.initialise_from(pyrovae.data.Split(x, None, covariates=c))
    distance = torch.cdist(torch.cat([pair.prior.pseudo_inputs, pair.prior.pseudo_covariates], 1), torch.cat([x, c], 1))
    assert distance.amin(1).max() < 1e-6  # each pseudo-input has the covariates of its own item
    with pytest.raises(ValueError, match=r"covariates must have shape \(6, 3\)"):
        pair.prior.initialise_from(x, covariates=c[:5])
    pyrovae.save(tmp_path / "state", pair)
    z = torch.randn(4, 2, **WIDE)
    assert torch.equal(pyrovae.load(tmp_path / "state").prior().log_prob(z), pair.prior().log_prob(z))


# estimates ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    """A pair of each, fitted for a moment, made when it is first asked for; and what quadrature says of four items."""
    pairs = {}

    def pair(parts):
        if parts not in pairs:
            one = pair_of(*parts)
            how = {"learning_rate": 1e-2, "batch_size": 50, "compile": False, "progress": False}
            pyrovae.fit(one, items(), epochs=4, **how)
            one = one.double()
            pairs[parts] = one, pyrovae.quadrature(one, items()[::50].double(), tol=1e-4)
        return pairs[parts]

    return pair


@pytest.mark.slow
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_weights_have_the_mean_that_quadrature_says(fitted, posterior, prior, monkeypatch):
    # the mean of the weights is exact whatever step sizes a pilot run finds: a short one
    monkeypatch.setattr("pyrovae.evaluation.annealing.PILOT", 10)
    monkeypatch.setattr("pyrovae.evaluation.annealing.SETTLING", 5)
    pair, truth = fitted((posterior, prior))
    truth, x = truth.pointwise["value"].values, items()[::50].double()
    # each item several times, with draws of its own
    for estimate, times in (
        (pyrovae.iwae(pair, x.repeat(80, 1), num_particles=200), 80),
        (
            pyrovae.ais(pair, x.repeat(20, 1), base="guide", num_chains=8, num_steps=5, num_leapfrog=2, progress=False),
            20,
        ),
    ):
        ratio = np.exp(estimate.pointwise["value"].values.reshape(times, 4) - truth).ravel()
        error = ratio.std(ddof=1) / len(ratio) ** 0.5
        assert error < 0.1
        # 24 checks at 4 standard errors: false alarm 2e-3
        assert abs(ratio.mean() - 1) < 4 * error, (estimate.kind, ratio.mean(), error)
        assert abs(1.5 * ratio.mean() - 1) > 4 * 1.5 * error  # control: 0.4 nats too many


@pytest.mark.slow
@pytest.mark.parametrize("parts", RICHER)
def test_everything_else_takes_the_pair(fitted, parts, monkeypatch):
    monkeypatch.setattr("pyrovae.evaluation.annealing.PILOT", 10)
    monkeypatch.setattr("pyrovae.evaluation.annealing.SETTLING", 5)
    pair, truth = fitted(parts)
    x = items()[::50].double()
    lower, upper = pyrovae.bdmc(pair, 4, num_steps=5, num_chains=4, progress=False)
    assert (upper - lower).mean > -4 * (upper - lower).se_items
    ledger = pyrovae.gaps(pair, x, truth, max_steps=50, num_evaluation=100, progress=False)
    value, error = ledger.mean("gap")
    assert value > -4 * error and np.isfinite(value)
    assert pyrovae.calibrate(pair, num_simulations=50).pointwise.sizes["simulation"] == 50
    assert pyrovae.to_arviz(pair, x, num_draws=5)["posterior"]["latent"].shape == (1, 5, 4, 2)
    holed = x.clone()
    holed[:, 1] = torch.nan
    draws = pair.impute(holed, num_draws=3, num_steps=20)
    assert draws.isfinite().all() and torch.equal(draws[0][:, 0], x[:, 0])
    split = pyrovae.data.Split(items().double(), None)
    survey = pyrovae.code_space(pair, split, pyrovae.data.Split(x, None), num_codes=200, num_pairs=5)
    bound = pyrovae.elbo(pair, x, num_particles=300)
    both = 5 * (bound.se + float(survey.get("rate_monte_carlo_se", 0.0)))
    assert float(survey.rate) == pytest.approx(float(bound.pointwise["rate"].mean()), abs=0.05 + both)
    assert {"mutual_information", "kl_aggregate"} <= set(survey)


@pytest.mark.slow
def test_warm_up_and_importance_weighting_train_each():
    x = items(40)
    for posterior, prior in (("flow", PRIORS[2]), ("full", "flow")):
        for options in ({"warmup": 1}, {"objective": "iwae", "num_particles": 3}):
            pair = pair_of(posterior, prior)
            history = pyrovae.fit(pair, x, epochs=2, compile=False, progress=False, **options)
            assert np.isfinite(history.epochs["loss"].values).all()


def test_each_name_is_registered():
    assert {"standard", "mixture", "vamp", "flow"} <= set(registered("prior"))
    assert {"diagonal", "full", "flow"} <= set(registered("posterior"))
