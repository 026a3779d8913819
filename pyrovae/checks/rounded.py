"""Whether a dtype holds what came: its range, and what rounding does to each column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pyrovae import rounding
from pyrovae.checks.arguments import warn

__all__ = [
    "PART",
    "SEEN",
    "held",
    "require_held",
    "require_held_in_groups",
    "require_within",
    "tell_of_rounding",
    "wider",
]

PART = 4096  # items that are looked at together: a mask of all would take as much memory as they do
SEEN = 0.1  # of a standard deviation: rounding by that moves a log-density by some thousandths of a nat


def held(
    tensor: Tensor,
    dtype: torch.dtype,
    *,
    name: str = "x",
    whole: bool = True,
    least: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Finite items of shape (N, *event_shape) in `dtype`, where it holds them; NaN is missing.

    Raises ValueError where a value is beyond its range, and where it would round a column by more than a thousandth of
    the column's standard deviation (see `pyrovae.rounding`). A part of the items, not `whole`, is no measure of that:
    `require_held` looks at all of them. `least(items)` are the standard deviations, (D,), that a density of such items
    gives the columns, asked for only where the items by themselves are too close together.
    """
    if tensor.dtype != dtype and rounding.is_wider(tensor.dtype, dtype):
        most = rounding.largest(tensor)
        require_within(most, dtype, name=name)
        if whole:
            known = None if least is None else lambda: least(tensor.to(dtype))
            require_held(tensor.__getitem__, tensor.shape, dtype, most, name=name, least=known)
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
    least: Callable[[], Tensor] | None = None,
) -> None:
    """Refuse items of `shape`, (N, *event_shape), that `dtype` would round by too much; `most` is the largest value.

    `of` says which items they are, `least` which standard deviations, (D,), columns have at the least.
    """
    lost = rounding.lost_columns(read, shape[0], dtype, most)
    if lost and least is not None:
        known = least().tolist()
        lost = [column for column in lost if not column.is_held_by(known[column.column])]
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
    given: Tensor,
    group: Tensor,
    words: Sequence[str],
    dtype: torch.dtype,
    *,
    least: Tensor | None = None,
    name: str = "x",
) -> None:
    """Refuse items that `dtype` would round by too much for the spread within a group, as of classes far apart.

    `given` as it came, (N, *event_shape); `group`, (N,), the number of each item's; `words` says what each number is.
    `least`, (groups, D): standard deviations that a model gives the groups at the least.
    """
    if not rounding.is_wider(given.dtype, dtype):
        return
    most, group = rounding.largest(given), group.to(given.device)
    for number, what in enumerate(words):
        part = given[group == number]
        if len(part):
            known = None if least is None else partial(least.__getitem__, number)
            require_held(part.__getitem__, part.shape, dtype, most, name=name, of=f" of {what}", least=known)


def tell_of_rounding(
    given: Tensor,
    items: Tensor,
    group: Tensor,
    words: Sequence[str],
    least: Callable[[], Tensor],
    *,
    name: str = "x",
) -> None:
    """Warn where rounding is not small beside what the other columns leave of a column's spread in a group.

    `items` are what is left of `given`; `least()`, (groups, D), the standard deviations of each column given the others
    by a fit. Each column by itself is held, and a density of all of them sees the difference between two.
    """
    if given.dtype == items.dtype or not rounding.is_wider(given.dtype, items.dtype):
        return
    group = group.to(items.device)
    error = torch.zeros(len(words), items[0].numel(), dtype=torch.float64, device=items.device)  # the largest of each
    for first in range(0, len(given), PART):
        part = slice(first, first + PART)
        moved = (given[part].to(items.device).double() - items[part].double()).abs().nan_to_num(0.0).flatten(1)
        for number in group[part].unique().tolist():
            error[number] = torch.maximum(error[number], moved[group[part] == number].amax(0))
    if not bool(error.any()):
        return
    scale = least()
    for number, what in enumerate(words):
        share, here = (error[number] / scale[number].to(error)).nan_to_num(0.0), group == number
        if float(share.max()) > SEEN and int(here.sum()) > 1:
            share[rounding.spread(items[here]) == 0] = 0.0  # a constant is held
            if float(share.max()) > SEEN:
                place = ", ".join(map(str, np.unravel_index(int(share.argmax()), tuple(given.shape[1:]))))
                warn(
                    f"{items.dtype} rounds {name}[:, {place}] by up to {float(share.max()):.2g} of the standard "
                    f"deviation that the other columns leave it in {what}, and log-densities are off by that: "
                    f"{wider(items.dtype)}subtract an offset from such columns"
                )
                return


def wider(dtype: torch.dtype) -> str:
    return "" if dtype == torch.float64 else "work in float64 (pair.double() of a pair), or "
