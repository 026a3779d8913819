"""Columns in the type that their library had them in: pandas, polars, pyarrow, or a dict of lists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Restored", "built", "require"]

EXTRA = 'pip install "pyrovae[tables]"'
DICTIONARY = re.compile(r"dictionary<values=([^,]+), indices=([^,]+), ordered=([01])>")


@dataclass(frozen=True, eq=False)
class Restored:
    """A column to be built.

    Attributes:
        label: its name.
        dtype: the type in its library's words, as `frames` notes it.
        values: the entries that are seen.
        missing: (N,), whether an entry is missing.
        categories: what the type declares; None where it is not one of categories.
        ordered: whether they are in an order.
        widened: whether its type is wider than its values only because entries were missing.
    """

    label: Any
    dtype: str
    values: np.ndarray
    missing: np.ndarray
    categories: Sequence[Any] | None = None
    ordered: bool = False
    widened: bool = False

    def entries(self, absent: Any = None) -> list[Any]:
        """All entries in Python's types, `absent` where one is missing."""
        seen = iter(self.values.tolist())
        return [absent if gone else next(seen) for gone in self.missing.tolist()]


def require(library: str, what: str) -> Any:
    """A library by its name; ImportError that says what to install."""
    from importlib import import_module

    try:
        return import_module(library)
    except ImportError:
        raise ImportError(f"{what} needs {library}: {EXTRA}") from None


def built(library: str, columns: Sequence[Restored], index: Any = None) -> Any:
    """A frame of a library; `index` is pandas'."""
    made: Mapping[str, Any] = {"pandas": _pandas, "polars": _polars, "pyarrow": _pyarrow, "dict": _dict}
    if library in made:
        return made[library](columns, index)
    import narwhals.stable.v2 as nw

    backend: Any = library
    return nw.from_dict({str(each.label): each.entries() for each in columns}, backend=backend).to_native()


def _dict(columns: Sequence[Restored], _: Any) -> dict[Any, Any]:
    return {each.label: each.entries() if each.dtype in ("list", "object", "") else _numpy(each) for each in columns}


def _numpy(column: Restored) -> np.ndarray:
    """An array of the column's own type, of a wider one where that does not hold the values, or of objects."""
    if not column.dtype:
        return np.array(column.entries(np.nan))
    if column.dtype[:2] == "<U" or column.dtype[:3] in ("str", "obj"):
        array = np.empty(len(column.missing), dtype=object)
        array[:] = column.entries()
        return array if column.missing.any() or column.dtype[:3] == "obj" else array.astype(str)
    dtype = np.dtype(column.dtype)
    if not column.missing.any():
        if column.widened and dtype.kind == "f":
            return column.values.astype(np.int64)
        return column.values.astype(_that_holds(column.values, dtype))
    if dtype.kind == "b":
        array = np.empty(len(column.missing), dtype=object)
        array[:] = column.entries()
        return array
    array = np.full(len(column.missing), np.nan)
    array[~column.missing] = column.values.astype(np.float64)
    return array.astype(dtype) if dtype.kind == "f" else array


def _that_holds(values: np.ndarray, dtype: np.dtype) -> np.dtype:
    """A column's own type if it has these numbers; int64 of whole numbers beyond its range, float64 of fractions."""
    if dtype.kind == "b":
        is_bool = np.isin(values.astype(np.float64), (0, 1)).all()
        return dtype if is_bool else _that_holds(values, np.dtype(np.int64))
    if dtype.kind not in "iu":
        return dtype
    numbers = values.astype(np.float64)
    if not (numbers == np.floor(numbers)).all():
        return np.dtype(np.float64)
    ends = np.iinfo(dtype)
    if not len(numbers) or (ends.min <= numbers.min() and numbers.max() <= ends.max):
        return dtype
    return np.dtype(np.int64)


def _pandas(columns: Sequence[Restored], index: Any) -> Any:
    pd = require("pandas", "a frame of pandas")
    made = {each.label: pd.Series(_pandas_column(pd, each), index=index, name=each.label) for each in columns}
    frame = pd.DataFrame(made, index=index, copy=False)
    frame.columns = pd.Index([each.label for each in columns])
    return frame


def _pandas_column(pd: Any, column: Restored) -> Any:
    dtype = column.dtype
    if dtype.startswith("category of "):
        categories = pd.Index(list(column.categories or ())).astype(dtype.removeprefix("category of "))
        return pd.Categorical(column.entries(), dtype=pd.CategoricalDtype(categories, column.ordered))
    if dtype.startswith("arrow "):
        pa = require("pyarrow", "a column of pandas that pyarrow stores")
        words = dtype.removeprefix("arrow ")
        return pd.array(_arrow(pa, column, words), dtype=pd.ArrowDtype(_arrow(pa, column, words).type))
    if not dtype:
        return pd.Series(column.entries())._values
    if dtype == "object" and column.widened and not column.missing.any():
        return column.values.astype(bool)
    if dtype == "object":
        return pd.Series(column.entries(), dtype=object)._values
    known = pd.api.types.pandas_dtype(dtype)
    if isinstance(known, np.dtype):
        return _numpy(column)
    if known.kind in "biuf":
        lower = _that_holds(column.values, known.numpy_dtype)
        if lower != known.numpy_dtype:
            known = pd.api.types.pandas_dtype("Float64" if lower.kind == "f" else "Int64")
    return pd.array(column.entries(pd.NA if known.na_value is pd.NA else None), dtype=known)


def _polars(columns: Sequence[Restored], _: Any) -> Any:
    pl = require("polars", "a frame of polars")
    return pl.DataFrame([_polars_column(pl, each) for each in columns])


def _polars_column(pl: Any, column: Restored) -> Any:
    label, entries = str(column.label), column.entries()
    if column.dtype == "Enum":
        return pl.Series(label, entries, dtype=pl.Enum(list(column.categories or ())))
    dtype = getattr(pl, column.dtype.partition("(")[0], None) if column.dtype else None
    if dtype is None or dtype == pl.Object:
        return pl.Series(label, entries, strict=False)
    if dtype in (pl.Categorical, pl.String):
        return pl.Series(label, entries, dtype=dtype)
    wider = _numeric_type(column, dtype.is_integer(), dtype == pl.Boolean)
    if wider is not None:
        return pl.Series(label, entries, dtype=pl.Float64 if wider == "float" else pl.Int64).cast(
            pl.Float64 if wider == "float" else pl.Int64
        )
    if dtype.is_integer():
        made = pl.Series(label, [None if entry is None else int(entry) for entry in entries], dtype=pl.Int64)
        fits = made.cast(dtype, strict=False)
        return fits if fits.null_count() == made.null_count() else made
    if dtype == pl.Boolean:
        return pl.Series(label, [None if entry is None else bool(entry) for entry in entries], dtype=dtype)
    return pl.Series(label, [None if entry is None else float(entry) for entry in entries], dtype=pl.Float64).cast(
        dtype
    )


def _numeric_type(column: Restored, is_integer: bool, is_boolean: bool) -> str | None:
    """ "float" or "integer" where a type of integers or booleans does not hold the values; None where it does."""
    if not (is_integer or is_boolean) or not len(column.values):
        return None
    lower = _that_holds(column.values, np.dtype(bool if is_boolean else np.int64))
    if lower.kind == ("b" if is_boolean else "i"):
        return None
    return "float" if lower.kind == "f" else "integer"


def _pyarrow(columns: Sequence[Restored], _: Any) -> Any:
    pa = require("pyarrow", "a table of pyarrow")
    return pa.table({str(each.label): _arrow(pa, each, each.dtype) for each in columns})


def _arrow(pa: Any, column: Restored, words: str) -> Any:
    entries = column.entries()
    dictionary = DICTIONARY.fullmatch(words)
    if dictionary:
        kind = pa.dictionary(_arrow_type(pa, dictionary[2]), _arrow_type(pa, dictionary[1]), dictionary[3] == "1")
        if column.categories is None or not kind.ordered:
            return pa.array(entries, type=kind.value_type).dictionary_encode().cast(kind)
        code = {value: place for place, value in enumerate(column.categories)}
        codes = pa.array([None if entry is None else code[entry] for entry in entries], type=kind.index_type)
        values = pa.array(list(column.categories), type=kind.value_type)
        return pa.DictionaryArray.from_arrays(codes, values, ordered=kind.ordered)
    dtype = _arrow_type(pa, words) if words else None
    if dtype is None:
        return pa.array(entries)
    wider = _numeric_type(column, pa.types.is_integer(dtype), pa.types.is_boolean(dtype))
    if wider is not None:
        return pa.array(entries, type=pa.float64() if wider == "float" else pa.int64())
    if pa.types.is_integer(dtype):
        whole = pa.array([None if entry is None else int(entry) for entry in entries], type=pa.int64())
        try:
            return whole.cast(dtype)
        except pa.ArrowInvalid:
            return whole
    if pa.types.is_boolean(dtype):
        return pa.array([None if entry is None else bool(entry) for entry in entries], type=dtype)
    if pa.types.is_floating(dtype):
        return pa.array([None if entry is None else float(entry) for entry in entries], type=pa.float64()).cast(dtype)
    return pa.array(entries, type=dtype)


def _arrow_type(pa: Any, words: str) -> Any:
    """A type of pyarrow by its words; None for one that has no such name, as decimals."""
    try:
        return pa.type_for_alias(words)
    except ValueError:
        return None
