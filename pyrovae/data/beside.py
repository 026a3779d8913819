"""What lies beside the items of a data set, a row for each of them: covariates, and the exposure of counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from pyrovae import checks
from pyrovae.data.dataset import Dataset

__all__ = ["BESIDE", "checked_rows", "given", "with_beside", "without_beside"]

BESIDE = ("covariates", "exposure")  # fields of a split of which `fit` and the estimators take a row for each item


def with_beside(data: Dataset, *, covariates: Any = None, exposure: Any = None) -> Dataset:
    """The data set with `covariates`, (N, D), and `exposure`, (N,), beside its N items, each in its part.

    Rows are in the order of the source: of one without a test part of its own, as it was before it was split; else the
    training items first. They are checked as they come, before any cast. Raises TypeError for what holds no numbers;
    ValueError for another number of rows or axes, for entries that are not finite, for an exposure that is not
    positive, and for what the data set has already.

    >>> import torch
    >>> from pyrovae.data import Dataset, Split
    >>> from pyrovae.data.beside import with_beside
    >>> part = Split(torch.zeros(2, 3), None)
    >>> data = with_beside(Dataset(part, part, (3,), "x"), exposure=[1, 2, 3, 4])
    >>> data.train.exposure.tolist(), data.test.exposure.tolist()
    ([1, 2], [3, 4])
    """
    count, cut = len(data.train) + len(data.test), len(data.train)
    train, test = data.train, data.test
    for name, value in {"covariates": covariates, "exposure": exposure}.items():
        if value is None:
            continue
        if getattr(train, name) is not None:
            raise ValueError(f"{name} must be left out: {data.name} has some of its own")
        rows = checked_rows(name, value, count, data.name)
        rows = rows if data.order is None else rows[data.order]
        train, test = replace(train, **{name: rows[:cut]}), replace(test, **{name: rows[cut:]})
    return replace(data, train=train, test=test)


def without_beside(data: Dataset, *names: str) -> Dataset:
    """The data set without what lies beside its items under these names."""
    nothing: Any = dict.fromkeys(names)
    return replace(data, train=replace(data.train, **nothing), test=replace(data.test, **nothing))


def given(split: Any) -> dict[str, Any]:
    """What lies beside the items of a part, by name."""
    both = {name: getattr(split, name) for name in BESIDE}
    return {name: value for name, value in both.items() if value is not None}


def checked_rows(name: str, value: Any, count: int, of: str, *, key: str | None = None) -> Tensor:
    """Covariates (N, D) or an exposure (N,) of `count` items, checked as they come; `key` names them in errors."""
    called = name if key is None else key
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind in ("U", "S", "O"):
        hint = "; `pyrovae.data.one_hot(y)` makes columns of categories" if name == "covariates" else ""
        raise TypeError(f"{called} must be numbers, got {value.dtype}{hint}")
    rows = checks.array(value, called)
    axes = {"covariates": 2, "exposure": 1}[name]
    if rows.ndim != axes:
        expected = "(N, D), a row of D columns for each item" if axes == 2 else "(N,), one number for each item"
        hint = ""
        if rows.ndim == 1:
            hint = "; one column has shape (N, 1), and `pyrovae.data.one_hot(y)` makes columns of categories"
        raise ValueError(f"{called} must have shape {expected}, got {tuple(rows.shape)}{hint}")
    if len(rows) != count:
        raise ValueError(f"{called} must have a row for each of the {count:,} items of {of}, got {len(rows):,}")
    if not rows.numel():
        raise ValueError(f"{called} must have at least one column, got shape {tuple(rows.shape)}")
    if not bool(rows.isfinite().all()):
        first = (~rows.isfinite()).nonzero()[0].tolist()
        column = f", column {first[1]}" if axes == 2 else ""
        raise ValueError(
            f"{called} must be finite, and that of item {first[0]}{column} is {rows[tuple(first)].item():g}: drop "
            "these items, or fill what is missing"
        )
    if name == "exposure" and bool((rows <= 0).any()):
        item = int((rows <= 0).nonzero()[0])
        raise ValueError(
            f"{called} must be positive, for it multiplies the mean of an item's counts; that of "
            f"item {item} is {rows[item].item():g}"
        )
    return rows
