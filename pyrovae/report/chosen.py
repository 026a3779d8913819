"""The items that a report judges: a stated choice of the test part, as each pair takes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.data import Dataset, Split, binarize
from pyrovae.data.beside import given
from pyrovae.models.pair import support_of, takes_beside

__all__ = ["are_binarized", "beside_of", "is_grey", "items", "items_of", "rows", "takes_binary"]


def rows(count: int, num_items: int, seed: int = 0) -> np.ndarray:
    """The rows of `num_items` of `count` items in their order: all of them, or a random choice of fixed seed.

    >>> from pyrovae.report.chosen import rows
    >>> rows(3, 10).tolist(), len(rows(100, 10))
    ([0, 1, 2], 10)
    """
    if count <= num_items:
        return np.arange(count)
    return np.sort(np.random.default_rng(checks.seed(seed)).permutation(count)[:num_items])


def items(data: Dataset, num_items: int = 500, seed: int = 0) -> Split:
    """The test items that a report of this data set judges: all, or `num_items` of them, chosen by `seed`.

    With them any number of a report can be repeated, as `pyrovae.elbo(pair, pyrovae.report.items(data))`.

    >>> import pyrovae
    >>> len(pyrovae.report.items(pyrovae.data.load("digits"), num_items=20))
    20
    """
    checks.having("data", data, "train", "test", what="a data set, as data.load gives it")
    return part(data.test, checks.whole("num_items", num_items), seed)


def part(split: Split, num_items: int, seed: int) -> Split:
    """Some items of a part of a data set, with their labels and all that lies beside them."""
    return split[rows(len(split), num_items, seed)]


def items_of(pair: Any, split: Split, seed: int = 0) -> Split:
    """The items as the pair takes them: grey ones are made 0 or 1 for a likelihood that takes nothing else.

    They are drawn by `pyrovae.data.binarize(x, seed=seed)`. All other items, and those of a pair that does not state
    the support of its likelihood, stay as they are.

    >>> import pyrovae
    >>> from pyrovae.report.chosen import items_of
    >>> grey = pyrovae.report.items(pyrovae.data.load("digits"), num_items=20)
    >>> items_of(pyrovae.mlp_vae((1, 8, 8)), grey).x.unique().tolist()
    [0.0, 1.0]
    """
    x = split.x[:]
    return replace(split, x=binarize(x, seed=seed)) if are_binarized(pair, x) else split


def beside_of(pair: Any, split: Split) -> dict[str, Any]:
    """What lies beside the items of a split and is taken by this pair: covariates, an exposure, both or nothing."""
    takes = takes_beside(pair)
    return {name: value for name, value in given(split).items() if takes[name]}


def are_binarized(pair: Any, x: Tensor) -> bool:
    """Whether `items_of` makes grey items 0 or 1 for this pair."""
    return takes_binary(pair) and is_grey(x)


def takes_binary(pair: Any) -> bool:
    """Whether the pair's likelihood takes nothing but 0 and 1."""
    return support_of(pair) is constraints.boolean


def is_grey(x: Tensor) -> bool:
    """Whether there are values between 0 and 1, and none outside."""
    return bool(((x != 0) & (x != 1)).any()) and bool(((x >= 0) & (x <= 1)).all())
