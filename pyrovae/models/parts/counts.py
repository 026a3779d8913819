"""What likelihoods of counts share: a bound on log-means, and the stable forms that their log-densities are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "bounded_log",
    "expm1_excess",
    "largest_rate",
    "log_of_ratio",
    "log_ratio_excess",
    "poisson_counts",
    "stirling_error",
]

LINEAR_UP_TO = 20.0  # exp(20) = 4.9e8: a log-mean is what the network gives up to there
LARGEST_LOG = 60.0  # exp(60) = 1.1e26, whose square float32 cannot hold and whose gradient it can
LARGEST_DRAWN = 2.0**40  # rate: from 2^45 on torch's draws differ visibly from their distribution, and beyond 2^63 wrap
LARGEST_ON_CUDA = 2.0**32  # count, which CUDA's draws are made of 32 bits
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)
EXPONENTIAL = tuple(1 / math.factorial(k + 2) for k in range(16))
INVERSE_TANGENT = tuple(2 / (2 * k + 3) for k in range(12))


def bounded_log(raw: Tensor) -> Tensor:
    """A logarithm that a network gives: itself within (-20, 20), then growing as log does, and at most 60 in size.

    So the mean that it is of never overflows in float32, and a network that gives 1e3 has a gradient to come back by.

    >>> import torch
    >>> from pyrovae.models.parts.counts import bounded_log
    >>> bounded_log(torch.tensor([-3.0, 20.0, 1000.0]))
    tensor([-3.0000, 20.0000, 26.8886])
    """
    beyond = (raw.abs() - LINEAR_UP_TO).clamp(min=0)
    return (raw.clamp(-LINEAR_UP_TO, LINEAR_UP_TO) + raw.sign() * beyond.log1p()).clamp(-LARGEST_LOG, LARGEST_LOG)


def poisson_counts(rate: Tensor) -> Tensor:
    """A draw of a Poisson count at each rate; ValueError for rates whose counts cannot be drawn rightly.

    >>> import torch
    >>> from pyrovae.models.parts.counts import poisson_counts
    >>> poisson_counts(torch.zeros(3))
    tensor([0., 0., 0.])
    """
    largest = largest_rate(rate.dtype, rate.device.type)
    if not bool((rate <= largest).all()):
        highest = float(rate.max())
        if math.isnan(highest):
            raise ValueError("a draw of counts needs a rate, and this one is NaN: look at the codes and the exposure")
        advice = "draw codes nearer to those of the items, give a smaller exposure, or count in larger units"
        if largest < largest_rate(torch.float64, rate.device.type):
            raise ValueError(
                f"a draw of counts at a rate of {highest:.3g} would be rounded: {rate.dtype} holds counts of rates up "
                f"to {largest:.3g}; take pair.double(), or {advice}"
            )
        raise ValueError(
            f"a draw of counts at a rate of {highest:.3g} cannot be relied on: torch's draws can up to {largest:.3g} "
            f"on this device ({rate.device.type}); {advice}"
        )
    return torch.poisson(rate)


def largest_rate(dtype: torch.dtype, device: str) -> float:
    """The largest rate whose Poisson counts, 10 standard deviations above it too, are drawn exactly.

    >>> import torch
    >>> from pyrovae.models.parts.counts import largest_rate
    >>> f"{largest_rate(torch.float32, 'cpu'):,.0f}"
    '16,736,306'
    """
    whole = 2 / torch.finfo(dtype).eps  # up to there each whole number is one of the dtype
    if device == "cuda":
        whole = min(whole, LARGEST_ON_CUDA)
    return min(whole + 50 - 10 * math.sqrt(whole + 25), LARGEST_DRAWN)


def stirling_error(a: Tensor) -> Tensor:
    """log Gamma(a + 1) - ((a + 1/2) log a - a + log(2 pi) / 2) for a > 0: by its series from 15 on.

    (Loader 2000, Fast and accurate computation of binomial probabilities, section 2.)
    """
    is_large = a >= 15
    large = torch.where(is_large, a, 15.0)
    inverse = large.reciprocal()
    series = inverse * _polynomial(inverse.square(), STIRLING)
    small = torch.where(is_large, 15.0, a)
    direct = torch.lgamma(small + 1) - (small + 0.5) * small.log() + small - HALF_LOG_TWO_PI
    return torch.where(is_large, series, direct)


def expm1_excess(v: Tensor) -> Tensor:
    """exp(v) - 1 - v, by its series near 0."""
    near = v.abs() < 0.5
    inside = torch.where(near, v, 0.0)
    series = inside.square() * _polynomial(inside, EXPONENTIAL)
    outside = torch.where(near, 1.0, v)
    return torch.where(near, series, torch.expm1(outside) - outside)


def log_of_ratio(excess: Tensor, log_ratio: Tensor) -> Tensor:
    """log(1 + e), where `log_ratio` is the same as a difference of logarithms, which is better near e = -1.

    Elsewhere it is not: logarithms of 10^12 differ by no less than their rounding, 2e-6 in float32, and a deviance is
    10^12 times the square of such an error.
    """
    is_near = excess > -0.5
    return torch.where(is_near, torch.log1p(torch.where(is_near, excess, 0.0)), torch.where(is_near, 0.0, log_ratio))


def log_ratio_excess(s: Tensor, log_ratio: Tensor) -> Tensor:
    """s - log(1 + s), where `log_ratio` is log(1 + s) from a form that is accurate near s = -1; by a series near 0."""
    near = s.abs() < 0.25
    inside = torch.where(near, s, 0.0)
    t = inside / (2 + inside)  # log(1 + s) = 2 artanh(t)
    series = t * (inside - t.square() * _polynomial(t.square(), INVERSE_TANGENT))
    return torch.where(near, series, s - log_ratio)


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value
