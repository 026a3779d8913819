"""A column as its library keeps it: which entries are missing, what the others are, and in which form."""

from __future__ import annotations

import datetime
import decimal
import numbers
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from pyrovae.checks.arrays import is_missing

__all__ = ["Form", "Stored", "of_array", "of_objects", "plain", "shown", "times"]

# "times" are dates, times of day and durations; "other" is what no kind of column is made of, as lists and mixtures
Form = Literal["boolean", "integer", "float", "text", "categories", "times", "other"]

EXACT = 2**53  # up to which float64 has every integer


@dataclass(frozen=True, eq=False)
class Stored:
    """A column of N entries in a form that all libraries share.

    Attributes:
        label: the column's name as its library has it.
        form: what its entries are.
        dtype: the type in its library's words.
        values: the entries that are seen, in their order: booleans, integers or float64 as numbers, others as objects.
        missing: (N,), whether an entry is missing.
        categories: those that its type declares, in their order; None where it declares none.
        ordered: whether the type says that this order means something.
        widened: whether a library may have taken a wider type only for missing entries, as floats for integers.
        words: what the entries are, where the form is "other".
        remark: what was done as the column was read from a file.
    """

    label: Any
    form: Form
    dtype: str
    values: np.ndarray
    missing: np.ndarray
    categories: tuple[Any, ...] | None = None
    ordered: bool = False
    widened: bool = False
    words: str = ""
    remark: str = ""

    @property
    def name(self) -> str:
        """The name as a string."""
        return str(self.label)

    @cached_property
    def distinct(self) -> list[Any]:
        """The different values that are seen: sorted, of text by Python's order; whole floats as integers."""
        if self.values.dtype == object:
            found: set[Hashable] = set(self.values.tolist())
            return sorted(found, key=_order)
        return [plain(value) for value in np.unique(self.values).tolist()]

    @cached_property
    def is_whole(self) -> bool:
        """Whether every value that is seen is a whole number."""
        if self.form == "integer":
            return True
        return self.form == "float" and bool((self.values == np.floor(self.values)).all())

    @property
    def is_number(self) -> bool:
        """Whether the entries are numbers, booleans apart."""
        return self.form in ("integer", "float")


def plain(value: Any) -> Any:
    """A value as Python's own: a NumPy scalar as its item, a whole float as an integer."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT:
        return int(value)
    return value


def shown(values: Sequence[Any], most: int = 5) -> str:
    """The first few values in words, and how many more there are."""
    words = [_short(repr(value)) for value in values[:most]]
    more = f", ... ({len(values):,} in all)" if len(values) > most else ""
    return ", ".join(words) + more


def times(count: int) -> str:
    """How often something comes."""
    return "once" if count == 1 else f"{count:,} times"


def of_array(label: Any, array: np.ndarray, dtype: str, *, widened: bool = True) -> Stored:
    """A column of a NumPy array with one axis; NaN, NaT and None are missing."""
    kind = array.dtype.kind
    nothing = np.zeros(len(array), dtype=bool)
    if kind == "b":
        return Stored(label, "boolean", dtype, array, nothing)
    if kind in "iu":
        return Stored(label, "integer", dtype, array, nothing)
    if kind == "f":
        missing = np.isnan(array)
        values = array[~missing].astype(np.float64)
        return Stored(label, "float", dtype, values, missing, widened=widened and bool(missing.any()))
    if kind in "mM":
        missing = np.isnat(array)
        return Stored(label, "times", dtype, array[~missing].astype(object), missing)
    if kind == "U":
        return Stored(label, "text", dtype, array.astype(object), nothing)
    if kind == "O":
        return of_objects(label, array.tolist(), dtype)
    return Stored(label, "other", dtype, array.astype(object), nothing, words=f"values of type {array.dtype}")


def of_objects(label: Any, entries: Sequence[Any], dtype: str) -> Stored:
    """A column of Python objects, in the form that all of them share; None, NaN and pandas' NA are missing."""
    missing = np.fromiter((is_missing(entry) for entry in entries), dtype=bool, count=len(entries))
    seen = [entry for entry, absent in zip(entries, missing, strict=True) if not absent]
    kinds = {_kind(entry) for entry in seen}
    form: Form = "other"
    words = ""
    if kinds <= {"boolean"}:
        form, values = "boolean", np.array(seen, dtype=bool)
    elif kinds <= {"integer"}:
        form, values = "integer", _integers([int(entry) for entry in seen])
    elif kinds <= {"integer", "float"}:
        form, values = "float", np.array([float(entry) for entry in seen])
    elif kinds <= {"text"}:
        form, values = "text", _objects([str(entry) for entry in seen])
    else:
        values = _objects(seen)
        if kinds <= {"times"}:
            form = "times"
        else:
            words = _mixture(seen, kinds)
    widened = form == "boolean" and dtype == "object" and bool(missing.any())  # pandas has no other type for these
    return Stored(label, form, dtype, values, missing, widened=widened, words=words)


def _kind(entry: Any) -> str:
    if isinstance(entry, bool | np.bool_):
        return "boolean"
    if isinstance(entry, numbers.Integral):
        return "integer"
    if isinstance(entry, numbers.Real | decimal.Decimal):
        return "float"
    if isinstance(entry, str):
        return "text"
    if isinstance(entry, datetime.date | datetime.time | datetime.timedelta | np.datetime64 | np.timedelta64):
        return "times"
    return f"{type(entry).__name__} objects"


def _mixture(seen: Sequence[Any], kinds: set[str]) -> str:
    """What a column of several kinds of entries holds, with an example of each."""
    names = {"boolean": "booleans", "integer": "whole numbers", "float": "numbers", "times": "dates or times"}
    parts = []
    for kind in sorted(kinds):
        of_it = [entry for entry in seen if _kind(entry) == kind]
        parts.append(f"{names.get(kind, kind)} ({len(of_it):,}, such as {_short(repr(of_it[0]))})")
    return " and ".join(parts)


def _integers(values: list[int]) -> np.ndarray:
    """Integers as int64, or as objects where one of them does not fit."""
    if all(-(2**63) <= value < 2**63 for value in values):
        return np.array(values, dtype=np.int64)
    return _objects(values)


def _objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array


def _order(value: Any) -> tuple[int, Any]:
    """Numbers by size and before text; text by Python's order; anything else by its words."""
    if isinstance(value, int | float):
        return 0, value
    return (1, value) if isinstance(value, str) else (2, str(value))


def _short(text: str, longest: int = 40) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
