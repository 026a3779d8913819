"""Checks of items against a pair: their shape, finiteness, support and dtype."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae import checks, rounding
from pyrovae.models.pair import dtype_and_device, entries_of, support_of
from pyrovae.models.registry import plain_name_of

__all__ = ["checked_items", "plate_size"]


def plate_size(x: Tensor | None, size: int, event_shape: tuple[int, ...]) -> int:
    """The size of a plate: the number of items in `x`, or `size` where x is None and items are drawn."""
    return checks.whole("size", size, bytes_each=4 * math.prod(event_shape)) if x is None else len(x)


def checked_items(
    pair: Any,
    x: Any,
    *,
    name: str = "x",
    dtype: torch.dtype | None = None,
    missing: bool = False,
    index_offset: int | None = None,
    support: constraints.Constraint | None = None,
    hint: str = "drop or impute them first",
    least_scale: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Check that items have a density under the pair, and return them as a tensor in `dtype`, or in the pair's own.

    Shape, finiteness and support are checked in the dtype that the items come in, and items that the pair's own dtype
    does not hold are refused (`checks.checked_cast`). `x` is an array or a split of a data set. With `missing`, NaN is
    an entry that was not seen. `support` takes the place of the likelihood's support, where the items are to be
    binarised first. `index_offset` is the index of the first item where `x` is a part of more items, and None where `x`
    is all of them. `least_scale` gives the standard deviations that the columns have at the least (see
    `checks.checked_cast`): a few items that lie close together say too little of that. Raises ValueError and TypeError
    that name the argument.
    """
    pair_dtype = dtype_and_device(pair)[0]
    as_given = checks.checked_in_own_dtype(
        x, tuple(pair.event_shape), name=name, allow_nan=missing, index_offset=index_offset or 0, hint=hint
    )
    allowed = support or support_of(pair)
    family = plain_name_of(entries_of(pair))
    if allowed is not None:
        checks.support(as_given, allowed, family, name=name)
    items = checks.checked_cast(as_given, pair_dtype, name=name, whole=index_offset is None, least_scale=least_scale)
    if allowed is not None and not checks.lives_in_unit(allowed) and rounding.is_wider(as_given.dtype, pair_dtype):
        checks.support_once_rounded(items, allowed, family, name=name)
    return items if dtype in (None, pair_dtype) else as_given.to(dtype)
