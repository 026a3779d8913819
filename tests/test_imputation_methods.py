"""Each method of imputation against closed forms, quadratures and its own coverage."""

from __future__ import annotations

import math
import warnings

import pyro.distributions as dist
import pytest
import torch
from pyro.ops.stats import effective_sample_size
from test_imputation import Bounded, Curve, bent_pair, conditional_of_gaussian, linear_rows, pattern_probabilities
from torch import nn

import pyrovae
from pyrovae.models.distributions import Likelihood, StandardNormal
from pyrovae.models.imputation import METHODS
from pyrovae.models.imputation.seen import Parts, SeenDensity
from pyrovae.models.imputation.sir import _Proposal
from pyrovae.models.scopes import Workspace

NAN = torch.nan


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def poor(pair):
    """The pair with an encoder that points the other way, and is sure of it."""
    with torch.no_grad():
        pair.posterior.loc.weight.mul_(-1)
        pair.posterior.raw_log_scale.fill_(-1)
    return pair


def largest_deviation(draws, loc, covariance, size):
    """Of the mean's and covariance's entries from the given ones, in standard errors of `size` independent draws."""
    centred = draws.double() - loc
    products = centred[:, :, None] * centred[:, None, :]
    means = centred.mean(0).abs() / centred.std(0)
    covariances = (products.mean(0) - covariance).abs() / products.std(0)
    return float(max(means.max(), covariances.max())) * math.sqrt(size)


@pytest.mark.parametrize(
    ("method", "encoder"), [("sir", "exact"), ("sir", "poor"), pytest.param("nuts", "poor", marks=pytest.mark.slow)]
)
def test_the_conditional_of_a_linear_pair_is_the_gaussians(exact_linear_pair, monkeypatch, method, encoder):
    """4 rows, 53 entries of means and covariances, each within 4.5 standard errors of the closed form.

    Those of NUTS by the effective sample size of its four chains, those of resampling by the independent draws that it
    is worth at least: false alarm 53 * 7e-6 = 4e-4 a run.
    """
    pair = exact_linear_pair if encoder == "exact" else poor(exact_linear_pair)
    x = linear_rows(pair)
    count, steps = {"sir": (2000, 20), "nuts": (200, 20)}[method]

    def deviations():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            draws = pair.impute(x, num_draws=count, num_steps=steps, method=method, seed=1)
        for i, row in enumerate(x):
            missing = row.isnan()
            drawn = draws[:, i, missing]
            size = 1000.0
            if method == "nuts":
                chains = drawn.reshape(count // 4, 4, -1).transpose(0, 1)
                size = min(count, float(effective_sample_size(chains).min()))
            yield largest_deviation(drawn, *conditional_of_gaussian(pair, row), size)

    assert max(deviations()) < 4.5
    # control: a prior of variance 4
    monkeypatch.setattr(SeenDensity, "log_prior", lambda self, z: self.prior.log_prob(z / 2))
    assert max(deviations()) > 6


def test_weights_are_those_of_the_mixture_that_the_candidates_came_from(exact_linear_pair):
    """The mean weight is p(x_seen), in closed form, within 4.5 of its standard errors: false alarm 4 * 7e-6."""
    pair = poor(exact_linear_pair)
    x = linear_rows(pair)
    torch.manual_seed(0)
    with torch.no_grad():
        proposal = _Proposal(Parts(pair.prior, pair.likelihood, pair.posterior), x, ~x.isnan())
        z = proposal.sample(40_001)  # a number that the components do not divide
        assert len(z) == 40_001
        log_weight = proposal.log_density(z) - proposal.log_prob(z)
    weight = pair.likelihood.network.weight.detach()
    joint = weight @ weight.T + 0.49 * torch.eye(6, dtype=torch.float64)
    mean = pair.likelihood.network.bias.detach()
    for i, row in enumerate(x):
        s = ~row.isnan()
        exact = torch.distributions.MultivariateNormal(mean[s], joint[s][:, s]).log_prob(row[s])
        ratio = (log_weight[:, i] - exact).exp()
        error = float(ratio.std()) / math.sqrt(len(z))
        assert error < 0.1
        assert abs(float(ratio.mean()) - 1) < 4.5 * error
        assert float(ratio.max()) < 1e3


class ExactWhereMissing(nn.Module):
    """q(z | x_seen) of a linear pair, exact for items with missing entries, and far off for whole ones."""

    def __init__(self, pair, takes_missing):
        super().__init__()
        self.network, self.takes_missing = pair.likelihood.network, takes_missing

    def forward(self, x):
        seen, weight = ~x.isnan(), self.network.weight
        own = seen[..., None] * weight
        precision = torch.eye(weight.shape[1], dtype=x.dtype) + own.mT @ own / 0.49
        off = torch.where(seen, x - self.network.bias, 0.0)
        loc = torch.linalg.solve(precision, (own * off[..., None]).sum(-2) / 0.49)
        return dist.MultivariateNormal(torch.where(seen.all(-1, keepdim=True), 9.0, loc), precision_matrix=precision)


def test_an_encoder_that_takes_missing_entries_proposes_from_what_it_sees(exact_linear_pair):
    """3/8 of the candidates come from q(z | x_seen), so that where it is exact no weight is above 8/3 p(x_seen)."""
    pair = exact_linear_pair
    x = linear_rows(pair)
    x = x[x.isnan().any(1)]

    def largest(takes_missing):
        torch.manual_seed(0)
        posterior = ExactWhereMissing(pair, takes_missing)
        with torch.no_grad():
            proposal = _Proposal(Parts(pair.prior, pair.likelihood, posterior), x, ~x.isnan())
            z = proposal.sample(2001)
            log_weight = proposal.log_density(z) - proposal.log_prob(z)
            code = posterior(x).mean  # at any code p(x_seen) = p(z, x_seen) / p(z | x_seen)
            exact = proposal.log_density(code[None])[0] - posterior(x).log_prob(code)
        return float((log_weight - exact).max().exp())

    share = 750 / 2001  # of 1500 that are not from the prior
    assert largest(True) <= 1 / share * (1 + 1e-9)
    assert largest(False) > 3.5  # control: it is given items that are completed


@pytest.mark.usefixtures("float32")
@pytest.mark.slow
def test_the_conditional_of_a_bent_pair_is_the_quadratures_by_resampling():
    # 3 rows of 8 or 16 patterns, each frequency within 4.5 binomial errors (false alarm 32 * 7e-6 = 2e-4), those
    # errors widened by the share of the draws that the effective sample size adds
    pair = bent_pair()
    x = pair.sample(3, seed=2)
    x[0, [0, 2, 5]] = x[1, [1, 3, 4]] = x[2, [0, 1, 3, 5]] = NAN
    draws = pair.impute(x, num_draws=4000, num_steps=30, seed=3, method="sir")
    for i, row in enumerate(x):
        patterns, probability = pattern_probabilities(pair, row)
        frequency = (draws[:, i, row.isnan()][:, None] == patterns).all(-1).double().mean(0)
        error = (probability * (1 - probability) / 2000).sqrt()
        assert float(((frequency - probability).abs() / error).max()) < 4.5


@pytest.mark.parametrize("method", ["sir", pytest.param("nuts", marks=pytest.mark.slow)])
@pytest.mark.parametrize("law", [dist.Uniform(-1.0, 2.0), dist.Gamma(2.0, 1.0)], ids=["uniform", "gamma"])
def test_a_prior_without_a_density_everywhere(law, method):
    # E[x_2 | x_1] of two entries N(z, 1) against sums over a grid of codes: 4.5 standard errors of half the draws,
    # since those of NUTS are dependent; the encoder's candidates outside of the support have no weight
    torch.manual_seed(0)
    decoder = nn.Linear(1, 2)
    with torch.no_grad():
        decoder.weight.fill_(1.0)
        decoder.bias.zero_()
    likelihood = pyrovae.Likelihood(decoder, pyrovae.Normal(scale=1.0), (2,))
    vae = pyrovae.VAE(Bounded(law), likelihood, pyrovae.LinearNormal(2, 1))
    count = {"nuts": 400, "sir": 1000}[method]
    draws = vae.impute(torch.tensor([[3.0, NAN]]), num_draws=count, num_steps=100, seed=1, method=method)[:, 0, 1]
    z = torch.linspace(-1.0, 12.0, 130_001, dtype=torch.float64) + 5e-5
    inside = law.support.check(z)
    log_prior = torch.where(inside, law.log_prob(torch.where(inside, z, 0.5)), -math.inf)
    weight = (log_prior - 0.5 * (3.0 - z) ** 2).softmax(0)
    mean = float((weight * z).sum())
    variance = float((weight * z**2).sum()) - mean**2 + 1.0
    error = math.sqrt(variance / (count / 2))
    assert abs(float(draws.mean()) - mean) < 4.5 * error
    # control: without the prior the mean is that of the seen entry
    assert abs(3.0 - mean) > 2 * error


def entries(pair, n, seed=1):
    """Items with one entry missing in each, and that entry."""
    x = pair.sample(n, seed=seed)
    where = (torch.arange(n), torch.arange(n) % x.shape[1])
    true = x[where].clone()
    x[where] = NAN
    return x, where, true


def coverage(draws, true):
    """Of the interval from the 10th to the 190th of 199 draws: 0.9 where the draws are those of p(missing | seen)."""
    ordered = draws.sort(0).values
    return float(((ordered[9] < true) & (true < ordered[189])).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "rows", "steps", "room"), [("mcmc", 2000, 6, 0.02), ("sir", 2000, 12, 0.02), ("nuts", 300, 20, 0.052)]
)
def test_intervals_cover_what_is_missing(exact_linear_pair, method, rows, steps, room):
    """True parameters, one entry missing a row: the 90 % interval covers 0.9, within 3 binomial standard errors.

    The error is 0.0067 of 2,000 rows. NUTS has 300, of which the 95 % interval of a coverage has half width 0.034.
    """
    pair = exact_linear_pair
    x, where, true = entries(pair, rows)
    draws = pair.impute(x, num_draws=199, num_steps=steps, method=method, seed=2)
    assert abs(coverage(draws[:, *where], true) - 0.9) <= room


@pytest.mark.slow
def test_what_must_not_cover(exact_linear_pair):
    """Controls of the coverage at 2,000 rows: each lies out of 0.88 to 0.92, three errors and more from 0.9."""
    pair = exact_linear_pair
    with torch.no_grad():
        pair.likelihood.network.bias.add_(2.0)  # so that an entry of 0 is an unlikely one
        pair.posterior.loc.bias.sub_(pair.posterior.loc.weight @ torch.full((6,), 2.0, dtype=torch.float64))
    x, where, true = entries(pair, 2000)
    parts = Parts(pair.prior, pair.likelihood, pair.posterior)
    way = METHODS["mcmc"](parts, 199, 1, 2000 * 199, Workspace(*parts))
    torch.manual_seed(0)
    with torch.no_grad():
        decoded = torch.cat([pair.decode(z) for z in way.codes(x, ~x.isnan())])[:, *where]
        noise = torch.randn_like(decoded) * 0.7
        taken_for_0 = pair.likelihood(pair.posterior(x.nan_to_num(0.0)).sample((199,))).sample()[:, *where]
        means = torch.where(x.isnan(), pair.likelihood.network.bias, x)
        of_poor = pair.likelihood(poor(pair).posterior(means).sample((199,))).sample()[:, *where]
    assert 0.88 <= coverage(decoded + noise, true) <= 0.92
    assert coverage(decoded, true) < 0.8  # without the likelihood's noise
    assert not coverage(taken_for_0, true) >= 0.86
    assert not coverage(of_poor, true) >= 0.86  # from q itself, not refined


@pytest.mark.parametrize("method", sorted(METHODS))
def test_seen_entries_come_back_and_a_row_of_none_is_a_draw_of_the_model(method):
    pair = pyrovae.mlp_vae((2, 3), hidden_dims=(5,), likelihood="normal").float()
    x = torch.tensor([[[-0.0, 1e-40, NAN], [3.3, NAN, -7.0]], [[NAN] * 3] * 2, [[1.0, 2.0, 3.0], [4.0, 5.0, 1 / 3]]])
    x = x.float()
    before = torch.random.get_rng_state()
    draws = pair.impute(x, num_draws=8, num_steps=2, method=method)
    assert torch.equal(before, torch.random.get_rng_state())
    seen = ~x.isnan()
    for draw in draws:
        assert torch.equal(draw[seen].view(torch.int32), x[seen].view(torch.int32))
    assert draws.isfinite().all()
    assert not draws.requires_grad
    assert len(draws[:, 1, 0, 0].unique()) == 8
    assert torch.equal(pair.impute(x, num_draws=8, num_steps=2, method=method), draws)
    assert pair.impute(x, num_draws=1, num_steps=1, method=method).shape == (1, 3, 2, 3)


@pytest.mark.parametrize("method", ["sir", "nuts"])
def test_half_precision_and_classes(method):
    pair = pyrovae.mlp_vae((4,), hidden_dims=(5,)).half()
    x = torch.tensor([[1.0, 0.0, NAN, 1.0]], dtype=torch.float16)
    draws = pair.impute(x, num_draws=16, num_steps=4, method=method)
    assert draws.dtype == torch.float16
    assert draws[:, 0, 2].unique().tolist() == [0.0, 1.0]


@pytest.mark.slow
def test_each_method_says_where_it_cannot_be_trusted(exact_linear_pair):
    x = linear_rows(exact_linear_pair)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # control: a good encoder and one mode warn of nothing
        exact_linear_pair.impute(x, num_draws=50, num_steps=40, method="sir")
        exact_linear_pair.impute(x, num_draws=80, num_steps=30, method="nuts")
    with pytest.warns(UserWarning, match=r"1 of 1 items have an effective sample size below num_draws = 50, the least"):
        far = torch.full((1, 6), 30.0).index_fill(1, torch.tensor([0]), NAN)
        poor(exact_linear_pair).impute(far, num_draws=50, num_steps=2, method="sir")
    split = pyrovae.VAE(
        StandardNormal(1),
        Likelihood(Curve(lambda z: (z**2 + 1e-6).sqrt()), pyrovae.Normal(scale=0.05), (2,)),
        pyrovae.linear_vae(2, 1).posterior,
    )
    with pytest.warns(UserWarning, match=r"the chains of [1-8] of 8 items have not met \(R-hat up to"):
        split.impute([[1.5, NAN]] * 8, num_draws=80, num_steps=30, method="nuts")


def test_a_method_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"method must be one of 'mcmc', 'sir', 'nuts', got 'nut'; did you"):
        pyrovae.mlp_vae((3,)).impute([[1.0, NAN, 0.0]], method="nut")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_cannot_be_imputed_is_refused_by_every_method(method):
    class Full(nn.Module):
        event_shape, support = (3,), dist.constraints.real

        def forward(self, z):
            return dist.MultivariateNormal(z.new_zeros(*z.shape[:-1], 3), torch.eye(3))

    pair = pyrovae.VAE(StandardNormal(2), Full(), pyrovae.linear_vae(3, 2).posterior)
    with pytest.raises(ValueError, match="independent given the code"):
        pair.impute([[1.0, NAN, 0.0]], method=method)
    with pytest.raises(ValueError, match="grey values"):
        pyrovae.mlp_vae((3,)).impute([[0.5, NAN, 0.0]], method=method)
    complete = pyrovae.mlp_vae((3,)).impute([[1.0, 1.0, 0.0]], method=method, num_draws=2)
    assert complete.tolist() == [[[1.0, 1.0, 0.0]]] * 2


def test_the_proposals_of_the_chains_are_the_mixture_that_they_say(exact_linear_pair):
    """The density against Pyro's Student t distributions, mode by mode; products of matrices against torch's."""
    from pyro.distributions import MultivariateStudentT

    from pyrovae.models.imputation import mcmc, modes

    x = linear_rows(exact_linear_pair)[:3]
    pair, seen = exact_linear_pair, ~x.isnan()
    with torch.no_grad():
        torch.manual_seed(0)
        proposals = mcmc._Proposals(Parts(pair.prior, pair.likelihood, pair.posterior), x, seen)
        z = proposals.propose(5)
        terms = [math.log(mcmc.PRIOR_SHARE) + proposals.log_prior(z)]
        for k in range(modes.MODES):
            scale = proposals.axes[k] * proposals.precisions[k].rsqrt()[:, None, :]
            root = torch.linalg.cholesky(scale @ scale.mT)
            law = MultivariateStudentT(torch.tensor(mcmc.DEGREES, dtype=z.dtype), proposals.modes[k], root)
            terms.append(math.log(1 - mcmc.PRIOR_SHARE) + proposals.weights[k].log() + law.log_prob(z))
        direct = torch.stack(terms).logsumexp(0)
    assert torch.allclose(proposals.log_proposal(z), direct, atol=1e-9)
    for size in (2, modes.SMALL + 1):
        matrices, vectors = torch.randn(4, 3, size, size).double(), torch.randn(4, 3, size).double()
        assert torch.allclose(modes._times(matrices, vectors), (matrices @ vectors[..., None])[..., 0])


def test_newtons_method_ends_at_the_mode(exact_linear_pair):
    """Of a linear pair the mode is the conditional's mean, in closed form; before the end of the steps it is there."""
    from pyrovae.models.imputation.modes import Modes

    x = linear_rows(exact_linear_pair)
    pair = exact_linear_pair
    with torch.no_grad():
        found = Modes(Parts(pair.prior, pair.likelihood, pair.posterior), x, ~x.isnan())
        height = found.log_density(found.modes)
        moved = found.modes + 0.05 * found.precisions.rsqrt()[..., None, :1].squeeze(-2)
        assert bool((found.log_density(moved) < height).all())
        assert float((height - height.max(0).values).abs().max()) < 1e-3


@pytest.mark.parametrize("method", ["mcmc", "sir", "nuts"])
def test_an_item_that_no_code_gives_is_refused_by_every_method(method):
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((3,), 1, hidden_dims=(4,), likelihood="normal").double()
    x = torch.tensor([[0.1, math.nan, 0.2], [1e200, 0.0, math.nan], [1e200, 0.0, 0.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="the first of them 1, whose seen entries have a density of 0 at every code"):
        vae.impute(x, num_draws=2, num_steps=2, method=method)
    kept = vae.impute(x[[0, 2]], num_draws=2, num_steps=2, method=method)  # the last misses nothing
    assert kept.isfinite().all() and torch.equal(kept[:, 1], x[2].expand(2, -1))
    mixture = pyrovae.GaussianMixture((3,), 2).double()
    with pytest.raises(ValueError, match="1 items, the first of them 1, whose seen entries have a density of 0 under"):
        mixture.impute(x[:2])
