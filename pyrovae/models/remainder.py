"""The component of a mixture whose sums are what those of the others leave of all items', and no products of its own.

The scatter of all items is the same in every iteration, and responsibilities sum to 1: of K components, the products of
K - 1 are enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae.models.covariance import EMPTY, FAR, triangular_inverse
from pyrovae.models.seen import Expected

if TYPE_CHECKING:
    from pyrovae.models.components import GaussianComponents

__all__ = ["has_lost_digits", "remainder_of"]


def remainder_of(parts: GaussianComponents, log_weights: Tensor, scatter: Tensor, count: float) -> int | None:
    """The component with the largest weight, where its sums are going to be so large that a difference keeps digits.

    `scatter`, (D,), are the sums of squares of all items, whose number is `count`.
    """
    largest = int(log_weights.argmax())
    mass = log_weights[largest].exp() * count
    return largest if bool((scatter <= FAR / 4 * mass * _least(parts.scale_tril[largest])).all()) else None


def has_lost_digits(parts: GaussianComponents, sums: Expected, rest: int, scatter: Tensor) -> bool:
    """Whether the sums of component `rest` turned out to be too small a difference."""
    first, total = sums.first[rest], sums.total[rest].clamp(min=EMPTY)
    within = sums.second[rest] - first[:, None] * first / total + (parts.floors * total).diag()
    factor, failed = torch.linalg.cholesky_ex(within)
    return bool(failed) or not bool((scatter <= FAR * _least(factor)).all())


def _least(factor: Tensor) -> Tensor:
    """The variance of each column given the others, (D,): a difference has to keep the digits of these."""
    return triangular_inverse(factor).square().sum(0).reciprocal()
