"""Strange items: an exact rate of false alarms, closed-form scores, and where raw log p(x) is known to fail."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import pyrovae
from pyrovae import IndependentEntries, NoveltyDetector
from pyrovae.models.independent import FAMILIES, entries_like, family_for

# independent entries -------------------------------------------------------------------------------


def items_of(family: str, n: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(n, 2, 3, generator=generator, dtype=torch.float64)
    return {
        "bernoulli": (normal > 0.5).double(),
        "continuous_bernoulli": normal.sigmoid(),
        "normal": 3 + normal,
        "log_normal": normal.exp(),
        "negative_binomial": (normal * 2).exp().floor(),
        "categorical": (normal.sigmoid() * 3).floor(),
    }[family]


OPTIONS: dict[str, dict[str, Any]] = {"categorical": {"num_classes": 4}}


def test_log_prob_against_scipy() -> None:
    x = items_of("normal")
    flat = x.flatten(1).numpy()
    expected = stats.norm(flat.mean(0), flat.std(0)).logpdf(flat).sum(1)
    np.testing.assert_allclose(IndependentEntries.fit(x).log_prob(x).detach(), expected, rtol=1e-10)

    x = items_of("log_normal")
    flat = x.flatten(1).numpy()
    logs = np.log(flat)
    expected = stats.lognorm(logs.std(0), scale=np.exp(logs.mean(0))).logpdf(flat).sum(1)
    np.testing.assert_allclose(IndependentEntries.fit(x, family="log_normal").log_prob(x).detach(), expected, rtol=1e-9)

    x = items_of("bernoulli")
    p = (x.sum(0) + 0.5) / (len(x) + 1)
    expected = (x * p.log() + (1 - x) * (-p).log1p()).flatten(1).sum(1)
    torch.testing.assert_close(IndependentEntries.fit(x, family="bernoulli").log_prob(x).detach(), expected)

    x = items_of("negative_binomial")
    mean = ((x.sum(0) + 0.5) / len(x)).numpy()
    excess = x.numpy().var(0) - mean
    assert (excess > 0).all()
    r = mean**2 / excess
    expected = stats.nbinom(r, r / (r + mean)).logpmf(x.numpy()).sum((1, 2))
    fitted = IndependentEntries.fit(x, family="negative_binomial")
    np.testing.assert_allclose(fitted.log_prob(x).detach(), expected, rtol=1e-9)


@pytest.mark.parametrize("mean", [0.0, 1e-3, 0.2, 0.4999, 0.5, 0.9, 1.0])
def test_a_continuous_bernoulli_has_the_mean_of_its_items(mean: float) -> None:
    x = torch.full((1000, 1), mean, dtype=torch.float64)
    entries = IndependentEntries.fit(x, family="continuous_bernoulli")
    assert entries.mean.item() == pytest.approx((1000 * mean + 0.5) / 1001, abs=1e-6)
    assert entries.log_prob(torch.tensor([[0.0], [1.0]])).isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_independent_entries_are_a_pair_whose_bound_is_log_p(family: str) -> None:
    x = items_of(family)
    for perturbation in (0.0, 0.3):
        entries = IndependentEntries.fit(x, family=family, perturbation=perturbation, **OPTIONS.get(family, {}))
        log_prob = entries.log_prob(x).detach()
        estimate = pyrovae.iwae(entries, x, num_particles=3)
        np.testing.assert_allclose(estimate.pointwise["value"], log_prob, rtol=1e-10)
        assert estimate.pointwise.attrs["base_measure"] == entries.base_measure
        assert entries.sample(5, seed=0).shape == (5, 2, 3)
        assert entries.log_prob(entries.sample(5, seed=0)).isfinite().all()
    assert family_for(entries) == family


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mean", [10.0, 1e3, 1e6])
def test_counts_of_any_size_and_the_poisson_limit(mean: float, dtype: torch.dtype) -> None:
    """The first column varies less than its mean and is Poisson, the second more, by a little."""
    rng = np.random.default_rng(0)
    x = np.stack([np.round(rng.normal(mean, 0.5 * mean**0.5, 100)), rng.poisson(rng.gamma(mean / 3, 3, 100))], 1)
    fitted = IndependentEntries.fit(torch.tensor(x, dtype=dtype), family="negative_binomial")
    center = (x.sum(0) + 0.5) / 100
    excess = x.var(0) - center
    assert excess[0] < 0 < excess[1]
    r = center[1] ** 2 / excess[1]
    expected = stats.poisson(center[0]).logpmf(x[:, 0]) + stats.nbinom(r, r / (r + center[1])).logpmf(x[:, 1])
    found = fitted.log_prob(torch.tensor(x, dtype=dtype)).detach()
    np.testing.assert_allclose(found, expected, atol=5e-3 if dtype == torch.float32 else 1e-6)
    if mean == 1e6:  # the best that any mean and r can do, within 1 nat in 200: no item is dragged away
        at_own = stats.poisson(x[:, 0].mean()).logpmf(x[:, 0]) + stats.norm(x[:, 1].mean(), x[:, 1].std()).logpdf(
            x[:, 1]
        )
        assert abs(float(found.double().mean()) - at_own.mean()) < 0.005


def test_codes_of_categories_have_their_frequencies() -> None:
    x = items_of("categorical")
    entries = IndependentEntries.fit(x, family="categorical", num_classes=4)
    # 3 is never seen, and has a quarter of the one observation that is added
    counts = torch.stack([(x == code).double().sum(0) for code in range(4)])
    assert counts[3].sum() == 0
    p = (counts + 0.25) / (len(x) + 1)
    expected = p.log().gather(0, x.long()).flatten(1).sum(1)
    torch.testing.assert_close(entries.log_prob(x).detach(), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(entries.log_prob(torch.full((1, 2, 3), 3.0)).detach(), p[3].log().sum()[None])
    mixed = IndependentEntries.fit(x, family="categorical", num_classes=4, perturbation=0.3)
    pooled = 0.7 * counts / len(x) + 0.3 * counts.flatten(1).mean(1)[:, None, None] / len(x)
    expected = ((pooled * len(x) + 0.25) / (len(x) + 1)).log()
    torch.testing.assert_close(mixed.natural.detach(), expected)
    with pytest.raises(ValueError, match="has no mean"):
        _ = entries.mean


def test_a_background_has_the_support_of_the_pair() -> None:
    """Codes were once given the negative binomial, whose mass lies beyond them too."""
    for likelihood, family in (
        (pyrovae.Categorical(3), "categorical"),
        (pyrovae.Ordinal(4), "categorical"),
        (pyrovae.DiscretizedLogistic(16), "categorical"),
        (pyrovae.FromDistribution("Binomial", total_count=5), "categorical"),
        (pyrovae.DiscretizedLogistic(5000), None),
        (pyrovae.FromDistribution("Geometric"), "negative_binomial"),
        (pyrovae.Poisson(), "negative_binomial"),
        (pyrovae.Gamma(), "log_normal"),
    ):
        pair: Any = SimpleNamespace(likelihood=likelihood)
        assert family_for(pair) == family
        if family == "categorical":
            entries = entries_like(pair, torch.ones(4, 3))
            assert entries is not None
            codes = torch.arange(float(entries.num_classes or 0))
            total = entries.log_prob(codes[:, None].expand(-1, 3)).detach()  # of equal columns: a third of the items'
            assert abs(float((total / 3).exp().sum()) - 1) < 1e-5
    reference = torch.ones(21, 3)
    pairs = [
        pyrovae.linear_vae(3, 1, likelihood=f) for f in (pyrovae.DiscretizedLogistic(5000), pyrovae.Categorical(3))
    ]
    with pytest.raises(ValueError, match="needs a background"):
        NoveltyDetector(pairs[0], reference[1:], reference=reference, score="likelihood_ratio", num_particles=20)
    detector = NoveltyDetector(pairs[1], reference[1:], reference=reference, score="likelihood_ratio", num_particles=20)
    assert isinstance(detector.background, IndependentEntries) and detector.background.num_classes == 3


def test_perturbed_moments_are_those_of_perturbed_items() -> None:
    x = items_of("normal") * torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3)
    generator = torch.Generator().manual_seed(1)
    flat = x.flatten(1).repeat(4000, 1)
    other = flat.flatten()[torch.randint(flat.numel(), flat.shape, generator=generator)]
    by_hand = torch.where(torch.rand(flat.shape, generator=generator) < 0.3, other, flat)
    entries = IndependentEntries.fit(x, perturbation=0.3)
    law = entries._law().base_dist
    error = flat.std() / math.sqrt(len(flat))
    assert (law.mean.flatten() - by_hand.mean(0)).abs().max() < 5 * error
    torch.testing.assert_close(law.stddev.flatten(), by_hand.std(0), rtol=0.02, atol=0)


def test_what_independent_entries_refuse() -> None:
    with pytest.raises(ValueError, match="must vary"):
        IndependentEntries.fit(torch.ones(4, 3))
    with pytest.raises(ValueError, match="at least 2 items"):
        IndependentEntries.fit(torch.ones(1, 3))
    with pytest.raises(ValueError, match="perturbation must lie"):
        IndependentEntries.fit(torch.randn(4, 3), perturbation=1.0)
    for wrong in (None, 1, 1025):
        with pytest.raises(ValueError, match="num_classes must be"):
            IndependentEntries((3,), "categorical", num_classes=wrong)
    with pytest.raises(ValueError, match="num_classes is for family='categorical'"):
        IndependentEntries((3,), "normal", num_classes=3)
    with pytest.raises(ValueError, match="outside the support"):
        IndependentEntries.fit(torch.full((4, 3), 3.0), family="categorical", num_classes=3)
    with pytest.raises(ValueError, match="family must be one of"):
        IndependentEntries((3,), "gamma")
    with pytest.raises(ValueError):
        IndependentEntries.fit(torch.full((4, 3), 0.5), family="bernoulli")
    constant = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    constant[:, 0] = 2.0
    assert IndependentEntries.fit(constant).log_prob(constant).isfinite().all()


# the detector --------------------------------------------------------------------------------------


def correlated() -> pyrovae.GaussianMixture:
    covariance = [[1.0, 0.8], [0.8, 1.0]]
    return pyrovae.GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [covariance])


def test_scores_are_their_formulas() -> None:
    mixture = correlated()
    usual, reference, x = (mixture.sample(n, seed=seed) for seed, n in enumerate((60, 50, 9)))
    log_prob, of_reference = mixture.log_prob(x).detach(), mixture.log_prob(reference).detach()
    background = IndependentEntries.fit(reference, perturbation=0.3)
    expected = {
        "likelihood_ratio": background.log_prob(x).detach() - log_prob,
        "log_prob": -log_prob,
        "typicality": (log_prob - of_reference.mean()).abs(),
    }
    for score, values in expected.items():
        detector = NoveltyDetector(mixture, usual, score=score, reference=reference)
        found = detector.detect(x)
        np.testing.assert_allclose(found.pointwise["score"], values, rtol=1e-9)
        above = (detector._calibration[score][None] >= np.asarray(values)[:, None]).sum(1)
        np.testing.assert_allclose(found.p_value, (1 + above) / 61)
        assert (found.strange == (found.pointwise["score"].values > detector.threshold)).all()
        assert detector.false_alarm == 3 / 61


def planted_alarms(score: Any, sets: int, n: int, level: float) -> np.ndarray:
    """For each set, whether one more item that is drawn as the usual ones is called strange."""
    mixture, alarms = correlated(), []
    reference = mixture.sample(30, seed=10**6)
    for seed in range(sets):
        x = mixture.sample(n + 1, seed=seed)
        detector = NoveltyDetector(mixture, x[:n], score=score, reference=reference, level=level, seed=seed)
        alarms.append(bool(detector.detect(x[n:]).strange[0]))
    return np.array(alarms)


@pytest.mark.slow
@pytest.mark.parametrize("score", ["likelihood_ratio", lambda x: (x[:, 0] > 1).double()])
def test_the_rate_of_false_alarms_is_exact(score: Any) -> None:
    """floor(0.25 * 9) / 9 = 2 / 9, of scores with and without ties; the interval excludes it in 1 of 10,000 runs."""
    alarms = planted_alarms(score, 120, 8, 0.25)
    interval = stats.binomtest(int(alarms.sum()), len(alarms)).proportion_ci(0.9999)
    assert interval.low < 2 / 9 < interval.high


@pytest.mark.slow
@pytest.mark.parametrize("score", ["typicality", lambda x: (x[:, 0] > 1).double()])
def test_the_rate_of_false_alarms_is_exact_over_1000_sets(score: Any) -> None:
    alarms = planted_alarms(score, 1000, 19, 0.1)
    interval = stats.binomtest(int(alarms.sum()), len(alarms)).proportion_ci(0.9999)
    assert interval.low < 2 / 20 < interval.high


def test_the_p_values_of_usual_items_lie_on_the_whole_grid() -> None:
    mixture = correlated()
    detector = NoveltyDetector(mixture, mixture.sample(99, seed=0), reference=mixture.sample(50, seed=1))
    p_value = detector.detect(mixture.sample(2000, seed=2)).p_value
    # of one detector the grid's cells have Dirichlet weights: the largest gap of 99 is under 0.25 all but always
    assert stats.kstest(p_value, "uniform").statistic < 0.25
    np.testing.assert_allclose(p_value * 100, np.round(p_value * 100))
    ends = stats.beta(5, 95).ppf([1e-5, 1 - 1e-5])
    assert ends[0] - 0.02 < (p_value <= 0.05).mean() < ends[1] + 0.02


def test_an_atypical_item_of_high_density_is_found_by_typicality_alone() -> None:
    """The mode of a normal in 100 dimensions, which no draw comes near (Nalisnick et al. 2019b, section 2)."""
    mixture = pyrovae.GaussianMixture.from_parameters(
        [1.0], torch.zeros(1, 100), torch.ones(1, 100), covariance="diagonal"
    )
    detector = NoveltyDetector(mixture, mixture.sample(200, seed=0), score="typicality")
    assert detector.num_calibration == 100
    compared = detector.compare(mixture.sample(100, seed=1), torch.zeros(20, 100)).table
    assert float(compared.auroc.sel(score="log_prob")) == 0
    assert float(compared.auroc.sel(score="typicality")) == 1
    assert detector.detect(torch.zeros(1, 100)).strange.tolist() == [True]


def test_an_estimator_and_a_background_of_ones_own() -> None:
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(3, 1)
    usual, reference, x = (vae.sample(n, seed=seed) for seed, n in enumerate((40, 40, 5)))
    background = IndependentEntries.fit(reference)
    detector = NoveltyDetector(
        vae, usual, reference=reference, background=background, estimator=pyrovae.exact, score="likelihood_ratio"
    )
    expected = background.log_prob(x).detach().numpy() - pyrovae.exact(vae, x).pointwise["value"].values
    np.testing.assert_allclose(detector.detect(x).pointwise["score"], expected, rtol=1e-5)
    by_iwae = NoveltyDetector(vae, usual, reference=reference, background=background, num_particles=2000)
    np.testing.assert_allclose(by_iwae.detect(x).pointwise["score"], expected, atol=0.5)
    assert by_iwae.detect(x).pointwise.identical(by_iwae.detect(x).pointwise)


def test_what_the_detector_refuses() -> None:
    mixture = correlated()
    usual, reference = mixture.sample(20, seed=0), mixture.sample(20, seed=1)
    with pytest.raises(ValueError, match=r"at least 19 usual items to calibrate with, got 10.*give reference="):
        NoveltyDetector(mixture, usual)
    with pytest.raises(ValueError, match="score must be one of"):
        NoveltyDetector(mixture, usual, score="entropy")
    with pytest.raises(ValueError, match="needs a p"):
        NoveltyDetector(pyrovae.mlp_ae((2,)), usual)
    with pytest.raises(ValueError, match="base measure"):
        NoveltyDetector(pyrovae.mlp_vae((2,)), torch.ones(40, 2), background=mixture)
    with pytest.raises(ValueError, match="background must have the pair's event_shape"):
        NoveltyDetector(mixture, usual, reference=reference, background=pyrovae.GaussianMixture((3,), 1))
    with pytest.raises(ValueError, match="a number for each of the"):
        NoveltyDetector(mixture, usual, reference=reference, score=lambda x: x)
    detector = NoveltyDetector(mixture, usual, reference=reference)
    with pytest.raises(ValueError, match="shape"):
        detector.detect(torch.zeros(3, 5))
    assert "5 % false alarms" in str(NoveltyDetector(mixture, usual[:19], reference=reference))


@pytest.mark.slow
def test_raw_log_p_takes_blank_images_for_the_more_usual_ones() -> None:
    """Digits with one pixel in ten flipped: a blank image is plainer, has a higher log p(x), and the ratio finds it.

    (Nalisnick et al. 2019a, section 5, on constant images.)
    """
    digits, generator = pyrovae.data.load("digits"), torch.Generator().manual_seed(0)

    def noisy(x: Tensor) -> Tensor:
        return ((x > 0.5) ^ (torch.rand(x.shape, generator=generator) < 0.1)).float()

    train, test = noisy(digits.train.x), noisy(digits.test.x)
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((1, 8, 8), latent_dim=4, hidden_dims=(100,))
    pyrovae.fit(vae, train, epochs=10, batch_size=64, learning_rate=2e-3, progress=False)
    detector = NoveltyDetector(vae, test[:180], reference=train)
    table = detector.compare(test[180:], torch.zeros(50, 1, 8, 8)).table
    assert float(table.upper.sel(score="log_prob")) < 0.5
    assert float(table.power.sel(score="log_prob")) == 0
    assert float(table.lower.sel(score="likelihood_ratio")) > 0.9
    assert float(table.power.sel(score="likelihood_ratio")) == 1
    lower, upper = stats.binom(180, detector.false_alarm).ppf([1e-4, 1 - 1e-4]) / 180
    assert lower <= float(table.false_alarm.sel(score="likelihood_ratio")) <= upper + 0.05  # of one calibration


def test_items_given_covariates_are_scored_at_their_own() -> None:
    torch.manual_seed(0)
    pair = pyrovae.linear_vae(4, 1, covariate_dim=1)
    with torch.no_grad():
        pair.likelihood.network.weight[:, 1] = 6.0
    c = torch.arange(60.0)[:, None] % 2
    x = pair.sample(60, covariates=c, seed=1)
    usual, reference = pyrovae.data.Split(x[:30], covariates=c[:30]), pyrovae.data.Split(x[30:], covariates=c[30:])
    for estimator in (None, pyrovae.exact):
        detector = pyrovae.NoveltyDetector(
            pair, usual, reference=reference, score="log_prob", level=0.1, estimator=estimator
        )
        more = pair.sample(20, covariates=c[:20], seed=2)
        own = detector.detect(pyrovae.data.Split(more, covariates=c[:20]))
        assert own.strange.sum() < 7  # Binomial(20, 0.1) with a calibrated threshold: 1 in 10,000 at the least
        assert detector.detect(pyrovae.data.Split(more, covariates=1 - c[:20])).strange.all()  # the control
        if estimator is not None:
            exact = pyrovae.exact(pair, more, covariates=c[:20]).pointwise["value"].values
            np.testing.assert_allclose(own.pointwise["score"], -exact, rtol=1e-6)
    with pytest.raises(ValueError, match="covariates of usual are needed"):
        pyrovae.NoveltyDetector(pair, x)


def test_usual_items_that_are_the_reference_are_refused() -> None:
    density = pyrovae.GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
    x = density.sample(40, seed=0)
    with pytest.raises(ValueError, match="are the same items"):
        pyrovae.NoveltyDetector(density, x, reference=x)


@pytest.mark.parametrize("side", ["usual", "x"])
def test_an_exposure_of_one_side_alone_is_refused(side: str) -> None:
    x = torch.poisson(torch.full((60, 3), 2.0), generator=torch.Generator().manual_seed(0))
    pair = pyrovae.mlp_vae((3,), 1, hidden_dims=(2,), likelihood="poisson")
    split = pyrovae.data.Split(x, exposure=torch.full((60,), 4.0))
    usual, items = (split, x) if side == "usual" else (x, split)
    detector = NoveltyDetector(pair, usual, score="log_prob", num_particles=2)
    with pytest.raises(ValueError, match=r"come with an exposure and .* without one"):
        detector.detect(items)
    with pytest.raises(ValueError, match=r"come with an exposure and .* without one"):
        NoveltyDetector(pair, usual, reference=items, score="log_prob", num_particles=2)
