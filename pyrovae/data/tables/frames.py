"""Data frames of any library as columns in one form: through narwhals, AnnData by its attributes, dicts as they are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.data.tables.files import read_file
from pyrovae.data.tables.stored import Stored, of_array, of_objects, plain

if TYPE_CHECKING:
    from pyrovae.data.tables.encoding import Encoding

__all__ = ["Frame", "Origin", "known_name", "opened"]

LABELS = "frame must have columns that are named by strings or whole numbers"


@dataclass(frozen=True, eq=False)
class Origin:
    """What a table keeps of the rows of its frame beside their values: pandas' index, and columns that were dropped.

    `index` is None of another library; `others` is a frame of the same library, or None.
    """

    index: Any = None
    others: Any = None

    def __getitem__(self, rows: Any) -> Origin:
        count = self._count()
        rows = rows if isinstance(rows, slice) else np.asarray(rows)  # a tensor of one number is no number
        rows = rows if count is None else np.arange(count)[rows]
        index = None if self.index is None else self.index[rows]
        others = self.others
        if isinstance(others, dict):
            others = {label: _rows_of(column, rows) for label, column in others.items()}
        elif others is not None:
            others = _narwhals(others)[rows.tolist()].to_native()
        return Origin(index, others)

    def _count(self) -> int | None:
        """The number of rows; None where nothing of them is kept."""
        if self.index is not None:
            return len(self.index)
        if self.others is None:
            return None
        others = next(iter(self.others.values()), None) if isinstance(self.others, dict) else _narwhals(self.others)
        return None if others is None else len(others)

    def beside(self, frame: Any, labels: Sequence[Any], order: Sequence[str]) -> Any:
        """A frame of the same rows with the columns that were dropped, all columns in `order`."""
        if isinstance(frame, dict):
            both = {**frame, **self.others}
            return {label: both[label] for label in sorted(both, key=lambda label: order.index(str(label)))}
        others = _narwhals(self.others)
        columns = {str(label): _narwhals(frame).get_column(label) for label in labels}
        columns |= {str(label): others.get_column(label) for label in others.columns}
        return _narwhals(frame).select([columns[name] for name in order]).to_native()

    def followed_by(self, other: Origin) -> Origin:
        """The rows of both, one after the other."""
        import narwhals.stable.v2 as nw

        index = self.index if self.index is None else self.index.append(other.index)
        others = self.others
        if isinstance(others, dict):
            others = {
                label: np.concatenate([column, other.others[label]])
                if isinstance(column, np.ndarray)
                else [*column, *other.others[label]]
                for label, column in others.items()
            }
        elif others is not None:
            others = nw.concat([_narwhals(others), _narwhals(other.others)]).to_native()
        return Origin(index, others)


@dataclass(frozen=True, eq=False)
class Frame:
    """A data frame whose columns were read: the library's name, its columns, and how many rows there are."""

    library: str
    columns: tuple[Stored, ...]
    num_rows: int
    index: Any
    native: Any
    is_counts: bool = False  # of AnnData whose matrix has nothing but whole numbers from 0 on

    def origin(self, labels: Sequence[Any]) -> Origin | None:
        """What there is to keep of the rows, with the columns of these labels."""
        if self.index is None and not labels:
            return None
        return Origin(self.index, _select(self.native, labels) if labels else None)


def opened(frame: Any, like: Encoding | None = None) -> Frame:
    """Read a frame of pandas, polars, pyarrow or another library that narwhals knows, AnnData, or a dict of columns.

    Of a file the frame that is in it, its columns read as those of `like`.

    Raises TypeError for what is none; ValueError for names that come twice or are no names, and where there is no row.
    """
    remarks: dict[str, str] = {}
    if isinstance(frame, str) or hasattr(frame, "__fspath__"):
        frame, remarks = read_file(frame, like)
    if isinstance(frame, Mapping):
        read = _of_dict(frame)
    elif hasattr(frame, "var_names") and hasattr(frame, "obs_names") and hasattr(frame, "X"):
        read = _of_anndata(frame)
    else:
        read = _of_narwhals(frame)
    names: dict[str, Any] = {}
    for column in read.columns:
        if isinstance(column.label, bool) or not isinstance(column.label, str | int | np.integer):
            raise ValueError(f"{LABELS}, got {column.label!r}: give them such names first, as by frame.columns = [...]")
        if column.name in names:
            raise ValueError(
                f"frame must have columns with names of their own, and {column.name!r} comes twice: rename one of them"
            )
        names[column.name] = column.label
    if not read.columns or not read.num_rows:
        raise ValueError(
            f"frame must have at least one row and one column, got {read.num_rows:,} rows and {len(read.columns)} "
            "columns"
        )
    if not remarks:
        return read
    columns = tuple(replace(column, remark=remarks.get(column.name, "")) for column in read.columns)
    return replace(read, columns=columns)


def known_name(argument: str, name: Any, known: Iterable[str]) -> str:
    """The name of a column as a string; ValueError, with the nearest one, where the frame has no such column."""
    names = list(known)
    if str(name) in names:
        return str(name)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(map(repr, names[:10]))}"
    raise ValueError(f"{argument} names {str(name)!r}, and the frame has no such column{hint}")


def _of_dict(frame: Mapping[Any, Any]) -> Frame:
    columns = []
    sizes: dict[Any, int] = {}
    for label, entries in frame.items():
        if isinstance(entries, str | bytes | Mapping) or not hasattr(entries, "__len__"):
            raise TypeError(f"frame[{label!r}] must be a column of entries, got {type(entries).__name__}")
        if hasattr(entries, "detach"):
            entries = entries.detach().cpu().numpy()
        if not isinstance(entries, np.ndarray):
            entries = entries.to_list() if hasattr(entries, "to_list") else list(entries)
        elif entries.ndim != 1:
            raise ValueError(f"frame[{label!r}] must have one axis, got shape {entries.shape}")
        sizes[label] = len(entries)
        is_array = isinstance(entries, np.ndarray)
        dtype = str(entries.dtype) if is_array else "list"
        columns.append(of_array(label, entries, dtype) if is_array else of_objects(label, entries, dtype))
    if len(set(sizes.values())) > 1:
        raise ValueError(f"frame must have columns of one length, got {sizes}")
    return Frame("dict", tuple(columns), next(iter(sizes.values()), 0), None, dict(frame))


def _of_anndata(frame: Any) -> Frame:
    matrix = frame.X
    if matrix is None or (hasattr(matrix, "toarray") and not isinstance(matrix, np.ndarray)):
        what = "no matrix X" if matrix is None else "a sparse matrix X"
        hint = "name a layer as X" if matrix is None else "make it dense first (adata.X = adata.X.toarray())"
        raise TypeError(f"frame is an AnnData with {what}: {hint}")
    array = np.asarray(matrix)
    labels = [str(name) for name in frame.var_names]
    if len(set(labels)) < len(labels):
        again = next(name for name in labels if labels.count(name) > 1)
        raise ValueError(
            f"frame is an AnnData whose var_names are not distinct ({again!r} comes twice): "
            "adata.var_names_make_unique()"
        )
    columns = tuple(
        of_array(label, array[:, place], str(array.dtype), widened=False) for place, label in enumerate(labels)
    )
    is_counts = array.dtype.kind in "iuf" and bool(((array >= 0) & (array == np.floor(array)) | np.isnan(array)).all())
    return Frame("pandas", columns, len(array), frame.obs_names, frame, is_counts)


def _of_narwhals(frame: Any) -> Frame:
    wrapped = _narwhals(frame)
    native = wrapped.to_native()
    labels = list(wrapped.columns)
    if getattr(getattr(native, "columns", None), "nlevels", 1) > 1:
        raise ValueError(f"{LABELS}, got several levels of names such as {labels[0]!r}: join them first")
    library = wrapped.implementation.value if hasattr(wrapped.implementation, "value") else str(wrapped.implementation)
    columns = tuple(_stored(label, wrapped.get_column(label)) for label in labels)
    index = getattr(native, "index", None)  # of pandas
    return Frame(library, columns, len(wrapped), index, native)


def _narwhals(frame: Any) -> Any:
    import narwhals.stable.v2 as nw

    expected = "frame must be a data frame (pandas, polars, pyarrow), AnnData, or a dict of columns"
    if hasattr(frame, "collect") and hasattr(frame, "lazy"):
        raise TypeError(f"{expected}, got a lazy {type(frame).__name__}: give frame.collect()")
    if isinstance(frame, np.ndarray) or hasattr(frame, "detach"):
        raise TypeError(
            f"{expected}, got an array, whose columns have no names: give pandas.DataFrame(x, columns=[...])"
        )
    try:
        return nw.from_native(frame, eager_only=True)
    except TypeError:
        raise TypeError(f"{expected}, got {type(frame).__name__}") from None
    except Exception as error:
        if type(error).__name__ != "DuplicateError":
            raise
        labels = list(getattr(frame, "columns", getattr(frame, "column_names", [])))
        again = next((label for label in labels if labels.count(label) > 1), None)
        raise ValueError(
            f"frame must have columns with names of their own, and {again!r} comes twice: rename one of them"
        ) from None


def _stored(label: Any, series: Any) -> Stored:
    """A column of a narwhals frame."""
    import narwhals.stable.v2 as nw

    native: Any = series.to_native()
    dtype = series.dtype
    words = _dtype_words(native)
    if isinstance(dtype, nw.Categorical | nw.Enum):
        return _categories(label, series, native, words)
    missing = series.is_null().to_numpy()
    if dtype.is_float():
        missing = missing | series.is_nan().fill_null(False).to_numpy().astype(bool)
    missing = np.asarray(missing, dtype=bool)
    seen = series.filter((~missing).tolist()) if missing.any() else series
    if dtype == nw.Boolean:
        return Stored(label, "boolean", words, np.asarray(seen.to_numpy(), dtype=bool), missing)
    if dtype.is_integer():
        values = np.asarray(seen.to_numpy())
        values = values if values.dtype.kind in "iu" else of_objects(label, seen.to_list(), words).values
        return Stored(label, "integer", words, values, missing)
    if dtype.is_float():
        values = np.asarray(seen.to_numpy(), dtype=np.float64)
        widened = bool(missing.any()) and words.startswith("float")  # NumPy's types have no missing integers
        return Stored(label, "float", words, values, missing, widened=widened)
    if isinstance(dtype, nw.Decimal):
        values = np.array([float(value) for value in seen.to_list()])
        return Stored(label, "float", "Float64" if words.startswith("Decimal") else "float64", values, missing)
    if dtype == nw.String:
        return Stored(label, "text", words, _objects(seen.to_list()), missing)
    if dtype.is_temporal():
        return Stored(label, "times", words, _objects(seen.to_list()), missing)
    if dtype == nw.Object or words == "object":
        return of_objects(label, series.to_list(), words)
    return Stored(label, "other", words, _objects(seen.to_list()), missing, words=f"values of type {words}")


def _categories(label: Any, series: Any, native: Any, words: str) -> Stored:
    """A column whose type is one of categories, with those that it declares."""
    import narwhals.stable.v2 as nw

    missing = np.asarray(series.is_null().to_numpy(), dtype=bool)
    declared: Sequence[Any] | None = None
    ordered = False
    if hasattr(native, "cat") and hasattr(native.cat, "ordered"):  # as pandas has them
        places = np.asarray(native.cat.codes)
        declared = native.cat.categories.tolist()
        ordered = bool(native.cat.ordered)
        values = _objects([declared[place] for place in places[~missing].tolist()])
    else:
        values = _objects([entry for entry, gone in zip(series.to_list(), missing, strict=True) if not gone])
        if isinstance(series.dtype, nw.Enum):  # those of polars' Categorical are the process's, not the column's
            declared, ordered = list(series.dtype.categories or ()), True
        elif getattr(getattr(native, "type", None), "ordered", False):  # of pyarrow
            declared, ordered = native.unify_dictionaries().chunk(0).dictionary.to_pylist(), True
    if all(isinstance(value, str | int | float | np.generic) for value in declared or values):
        categories = None if declared is None else tuple(plain(value) for value in declared)
        values = _objects([plain(value) for value in values])
        return Stored(label, "categories", words, values, missing, categories, ordered)
    kind = type((declared or values)[0]).__name__
    return Stored(label, "other", words, values, missing, words=f"categories that are {kind} objects")


def _dtype_words(native: Any) -> str:
    """A column's type in words from which it can be made again."""
    dtype = getattr(native, "dtype", None)
    if dtype is None:
        return str(native.type)  # of pyarrow
    arrow = getattr(dtype, "pyarrow_dtype", None)
    if arrow is not None:  # pandas has one word for its own strings and for pyarrow's
        return f"arrow {arrow}"
    if hasattr(native, "cat") and hasattr(native.cat, "categories"):
        return f"category of {native.cat.categories.dtype}"
    return "Enum" if str(dtype).startswith("Enum") else str(dtype)


def _select(native: Any, labels: Sequence[Any]) -> Any:
    if isinstance(native, dict):
        return {label: native[label] for label in labels}
    if hasattr(native, "to_df"):
        native = native.to_df()
    wrapped = _narwhals(native)
    places = [wrapped.columns.index(label) for label in labels]  # an integer is a place to narwhals, and no name
    return wrapped[:, places].to_native()


def _rows_of(column: Any, rows: np.ndarray) -> Any:
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows.tolist()]


def _objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array
