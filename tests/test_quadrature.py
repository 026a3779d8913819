"""Quadrature against the closed form, against a fixed grid of its own, and its stated error against finer ones."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import linear_parts, needs_compiler
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import nn
from torch.distributions import MultivariateNormal

import pyrovae
from pyrovae.compile import function
from pyrovae.evaluation import cell_rule
from pyrovae.evaluation import quadrature as module


def linear(dim, scale, seed=0):
    torch.manual_seed(seed)
    pair = pyrovae.linear_vae(6, dim, likelihood=pyrovae.Normal(scale=scale)).double()
    with torch.no_grad():
        pair.likelihood.network.weight.normal_()
    return pair


def decoder(activation="softplus", likelihood="bernoulli", seed=0, **options):
    """A VAE over 12 pixels whose posteriors are curved, and some of its own items."""
    torch.manual_seed(seed)
    vae = pyrovae.mlp_vae((4, 3), 2, hidden_dims=(8,), activation=activation, likelihood=likelihood, **options).double()
    with torch.no_grad():
        for parameter in vae.likelihood.network.parameters():
            parameter.mul_(4)
    return vae, vae.sample(12, seed=1)


def grid_log_prob(vae, x, points, half=8.0):
    """The trapezoid rule on a fixed grid: spectrally accurate where the integrand is smooth and ends within it."""
    axis = torch.linspace(-half, half, points, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        table = torch.cat(
            [vae.likelihood(part[:, None]).log_prob(x) + vae.prior().log_prob(part)[:, None] for part in z.split(4096)]
        )
    return (table.logsumexp(0) + 2 * math.log(2 * half / (points - 1))).numpy()


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("scale", [0.7, 0.03])
def test_linear_pairs_have_their_closed_form_and_posterior(dim, scale):
    pair, x = linear(dim, scale), 2 * torch.randn(9, 6, generator=torch.Generator().manual_seed(1)).double()
    found, exact = pyrovae.quadrature(pair, x, tol=1e-9), pyrovae.exact(pair, x)
    # of the log-density's own rounding: its terms are up to 1e5 nats at scale 0.03
    assert np.abs((found - exact).pointwise.value.values).max() < 1e-8
    assert found.pointwise.se.values.max() < 1e-9
    w, mu = pair.likelihood.network.weight.detach(), pair.likelihood.network.bias.detach()
    m = w.T @ w + scale**2 * torch.eye(dim)
    mean = torch.linalg.solve(m, w.T @ (x - mu).T).T
    assert np.allclose(found.pointwise.posterior_mean.values, mean, atol=1e-7)
    assert np.allclose(found.pointwise.posterior_covariance.values, scale**2 * torch.linalg.inv(m), atol=1e-8)


def test_smooth_decoders_agree_with_two_fixed_grids():
    vae, x = decoder()
    coarse, fine = grid_log_prob(vae, x, 401), grid_log_prob(vae, x, 801)
    assert np.abs(coarse - fine).max() < 1e-10
    found = pyrovae.quadrature(vae, x, tol=1e-9)
    assert np.abs(found.pointwise.value.values - fine).max() < 1e-8


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli", pyrovae.Normal(scale=0.4)])
def test_the_stated_error_covers_the_difference_to_a_far_finer_one(likelihood):
    vae, x = decoder("leaky_relu", likelihood)
    found, finer = pyrovae.quadrature(vae, x, tol=1e-3), pyrovae.quadrature(vae, x, tol=3e-5)
    error = np.abs((found - finer).pointwise.value.values)
    assert (error <= found.pointwise.se.values).all()
    assert found.pointwise.se.values.max() < 1e-3


def test_codes_far_from_the_prior_are_inside():
    # the item's posterior lies 8 prior standard deviations out, and the encoder does not know of it
    pair = linear(2, 0.5)
    x = pair.decode(torch.tensor([[8.0, -6.0]], dtype=torch.float64)).detach()
    assert abs((pyrovae.quadrature(pair, x, tol=1e-8) - pyrovae.exact(pair, x)).mean) < 1e-7


def test_a_posterior_narrower_than_the_first_cells_is_found_by_the_guide():
    pair = linear(2, 1e-3)
    x = pair.sample(5, seed=0)
    assert np.abs((pyrovae.quadrature(pair, x) - pyrovae.exact(pair, x)).pointwise.value.values).max() < 1e-4


class Folded(torch.nn.Module):
    """A decoder that sees of its first coordinate only the square of its distance from `centre`."""

    def __init__(self, centre, weight):
        super().__init__()
        self.centre, self.weight = centre, torch.nn.Parameter(weight)

    def forward(self, z):
        return torch.cat([(z[..., :1] - self.centre).square(), z[..., 1:]], -1) @ self.weight


def folded(dim, scale, seed):
    """A pair with two modes an item, an item, and an encoder that knows one of them."""
    torch.manual_seed(seed)
    pair = pyrovae.linear_vae(4, dim, likelihood=pyrovae.Normal(scale=scale)).double()
    pair.likelihood.network = Folded(0.3 * torch.randn(1).double(), torch.randn(dim, 4).double())
    z = torch.randn(1, dim).double()
    with torch.no_grad():
        pair.posterior.loc.weight.zero_()
        pair.posterior.loc.bias.copy_(z[0])
        pair.posterior.raw_log_scale.fill_(math.log(scale))
        return pair, pair.decode(z), z


def around_both_modes(pair, x, z, scale):
    """log p(x) by the trapezoid rule in each mode's own axes, 8 standard deviations either way; NaN where they meet."""
    centre, weight = pair.likelihood.network.centre, pair.likelihood.network.weight.detach()
    points = 4001 if z.shape[1] == 1 else 201
    unit = torch.cartesian_prod(*[torch.linspace(-8, 8, points).double()] * z.shape[1]).reshape(-1, z.shape[1])
    found = []
    for mode in (z, torch.cat([2 * centre - z[:, :1], z[:, 1:]], -1)):
        slope = weight.clone()
        slope[0] *= 2 * (mode[0, 0] - centre)
        precision = slope @ slope.T / scale**2 + torch.eye(z.shape[1]).double()
        axes = torch.linalg.cholesky(torch.linalg.inv(precision))
        if 8 * axes[0].norm() > (mode[0, 0] - centre).abs():
            return math.nan  # the modes touch: their mass would be counted twice
        nodes = mode + unit @ axes.T
        with torch.no_grad():
            log_joint = pair.likelihood(nodes).log_prob(x) + pair.prior().log_prob(nodes)
        found.append(log_joint.logsumexp(0) + z.shape[1] * math.log(16 / (points - 1)) + axes.diagonal().log().sum())
    return float(torch.stack(found).logsumexp(0))


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "scale"), [(1, 0.02), (1, 0.002), (2, 0.02), (2, 0.01), (2, 0.003)])
def test_narrow_modes_that_the_encoder_does_not_know_are_counted(dim, scale):
    # 12 decoders; a mode left out would cost 0.7 nats
    seen = 0
    for seed in range(12):
        pair, x, z = folded(dim, scale, seed)
        expected = around_both_modes(pair, x, z, scale)
        if not math.isnan(expected):
            found = pyrovae.quadrature(pair, x)
            assert abs(found.mean - expected) < max(2 * float(found.pointwise.se[0]), 1e-4), seed
            seen += 1
    assert seen >= 6


def test_a_guide_far_wider_than_the_prior_and_far_from_it():
    pair = linear(2, 0.5)
    with torch.no_grad():
        pair.posterior.loc.bias.fill_(50.0)
        pair.posterior.raw_log_scale.fill_(10 * math.atanh(math.log(20.0) / 10))
    x = pair.sample(3, seed=0)
    assert np.abs((pyrovae.quadrature(pair, x, tol=1e-8) - pyrovae.exact(pair, x)).pointwise.value.values).max() < 1e-7


def test_mass_that_still_leaves_the_grid_is_said():
    # the item's code lies 40 prior standard deviations out, the encoder is at 0: the grid grows, and is stopped
    pair = linear(1, 0.5)
    x = pair.decode(torch.tensor([[40.0]], dtype=torch.float64)).detach()
    with torch.no_grad():
        pair.posterior.loc.weight.zero_()
    with pytest.warns(RuntimeWarning, match="1 of 1 items have an error over tol"):
        stopped = pyrovae.quadrature(pair, x, max_evaluations=1000)
    assert stopped.se == math.inf
    assert abs((pyrovae.quadrature(pair, x) - pyrovae.exact(pair, x)).mean) < 1e-4


def test_other_priors():
    class Positive(torch.nn.Module):
        def forward(self):
            return pyro.distributions.Gamma(torch.tensor([3.0]).double(), torch.tensor([1.0]).double()).to_event(1)

    class Switch(torch.nn.Module):
        def forward(self):
            return pyro.distributions.Bernoulli(0.5 * torch.ones(1).double()).to_event(1)

    pair = linear(1, 0.5)
    x = pair.sample(3, seed=0)
    pair.prior = Positive()
    z = torch.linspace(1e-6, 40, 2_000_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        log_joint = pair.likelihood(z[:, None]).log_prob(x) + pair.prior().log_prob(z)[:, None]
    expected = (log_joint.logsumexp(0) + math.log(40 / 2_000_000)).numpy()
    assert np.abs(pyrovae.quadrature(pair, x, tol=1e-6).pointwise.value.values - expected).max() < 1e-5

    class HeavyTailed(torch.nn.Module):
        def forward(self):
            return pyro.distributions.Cauchy(torch.zeros(2).double(), 1.0).to_event(1)

    wide = linear(2, 0.5)
    wide.prior = HeavyTailed()
    with pytest.raises(ValueError, match=r"the first grid .* nodes and max_evaluations is 4,000,000"):
        pyrovae.quadrature(wide, x)
    pair.prior = Switch()
    for call in (pyrovae.quadrature, pyrovae.ais):
        with pytest.raises(ValueError, match="needs a continuous code"):
            call(pair, x)


def test_a_decoder_without_a_value_where_the_prior_has_mass():
    class Broken(torch.nn.Module):
        def forward(self, z):
            return z.log().expand(*z.shape[:-1], 6)

    pair = linear(1, 0.5)
    x = pair.sample(2, seed=0)
    pair.likelihood.network = Broken()
    with pytest.warns(RuntimeWarning, match="the decoder gives NaN where the prior has mass"):
        found = pyrovae.quadrature(pair, x)
    assert np.isnan(found.pointwise.value.values).all()


def test_many_values_are_taken_in_parts(monkeypatch):
    from pyrovae.evaluation import quadrature as module

    vae, x = decoder()
    whole = pyrovae.quadrature(vae, x)
    monkeypatch.setattr(module, "MAX_VALUES", 100_000)
    parts = pyrovae.quadrature(vae, x)
    assert np.abs((whole - parts).pointwise.value.values).max() < 2e-4
    assert parts.pointwise.attrs["decodings"] > whole.pointwise.attrs["decodings"]


def test_items_share_a_grid_and_change_each_other_by_less_than_their_errors():
    vae, x = decoder("leaky_relu")
    together, alone = pyrovae.quadrature(vae, x), pyrovae.quadrature(vae, x[:1])
    difference = abs(float(together.pointwise.value[0] - alone.pointwise.value[0]))
    assert difference <= float(together.pointwise.se[0] + alone.pointwise.se[0])


def test_a_correlated_prior():
    from pyrovae.models.density import GaussianPrior

    pair = linear(2, 0.5)
    pair.prior = GaussianPrior(torch.tensor([3.0, -1.0]).double(), torch.tensor([[4.0, 1.9], [1.9, 1.0]]).double())
    x = pair.sample(5, seed=0)
    exact = pyrovae.exact(pair, x)
    w, mu = pair.likelihood.network.weight.detach(), pair.likelihood.network.bias.detach()
    p = pair.prior()
    full = MultivariateNormal(w @ p.mean + mu, w @ p.covariance_matrix @ w.T + 0.25 * torch.eye(6))
    assert np.allclose(exact.pointwise.value.values, full.log_prob(x), atol=1e-10)
    assert np.abs((pyrovae.quadrature(pair, x, tol=1e-8) - exact).pointwise.value.values).max() < 1e-8


def test_what_is_refused_and_what_is_warned_of():
    with pytest.raises(ValueError, match=r"codes of 1 or 2 dimensions, this pair's has 3: take ais"):
        pyrovae.quadrature(pyrovae.linear_vae(5, 3), torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"quadrature needs a p\(x\), and AE has none"):
        pyrovae.quadrature(pyrovae.mlp_ae((3,)), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="grey values"):
        pyrovae.quadrature(pyrovae.mlp_vae((3,)), torch.full((1, 3), 0.5))
    with pytest.raises(ValueError, match="tol must be a finite number greater than 0"):
        pyrovae.quadrature(pyrovae.mlp_vae((3,)), torch.zeros(1, 3), tol=0)
    vae, x = decoder("leaky_relu")
    with pytest.warns(RuntimeWarning, match=r"12 of 12 items .* over tol=1e-12 .* raise max_evaluations \(40,000\)"):
        pyrovae.quadrature(vae, x, tol=1e-12, max_evaluations=40_000)


def test_the_callers_generator_and_modes_are_left_alone():
    vae, x = decoder()
    vae.train()
    before = torch.random.get_rng_state()
    pyrovae.quadrature(vae, x[:2])
    assert torch.equal(before, torch.random.get_rng_state())
    assert vae.training


@pytest.mark.slow
def test_a_decoder_of_784_pixels_agrees_with_two_fixed_grids():
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((1, 28, 28), 2, hidden_dims=(50,)).double()
    with torch.no_grad():
        for parameter in vae.likelihood.network.parameters():
            parameter.mul_(1.5)
    x = vae.sample(4, seed=1)
    coarse, fine = (grid_log_prob(vae, x, points, half=5.0) for points in (121, 241))
    assert np.abs(coarse - fine).max() < 1e-8
    found = pyrovae.quadrature(vae, x, tol=1e-9)
    assert np.abs(found.pointwise.value.values - fine).max() < 1e-8
    sd = np.sqrt(np.diagonal(found.pointwise.posterior_covariance.values, axis1=1, axis2=2)).min()
    assert 0.8 * 10 / 120 < sd < 0.5  # the oracle's own condition, and the items say something of their codes


@pytest.fixture(scope="module")
def trained():
    """A VAE trained on digits, 20 test items, and their log p(x)."""
    digits = pyrovae.data.load("digits")
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((1, 8, 8), 2, hidden_dims=(32,))
    pyrovae.fit(vae, digits.train.x, binarize=True, epochs=30, learning_rate=5e-3, progress=False)
    vae = vae.double().requires_grad_(False)
    x = pyrovae.data.binarize(digits.test.x[:20]).double()
    return vae, x, pyrovae.quadrature(vae, x, tol=1e-6)


def modes(vae, x, points=161, half=4.0):
    """How many local maxima within 10 nats of the highest each item's posterior has on a grid."""
    axis = torch.linspace(-half, half, points, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        table = vae.likelihood(z[:, None]).log_prob(x) + vae.prior().log_prob(z)[:, None]
    table = table.T.reshape(len(x), 1, points, points)
    highest = table == torch.nn.functional.max_pool2d(table, 3, stride=1, padding=1)
    near = table > table.amax((-1, -2), keepdim=True) - 10
    return (highest & near).sum((1, 2, 3))


@pytest.mark.long
def test_nuts_finds_the_moments_of_the_posterior(trained, record_property):
    # 20 items, 2 means and 3 second moments each, within 4 Monte Carlo standard errors: false alarm 100 x 6e-5
    vae, x, found = trained
    chains = []
    for seed in range(4):
        pyro.set_rng_seed(seed)
        mcmc = MCMC(NUTS(vae.model, max_tree_depth=6), num_samples=500, warmup_steps=200, disable_progbar=True)
        mcmc.run(x)
        chains.append(mcmc.get_samples()["latent"])
    z = torch.stack(chains)  # (4, 500, 20, 2)
    rhat = split_gelman_rubin(z).amax(-1)
    unmixed = torch.nonzero(rhat >= 1.01).flatten().tolist()
    multimodal = torch.nonzero(modes(vae, x) > 1).flatten().tolist()
    record_property("items with more than one mode", multimodal)
    record_property("items with R-hat of 1.01 or more", unmixed)
    assert set(unmixed) <= set(multimodal)
    mean = torch.as_tensor(found.pointwise.posterior_mean.values)
    covariance = torch.as_tensor(found.pointwise.posterior_covariance.values)
    centred = z - mean
    products = centred[..., :, None] * centred[..., None, :]
    mixed = [i for i in range(20) if i not in unmixed]
    for draws, truth in ((z, mean), (products, covariance)):
        error = draws.std((0, 1)) / effective_sample_size(draws).sqrt()
        score = ((draws.mean((0, 1)) - truth) / error)[mixed]
        assert float(score.abs().max()) < 4
        assert 0.7 < float(score.square().mean().sqrt()) < 1.4  # and as far off as their errors say
    q = vae.posterior(x)
    off = ((q.mean - mean) / (z.std((0, 1)) / effective_sample_size(z).sqrt()))[mixed]
    assert float(off.abs().max()) > 4  # control: q's own means are not the posterior's


def test_the_kl_from_q_to_the_posterior_is_the_gap(trained):
    # on a product of Gauss-Hermite rules, which knows nothing of the draws: 20 items within 4 se, false alarm 1e-3
    vae, x, found = trained
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(40))
    unit = torch.cartesian_prod(nodes, nodes)
    weight = torch.cartesian_prod(weights, weights).prod(-1) / (2 * math.pi)
    with torch.no_grad():
        q = vae.posterior(x)
        z = q.mean + q.stddev * unit[:, None]
        log_joint = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z)
        log_posterior = log_joint - torch.as_tensor(found.pointwise.value.values)
        kl = (weight[:, None] * (q.log_prob(z) - log_posterior)).sum(0).numpy()
    gap = found - pyrovae.elbo(vae, x, num_particles=2000)
    assert kl.min() > 0.01
    assert (np.abs(gap.pointwise.value.values - kl) < 4 * gap.pointwise.se.values + 1e-6).all()
    ledger = pyrovae.gaps(vae, x, found, progress=False).pointwise
    assert (ledger.approximation > -4 * ledger.approximation_se).all()
    assert (ledger.amortization > -4 * ledger.amortization_se).all()
    assert (np.abs(ledger.gap.values - kl) < 4 * ledger.gap_se.values + 1e-6).all()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])  # by a product of matrices, and item by item
def test_a_compiled_rule_gives_the_eager_integrals(monkeypatch, likelihood):
    vae, x = decoder(likelihood=likelihood)
    monkeypatch.setattr(module, "ITEMS", 5)  # batches of 5, 5 and 2
    monkeypatch.setattr(module, "CHUNK_BYTES", 2**20)
    calls, run, found = [], function.CompiledFunction.__call__, []
    monkeypatch.setattr(
        function.CompiledFunction, "__call__", lambda self, *given: calls.append(self) or run(self, *given)
    )
    for on in (False, True):
        monkeypatch.setattr(cell_rule, "pays", lambda *work, on=on: on)
        found.append(pyrovae.quadrature(vae, x, tol=1e-5))
    assert len(calls) > 5 and len(set(calls)) == 1
    eager, compiled = found
    for name in ("value", "posterior_mean", "posterior_covariance"):
        np.testing.assert_allclose(compiled.pointwise[name], eager.pointwise[name], rtol=1e-9, atol=1e-9)
    assert compiled.pointwise.attrs["decodings"] == eager.pointwise.attrs["decodings"]


def test_a_rule_that_cannot_be_compiled_is_tried_once(monkeypatch, caplog):
    vae, x = decoder()
    monkeypatch.setattr(module, "ITEMS", 4)
    monkeypatch.setattr(cell_rule, "pays", lambda *work: True)
    monkeypatch.setattr(function, "compile_graph", lambda *given, **options: 1 // 0)
    with caplog.at_level("WARNING", logger="pyrovae"):
        pyrovae.quadrature(vae, x, tol=1e-3)
    assert len(caplog.records) == 1 and "runs without a compiled graph" in caplog.text


# tensors that no module lists -------------------------------------------------------------------------


class Held(nn.Module):
    """A normal prior of covariance [[2, 0.6], [0.6, 1]] whose tensors are in a plain attribute, a list or a law."""

    latent_dim = 2

    def __init__(self, how):
        super().__init__()
        self.how = how
        loc, covariance = torch.zeros(2), torch.tensor([[2.0, 0.6], [0.6, 1.0]])
        self.parts = [loc, {"covariance": covariance}]
        self.loc, self.covariance = loc, covariance
        self.law = torch.distributions.MultivariateNormal(loc, covariance)

    def forward(self):
        if self.how == "law":
            return self.law
        if self.how == "list":
            return torch.distributions.MultivariateNormal(self.parts[0], self.parts[1]["covariance"])
        if self.how == "made":  # whenever it is called
            covariance = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float32)
            return torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float32), covariance)
        return torch.distributions.MultivariateNormal(self.loc, self.covariance)


@pytest.mark.parametrize("how", ["attribute", "list", "law", "made"])
def test_a_prior_that_holds_plain_tensors(how):
    torch.manual_seed(0)
    pair = pyrovae.linear_vae(4, 2, likelihood=pyrovae.Normal(scale=0.5))
    pair.prior = Held(how)
    x = torch.randn(3, 4)
    weight, mean, variance = linear_parts(pair)
    covariance = weight @ torch.tensor([[2.0, 0.6], [0.6, 1.0]]).double() @ weight.T + variance * torch.eye(4).double()
    wanted = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x.double()).numpy()
    assert pyrovae.quadrature(pair, x, tol=1e-8).pointwise.value.values == pytest.approx(wanted, abs=1e-7)
    assert pyrovae.exact(pair, x).pointwise.value.values == pytest.approx(wanted, abs=1e-7)
    assert pair.prior.loc.dtype == pair.prior.law.loc.dtype == torch.tensor(0.0).dtype  # the caller's are as they were


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("how", ["attribute", "list", "law", "made"])
def test_a_pair_in_float64_whose_prior_stayed_in_float32(how):
    # pair.double() reaches no tensor that is neither a parameter nor a buffer
    torch.manual_seed(0)
    pair = pyrovae.linear_vae(4, 2, likelihood=pyrovae.Normal(scale=0.5))
    pair.prior = Held(how)
    pair.double()
    x = torch.randn(3, 4, dtype=torch.float64)
    wanted = pyrovae.exact(pair, x).pointwise.value.values
    assert pyrovae.quadrature(pair, x, tol=1e-8).pointwise.value.values == pytest.approx(wanted, abs=1e-7)
    assert pair.prior.loc.dtype == pair.prior.law.loc.dtype == torch.float32


class ByHand(nn.Module):
    """A factor analyser on Pyro alone, whose prior is made of numbers, or of float32 tensors, in the model's code."""

    event_shape, latent_dim, is_normalized = (4,), 1, True

    def __init__(self, how):
        super().__init__()
        self.decoder, self.encoder, self.how = nn.Linear(1, 4), nn.Linear(4, 1), how

    def prior(self):
        if self.how == "numbers":
            return dist.Normal(0.5, 2.0).expand([1]).to_event(1)
        return dist.Normal(torch.full((1,), 0.5), torch.full((1,), 2.0)).to_event(1)

    def model(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("latent", self.prior())
            return pyro.sample("obs", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            return pyro.sample("latent", dist.Normal(self.encoder(x), 1.5).to_event(1))


@pytest.mark.parametrize("how", ["numbers", "tensors"])
def test_a_model_by_hand_whose_prior_is_made_in_its_code(how):
    torch.manual_seed(0)
    pair, x = ByHand(how), torch.randn(3, 4)
    weight, offset = pair.decoder.weight.double().detach(), pair.decoder.bias.double().detach()
    covariance = 4.0 * weight @ weight.T + torch.eye(4).double()
    law = torch.distributions.MultivariateNormal(offset + 0.5 * weight[:, 0], covariance)
    found = pyrovae.quadrature(pair, x, tol=1e-7).pointwise.value.values
    assert found == pytest.approx(law.log_prob(x.double()).numpy(), abs=1e-6)
    assert pair.model.__func__ is ByHand.model  # the caller's pair is as it was


def test_a_prior_that_gives_a_distribution_made_outside_of_it():
    law = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float32), torch.eye(2, dtype=torch.float32))

    class Given(nn.Module):
        latent_dim = 2

        def forward(self):
            return law

    torch.manual_seed(0)
    pair = pyrovae.linear_vae(4, 2, likelihood=pyrovae.Normal(scale=0.5))
    x = torch.randn(3, 4)
    wanted = pyrovae.exact(pair, x).pointwise.value.values
    pair.prior = Given()
    for _ in range(2):  # a first estimate leaves the caller's distribution as it was
        assert pyrovae.exact(pair, x).pointwise.value.values == pytest.approx(wanted, abs=1e-10)
        assert pyrovae.quadrature(pair, x, tol=1e-8).pointwise.value.values == pytest.approx(wanted, abs=1e-7)
        assert law.loc.dtype == law._unbroadcasted_scale_tril.dtype == torch.float32


def test_a_decoder_that_holds_a_plain_tensor():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = torch.randn(2, 4)

        def forward(self, z):
            return z @ self.matrix

    torch.manual_seed(0)
    pair = pyrovae.linear_vae(4, 2, likelihood=pyrovae.Normal(scale=0.5))
    pair.likelihood.network = Fixed()
    matrix, x = pair.likelihood.network.matrix.double(), torch.randn(3, 4)
    law = torch.distributions.MultivariateNormal(
        torch.zeros(4, dtype=torch.float64), matrix.T @ matrix + 0.25 * torch.eye(4, dtype=torch.float64)
    )
    found = pyrovae.quadrature(pair, x, tol=1e-8).pointwise.value.values
    assert found == pytest.approx(law.log_prob(x.double()).numpy(), abs=1e-7)
