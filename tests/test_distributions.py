"""Likelihood families against SciPy, quadrature and high-precision arithmetic."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import pyrovae
from pyrovae.models.distributions import Bernoulli, ContinuousBernoulli, Normal, TruncatedExponential

LOGITS = [-80.0, -20.0, -3.0, -0.31, -0.29, -1e-3, 0.0, 0.05, 0.3, 1.0, 15.0, 40.0, 200.0]


def truncated(logit: float):
    """The same law from SciPy: an exponential cut at 1, seen from its heavy end; uniform at 0."""
    if logit == 0:
        return stats.uniform()
    rate = abs(logit)
    return stats.truncexpon(b=rate, scale=1 / rate)


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_is_a_truncated_exponential(logit):
    law = TruncatedExponential(torch.tensor(logit, dtype=torch.float64))
    reference = truncated(logit)
    x = np.linspace(0, 1, 11)
    seen_from = 1 - x if logit > 0 else x
    expected = reference.logpdf(seen_from)
    got = law.log_prob(torch.from_numpy(x)).numpy()
    assert np.allclose(got, expected, rtol=1e-12, atol=1e-12)
    mean = 1 - reference.mean() if logit > 0 else reference.mean()
    assert float(law.mean) == pytest.approx(mean, rel=1e-9, abs=1e-10)
    if abs(logit) > 1e-2 or logit == 0:
        assert float(law.variance) == pytest.approx(reference.var(), rel=1e-8)


@pytest.mark.parametrize("logit", [-17.0, -1.0, 0.0, 1e-5, 0.3, 9.0])
def test_its_density_integrates_to_one_and_its_quantile_inverts_it(logit):
    law = TruncatedExponential(torch.tensor(logit, dtype=torch.float64))
    nodes, weights = np.polynomial.legendre.leggauss(60)
    x = torch.from_numpy((nodes + 1) / 2)
    w = torch.from_numpy(weights / 2)
    assert float((law.log_prob(x).exp() * w).sum()) == pytest.approx(1, abs=1e-10)
    for u in (0.0, 1e-3, 0.4, 0.9, 1.0):
        q = float(law.icdf(torch.tensor(u, dtype=torch.float64)))
        below = torch.from_numpy((nodes + 1) / 2 * q)
        assert float((law.log_prob(below).exp() * w).sum() * q) == pytest.approx(u, abs=2e-9)


def test_single_precision_keeps_its_figures_where_a_form_through_probabilities_loses_them():
    logits = torch.tensor([25.0, -60.0])
    x = torch.tensor([0.9, 0.2])
    exact = TruncatedExponential(logits.double()).log_prob(x.double())
    assert torch.allclose(TruncatedExponential(logits).log_prob(x).double(), exact, rtol=1e-5)
    clamped = torch.distributions.ContinuousBernoulli(logits=logits, validate_args=False).log_prob(x)
    assert not torch.allclose(clamped.double(), exact, rtol=1e-2)  # control: torch's own form


@pytest.mark.parametrize("logit", [1e4, 1e6, -1e6, 1e8, -1e12])
def test_far_out_it_is_the_logarithm_of_the_logit(logit):
    # at the heavy end p(x) = |l| to e^-|l|, in float32 as in float64
    x = torch.tensor(1.0 if logit > 0 else 0.0)
    assert float(TruncatedExponential(torch.tensor(logit)).log_prob(x)) == pytest.approx(math.log(abs(logit)), rel=1e-6)


@pytest.mark.parametrize("logit", [-2.0, -1e-9, 0.0, 0.299, 0.301, 7.0])
def test_its_gradients_agree_with_finite_differences(logit):
    value = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    x = torch.tensor(0.3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: TruncatedExponential(v).log_prob(x), value)
    assert torch.autograd.gradcheck(lambda v: TruncatedExponential(v).mean, value)
    assert torch.autograd.gradcheck(lambda v: TruncatedExponential(v).icdf(x), value)


def test_its_draws_have_its_law():
    # Kolmogorov-Smirnov at 1e-4, three laws: false alarm 3e-4, seed fixed
    torch.manual_seed(0)
    for logit in (-4.0, 0.0, 2.0):
        draws = TruncatedExponential(torch.tensor(logit, dtype=torch.float64)).rsample((5000,)).numpy()
        draws = 1 - draws if logit > 0 else draws
        assert stats.kstest(draws, truncated(logit).cdf).pvalue > 1e-4


def test_bernoulli_is_the_cross_entropy():
    logits = torch.tensor([-40.0, -1.0, 0.5, 30.0])
    x = torch.tensor([0.0, 1.0, 1.0, 1.0])
    expected = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    assert torch.allclose(Bernoulli()(logits).log_prob(x), expected)


class TestNormal:
    def test_its_scale_is_a_standard_deviation(self):
        x, loc = torch.tensor(1.7, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
        family = Normal(scale=0.5).double()
        assert float(family(loc).log_prob(x)) == pytest.approx(stats.norm(0.2, 0.5).logpdf(1.7), rel=1e-12)
        assert float(family(loc).log_prob(x)) != pytest.approx(stats.norm(0.2, math.sqrt(0.5)).logpdf(1.7), rel=1e-3)

    def test_a_learned_scale_starts_where_asked_and_never_reaches_its_floor(self):
        family = Normal(initial_scale=0.626, floor=0.01)
        assert float(family.scale.detach()) == pytest.approx(0.626, rel=1e-6)
        with torch.no_grad():
            family.log_scale.fill_(-1e4)
        assert float(family.scale.detach()) == pytest.approx(0.01)
        assert sum(p.numel() for p in family.parameters()) == 1
        assert not list(Normal(scale=1.0).parameters())

    def test_the_sigmoid_link_bounds_the_mean(self):
        loc = torch.tensor([-100.0, 0.0, 100.0])
        assert torch.allclose(Normal(scale=1.0, link="sigmoid")(loc).mean, torch.tensor([0.0, 0.5, 1.0]))

    def test_a_fixed_scale_keeps_its_figures(self):
        family = Normal(scale=0.626)
        assert float(family.double().scale) == 0.626
        assert family(torch.zeros(1, dtype=torch.float32)).scale.dtype == torch.float32
        with pytest.raises(ValueError, match="scale must lie between 1e-30 and 1e30"):
            Normal(scale=1e-50)

    def test_a_scale_whose_square_is_lost_is_refused_by_name(self):
        """1e-25 squared is 0 in single precision, of which log p is NaN, and 1e25 squared is infinite."""
        families = (Normal, pyrovae.Laplace, pyrovae.LogNormal, pyrovae.StudentT)
        of_torch = functools.partial(pyrovae.FromDistribution, "Normal")
        for scale in (1e-25, 1e25):
            for family in (*families, of_torch):
                made = family(scale=scale)
                with pytest.raises(ValueError, match=r"scale of .* must lie between 1.08e-19 and 9.22e\+18 in torch.f"):
                    made(torch.zeros(1))
                assert made(torch.zeros(1, dtype=torch.float64)).log_prob(torch.ones(1).double() * scale).isfinite()
            pair = pyrovae.BayesianVAE(pyrovae.linear_vae(2, 1), prior_scale=scale)
            classifier = pyrovae.DiscriminativeClassifier((2,), 2, prior_scale=scale)
            mixture = pyrovae.BayesianGaussianMixture((2,), 2, prior_scale=scale)
            for call in (pair.prior_of_weights, classifier.log_prior, mixture.model):
                with pytest.raises(ValueError, match="prior_scale must lie between"):
                    call()
            assert pair.double().prior_of_weights() and classifier.double().log_prior().isfinite()
            assert mixture.double().model().isfinite().all()
        with pytest.raises(ValueError, match="initial_scale of Normal must lie"):
            Normal(initial_scale=1e-25, floor=1e-26)(torch.zeros(1))
        for scale in (2e-19, 9e18):  # those that are taken have finite values and gradients
            for family in families:
                loc = torch.zeros(1, requires_grad=True)
                p = family(scale=scale)(loc)
                x = torch.ones(1) if family is pyrovae.LogNormal else torch.full((1,), scale)
                value = p.log_prob(x)
                assert value.isfinite() and torch.autograd.grad(value.sum(), loc)[0].isfinite()

    @pytest.mark.parametrize("scale", [0, -1.0, math.inf, math.nan])
    def test_a_scale_is_positive(self, scale):
        with pytest.raises(ValueError, match="scale must be a finite number greater than 0"):
            Normal(scale=scale)


def test_each_family_says_where_it_has_a_density():
    assert bool(Bernoulli.support.check(torch.tensor(1.0)))
    assert not bool(Bernoulli.support.check(torch.tensor(0.5)))
    assert bool(ContinuousBernoulli.support.check(torch.tensor(0.5)))
    assert not bool(ContinuousBernoulli.support.check(torch.tensor(1.5)))
    assert (Bernoulli.base_measure, Normal.base_measure) == ("mass", "density")
