"""Values of a column as numbers, and back: codes of categories, checked counts and positive numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrovae.columns import CODED, Column
from pyrovae.data.tables.stored import EXACT, Stored, shown

__all__ = ["decoded", "encoded"]

EXPECTED = {
    "real": "a number",
    "positive": "a number above 0",
    "count": "a whole number from 0 on",
}


def encoded(column: Column, stored: Stored) -> np.ndarray:
    """The entries as float64, (N,): NaN where missing, codes for categories.

    Raises TypeError where the entries are of another form than the kind's, and ValueError, with their number and the
    first of them, for categories that are none of the column's and for numbers that its kind has not.
    """
    result = np.full(len(stored.missing), np.nan)
    if not len(stored.values):
        return result
    values = _codes(column, stored) if column.kind in CODED else _numbers(column, stored)
    result[~stored.missing] = values
    return result


def decoded(column: Column, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seen values, (n,), and which of the entries are missing, (N,), of a column's numbers.

    Raises ValueError for numbers that the column's kind has not: codes that are none, as means of draws are.
    """
    missing = np.isnan(values)
    seen = values[~missing]
    if column.kind not in CODED:
        _require(column, seen, np.flatnonzero(~missing), "x")
        return seen, missing
    categories = column.categories or ()
    bad = (seen != np.floor(seen)) | (seen < 0) | (seen >= len(categories))
    if bad.any():
        place = int(bad.argmax())
        raise ValueError(
            f"x must have codes 0 to {len(categories) - 1} in column {column.name!r}, which is {column.kind}, got "
            f"{seen[place]:g} in row {np.flatnonzero(~missing)[place]}: give draws, or round to a code; means of codes "
            "have no category"
        )
    objects = np.empty(len(categories), dtype=object)
    objects[:] = list(categories)
    return objects[seen.astype(np.intp)], missing


def _codes(column: Column, stored: Stored) -> np.ndarray:
    categories = column.categories or ()
    code = {value: place for place, value in enumerate(categories)}
    if stored.form in ("times", "other"):
        what = stored.words or f"dates or times ({stored.dtype})"
        raise TypeError(f"column {column.name!r} is {column.kind} with categories {shown(categories)}, got {what}")
    entries = stored.values.tolist()
    found = np.fromiter((code.get(entry, -1) for entry in entries), dtype=np.float64, count=len(entries))
    if (found < 0).any():
        unseen = sorted({entry for entry in entries if entry not in code}, key=str)
        of_text = all(isinstance(value, str) for value in categories) != all(isinstance(v, str) for v in unseen)
        them, count = "it" if len(unseen) == 1 else "them", int((found < 0).sum())
        hint = f"make {them} missing, or make the table anew with all categories stated and fit again"
        if of_text:
            hint = f"give {them} in the type of the categories"
        row = int(np.flatnonzero(~stored.missing)[int((found < 0).argmax())])
        raise ValueError(
            f"column {column.name!r} has {'the category' if len(unseen) == 1 else 'categories'} {shown(unseen)} that "
            f"the table was not made with, in {f'{count:,} entries, the first in row' if count > 1 else 'row'} {row}; "
            f"its categories are {shown(categories, 8)}: {hint}"
        )
    return found


def _numbers(column: Column, stored: Stored) -> np.ndarray:
    if stored.form not in ("integer", "float", "boolean"):
        what = stored.words or {"times": "dates or times"}.get(stored.form, stored.form)
        raise TypeError(
            f"column {column.name!r} is {column.kind}: its entries must be numbers, got {what} ({stored.dtype})"
        )
    if stored.form == "integer" and any(abs(int(value)) > EXACT for value in _ends(stored.values)):
        raise ValueError(
            f"column {column.name!r} has whole numbers beyond 2^53, which float64 rounds: subtract an offset, or divide"
        )
    values = stored.values.astype(np.float64)
    _require(column, values, np.flatnonzero(~stored.missing), "frame")
    return values


def _ends(values: np.ndarray) -> list[Any]:
    """The smallest and the largest of whole numbers, as they came."""
    return [values.min(), values.max()] if len(values) else []


def _require(column: Column, values: np.ndarray, rows: np.ndarray, argument: str) -> None:
    """Refuse numbers that the kind has not."""
    bad = ~np.isfinite(values)
    if column.kind == "positive":
        bad |= values <= 0
    elif column.kind == "count":
        bad |= (values < 0) | (values != np.floor(values))
    if not bad.any():
        return
    place = int(bad.argmax())
    hint = "state another kind"
    if argument == "x":
        hint = (
            "give draws, or round them; means are no counts" if column.kind == "count" else "these are no draws of it"
        )
    raise ValueError(
        f"column {column.name!r} is {column.kind}, {EXPECTED[column.kind]} in each entry, got {values[place]:g} in row "
        f"{rows[place]} of {argument} ({int(bad.sum()):,} such): {hint}"
    )
