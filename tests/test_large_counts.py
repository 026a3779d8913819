"""Log-masses of counts at means where terms cancel, against 60 digits; other columns at the ends of what they hold."""

from __future__ import annotations

import math

import mpmath  # which SymPy, and so torch, brings
import numpy as np
import pytest
import torch

import pyrovae
from pyrovae.models.parts.negative_binomial import MeanNegativeBinomial
from pyrovae.models.parts.poisson import LogRatePoisson
from pyrovae.models.parts.zero_inflated import ZeroInflated


def exact_log_mass(x, log_mean, log_size=None):
    """log p of a negative binomial count, or without a size of a Poisson count, in 60 digits at these very floats."""
    with mpmath.workdps(60):
        x, m = mpmath.mpf(float(x)), mpmath.exp(mpmath.mpf(float(log_mean)))
        if log_size is None:
            return float(x * mpmath.log(m) - m - mpmath.loggamma(x + 1))
        r = mpmath.exp(mpmath.mpf(float(log_size)))
        gammas = mpmath.loggamma(x + r) - mpmath.loggamma(r) - mpmath.loggamma(x + 1)
        return float(gammas + r * mpmath.log(r / (r + m)) + x * mpmath.log(m / (r + m)))


@pytest.mark.parametrize(
    ("dtype", "size", "error"),
    [
        (torch.float32, 10.0, 1e-4),
        (torch.float32, 1e4, 1e-4),
        (torch.float64, 10.0, 1e-12),
        (torch.float64, 1e9, 1e-11),
    ],
)
def test_log_mass_of_large_overdispersed_counts(dtype, size, error):
    for mean in (1e9, 1e12, 1e15, 1e20):
        log_mean, log_size = (torch.tensor(math.log(each), dtype=dtype) for each in (mean, size))
        x = (mean + math.sqrt(mean + mean**2 / size) * torch.tensor([-0.3, 0.0, 1.0, 3.0], dtype=torch.float64)).round()
        x = x.to(dtype)
        for p in (
            MeanNegativeBinomial(log_mean, log_size),
            ZeroInflated(MeanNegativeBinomial(log_mean, log_size), torch.tensor(-40.0, dtype=dtype)),
        ):
            found = p.log_prob(x)
            wanted = [exact_log_mass(each, log_mean, log_size) for each in x]
            assert np.abs(found.double().numpy() - wanted).max() < error
        if dtype == torch.float32 and mean >= 1e12:  # control: by a difference of logarithms it is far off
            m, r = log_mean.exp(), log_size.exp()
            v = log_mean - x.log() + torch.log1p((x - m) / (r + m))
            assert float((x * (torch.expm1(v) - v)).max()) > 0.1


@pytest.mark.parametrize(("dtype", "errors"), [(torch.float32, (1e-3, 0.1)), (torch.float64, (1e-11, 1e-8))])
def test_log_mass_of_large_poisson_counts(dtype, errors):
    for mean, error in zip((1e9, 1e12), errors, strict=True):
        log_rate = torch.tensor(math.log(mean), dtype=dtype, requires_grad=True)
        x = (mean + math.sqrt(mean) * torch.tensor([-3.0, 0.0, 1.0], dtype=torch.float64)).round().to(dtype)
        found = LogRatePoisson(log_rate).log_prob(x)
        wanted = [exact_log_mass(each, log_rate.detach()) for each in x]
        assert np.abs(found.detach().double().numpy() - wanted).max() < error
        (slope,) = torch.autograd.grad(found[0], log_rate)  # x - m
        true_slope = float(x[0].double() - log_rate.detach().double().exp())
        assert abs(float(slope) / true_slope - 1) < 0.02


def test_log_mass_of_large_counts_in_a_latent_class():
    column = pyrovae.Column("n", "count")
    for family in ("poisson", "negative_binomial"):
        mixture = pyrovae.ColumnMixture([column], 1, families={"count": family}).double()
        block = mixture.components.families()[0]
        for mean in (1e9, 1e15):
            block.log_mean.data.fill_(math.log(mean))
            size = None
            if family == "negative_binomial":
                size = block.log_size.data.fill_(math.log(50.0)).flatten()[0]
            x = torch.tensor([mean + round(2 * math.sqrt(mean)), mean], dtype=torch.float64)[:, None]
            wanted = [exact_log_mass(each, block.log_mean.detach().flatten()[0], size) for each in x.flatten()]
            assert np.allclose(mixture.log_prob(x).detach(), wanted, rtol=0, atol=1e-7)
    # control: its three terms one by one
    terms = x[0, 0] * math.log(mean) - mean - torch.lgamma(x[0, 0] + 1)
    assert abs(float(terms) - exact_log_mass(x[0, 0], math.log(mean))) > 0.1


def test_log_p_at_the_ends_of_what_a_column_may_have():
    """Log-normal values near 0, ordinal cuts and categorical logits far out: closed forms, no infinity and no NaN."""
    x = torch.tensor([1e-300, 5e-324, 1e300], dtype=torch.float64)
    p = pyrovae.LogNormal(scale=2.0)(torch.full((3,), -690.0, dtype=torch.float64))
    z = (np.log(x.numpy()) + 690) / 2
    assert np.allclose(
        p.log_prob(x), -0.5 * z**2 - math.log(2 * math.sqrt(2 * math.pi)) - np.log(x.numpy()), rtol=1e-13
    )
    mixture = pyrovae.ColumnMixture([pyrovae.Column("p", "positive")], 1).double()
    wanted = -0.5 * np.log(x.numpy()) ** 2 - 0.5 * math.log(2 * math.pi) - np.log(x.numpy())
    assert np.allclose(mixture.log_prob(x[:, None]).detach(), wanted, rtol=1e-13)
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([1e4, -1e4, 0.0], dtype=dtype)
        assert pyrovae.Categorical(3)(*logits).log_prob(torch.arange(3, dtype=dtype)).tolist() == [0.0, -2e4, -1e4]
        ordinal = pyrovae.Ordinal(3)
        width = ordinal.ordered_cuts()[1].item()
        for loc in (1e4, -1e4):
            found = ordinal(torch.tensor(loc, dtype=dtype)).log_prob(torch.arange(3, dtype=dtype)).detach().double()
            # far from the cuts the masses fall off as exp(-distance); log(e^w - 1) is that of the step between them
            tails = [-loc, -loc + math.log(math.expm1(width)), 0.0]
            tails = tails if loc > 0 else [0.0, loc + math.log(-math.expm1(-width)), loc - width]
            assert np.allclose(found, tails, rtol=1e-6, atol=0)
