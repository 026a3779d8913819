"""Which rows of a table are for training and which for tests, at random or by strata."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from pyrovae import checks

__all__ = ["divided"]


def divided(count: int, test: Any, seed: Any, strata: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """The rows in a random order, those for training first, and how many these are.

    `test` is the share of the rows that are for tests, or their number. With `strata`, a label for each row, the rows
    for tests are shared out among the labels by the largest remainders.
    """
    held_out = _number_of_test_rows(count, test)
    cut = count - held_out
    order = np.random.default_rng(checks.seed(seed)).permutation(count)
    if strata is None:
        return order, cut
    _, label = np.unique(strata, return_inverse=True)
    sizes = np.bincount(label)
    share = sizes * held_out / count
    of_label = np.floor(share).astype(int)
    # a label with one row stays in training where there is a choice
    remainder = np.where(sizes > 1, share - of_label, -1.0)
    for place in np.argsort(-remainder, kind="stable")[: held_out - int(of_label.sum())]:
        of_label[place] += 1
    is_test = np.zeros(count, dtype=bool)
    for place, number in enumerate(of_label):
        rows = order[label[order] == place]
        is_test[rows[len(rows) - number :]] = True
    return np.concatenate([order[~is_test[order]], order[is_test[order]]]), cut


def _number_of_test_rows(count: int, given: Any) -> int:
    expected = "test must be a share of the rows between 0 and 1, or a number of rows"
    if isinstance(given, bool) or not isinstance(given, numbers.Real) or not math.isfinite(given):
        raise TypeError(f"{expected}, got {given!r}")
    test: Any = given
    is_share = not isinstance(test, numbers.Integral)
    if is_share and not 0 < test < 1:
        raise ValueError(f"{expected}, got {test!r}")
    held_out = math.ceil(count * float(test) - 1e-9) if is_share else int(test)
    if not 0 < held_out < count:
        raise ValueError(
            f"{expected}, of which both parts have one at least, got {test!r}, {held_out:,} of {count:,} rows"
        )
    return held_out
