"""Functions of log-densities that keep their figures in single precision where differences of lgamma lose them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["bounded_log", "log_gamma_half_ratio", "stirling_remainder"]

LOG_BOUND = 30.0  # exp of it, 1e13, and of minus it have finite products in float32
FROM = 10.0  # from here on the series has 15 figures
SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


def stirling_remainder(a: Tensor) -> Tensor:
    """log Gamma(a) - ((a - 1/2) log a - a + log(2 pi) / 2), for a > 0: between 0 and 1 / (12 a).

    (Abramowitz and Stegun 1964, 6.1.41.) A log-density written with it has no two terms of the size of log Gamma(a).

    >>> import torch
    >>> from pyrovae.models.parts.special import stirling_remainder
    >>> stirling_remainder(torch.tensor([1.0, 100.0]))
    tensor([0.0811, 0.0008])
    """
    small = a < FROM
    # the branch a where() drops still carries gradients
    inverse = 1 / torch.where(small, FROM, a)
    series = torch.zeros_like(inverse)
    for coefficient in reversed(SERIES):
        series = series * inverse.square() + coefficient
    low = torch.where(small, a, 1.0)
    exact = torch.lgamma(low) - (low - 0.5) * low.log() + low - 0.5 * math.log(2 * math.pi)
    return torch.where(small, exact, series * inverse)


def log_gamma_half_ratio(a: Tensor) -> Tensor:
    """log Gamma(a + 1/2) - log Gamma(a), for a > 0, which is near log(a) / 2 where a is large.

    >>> import torch
    >>> from pyrovae.models.parts.special import log_gamma_half_ratio
    >>> log_gamma_half_ratio(torch.tensor([0.5, 1e8]))
    tensor([-0.5724,  9.2103])
    """
    half = 0.5 / a
    return 0.5 * a.log() + a * half.log1p() - 0.5 + stirling_remainder(a + 0.5) - stirling_remainder(a)


def bounded_log(raw: Tensor) -> Tensor:
    """A network's output as a logarithm, 30 tanh(raw / 30): its exponential is neither 0 nor infinite."""
    return LOG_BOUND * torch.tanh(raw / LOG_BOUND)
