"""Likelihoods of counts and categories: against exact masses, by their draws, at the ends, and in a pair."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import pyrovae
from pyrovae.models.parts.categorical import Codes
from pyrovae.models.parts.counts import bounded_log, largest_rate, poisson_counts, stirling_error
from pyrovae.models.parts.discretized_logistic import BinnedLogistic
from pyrovae.models.parts.negative_binomial import MeanNegativeBinomial, StableNegativeBinomial
from pyrovae.models.parts.poisson import LogRatePoisson
from pyrovae.models.parts.zero_inflated import ZeroInflated

FAMILIES = [
    "poisson",
    "negative_binomial",
    "negative_binomial(dispersion='column')",
    "negative_binomial(dispersion='item')",
    "zero_inflated_poisson",
    "zero_inflated_negative_binomial(dispersion='item')",
    "categorical(num_classes=5)",
    "ordinal(num_classes=5)",
    "ordinal(num_classes=5, cuts='column')",
    "discretized_logistic(levels=16)",
]
COUNTS = FAMILIES[:6]
CATEGORIES = FAMILIES[6:9]


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def items(n=60):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(n, 1, generator=generator) * torch.tensor([0.5, -0.5, 1.0, 0.0])
    return torch.poisson((0.5 + codes).exp(), generator=generator).clamp(max=4)


def pair_of(family, **options):
    torch.manual_seed(0)
    return pyrovae.mlp_vae((4,), 2, hidden_dims=(8,), likelihood=family, **options)


# masses -------------------------------------------------------------------------------------------------


def exact_negative_binomial(x, mean, size):
    """log p(x) in 50 digits: Gamma(x + r) / Gamma(r) / x! as a product."""
    with localcontext() as context:
        context.prec = 50
        m, r = Decimal(mean), Decimal(size)
        product = Decimal(1)
        for i in range(x):
            product *= (r + i) / (i + 1)
        return float(product.ln() + r * (r / (r + m)).ln() + x * (m / (r + m)).ln())


def test_poisson_is_scipys():
    log_rate = torch.linspace(-15, 12, 28, dtype=torch.float64)
    x = double(0, 1, 2, 14, 15, 16, 100, 10_000)[:, None]
    expected = stats.poisson.logpmf(x.numpy(), log_rate.exp().numpy())
    np.testing.assert_allclose(LogRatePoisson(log_rate).log_prob(x), expected, rtol=1e-10, atol=1e-10)
    off_by_one = LogRatePoisson(log_rate).log_prob(x + 1)
    assert not np.allclose(off_by_one, expected, rtol=1e-10, atol=1e-10)  # control


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 5e-6)])
def test_the_negative_binomial_is_exact_from_any_dispersion_to_its_poisson_limit(dtype, error):
    for log_size in (-18.0, -1.0, 3.0, 12.0, 18.5, 45.0):  # r = 1e8 is 18.4
        for log_mean in (-18.0, 0.0, 3.0, 10.0):
            given = [torch.tensor(value, dtype=dtype) for value in (log_mean, log_size)]
            mean, size = (float(value.double().exp()) for value in given)
            for x in (0, 1, 14, 60):
                value = float(MeanNegativeBinomial(*given).log_prob(torch.tensor(float(x), dtype=dtype)))
                exact = exact_negative_binomial(x, mean, size)
                assert abs(value - exact) < error * max(1, abs(exact)), (log_size, log_mean, x)


def test_the_negative_binomial_is_scipys_at_mean_and_dispersion():
    mean, size = double(0.3, 5.0, 80.0), double(0.5, 4.0)[:, None]
    p = MeanNegativeBinomial(mean.log(), size.log())
    x = torch.arange(0.0, 40.0, dtype=torch.float64)[:, None, None]
    scipys = stats.nbinom(size.numpy(), (size / (size + mean)).numpy())
    np.testing.assert_allclose(p.log_prob(x), scipys.logpmf(x.numpy()), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(p.variance, scipys.var(), rtol=1e-12)
    np.testing.assert_allclose(p.variance, (mean + mean**2 / size), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_poisson_limit_has_the_gradients_of_poisson(dtype):
    log_mean = torch.tensor([-3.0, 0.0, 4.0, 9.0], dtype=dtype, requires_grad=True)
    for log_size in (18.4, 30.0, 60.0):
        size = torch.full((4,), log_size, dtype=dtype, requires_grad=True)
        for count in (0.0, 1.0, 60.0, 8000.0):
            x = torch.tensor(count, dtype=dtype)
            value = MeanNegativeBinomial(log_mean, size).log_prob(x)
            gradient, of_size = torch.autograd.grad(value.sum(), (log_mean, size))
            limit = LogRatePoisson(log_mean).log_prob(x)
            (expected,) = torch.autograd.grad(limit.sum(), log_mean)
            m = log_mean.detach().exp()
            # the first term in 1 / r: ((x - m)^2 - x) / (2 r); 6e-8 of each is float32's rounding
            first = ((count - m) ** 2 - count) / 2 * torch.exp(torch.tensor(-log_size))
            rounding = 2e-6 if dtype == torch.float32 else 1e-10
            assert torch.allclose(value.detach(), (limit - first).detach() + 2 * first, rtol=rounding, atol=1e-4)
            assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-3 * max(1.0, count) ** 0.5 + 1e-3)
            assert of_size.isfinite().all()
            assert (of_size + first).abs().max() < 1e-3 + 0.01 * first.abs().max()


def test_the_error_of_stirlings_formula_is_smooth_where_the_series_takes_over():
    a = double(1e-6, 0.5, 1.0, 14.999999, 15.0, 200.0)
    table = torch.lgamma(a + 1) - (a + 0.5) * a.log() + a - 0.5 * np.log(2 * np.pi)
    assert torch.allclose(stirling_error(a), table, atol=2e-13)


def test_the_other_masses_are_their_formulas():
    x = torch.arange(0.0, 12.0, dtype=torch.float64)[:, None]
    log_rate, gate = double(-1.0, 0.5, 2.0), double(-2.0, 0.0, 3.0)
    rate, share = log_rate.exp().numpy(), torch.sigmoid(gate).numpy()
    expected = share * (x.numpy() == 0) + (1 - share) * stats.poisson.pmf(x.numpy(), rate)
    p = pyrovae.ZeroInflatedPoisson()(log_rate, gate)
    np.testing.assert_allclose(p.log_prob(x), np.log(expected), rtol=1e-10, atol=1e-10)
    p = pyrovae.ZeroInflatedNegativeBinomial("item")(log_rate, gate, double(0.0, 1.0, -1.0))
    size = np.exp([0.0, 1.0, -1.0])
    expected = share * (x.numpy() == 0) + (1 - share) * stats.nbinom.pmf(x.numpy(), size, size / (size + rate))
    np.testing.assert_allclose(p.log_prob(x), np.log(expected), rtol=1e-10, atol=1e-10)

    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = pyrovae.Categorical(num_classes=5)(*logits)
    for code in range(5):
        assert torch.allclose(p.log_prob(double(code)), logits.log_softmax(0)[code], rtol=1e-12)
    assert not torch.allclose(p.log_prob(double(1)), logits.log_softmax(0)[0])  # control: off by one

    ordinal = pyrovae.Ordinal(num_classes=4).double()
    loc = double(-3.0, 0.2, 5.0)
    below = stats.logistic.cdf(ordinal.ordered_cuts().detach().numpy() - loc[:, None].numpy())
    edges = np.concatenate([np.zeros((3, 1)), below, np.ones((3, 1))], 1)
    np.testing.assert_allclose(ordinal.probabilities(ordinal(loc)).detach(), np.diff(edges), rtol=1e-10)
    assert float(ordinal.ordered_cuts()[0].detach()) == 0 and bool((ordinal.ordered_cuts().diff() > 0).all())

    loc, scale = double(3.0, 200.0, 255.0), double(2.0, 11.0, 0.7)
    p = BinnedLogistic(loc, scale, 256)
    points = torch.arange(256.0, dtype=torch.float64)[:, None]
    below = stats.logistic.cdf((points[:-1].numpy() + 0.5 - loc.numpy()) / scale.numpy())
    expected = np.diff(np.concatenate([np.zeros((1, 3)), below, np.ones((1, 3))]), axis=0)
    np.testing.assert_allclose(p.log_prob(points).exp(), expected, rtol=1e-10, atol=1e-14)


LAWS = {
    "poisson": LogRatePoisson(double(-1.0, 1.0, 3.0)),
    "negative_binomial": MeanNegativeBinomial(double(-1.0, 1.0, 3.0), double(-1.0, 1.0, 25.0)),
    "zero_inflated": ZeroInflated(MeanNegativeBinomial(double(0.0, 1.0, 3.0), double(0.5)), double(-1.0, 0.0, 1.0)),
    "codes": Codes(double(*range(15)).reshape(3, 5).cos().log_softmax(-1)),
    "binned": BinnedLogistic(double(1.0, 7.0, 40.0), double(0.2, 3.0, 9.0), 16),
}


@pytest.mark.parametrize("name", LAWS)
def test_masses_sum_to_1_and_draws_have_them(name):
    """The p-values of all draws together: 0.001 a law and entry, 15 of them, one false alarm in 66 of other seeds."""
    p = LAWS[name]
    points = torch.arange(0.0, 2000.0 if not p.has_enumerate_support else 5.0 if name == "codes" else 16.0).double()
    masses = p.log_prob(points[:, None].expand(-1, 3)).exp()
    assert (masses.sum(0) - 1).abs().max() < 1e-8
    if p.has_enumerate_support:
        assert torch.equal(p.enumerate_support(), points[:, None].expand(-1, 3))
    if name != "codes":
        mean = (points[:, None] * masses).sum(0)
        assert torch.allclose(p.mean, mean, rtol=1e-8)
        assert torch.allclose(p.variance, (points[:, None] ** 2 * masses).sum(0) - mean**2, rtol=1e-6)
    torch.manual_seed(0)
    draws = p.sample((4000,))
    assert draws.dtype == torch.float64 and bool(p.support.check(draws).all())
    below = torch.cat([torch.zeros(1, 3), masses.cumsum(0)])
    for column in range(3):
        at = draws[:, column].long()
        u = below[at, column] + torch.rand(4000).double() * masses[at, column]  # randomised PIT
        assert stats.kstest(u.numpy(), "uniform").pvalue > 0.001
        wrong = below[at, column] + torch.rand(4000).double() * (1 - below[at, column])
        assert stats.kstest(wrong.numpy(), "uniform").pvalue < 0.001  # control
    assert torch.equal(p.expand((2, 3)).log_prob(draws[:2])[0], p.log_prob(draws[0]))


def counted(kind, log_mean, dtype):
    """A distribution of counts of that mean, wide where it is a negative binomial."""
    log_mean = torch.tensor(log_mean, dtype=dtype)
    return {
        "poisson": lambda: LogRatePoisson(log_mean),
        "negative_binomial": lambda: MeanNegativeBinomial(log_mean, torch.zeros((), dtype=dtype)),
        "of_torch": lambda: StableNegativeBinomial(torch.ones((), dtype=dtype), logits=log_mean),
        "zero_inflated": lambda: ZeroInflated(LogRatePoisson(log_mean), torch.tensor(-3.0, dtype=dtype)),
    }[kind]()


@pytest.mark.parametrize("kind", ["poisson", "negative_binomial", "of_torch", "zero_inflated"])
def test_counts_that_cannot_be_drawn_rightly_are_refused(kind):
    """Beyond 2^24 single precision rounds a count, from 2^45 on torch's draws are off, and from 2^63 on they wrap."""
    for dtype, highest, message in (
        (torch.float32, 19.0, r"float32 holds counts of rates up to 1.67e\+07; take pair.double\(\)"),
        (torch.float64, 35.0, r"cannot be relied on: torch's draws can up to 1.1e\+12 on this device"),
        (torch.float64, 50.0, r"cannot be relied on"),
    ):
        with pytest.raises(ValueError, match=message):
            counted(kind, highest, dtype).sample((100,))
    for dtype, fine in ((torch.float32, 13.0), (torch.float64, 24.0)):
        torch.manual_seed(0)
        draws = counted(kind, fine, dtype).sample((4000,))
        assert bool((draws == draws.floor()).all()) and abs(float((draws % 2).mean()) - 0.5) < 0.06
    with pytest.raises(ValueError, match="is NaN"):
        poisson_counts(torch.full((2,), torch.nan))


def test_poisson_counts_are_theirs_up_to_the_largest_rate():
    """20,000 draws at each largest rate: p-values of 1e-4 and above, a false alarm once in 5,000 of other seeds."""
    for dtype in (torch.float32, torch.float64):
        rate = largest_rate(dtype, "cpu")
        torch.manual_seed(0)
        draws = poisson_counts(torch.full((20_000,), rate, dtype=dtype)).double()
        score = ((draws - rate) / rate**0.5).numpy()  # normal: the skewness is 1 / sqrt(rate)
        assert stats.kstest(score, "norm").pvalue > 1e-4
    assert largest_rate(torch.float64, "cuda") + 10 * largest_rate(torch.float64, "cuda") ** 0.5 <= 2**32
    assert largest_rate(torch.float32, "cuda") == largest_rate(torch.float32, "cpu") < 2**24


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchs_negative_binomial_keeps_its_figures_at_large_counts(dtype):
    """As `FromDistribution` makes it; torch's own loses 2 nats at counts of a million in single precision."""
    for total in (0.5, 10.0, 1e6):
        p = pyrovae.FromDistribution("NegativeBinomial", total_count=total)(torch.zeros((), dtype=dtype))
        x = stats.nbinom(total, 0.5).rvs(50, random_state=0).astype(float)
        error = np.abs(p.log_prob(torch.tensor(x, dtype=dtype)).double().numpy() - stats.nbinom(total, 0.5).logpmf(x))
        assert error.max() < (2e-3 if dtype == torch.float32 else 1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_finite_at_the_ends(family, dtype):
    torch.manual_seed(0)
    entries = pyrovae.mlp_vae((3,), likelihood=family).likelihood.family.to(dtype)
    upper = getattr(entries.support, "upper_bound", 100_000)
    for size in (0.0, 30.0, 1e3):
        count = getattr(entries, "num_parameters", 1)
        raw = torch.full((count, 3), size, dtype=dtype) * torch.tensor([-1.0, 1.0, 1.0])[:, None].repeat(4, 1)[:count]
        raw.requires_grad_()
        for x in (0.0, 1.0, float(upper)):
            value = entries(*raw).log_prob(torch.full((3,), x, dtype=dtype))
            (gradient,) = torch.autograd.grad(value.sum(), raw)
            assert value.isfinite().all() and gradient.isfinite().all(), (size, x)
            assert (value <= 0).all()


def test_a_log_mean_is_what_the_network_gives_until_it_grows_slowly():
    raw = double(-19.9, 0.3, 19.9)
    assert torch.equal(bounded_log(raw), raw)
    far = torch.tensor([1e3, -1e3, 3e38], requires_grad=True)
    value = bounded_log(far)
    assert value.exp().isfinite().all() and value.abs().max() <= 60
    assert (torch.autograd.grad(value.sum(), far)[0][:2] > 0).all()


# exposure -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", COUNTS)
def test_an_exposure_multiplies_the_mean(family):
    pair = pair_of(family).double()
    z, x = torch.randn(5, 2).double(), items()[:5].double()
    exposure = double(0.1, 1.0, 2.0, 7.5, 40.0)
    plain, exposed = pair.likelihood(z), pair.likelihood(z, exposure=exposure)
    assert torch.allclose(exposed.mean, plain.mean * exposure[:, None], rtol=1e-12)
    value = exposed.log_prob(x)
    if family == "poisson":
        expected = stats.poisson.logpmf(x.numpy(), (plain.mean * exposure[:, None]).detach().numpy())
    elif family.startswith("negative"):
        size = plain.base_dist.log_size.exp().detach().numpy()
        mean = (plain.mean * exposure[:, None]).detach().numpy()
        expected = stats.nbinom.logpmf(x.numpy(), size, size / (size + mean))
    else:
        return
    np.testing.assert_allclose(value.detach(), expected.sum(1), rtol=1e-10)
    assert not np.allclose(plain.log_prob(x).detach(), expected.sum(1), rtol=1e-3)  # control: dropped
    twice = pair.likelihood(z, exposure=exposure.square())  # control: logged twice
    assert not np.allclose(twice.log_prob(x).detach(), expected.sum(1), rtol=1e-3)


@pytest.mark.parametrize("family", ["poisson", "negative_binomial"])
def test_a_table_of_codes_and_items_has_each_items_exposure(family):
    pair = pair_of(family).double()
    z, x, exposure = torch.randn(6, 2).double(), items()[:5].double(), double(0.1, 1.0, 2.0, 7.5, 40.0)
    table = pair.likelihood.log_prob_table(z, x, exposure=exposure)
    assert table.shape == (6, 5)
    for n in range(5):
        alone = pair.likelihood(z, exposure=exposure[n].expand(6)).log_prob(x[n])
        assert torch.allclose(table[:, n], alone, rtol=1e-12)
    assert torch.allclose(
        pair.likelihood.log_prob_table(z, x, exposure=torch.ones(5).double()).sum(),
        pair.likelihood.log_prob_table(z, x).sum(),
    )


@pytest.mark.parametrize(
    ("family", "exposure", "words"),
    [
        ("bernoulli", torch.ones(5), "Bernoulli takes none: take 'poisson'"),
        ("categorical(num_classes=5)", torch.ones(5), "Categorical takes none"),
        ("poisson", torch.ones(4), r"must have shape \(5,\), one number for each item, .* got \(4,\)"),
        ("poisson", torch.ones(5, 1), r"got \(5, 1\)"),
        ("poisson", torch.tensor([1.0, 1, 1, 0, 1]), "must be positive and finite, got a least value of 0"),
        ("poisson", torch.tensor([1.0, 1, torch.nan, 1, 1]), "must be positive and finite"),
    ],
)
@pytest.mark.parametrize("checked_by_torch", [True, False])
def test_an_exposure_that_is_none_is_refused(family, exposure, words, checked_by_torch, monkeypatch):
    # `torch.compile` turns torch's own checks off for the rest of the process, whoever calls it
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", checked_by_torch)
    with pytest.raises(ValueError, match=words):
        pair_of(family).likelihood(torch.zeros(5, 2), exposure=exposure)


# in a pair ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CATEGORIES)
def test_categories_have_probabilities_and_no_mean(family):
    pair = pair_of(family)
    z = torch.randn(3, 7, 2)
    table = pair.probabilities(z)
    assert table.shape == (3, 7, 4, 5) and torch.allclose(table.sum(-1), torch.ones(3, 7, 4))
    code = torch.full((3, 7, 4), 2.0)
    assert torch.allclose(pair.likelihood(z).log_prob(code), table[..., 2].log().sum(-1), rtol=1e-5)
    with pytest.raises(ValueError, match=r"entry has no mean: take probabilities\(z\)"):
        pair.decode(z)
    with pytest.raises(ValueError, match=r"entry has no mean: take probabilities\(z\)"):
        pair.reconstruct(items())
    with pytest.raises(ValueError, match=r"x lies outside the support of the \w+ likelihood"):
        pair.encode(items() + 0.5)


def test_probabilities_are_of_categories():
    with pytest.raises(ValueError, match=r"this pair's is 'poisson': take decode\(z\)"):
        pair_of("poisson").probabilities(torch.zeros(1, 2))
    for name in ("categorical", "ordinal"):
        with pytest.raises(ValueError, match=rf"num_classes of the {name} likelihood must be given.*num_classes=5"):
            pair_of(name)


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("poisson", 0.5, "poisson likelihood, .* the first .* its entries are whole numbers: hand in counts"),
        ("negative_binomial", -9.0, "negative_binomial likelihood, .* whole numbers from 0 on"),
        ("categorical(num_classes=5)", 3.0, "whole numbers up to 4: give the likelihood a larger number .* 8 at the"),
        ("ordinal(num_classes=5)", -1.0, "from 0 on: number codes from 0"),
        ("discretized_logistic(levels=16)", 20.0, "up to 15: give the likelihood a larger number"),
    ],
)
def test_values_outside_are_refused_by_name(family, change, words):
    pair = pair_of(family)
    x = items()
    x[:, 0] = 4.0
    with pytest.raises(ValueError, match=words):
        pyrovae.elbo(pair, x + change)
    with pytest.raises(ValueError, match=words):
        pyrovae.fit(pair, x + change, epochs=1, progress=False)


def test_encoders_see_logarithms_columns_and_the_unit_interval():
    x = items()[:3]
    network = pair_of("poisson").posterior.network
    assert torch.equal(network[0](x), x.log1p())
    seen = pair_of("categorical(num_classes=5)").posterior.network[0](x)
    assert torch.equal(seen.reshape(3, 4, 5), nn.functional.one_hot(x.long(), 5).float())
    assert torch.equal(pair_of("discretized_logistic(levels=16)").posterior.network[0](x), x / 15)
    images = pyrovae.conv_vae((2, 3, 4), channels=(4,), strides=(1,), likelihood="categorical(num_classes=3)")
    codes = torch.randint(0, 3, (5, 2, 3, 4)).float()
    assert images.posterior.network[0](codes).shape == (5, 6, 3, 4)
    assert images.encode(codes).shape == (5, 2) and images.probabilities(torch.zeros(5, 2)).shape == (5, 2, 3, 4, 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pyrovae.PosteriorCollapseWarning")
def test_large_counts_are_fitted():
    torch.manual_seed(0)
    x = torch.poisson((6 + torch.randn(100, 1) * torch.tensor([0.5, -0.5, 0.2, 0.0])).exp())
    pair = pair_of("poisson")
    losses = pyrovae.fit(pair, x, epochs=3, compile=False, progress=False).epochs["loss"].values
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def test_one_dispersion_for_each_column_belongs_to_a_shape():
    family = pyrovae.NegativeBinomial("column")
    with pytest.raises(ValueError, match="has no dispersions yet"):
        family(torch.zeros(4))
    family.bind((4,))
    assert family.log_size_change.shape == (4,)
    with pytest.raises(ValueError, match=r"items of shape \(4,\), and is asked for \(3,\)"):
        pyrovae.mlp_vae((3,), likelihood=family)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pyrovae.PosteriorCollapseWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_fits_is_saved_scored_and_imputed(family, tmp_path):
    pair = pair_of(family)
    x = items()
    pyrovae.fit(pair, x, epochs=3, compile=False, progress=False)
    pyrovae.save(tmp_path / "state", pair)
    again = pyrovae.load(tmp_path / "state")
    assert torch.equal(again.encode(x), pair.encode(x))
    exact = pyrovae.quadrature(pair, x[:4])
    assert exact.pointwise.attrs["base_measure"] == "mass"
    assert torch.equal(
        torch.as_tensor(pyrovae.quadrature(again, x[:4]).pointwise["value"].values),
        torch.as_tensor(exact.pointwise["value"].values),
    )
    # log p(x) from draws of the prior, by the families' own masses: an encoder of three epochs is too poor to weigh by
    with torch.no_grad():
        table = pair.likelihood(torch.randn(30_000, 1, 2)).log_prob(x[:4]).double()
    scaled = (table - table.amax(0)).exp()
    value = scaled.mean(0).log() + table.amax(0)
    error = scaled.std(0) / scaled.mean(0) / 30_000**0.5
    at = torch.as_tensor(exact.pointwise["value"].values)
    assert ((at - value).abs() < 5 * error + 1e-3).all() and error.max() < 0.1  # one in a million of other seeds
    holes = x[:4].clone()
    holes[:, 0] = torch.nan
    draws = pair.impute(holes, num_draws=3, num_steps=4)
    assert torch.equal(draws[:, :, 1:], x[:4, 1:].expand(3, 4, 3)) and bool((draws % 1 == 0).all())
