"""Imputation against conditionals known in closed form and by quadrature."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from conftest import linear_parts
from scipy.stats import kstest, norm
from torch import nn

import pyrovae
from pyrovae.models.distributions import Likelihood, StandardNormal
from pyrovae.models.imputation import drawing

NAN = torch.nan


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def linear_rows(pair):
    """Four items, with 3, 1, 5 and 2 entries missing."""
    x = pair.sample(4, seed=8)
    masks = ["101010", "000100", "111011", "010001"]
    return x.masked_fill(torch.tensor([[c == "1" for c in row] for row in masks]), NAN)


def conditional_of_gaussian(pair, row):
    """Mean and covariance of x_missing given x_seen, from the joint N(mu, W W' + s^2 I)."""
    weight, mean, variance = linear_parts(pair)
    joint = weight @ weight.T + variance * torch.eye(len(mean), dtype=torch.float64)
    seen = ~row.isnan()
    gain = torch.linalg.solve(joint[seen][:, seen], joint[seen][:, ~seen]).T
    loc = mean[~seen] + gain @ (row[seen].double() - mean[seen])
    return loc, joint[~seen][:, ~seen] - gain @ joint[seen][:, ~seen]


def largest_deviation(draws, loc, covariance):
    """Of the mean's and covariance's entries from the given ones, in Monte Carlo standard errors."""
    centred = draws.double() - loc
    products = centred[:, :, None] * centred[:, None, :]
    root = math.sqrt(len(draws))
    means = centred.mean(0).abs() / centred.std(0) * root
    covariances = (products.mean(0) - covariance).abs() / products.std(0) * root
    return float(max(means.max(), covariances.max()))


def bent_pair(seed=2, pixels=6):
    """A Bernoulli pair whose decoder folds the plane, and whose encoder is left as it was drawn."""
    torch.manual_seed(seed)
    pair = pyrovae.mlp_vae((pixels,), hidden_dims=(12,), activation="tanh").double()
    with torch.no_grad():
        for layer in pair.likelihood.network.layers:
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(3 * torch.randn(layer.weight.shape) / math.sqrt(layer.in_features))
    return pair


def pattern_probabilities(pair, row, conditioned=True):
    """p(x_missing | x_seen) for every pattern of the missing pixels, by a fine grid over the code."""
    axis = torch.linspace(-6.5, 6.5, 521, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        logits = pair.likelihood.network(grid)
    log_one, log_zero = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
    seen = ~row.isnan()
    log_weight = -grid.square().sum(1) / 2
    if conditioned:
        log_weight = log_weight + torch.where(row[seen] == 1, log_one[:, seen], log_zero[:, seen]).sum(1)
    weight = log_weight.softmax(0)
    patterns = torch.tensor(list(product([0.0, 1.0], repeat=int((~seen).sum()))), dtype=torch.float64)
    terms = torch.where(patterns[:, None] == 1, log_one[:, ~seen], log_zero[:, ~seen]).sum(-1).exp()
    return patterns, terms @ weight


@pytest.mark.parametrize("encoder", ["exact", "poor"])
def test_the_conditional_of_a_linear_pair_is_the_gaussians(exact_linear_pair, encoder):
    # 4 rows, 53 entries of means and covariances, each within 4.5 standard errors of the closed form (false alarm
    # 53 * 7e-6 = 4e-4 a run); the encoder only proposes, so a poor one changes nothing
    pair = exact_linear_pair
    if encoder == "poor":
        with torch.no_grad():
            pair.posterior.loc.weight.mul_(-3)
            pair.posterior.raw_log_scale.fill_(-4)
    x = linear_rows(pair)
    draws = pair.impute(x, num_draws=4000, seed=1)
    marginal = pair.sample(4000, seed=1)
    for i, row in enumerate(x):
        missing = row.isnan()
        loc, covariance = conditional_of_gaussian(pair, row)
        assert largest_deviation(draws[:, i, missing], loc, covariance) < 4.5
        # control: the same check refuses draws that do not look at the seen entries
        assert largest_deviation(marginal[:, missing], loc, covariance) > 10


@pytest.mark.usefixtures("float32")
@pytest.mark.slow
def test_the_conditional_of_a_bent_pair_is_the_quadratures():
    # 3 rows of 8 or 16 patterns, each pattern's frequency within 4.5 binomial standard errors of a grid's value
    # (false alarm 32 * 7e-6 = 2e-4)
    pair = bent_pair()
    x = pair.sample(3, seed=2)
    x[0, [0, 2, 5]] = x[1, [1, 3, 4]] = x[2, [0, 1, 3, 5]] = NAN
    draws = pair.impute(x, num_draws=4000, seed=3)

    def deviation(frequency, probability):
        return float(((frequency - probability) / (probability * (1 - probability) / 4000).sqrt()).abs().max())

    for i, row in enumerate(x):
        patterns, probability = pattern_probabilities(pair, row)
        assert float(probability.sum()) == pytest.approx(1)
        drawn = draws[:, i, row.isnan()]
        frequency = (drawn[:, None] == patterns).all(-1).double().mean(0)
        assert deviation(frequency, probability) < 4.5
        # controls: without the seen pixels, and with the missing ones independent of each other
        assert deviation(pattern_probabilities(pair, row, conditioned=False)[1], probability) > 10
        mean = probability @ patterns
        assert deviation(torch.where(patterns == 1, mean, 1 - mean).prod(1), probability) > 10


class Bounded(nn.Module):
    """A prior that has no density at some codes."""

    def __init__(self, law):
        super().__init__()
        self.law, self.latent_dim = law, 1

    def forward(self):
        return self.law.expand([1]).to_event(1)


@pytest.mark.parametrize(
    "law", [dist.Uniform(-1.0, 2.0), dist.Beta(2.0, 3.0), dist.Gamma(2.0, 1.0), dist.LogNormal(0.0, 0.5)]
)
@pytest.mark.parametrize("bend", [1.0, -1.0])
def test_a_prior_without_a_density_everywhere(law, bend):
    """E[x_2 | x_1] of two entries N(bend z, .5^2) against sums over a grid of codes, within 4.5 standard errors.

    False alarms: 8 * 7e-6. The second sign puts the best code outside of the support for three of the priors.
    """
    torch.manual_seed(0)
    decoder = nn.Linear(1, 2)
    with torch.no_grad():
        decoder.weight.fill_(bend)
        decoder.bias.zero_()
    likelihood = pyrovae.Likelihood(decoder, pyrovae.Normal(scale=0.5), (2,))
    vae = pyrovae.VAE(Bounded(law), likelihood, pyrovae.LinearNormal(2, 1))
    draws = vae.impute(torch.tensor([[1.8, math.nan]]), num_draws=4000, seed=1)[:, 0, 1]
    z = torch.linspace(-1.0, 12.0, 130_001, dtype=torch.float64) + 5e-5
    inside = law.support.check(z)
    log_prior = torch.where(inside, law.log_prob(torch.where(inside, z, 0.5)), -math.inf)
    weight = (log_prior - 0.5 * ((1.8 - bend * z) / 0.5) ** 2).softmax(0)
    mean = float((weight * bend * z).sum())
    variance = float((weight * z**2).sum()) - mean**2 + 0.25
    assert abs(float(draws.mean()) - mean) < 4.5 * math.sqrt(variance / 4000)
    # control: without the seen entry the mean lies elsewhere
    assert abs(float(bend * law.mean) - mean) > 9 * math.sqrt(variance / 4000)


class Curve(nn.Module):
    """A decoder of one code to the points (f(z), z)."""

    latent_dim = 1

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, z):
        return torch.cat([self.f(z), z], -1)


@pytest.mark.parametrize("shape", ["split", "cliff"])
def test_codes_far_from_gaussian(shape):
    # split: |z| is seen, so z lies on one of two sides; cliff: tanh(10 z) near 1 is seen, so z is a Normal cut off.
    # The missing entry is z and noise: Kolmogorov-Smirnov on 6,000 draws against a quadrature over z (false alarm 1e-5)
    f, value = {"split": (lambda z: (z**2 + 1e-6).sqrt(), 1.5), "cliff": (lambda z: torch.tanh(10 * z), 0.98)}[shape]
    pair = pyrovae.VAE(
        StandardNormal(1),
        Likelihood(Curve(f), pyrovae.Normal(scale=0.05), (2,)),
        pyrovae.linear_vae(2, 1).posterior,
    ).double()
    z = np.linspace(-6, 6, 24_001)
    log_weight = -(z**2) / 2 - (value - f(torch.from_numpy(z)).numpy()) ** 2 / (2 * 0.05**2)
    weight = np.exp(log_weight - log_weight.max())
    grid = np.linspace(-6, 6, 1201)
    cdf = norm.cdf((grid[:, None] - z[::6]) / 0.05) @ weight[::6] / weight[::6].sum()
    draws = pair.impute([[value, math.nan]], num_draws=6000, seed=0)[:, 0, 1].numpy()
    assert kstest(draws, lambda x: np.interp(x, grid, cdf)).pvalue > 1e-5
    assert kstest(pair.sample(6000, seed=0)[:, 1].numpy(), lambda x: np.interp(x, grid, cdf)).pvalue < 1e-9  # control


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_seen_entries_keep_every_figure_of_their_type(dtype):
    pair = pyrovae.mlp_vae((4,), hidden_dims=(5,), likelihood="normal").to(dtype)
    x = torch.tensor([[1 / 3, math.pi, NAN, 6e-8]], dtype=dtype)
    draws = pair.impute(x, num_draws=4, num_steps=2)
    assert draws.dtype == dtype
    assert torch.equal(draws[:, :, [0, 1, 3]], x[:, [0, 1, 3]].expand(4, 1, 3))


def test_seen_entries_come_back_bit_for_bit():
    pair = pyrovae.mlp_vae((2, 3), hidden_dims=(5,), likelihood="normal").float()
    x = torch.tensor([[[-0.0, 1e-40, NAN], [3.3, NAN, -7.0]], [[NAN] * 3] * 2, [[1.0, 2.0, 3.0], [4.0, 5.0, 1 / 3]]])
    x = x.float()
    draws = pair.impute(x, num_draws=4)
    assert draws.shape == (4, 3, 2, 3)
    assert draws.dtype == torch.float32
    seen = ~x.isnan()
    for draw in draws:
        assert torch.equal(draw[seen].view(torch.int32), x[seen].view(torch.int32))  # -0.0 stays -0.0
    assert draws.isfinite().all()
    assert (draws[0] != draws[1])[~seen].all()  # control: what is missing is drawn
    assert torch.equal(x.isnan(), ~seen)  # the caller's array is not filled in


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "build",
    [
        lambda: pyrovae.mlp_vae((1, 7, 5), hidden_dims=(6,), likelihood="normal"),
        lambda: pyrovae.conv_vae((1, 7, 5), channels=(4,), strides=(2,)),
        lambda: pyrovae.linear_vae(35, 2),
    ],
    ids=["mlp", "conv", "linear"],
)
def test_complete_items_come_back_as_they_are(build, dtype):
    pair = build().to(dtype)
    x = torch.arange(105.0).reshape(3, *pair.event_shape).to(dtype) % 2
    assert torch.equal(pair.impute(x, num_draws=4), torch.stack([x] * 4))
    assert pair.impute(x, num_draws=4).dtype == dtype


def test_a_complete_row_among_others_changes_none_of_their_draws():
    pair = bent_pair()
    x = pair.sample(3, seed=0)
    x[0, :3] = x[2, 1] = NAN
    draws = pair.impute(x, num_draws=20, num_steps=4)
    assert torch.equal(draws[:, 1], x[1].expand(20, -1))
    assert torch.equal(draws[:, [0, 2]], pair.impute(x[[0, 2]], num_draws=20, num_steps=4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_same_conditional(exact_linear_pair, dtype):
    # 53 entries within 4.5 standard errors of the closed form of the rounded weights (false alarm 4e-4 a type)
    pair = exact_linear_pair.to(dtype)
    x = linear_rows(pair)
    weights = {name: t.clone() for name, t in pair.state_dict().items()}
    draws = pair.impute(x, num_draws=2000, seed=1)
    assert x.dtype == draws.dtype == dtype
    for i, row in enumerate(x):
        missing = row.isnan()
        assert torch.equal(draws[:, i, ~missing], row[~missing].expand(2000, -1))
        assert largest_deviation(draws[:, i, missing], *conditional_of_gaussian(pair, row)) < 4.5
    assert all(torch.equal(t, weights[name]) and t.dtype == dtype for name, t in pair.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli"])
def test_half_precision_draws_what_single_draws_of_the_same_weights(likelihood, dtype):
    # one seed is one stream of noise, so the two differ by the last rounding alone
    torch.manual_seed(0)
    pair = pyrovae.mlp_vae((6,), hidden_dims=(8,), likelihood=likelihood).to(dtype)
    x = pair.sample(3, seed=0)
    x[:, :3] = NAN
    draws = pair.impute(x, num_draws=50, num_steps=10)
    assert torch.equal(draws, pair.float().impute(x.float(), num_draws=50, num_steps=10).to(dtype))
    assert len(draws[:, 0, 0].unique()) > 1  # control: what is missing is drawn


def test_a_row_wholly_missing_is_a_draw_of_the_model(exact_linear_pair):
    # 27 entries of mean and covariance within 4.5 standard errors of the marginal's (false alarm 2e-4)
    pair = exact_linear_pair
    weight, mean, variance = linear_parts(pair)
    joint = weight @ weight.T + variance * torch.eye(6, dtype=torch.float64)
    x = torch.full((2, 6), NAN)
    x[1, 0] = 1.0
    draws = pair.impute(x, num_draws=4000, seed=4)
    assert largest_deviation(draws[:, 0], mean, joint) < 4.5
    assert largest_deviation(draws[:, 1], mean, joint) > 10  # control: one entry seen is another distribution


def test_float32_in_small_chunks_is_the_same_conditional(exact_linear_pair, monkeypatch):
    # rows and draws both split; 53 entries within 4.5 standard errors (false alarm 4e-4)
    pair = exact_linear_pair.float()
    x = linear_rows(pair)
    monkeypatch.setattr(drawing, "CHUNK_BYTES", 700 * drawing._bytes_per_code(pair.prior, pair.likelihood, x))
    draws = pair.impute(x.numpy(), num_draws=1000, seed=5)
    assert draws.dtype == torch.float32
    for i, row in enumerate(x):
        missing = row.isnan()
        assert largest_deviation(draws[:, i, missing], *conditional_of_gaussian(pair, row)) < 4.5


def test_a_seed_fixes_the_draws_and_the_callers_generator_stays():
    pair = bent_pair()
    x = pair.sample(2, seed=0)
    x[:, :3] = NAN
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    first, second, third = (pair.impute(x, num_draws=20, seed=s, num_steps=4) for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert all(p.grad is None for p in pair.parameters())
    assert not first.requires_grad
    with torch.inference_mode():
        assert torch.equal(pair.impute(x, num_draws=20, seed=1, num_steps=4), first)


def test_dropout_is_off_and_every_modules_mode_comes_back():
    pair = bent_pair()
    x = pair.sample(2, seed=0)
    x[:, 0] = NAN
    expected = pair.impute(x, num_draws=20, num_steps=4)
    for part in (pair.likelihood, pair.posterior):
        part.network = nn.Sequential(part.network, nn.Dropout(0.5), nn.Dropout(0.5))
        part.network[2].eval()
    modes = [module.training for module in pair.modules()]
    assert torch.equal(pair.impute(x, num_draws=20, num_steps=4), expected)
    assert [module.training for module in pair.modules()] == modes
    assert len(set(modes)) == 2


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli", "normal"])
def test_images_of_every_family(likelihood):
    # the lower half missing; a decoder whose output is pinned by its bias gives a known mean whatever the code: 7 x 3
    # entries of 400 draws within 4.5 standard errors (false alarm 21 * 7e-6 = 1.4e-4 a family)
    torch.manual_seed(0)
    pair = pyrovae.conv_vae((1, 7, 5), latent_dim=3, channels=(4, 6), strides=(1, 2), likelihood=likelihood)
    x = torch.ones(2, 1, 7, 5)
    x[:, :, 4:] = NAN
    with torch.no_grad():
        pair.likelihood.network.layers[-1].weight.zero_()
        pair.likelihood.network.layers[-1].bias.fill_(-1.0)
    draws = pair.impute(x, num_draws=400, num_steps=4)
    lower = draws[:, :, :, 4:]
    assert bool(pair.likelihood.support.check(draws).all())
    mean = pair.decode(torch.zeros(3)).mean().detach()
    assert float(((lower.mean(0) - mean) / (lower.std(0) / 20)).abs().max()) < 4.5


def test_what_cannot_be_imputed_is_refused():
    pair = pyrovae.mlp_vae((3,))
    x = torch.tensor([[1.0, NAN, 0.0]])
    with pytest.raises(ValueError, match="num_draws must be an integer of at least 1, got 0"):
        pair.impute(x, num_draws=0)
    with pytest.raises(ValueError, match="num_steps must be an integer of at least 1, got 0"):
        pair.impute(x, num_steps=0)
    with pytest.raises(ValueError, match="grey values"):
        pair.impute(x / 2)
    with pytest.raises(ValueError, match=r"must be finite: 1 infinite values, the first at x\[0, 0\]; scale"):
        pair.impute([[math.inf, math.nan, 0.0]])
    with pytest.raises(ValueError, match=r"x must have shape \(N, 3\), got \(3,\)"):
        pair.impute(x[0])


def test_a_likelihood_of_dependent_entries_is_refused():
    class Full(nn.Module):
        event_shape, support = (3,), dist.constraints.real

        def forward(self, z):
            return dist.MultivariateNormal(z.new_zeros(*z.shape[:-1], 3), torch.eye(3))

    pair = pyrovae.VAE(StandardNormal(2), Full(), pyrovae.linear_vae(3, 2).posterior)
    with pytest.raises(ValueError, match="independent given the code"):
        pair.impute(np.array([[1.0, np.nan, 0.0]]))
