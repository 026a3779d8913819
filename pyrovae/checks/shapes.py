"""Checks of items before they are cast: their shape, and whether they are finite."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyrovae.checks.arrays import array
from pyrovae.checks.rounded import PART, checked_cast

__all__ = ["FILL", "WHOLE", "checked_array", "checked_in_own_dtype", "refuse_bytes"]

FILL = "drop them, or fill them in by impute first"  # where no NaN can stand for an entry that was not seen
WHOLE = "drop or impute them first, or say missing=True where NaN is an entry that was not seen"


def checked_array(
    x: Any,
    event_shape: tuple[int, ...],
    *,
    name: str = "x",
    dtype: torch.dtype | None = None,
    allow_nan: bool = False,
    index_offset: int = 0,
    hint: str = WHOLE,
) -> Tensor:
    """Check items, and return them as a finite tensor of shape (N, *event_shape) in `dtype`.

    The values are checked in the dtype that they come in, before they are cast. A view with `len` and slices is read
    whole. With `allow_nan`, NaN is let through, and infinite values are still refused. Where `x` is a part of more
    items, `index_offset` is the index of its first item, by which errors count. Raises ValueError for an empty array,
    another shape, uint8 over 1, values that are not finite and values that `dtype` does not hold (see
    `pyrovae.rounding`); TypeError for what is not an array of real numbers.
    """
    tensor = checked_in_own_dtype(x, event_shape, name=name, allow_nan=allow_nan, index_offset=index_offset, hint=hint)
    return checked_cast(tensor, dtype or torch.get_default_dtype(), name=name)


def checked_in_own_dtype(
    x: Any,
    event_shape: tuple[int, ...],
    *,
    name: str = "x",
    allow_nan: bool = False,
    index_offset: int = 0,
    hint: str = WHOLE,
) -> Tensor:
    """Check items as `checked_array` does, and return them in the dtype that they come in."""
    tensor = array(x, name)
    if tensor.ndim > 1 and len(tensor) and not tensor.numel():
        raise ValueError(f"{name} has items without an entry, of shape {tuple(tensor.shape[1:])}")
    expected = f"(N, {', '.join(map(str, event_shape))})" if event_shape else "(N,)"
    if tuple(tensor.shape[1:]) != tuple(event_shape) or tensor.ndim == 0:
        hint = ""
        size = math.prod(event_shape)
        if tensor.ndim and tensor.numel() and tensor.numel() % size == 0:
            if tuple(tensor.shape) == tuple(event_shape):
                hint = f"; one item is {name}[None]"
            elif tensor.numel() // size == len(tensor):
                hint = _shape_hint(name, tuple(tensor.shape[1:]), tuple(event_shape))
        raise ValueError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}{hint}")
    if len(tensor) == 0:
        raise ValueError(f"{name} is empty: expected shape {expected} with N of at least 1, got {tuple(tensor.shape)}")
    if tensor.dtype == torch.uint8 and int(tensor.max()) > 1:
        refuse_bytes(tensor, name)
    if tensor.dtype.is_floating_point and not _all_finite(tensor.detach(), allow_nan):
        bad = ~_passes(tensor, allow_nan)
        where = torch.nonzero(bad)[0].tolist()
        where[0] += index_offset
        raise ValueError(
            f"{name} must be finite: {int(bad.sum())} {'' if allow_nan else 'NaN or '}infinite values, the first at "
            f"{name}{where}; {'scale or drop them first' if allow_nan else hint}"
        )
    return tensor


def refuse_bytes(tensor: Tensor, name: str) -> None:
    """Raise ValueError for values of 0 to 255 where 0 to 1 was expected."""
    raise ValueError(
        f"{name} looks like 0..255 integers; divide by 255 (min {int(tensor.min())}, max {int(tensor.max())}, "
        f"{tensor.dtype})" + ("; int64 where they are counts" if tensor.dtype == torch.uint8 else "")
    )


def _all_finite(x: Tensor, allow_nan: bool) -> bool:
    # the ends carry NaN and infinity: an eighth of the time of a mask
    if not x.numel() or all(bool(end.isfinite()) for end in torch.aminmax(x)):
        return True
    return allow_nan and all(bool(_passes(part, allow_nan).all()) for part in x.split(PART))


def _passes(x: Tensor, allow_nan: bool) -> Tensor:
    return ~torch.isinf(x) if allow_nan else torch.isfinite(x)


def _shape_hint(name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Advice on how the items can be brought to shape; a reshape only where it keeps every entry in its place."""
    without_ones = [tuple(size for size in shape if size != 1) for shape in (given, wanted)]
    if len(given) == 1 or len(wanted) == 1 or without_ones[0] == without_ones[1]:
        return f"; {name}.reshape({(-1, *wanted)}) would fit"
    if (given[-1], *given[:-1]) == wanted and len(wanted) > 2:
        return f"; the channels are last here: {name}.movedim(-1, 1) would fit (np.moveaxis({name}, -1, 1))"
    if sorted(given) == sorted(wanted):
        return "; the axes are in another order: transpose them, for a reshape would mix the entries"
    return ""
