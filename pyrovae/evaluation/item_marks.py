"""Marks of the items of an estimate, kept with it, by which it says how the items of another one differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.columns import Column, checked_columns, other_codes, what_differs
from pyrovae.listed import listed

__all__ = ["MARKS", "columns_in", "marks_of", "other_codes_between", "what_differs_between"]

MARKS = "items_marks"  # the attribute of an estimate that holds them, as JSON
MOST = 2**24  # entries, beyond which the values are not gone through once more
MOST_LETTERS = 32_000  # of all marks; a file of netCDF holds no attribute above 64 kB


def marks_of(x: Tensor, beside: Mapping[str, Tensor], columns: Sequence[Column] | None) -> str:
    """The marks of items (N, *event_shape) in float64 on the CPU, NaN where an entry was not seen, as JSON.

    A sum over entries tells other values from another order: it is the same in every order.
    """
    marks: dict[str, Any] = {"shape": list(x.shape)}
    missing = x.isnan()
    if bool(missing.any()):
        marks["missing"] = _digest(missing)
    marks["given"] = {name: _digest(value) for name, value in beside.items()}
    if x.numel() <= MOST:
        marks["mean"] = _mean(x)
        marks["sum"] = _sum(x)
        marks["rounded"] = _sum(x.float())
    if columns is not None:
        marks["codes"] = hashlib.sha256(repr([each.categories for each in columns]).encode()).hexdigest()[:16]
        marks["columns"] = [[each.name, each.kind, _plain(each.categories)] for each in columns]
        if x.numel() <= MOST:
            marks["of_columns"] = [[int(each.isnan().sum()), _mean(each), _sum(each)] for each in x.unbind(-1)]
    for last in ("of_columns", "columns"):
        if len(text := json.dumps(marks)) > MOST_LETTERS:
            marks.pop(last, None)
    return text if len(text) <= MOST_LETTERS else json.dumps(marks)


def columns_in(attributes: Mapping[str, Any]) -> tuple[Column, ...] | None:
    """The columns of the table whose rows the items of an estimate are; None where none are known."""
    given = _marks(attributes).get("columns")
    if given is None:
        return None
    return checked_columns([[name, kind, categories] for name, kind, categories in given])


def other_codes_between(attributes: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """Of which columns the codes stand for other categories, in words; "" where of none that is known."""
    first, second = _marks(attributes).get("codes"), _marks(others).get("codes")
    if first is None or second is None or first == second:
        return ""
    columns, other_columns = columns_in(attributes), columns_in(others)
    if columns is None or other_columns is None:
        return "their columns are too many to name"
    return other_codes(columns, other_columns)


def what_differs_between(attributes: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """How the items of two estimates differ, in words: number, columns, what is missing, units, order; else ""."""
    first, second = _marks(attributes), _marks(others)
    if not first or not second:
        return ""
    columns, other_columns = columns_in(attributes), columns_in(others)
    differing = "" if columns is None or other_columns is None else what_differs(columns, other_columns)
    if first["shape"] != second["shape"]:
        return "; ".join(filter(None, [_shapes(first["shape"], second["shape"]), differing]))
    reasons = [differing]
    if first.get("missing") != second.get("missing"):
        reasons.append(_masks(attributes, others, first, second))
    for name in sorted({*first["given"], *second["given"]}):
        if first["given"].get(name) != second["given"].get(name):
            reasons.append(f"they have another {name}" if name == "exposure" else f"they have other {name}")
    if first.get("missing") == second.get("missing"):
        reasons.append(_values(first, second, in_order=not any(reasons)))
    return "; ".join(filter(None, reasons))


def _shapes(shape: list[int], other: list[int]) -> str:
    if shape[1:] != other[1:]:
        return f"items have shape {_shape(shape[1:])} in one and {_shape(other[1:])} in the other"
    return f"there are {shape[0]:,} items in one and {other[0]:,} in the other"


def _masks(
    attributes: Mapping[str, Any], others: Mapping[str, Any], first: Mapping[str, Any], second: Mapping[str, Any]
) -> str:
    """Which entries are missing in one and not in the other."""
    counts = [int(each.get("missing_entries", 0)) for each in (attributes, others)]
    if counts[0] == counts[1]:
        return f"other entries are missing, {counts[0]:,} in each"
    pairs = zip(first.get("columns", []), first.get("of_columns", []), second.get("of_columns", []), strict=False)
    named = [repr(name) for (name, *_), (gone, *_), (other_gone, *_) in pairs if gone != other_gone]
    of = f", among others of {', '.join(named[:3])}" if named else ""
    words = [f"{count:,}" if count else "none" for count in counts]
    return f"of the entries {words[0]} are missing in one and {words[1]} in the other{of}"


def _values(first: Mapping[str, Any], second: Mapping[str, Any], *, in_order: bool) -> str:
    """Whose values differ, with their means, by which a reader knows another unit; or that it is the order alone."""
    if "sum" not in first or "sum" not in second:
        return ""
    if first["sum"] == second["sum"]:
        return "the entries are the same in another order" if in_order else ""
    if first.get("rounded") is not None and first["rounded"] == second.get("rounded"):
        return "the same values in another precision (float32, float64): estimate both from items of one dtype"
    here, there = (each.get("of_columns") for each in (first, second))
    kinds = {name: [kind, categories] for name, kind, categories in second.get("columns", [])}
    names = [name for name, *_ in first.get("columns", [])]
    if here is None or there is None or names != list(kinds):
        return f"values differ (their mean is {first['mean']} in one and {second['mean']} in the other): other units?"
    other = [
        f"{name!r} (mean {one[1]} in one and {two[1]} in the other)"
        for (name, _, categories), one, two in zip(first["columns"], here, there, strict=True)
        if one[2] != two[2] and categories == kinds[name][1]  # the codes of other categories differ anyway
    ]
    if not other:
        return ""
    hint = ": other units?" if len(other) < len(names) or len(names) == 1 else ": other units, or other rows?"
    return f"values differ of {listed(other, 3)}{hint}"


def _marks(attributes: Mapping[str, Any]) -> dict[str, Any]:
    marks: dict[str, Any] = json.loads(str(attributes.get(MARKS) or "{}"))
    return marks


def _digest(value: Tensor) -> str:
    return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()[:16]


def _mean(x: Tensor) -> str:
    seen = x[~x.isnan()]
    return f"{float(seen.mean()):.4g}" if seen.numel() else "none"


def _sum(x: Tensor) -> str:
    """A sum over what each entry's bits are mixed to, modulo 2^64; NaN is left out."""
    seen = x[~x.isnan()].to(torch.float64) + 0.0  # -0 is 0
    bits = seen.contiguous().numpy().view(np.uint64)
    bits = (bits ^ (bits >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return f"{int((bits ^ (bits >> np.uint64(32))).sum(dtype=np.uint64)):016x}"


def _plain(categories: tuple[Any, ...] | None) -> list[Any] | None:
    """Categories as JSON has them; those that it has not, by their words."""
    if categories is None:
        return None
    return [each if isinstance(each, str | int | float | bool) else repr(each) for each in categories]


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
