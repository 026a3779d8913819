"""Items as a pair takes them: their shape, finiteness, support and dtype, checked as they came."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae import checks, rounding
from pyrovae.models.pair import dtype_and_device, entries_of, support_of

__all__ = ["checked_items", "plate_size"]


def plate_size(x: Tensor | None, size: int, event_shape: tuple[int, ...]) -> int:
    """How many items a plate is of: those given, or `size` draws of them."""
    return checks.whole("size", size, bytes_each=4 * math.prod(event_shape)) if x is None else len(x)


def checked_items(
    pair: Any,
    x: Any,
    *,
    name: str = "x",
    dtype: torch.dtype | None = None,
    missing: bool = False,
    first: int | None = None,
    support: constraints.Constraint | None = None,
    hint: str = "drop or impute them first",
    least: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Items that have a density under the pair, in `dtype` (its own where None): shape, finiteness and support.

    All are looked at as they came, and refused where the pair's own dtype does not hold them (`checks.held`).
    `support` takes the place of the likelihood's own, where the items are to be binarised first. `x` is an array, or a
    split of a data set. `first`: the number of the first, of items that are a part; None: they are all. `least` as for
    `checks.held`: what the spread of the items is by a fit, where a few that lie close together say too little of it.
    """
    pair_dtype = dtype_and_device(pair)[0]
    shape, start = tuple(pair.event_shape), first or 0
    given = checks.as_given(x, shape, name=name, missing=missing, first=start, hint=hint)
    allowed = support or support_of(pair)
    family = type(entries_of(pair)).__name__
    if allowed is not None:
        checks.support(given, allowed, family, name=name)
    items = checks.held(given, pair_dtype, name=name, whole=first is None, least=least)
    if allowed is not None and not checks.lives_in_unit(allowed) and rounding.is_wider(given.dtype, pair_dtype):
        checks.support_once_rounded(items, allowed, family, name=name)
    return items if dtype in (None, pair_dtype) else given.to(dtype)
