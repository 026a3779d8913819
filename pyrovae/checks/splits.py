"""The one place where the items of a call and what lies beside them are put together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks.arrays import array, entries, numbers, parts_of
from pyrovae.checks.shown import short

__all__ = ["BESIDE", "Gathered", "split_of", "stand_ins", "weights", "with_missing", "without_absent"]

LEAST_SUM = 1e-9  # of weights, below which the limits of rounding would be counted as items
BESIDE = ("covariates", "exposure", "weight", "missing")  # what a split may carry beside items and labels
SELDOM = {  # which not everything takes: why they cannot be left aside
    "weight": "a weight for each item",
    "missing": "missing entries",
}


@dataclass(frozen=True, eq=False)
class Gathered:
    """Items with what was given beside them, as it came; it is read as a `data.Split` is."""

    x: Any
    y: Any = None
    covariates: Any = None
    exposure: Any = None
    weight: Any = None
    missing: Any = None
    columns: Any = None  # those of a table, whose rows the items are

    def __len__(self) -> int:
        return len(self.x)

    @property
    def beside(self) -> dict[str, Any]:
        """The covariates and the exposure, which a pair's model and guide are given, by name."""
        return {each: getattr(self, each) for each in BESIDE[:2] if getattr(self, each) is not None}

    @property
    def carried(self) -> dict[str, Any]:
        """All that was given beside the items, by name."""
        return {each: getattr(self, each) for each in BESIDE if getattr(self, each) is not None}


def split_of(
    x: Any,
    *,
    covariates: Any = None,
    exposure: Any = None,
    weight: Any = None,
    missing: Any = None,
    takes: Collection[str] = (),
    what: str = "this",
    name: str = "x",
) -> Gathered:
    """The items of an array or of a split, with what lies beside them, of the split or of the keywords.

    `missing` is True, or a mask of the items' shape that is True where an entry is missing; None and False say that
    none is. `takes` names which of "weight" and "missing" the caller, `what` in an error, can use. Raises ValueError
    where a split and a keyword both give one of them, and for what the caller cannot use.
    """
    items, labels = parts_of(x, name)
    if isinstance(items, Tensor):
        checked = numbers(items, name)  # which copies a tensor of inference mode
        items, x = checked, checked if x is items else x
    own = {} if items is x else {each: getattr(x, each, None) for each in BESIDE}
    given = {"covariates": covariates, "exposure": exposure, "weight": weight, "missing": missing}
    if given["missing"] is True and own.get("missing") is not None:
        given["missing"] = None  # which says the same of a split that knows which entries these are
    for each, value in given.items():
        if value is not None and own.get(each) is not None:
            raise ValueError(f"{name} is a split with {each} of its own: leave {each}= out, or give {name}.x")
        given[each] = own.get(each) if value is None else value
    given["missing"] = _some_missing(given["missing"], name)
    for each, words in SELDOM.items():
        if given[each] is not None and each not in takes:
            advice = (
                "give whole items, or fill the missing entries by impute first"
                if each == "missing"
                else "leave it out, as dataclasses.replace(split, weight=None) does of a split"
            )
            raise ValueError(f"{name} comes with {words}, and {what} takes none: {advice}")
    return Gathered(items, labels, **given, columns=None if items is x else getattr(x, "columns", None))


def _some_missing(missing: Any, name: str) -> Any:
    """True, a mask of which an entry is True, or None."""
    if missing is None or missing is False:
        return None
    if missing is True:
        return True
    mask = entries(missing, f"missing of {name}")
    if mask.dtype != bool or mask.ndim == 0:
        raise TypeError(
            f"missing of {name} must be True, or a mask of {name}'s shape that is True where an entry is missing, got "
            f"{repr(missing) if mask.ndim == 0 else f'an array of {mask.dtype}'}"
        )
    return torch.from_numpy(np.ascontiguousarray(mask)) if bool(mask.any()) else None


def with_missing(x: Any, missing: Any, name: str = "x") -> Any:
    """The items with NaN where a mask says that an entry is missing; as they are where `missing` is True or None.

    Raises ValueError for a mask of another shape, and for NaN at an entry that the mask says is there.
    """
    if missing is None or missing is True:
        return x
    items = array(x, name)
    given = missing if isinstance(missing, Tensor) else entries(missing, f"missing of {name}")
    if given.dtype not in (bool, torch.bool):
        raise TypeError(f"missing of {name} must be a mask, True where an entry is missing, got {short(missing)}")
    mask = torch.as_tensor(given).to(items.device)
    if mask.shape != items.shape:
        raise ValueError(
            f"missing must have the shape of {name}, {tuple(items.shape)}, and be True where an entry is missing, got "
            f"{tuple(mask.shape)}"
        )
    if items.dtype.is_floating_point:
        unsaid = items.isnan() & ~mask
        if bool(unsaid.any()):
            raise ValueError(
                f"{name} is NaN at {unsaid.nonzero()[0].tolist()}, which the mask does not call missing: mend the "
                "mask, or say missing=True"
            )
    else:
        items = items.to(torch.float64)
    return items.masked_fill(mask, torch.nan)


def weights(weight: Any, count: int, *, name: str = "x") -> Tensor:
    """The weights of `count` items as float64, (N,): how many times each item counts.

    Raises ValueError for another number of them, for one that is negative or not finite, and where all are 0.
    """
    of = "" if name == "x" else f" of {name}"
    value = array(weight, f"weight{of}")
    if value.shape != (count,):
        hint = "; w.ravel() of a column" if value.shape == (count, 1) else ""
        raise ValueError(
            f"weight{of} must have shape ({count},), one number for each item, got {tuple(value.shape)}{hint}"
        )
    value = value.detach().cpu().double()
    wrong = ~(value.isfinite() & (value >= 0))
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise ValueError(
            f"weight{of} says how many times an item counts, and must be finite and at least 0; that of item {first} "
            f"is {float(value[first]):g}"
        )
    if not bool(value.any()):
        raise ValueError(f"weight{of} is 0 for every item, so that none counts: give one of them a positive weight")
    if float(value.sum()) < LEAST_SUM:
        raise ValueError(
            f"weight{of} says how many times an item counts, and all weights sum up to {float(value.sum()):.2g}: "
            "divide them by their mean"
        )
    return value


def without_absent(given: Gathered, name: str = "x") -> Gathered:
    """The items with a present one in place of each that has weight 0, which is absent, whatever its values are.

    What lies beside the items follows them; all stay where they were, and the same `Gathered` comes back where all
    count. Raises ValueError for weights that are none.
    """
    if given.weight is None or getattr(given.x, "ndim", 1) == 0:
        return given
    weight = weights(given.weight, len(given.x), name=name)
    if bool(weight.all()):
        return given
    index = stand_ins(weight)
    x = given.x.select(index) if hasattr(given.x, "exactly") else _rows(array(given.x, name), index)
    mask = given.missing if given.missing is None or given.missing is True else _rows(given.missing, index)
    beside = {each: _rows(array(value, f"{each} of {name}"), index) for each, value in given.beside.items()}
    return replace(given, x=x, missing=mask, **beside)


def stand_ins(weight: Tensor) -> Tensor:
    """The number of the item that stands where each is: its own, or where its weight is 0 that of one which counts."""
    present = weight.cpu() > 0
    return torch.where(present, torch.arange(len(present)), int(present.nonzero()[0]))


def _rows(value: Any, index: Tensor) -> Any:
    """The rows of an array of that many; another one as it is, which is refused where it is checked."""
    if not value.ndim or len(value) != len(index):
        return value
    return value[index.to(value.device)] if isinstance(value, Tensor) else value[index.numpy()]
