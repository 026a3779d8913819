"""Checks before a cast: whether a dtype has the range of the items, and the digits that each column needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import rounding
from pyrovae.checks.arguments import warn

__all__ = [
    "PART",
    "SEEN",
    "checked_cast",
    "require_held",
    "require_held_in_groups",
    "require_within",
    "warn_of_rounding",
    "wider",
]

PART = 4096  # items that are looked at together: a mask of all would take as much memory as they do
SEEN = 0.1  # of a standard deviation: rounding by that moves a log-density by some thousandths of a nat


def checked_cast(
    tensor: Tensor,
    dtype: torch.dtype,
    *,
    name: str = "x",
    whole: bool = True,
    least_scale: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Cast finite items of shape (N, *event_shape) to `dtype`, where it holds them; NaN is missing.

    Raises ValueError for a value beyond the range of `dtype`, and for a column that it would round by more than a
    thousandth of the column's standard deviation (see `pyrovae.rounding`). The second check is left out where the items
    are not `whole`, because a part of them says little of the standard deviation: `require_held` checks all of them.
    `least_scale(items)` gives the standard deviations, (D,), that a density of such items gives the columns; it is
    called only where the items by themselves are too close together.
    """
    if tensor.dtype != dtype and rounding.is_wider(tensor.dtype, dtype):
        most = rounding.largest(tensor)
        require_within(most, dtype, name=name)
        if whole:
            of_these = None if least_scale is None else lambda: least_scale(tensor.to(dtype))
            require_held(tensor.__getitem__, tensor.shape, dtype, most, name=name, least_scale=of_these)
    return tensor.to(dtype)


def require_within(most: float, dtype: torch.dtype, *, name: str = "x") -> None:
    """Refuse values beyond the range of `dtype`, which would become infinite."""
    if most > torch.finfo(dtype).max:
        raise ValueError(
            f"{name} holds values of up to {most:.3g}, and {dtype} ends at {torch.finfo(dtype).max:.3g}: "
            f"{wider(dtype)}scale {name}"
        )


def require_held(
    read: rounding.Read,
    shape: Sequence[int],
    dtype: torch.dtype,
    most: float,
    *,
    name: str = "x",
    of: str = "",
    least_scale: Callable[[], Tensor] | None = None,
) -> None:
    """Refuse items of `shape`, (N, *event_shape), that `dtype` would round by too much; `most` is the largest value.

    `of` names a part of the items in the error, as in " of class 3"; `least_scale()` gives the standard deviations,
    (D,), that the columns have at the least.
    """
    lost = rounding.lost_columns(read, shape[0], dtype, most)
    if lost and least_scale is not None:
        scale = least_scale().tolist()
        lost = [column for column in lost if not column.is_held_by(scale[column.column])]
    if not lost:
        return
    worst = max(lost, key=lambda column: column.error / column.sd)
    place = ", ".join(map(str, np.unravel_index(worst.column, tuple(shape[1:])))) if shape[1:] else ""
    column = f"{name}[:, {place}]" if place else name
    offset = ".mean(0)" if read(slice(0, 1)).dtype.is_floating_point else "[0]"
    advice = f"{wider(dtype)}subtract an offset from such columns, as in {name} - {name}{offset}"
    if of:  # they lie about another centre than the rest does
        advice = f"{wider(dtype)}bring the groups nearer to 0"
    count = f"{len(lost)} columns, the worst of them" if len(lost) > 1 else "one column,"
    raise ValueError(
        f"{dtype} does not hold {name}{of}: rounding would move entries of {count} {column} (mean {worst.mean:.10g}, "
        f"standard deviation {worst.sd:.3g}), by up to {worst.error:.3g}, over a thousandth of the standard deviation; "
        f"{advice}"
    )


def require_held_in_groups(
    as_given: Any,
    group: Tensor,
    words: Sequence[str],
    dtype: torch.dtype,
    *,
    least_scale: Tensor | None = None,
    name: str = "x",
) -> None:
    """Refuse items that `dtype` would round by too much for the spread within a group, as of classes far apart.

    Args:
        as_given: items of shape (N, *event_shape) in the dtype that they came in, or a view of a memory map.
        group: the index of each item's group, (N,).
        words: the name of each group, for errors.
        dtype: what they are to be cast to.
        least_scale: standard deviations that a model gives the groups at the least, (groups, D).
        name: the argument's name, for errors.
    """
    read = _reader(as_given)
    if not rounding.is_wider(read(slice(0, 1)).dtype, dtype):
        return
    most = max(rounding.largest(read(slice(first, first + PART))) for first in range(0, len(as_given), PART))
    for index, word in enumerate(words):
        members = (group == index).nonzero()[:, 0]
        if len(members):
            shape = (len(members), *as_given.shape[1:])
            of_group = None if least_scale is None else partial(least_scale.__getitem__, index)
            of_members = partial(_of_members, read, members)
            require_held(of_members, shape, dtype, most, name=name, of=f" of {word}", least_scale=of_group)


def warn_of_rounding(
    as_given: Any,
    items: Any,
    group: Tensor,
    words: Sequence[str],
    least_scale: Callable[[], Tensor],
    *,
    name: str = "x",
) -> None:
    """Warn where rounding is not small beside the standard deviation of a column given the others, within a group.

    `items` are `as_given` after rounding. `least_scale()` gives the standard deviation of each column given the others
    under a fit, (groups, D). Each column by itself may pass `require_held`, and a density of all columns still depends
    on the difference between two of them.
    """
    read, dtype = _reader(as_given), items.dtype
    if read(slice(0, 1)).dtype == dtype or not rounding.is_wider(read(slice(0, 1)).dtype, dtype):
        return
    first_row = items[0]
    group = group.to(first_row.device)
    error = torch.zeros(len(words), first_row.numel(), dtype=torch.float64, device=group.device)  # the largest of each
    for first in range(0, len(as_given), PART):
        part = slice(first, first + PART)
        moved = (read(part).to(group.device).double() - items[part].double()).abs().nan_to_num(0.0).flatten(1)
        for index in group[part].unique().tolist():
            error[index] = torch.maximum(error[index], moved[group[part] == index].amax(0))
    if not bool(error.any()):
        return
    scale = least_scale()
    for index, word in enumerate(words):
        share = (error[index] / scale[index].to(error)).nan_to_num(0.0)
        members = (group == index).nonzero()[:, 0]
        if float(share.max()) > SEEN and len(members) > 1:
            share[_is_constant(items, members)] = 0.0  # no rounding changes a constant
            if float(share.max()) > SEEN:
                place = ", ".join(map(str, np.unravel_index(int(share.argmax()), tuple(as_given.shape[1:]))))
                warn(
                    f"{dtype} rounds {name}[:, {place}] by up to {float(share.max()):.2g} of the standard "
                    f"deviation that the other columns leave it in {word}, and log-densities are off by that: "
                    f"{wider(dtype)}subtract an offset from such columns"
                )
                return


def _reader(items: Any) -> rounding.Read:
    """A function that reads rows of a tensor, or of a view of a memory map in the dtype of its source."""
    read: rounding.Read = getattr(items, "exactly", items.__getitem__)
    return read


def _of_members(read: rounding.Read, members: Tensor, part: slice) -> Tensor:
    """Some rows of a group, whose numbers are `members`."""
    return read(members[part])  # type: ignore[arg-type]


def _is_constant(items: Any, members: Tensor) -> Tensor:
    """Which columns of flattened items have one value in all members of a group, NaN apart."""
    least: Tensor = torch.tensor(torch.inf)
    most: Tensor = torch.tensor(-torch.inf)
    for part in members.split(PART):
        rows = items[part].flatten(1)
        least = torch.minimum(least.to(rows), rows.nan_to_num(torch.inf).amin(0))
        most = torch.maximum(most.to(rows), rows.nan_to_num(-torch.inf).amax(0))
    return least >= most


def wider(dtype: torch.dtype) -> str:
    """The advice to work in float64, where `dtype` is another; a part of an error."""
    return "" if dtype == torch.float64 else "work in float64 (pair.double() of a pair), or "
