"""Means over items of which each counts a number of times, and the errors of such means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["mean", "monte_carlo_error", "standard_error", "variance"]


def mean(value: Any, weight: np.ndarray | None = None) -> float:
    """sum_n w_n v_n / sum_n w_n over values (N,); an item of weight 0 is absent, whatever its value is.

    >>> from pyrovae.frequencies import mean
    >>> mean([1.0, 4.0, float("nan")], [2, 1, 0])
    2.0
    """
    value, weight = _kept(value, weight)
    return float(value.mean()) if weight is None else float((weight * value).sum() / weight.sum())


def monte_carlo_error(se: Any, weight: np.ndarray | None = None) -> float:
    """sqrt(sum_n w_n^2 se_n^2) / sum_n w_n, the error of a mean whose values have independent errors `se`, (N,)."""
    se, weight = _kept(se, weight)
    if weight is None:
        return float(np.sqrt((se**2).sum())) / len(se)
    return float(np.sqrt((weight**2 * se**2).sum()) / weight.sum())


def variance(value: Any, weight: np.ndarray | None = None) -> np.ndarray:
    """The variance of values (N, ...) over items, (...), with their number, or the weights' sum, less 1 below it.

    NaN where they stand for one item or fewer.
    """
    value, weight = _kept(value, weight)
    total = len(value) if weight is None else float(weight.sum())
    if total <= 1:
        return np.full(value.shape[1:], math.nan)
    if weight is None:
        spread: np.ndarray = value.var(0, ddof=1)
        return spread
    flat = value if value.ndim < 3 else value.reshape(len(value), -1)
    middle = weight @ flat / total
    squares: np.ndarray = weight @ (flat - middle) ** 2
    return (squares / (total - 1)).reshape(value.shape[1:])


def standard_error(value: Any, weight: np.ndarray | None = None) -> float:
    """The error of the mean of values (N,) with the items as a random sample: sd / sqrt(N), N the weights' sum."""
    total = len(value) if weight is None else float(np.sum(weight))
    return math.sqrt(float(variance(value, weight))) / math.sqrt(total)


def _kept(value: Any, weight: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Values in float64, 0 where an item is absent, and the weights in float64."""
    value = np.asarray(value, dtype=np.float64)
    if weight is None:
        return value, None
    weight = np.asarray(weight, dtype=np.float64)
    present = (weight > 0).reshape(-1, *[1] * (value.ndim - 1))
    return np.where(present, value, 0.0), weight
