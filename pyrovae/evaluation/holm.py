"""Holm's step-down procedure (Holm 1979): several tests or intervals with one error rate for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["adjusted", "levels"]


def adjusted(p_values: ArrayLike) -> np.ndarray:
    """The smallest level at which Holm's procedure rejects each hypothesis, shape (m,).

    >>> from pyrovae.evaluation.holm import adjusted
    >>> adjusted([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(p)
    result[order] = np.minimum(steps, 1)
    return result


def levels(p_values: ArrayLike, alpha: float) -> np.ndarray:
    """The level at which each hypothesis is tested, shape (m,), for an error rate of `alpha` over all of them.

    The k-th smallest of m p-values is compared with alpha / (m - k + 1). The first that is not
    rejected, and all larger ones, have the level of that first one.

    >>> from pyrovae.evaluation.holm import levels
    >>> levels([0.01, 0.04, 0.03], 0.06).tolist()
    [0.02, 0.03, 0.03]
    """
    p = np.asarray(p_values, dtype=float)
    result, failed = np.empty_like(p), None
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        level = failed or alpha / (len(p) - rank)
        result[index] = level
        if p[index] >= level:
            failed = level
    return result
