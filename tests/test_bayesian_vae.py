"""A distribution over a decoder's weights: its ELBO in closed form, and its KL term once for all items."""

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch.distributions import Normal, kl_divergence

import pyrovae
from pyrovae.models.bayesian_vae import BayesianVAE
from pyrovae.seeding import stream


def linear(prior_scale=0.7):
    torch.manual_seed(0)
    return BayesianVAE(pyrovae.linear_vae(3, 2).double(), prior_scale=prior_scale, initial_scale=0.3)


def closed_form(pair, x, total):
    """KL(q(W) || p(W)) - N / B sum over the batch of E_q[log p(x | z, W)] - KL(q(z | x) || p(z))."""
    vae = pair.vae
    network, noise = vae.likelihood.network, vae.likelihood.family.scale
    variances = [log_scale.exp().square() for log_scale in pair.log_scales]
    weight, bias = network.weight, network.bias
    of_weight = kl_divergence(Normal(weight, variances[0].sqrt()), Normal(0.0, pair.prior_scale)).sum()
    of_weight = of_weight + kl_divergence(Normal(bias, variances[1].sqrt()), Normal(0.0, pair.prior_scale)).sum()
    q = vae.posterior(x)
    loc, variance = q.mean, q.variance
    residual = (x - loc @ weight.T - bias).square()
    spread = variance @ weight.square().T + (loc.square() + variance) @ variances[0].T + variances[1]
    likelihood = (-0.5 * torch.log(2 * torch.pi * noise**2) - (residual + spread) / (2 * noise**2)).sum(-1)
    of_codes = kl_divergence(Normal(loc, variance.sqrt()), Normal(0.0, 1.0)).sum(-1)
    return (of_weight - total / len(x) * (likelihood - of_codes).sum()).detach()


@pytest.mark.slow
def test_the_elbo_of_a_batch_is_the_closed_form_with_the_weights_counted_once():
    """1,000 draws, within 4 standard errors: a false alarm once in 16,000 runs; the control scales the KL term too."""
    pair, x = linear(), torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.tensor([Trace_ELBO().loss(pair.model, pair.guide, x, total=20) for _ in range(1000)])
    error = draws.std() / 1000**0.5
    assert abs(draws.mean() - closed_form(pair, x, 20)) < 4 * error
    assert abs(draws.mean() - 4 * closed_form(pair, x, 5)) > 4 * error


def test_fit_moves_locations_and_scales_and_draws_are_pairs_that_estimators_take():
    x = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pair = linear()
    before = {name: value.clone() for name, value in pair.named_parameters()}
    history = pyrovae.fit(pair, x, epochs=20, batch_size=10, learning_rate=0.02, progress=False, compile=False)
    assert all(not torch.equal(value, before[name]) for name, value in pair.named_parameters())
    assert float(history.epochs["loss"][-1]) < float(history.epochs["loss"][0])
    one, other = pair.draw(0), pair.draw(1)
    assert pyrovae.exact(one, x).mean != pyrovae.exact(other, x).mean
    table = pair.log_likelihood(x, num_draws=3, evidence=pyrovae.exact)
    assert table.shape == (3, 40) and bool(table.isfinite().all())
    for options in ({"validation": x}, {"num_particles": 2}):
        with pytest.raises(ValueError, match="not for a BayesianVAE"):
            pyrovae.fit(pair, x, epochs=1, progress=False, **options)
    with pytest.raises(ValueError, match="integrates out one code per item, and a BayesianVAE has draws of its param"):
        pyrovae.iwae(pair, x)


@pytest.mark.slow
def test_the_export_has_the_weights_draws_and_the_likelihood_of_each_item_at_each_of_them():
    """The moments of 400 draws are the guide's within 5 standard errors (9 weights: a false alarm in 100,000 runs)."""
    az = pytest.importorskip("arviz")
    pair, x = linear(), torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tree = pyrovae.to_arviz(pair, x, y=list("aabbcc"), num_draws=400, evidence=pyrovae.exact, seed=3)
    weight, q = tree["posterior"]["weight.weight"], pair.guide_of_weights()["weight"]
    assert weight.dims == ("chain", "draw", "weight_axis_0", "weight_axis_1")
    z = (weight.values[0].mean(0) - q.mean.detach().numpy()) / (q.stddev.detach().numpy() / 400**0.5)
    assert abs(z).max() < 5 and abs(weight.values[0].std(0) / q.stddev.detach().numpy() - 1).max() < 5 / 800**0.5
    table = tree["log_likelihood"]["obs"]
    assert table.dims == ("chain", "draw", "item") and table.attrs["units"] == "nats"
    by_hand = pair.log_likelihood(x, evidence=pyrovae.exact, num_draws=2, seed=3)
    assert torch.equal(torch.from_numpy(table.values[0, :2].copy()), by_hand)
    # the weights that are exported are those of the likelihood
    vae = pair.draw(0)
    for name, parameter in vae.likelihood.network.named_parameters():
        parameter.data = torch.from_numpy(tree["posterior"][f"weight.{name}"].values[0, 5].copy())
    expected = pyrovae.exact(vae, x).pointwise["value"].values
    assert abs(expected - table.values[0, 5]).max() < 1e-10 < abs(expected - table.values[0, 4]).max()
    assert tree["posterior_predictive"]["obs"].shape == (1, 400, 6, 3)
    assert az.loo(tree).n_data_points == 6
    with pytest.raises(TypeError, match="evidence of a BayesianVAE must be an estimator"):
        pyrovae.to_arviz(pair, x, evidence=pyrovae.elbo(pair.draw(0), x))


def test_what_has_no_decoder_of_weights_is_named():
    with pytest.raises(TypeError, match="vae must be a VAE whose likelihood is a Likelihood"):
        BayesianVAE(pyrovae.GaussianMixture((2,), 2))
    with pytest.raises(ValueError, match="prior_scale"):
        BayesianVAE(pyrovae.linear_vae(3, 1), prior_scale=-1.0)


def of_covariates():
    """A pair given two covariates, with 40 items whose means are a function of these."""
    torch.manual_seed(0)
    c = torch.randn(40, 2, dtype=torch.float64)
    x = c @ torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 1.0]], dtype=torch.float64) + 0.1 * torch.randn(40, 3).double()
    pair = BayesianVAE(pyrovae.linear_vae(3, 2, covariate_dim=2, prior="conditional").double(), initial_scale=0.1)
    return pair, pyrovae.data.Split(x, list("ab" * 20), covariates=c)


@pytest.mark.slow
def test_a_fit_given_covariates_finds_their_coefficients():
    pair, items = of_covariates()
    pyrovae.fit(pair, items, epochs=300, batch_size=20, learning_rate=0.03, progress=False, compile=False)
    wanted = torch.linalg.lstsq(items.covariates, items.x).solution.T
    assert (pair.vae.likelihood.network.weight[:, 2:] - wanted).abs().max() < 0.3


def test_draws_of_weights_take_covariates_and_are_scored_with_them():
    pair, items = of_covariates()
    table = pair.log_likelihood(items, num_draws=2, evidence=pyrovae.exact)
    for row, seed in zip(table, (stream(0, "draw", 0), stream(0, "draw", 1)), strict=True):
        assert (row.numpy() == pyrovae.exact(pair.draw(seed), items).pointwise["value"].values).all()
    other = pair.log_likelihood(items.x, covariates=items.covariates.flip(0), num_draws=2, evidence=pyrovae.exact)
    assert (table - other).abs().max() > 0.1  # the control: covariates of other items
    # ELBO of the model and guide, by Pyro, at the weights' locations: q(W) is nearly a point
    with torch.no_grad():
        for scale in pair.log_scales:
            scale.fill_(-20.0)
    torch.manual_seed(0)
    traced = poutine.trace(pair.guide).get_trace(items.x, covariates=items.covariates)
    model = poutine.trace(poutine.replay(pair.model, traced)).get_trace(items.x, covariates=items.covariates)
    log_p = model.nodes["obs"]["fn"].log_prob(items.x)
    z = traced.nodes["latent"]["value"]
    expected = pair.vae.likelihood(z, covariates=items.covariates).log_prob(items.x)
    assert torch.allclose(log_p, expected, atol=1e-6)
    with pytest.raises(ValueError, match="covariates are needed"):
        pyrovae.fit(pair, items.x, epochs=1, progress=False)


@pytest.mark.slow
def test_the_export_has_the_covariates():
    pytest.importorskip("arviz")
    pair, items = of_covariates()
    tree = pyrovae.to_arviz(pair, items, num_draws=3, evidence=pyrovae.exact, seed=3)
    assert (tree["constant_data"]["covariates"].values == items.covariates.numpy()).all()
    assert list(tree["constant_data"]["label"].values[:2]) == ["a", "b"]
    by_hand = pair.log_likelihood(items, evidence=pyrovae.exact, num_draws=3, seed=3)
    assert torch.equal(torch.from_numpy(tree["log_likelihood"]["obs"].values[0].copy()), by_hand)
