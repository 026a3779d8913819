"""How an X becomes the rows of a pair, and rows what the caller has: arrays, or data frames of mixed columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted, validate_data

from pyrovae import checks
from pyrovae.columns import KINDS, Column, checked_columns
from pyrovae.data import Encoding, Table, table
from pyrovae.data.tables.making import dropped_names, encode
from pyrovae.sklearn.base import PairEstimator, as_numpy

__all__ = ["ArrayEstimator", "FrameEstimator"]


class ArrayEstimator(PairEstimator):
    """An estimator whose rows are arrays of floats."""

    _kept_dtypes = ("float64", "float32")  # of X, that codes have as well

    def _rows(self, X: Any, *, reset: bool = False, least: int = 1) -> np.ndarray:
        rows: np.ndarray = self._checked(X, reset=reset, least=least)
        return rows

    def _shown(self, x: np.ndarray) -> Any:
        return x


@dataclass(repr=False, eq=False, kw_only=True)
class FrameEstimator(PairEstimator):
    """An estimator whose rows are those of a data frame, or of an array, and come back in that form.

    NaN, None and the like are entries that were not seen. A fit finds `columns_` and `encoding_`.
    """

    kinds: Any = None
    drop: Any = ()

    missing = True
    _of_columns = ("kinds", "drop")
    _kept_dtypes = ("float64",)

    def _rows(self, X: Any, *, reset: bool = False, least: int = 1) -> np.ndarray:
        """The rows as float64, NaN where an entry is missing; with `reset` their columns are found."""
        if _is_frame(X) and X.shape[0] < least:
            raise ValueError(f"X must have at least {least} rows, got {X.shape[0]} sample(s): n_samples={X.shape[0]}")
        if not reset:
            return self._read(X, least)[1]
        if isinstance(self.drop, Iterator):
            raise TypeError(f"drop must be names in a list, got an iterator, which one fit uses up: {self.drop!r}")
        self.encoding_: Encoding | None = None
        if not _is_frame(X):
            x: np.ndarray = self._checked(X, reset=True, least=least)
            self.columns_ = _columns_of_array(x.shape[1], self.kinds, self.drop)
            return x.astype(np.float64)
        validate_data(self, X, reset=True, skip_check_array=True)
        made = table(X, self.kinds, drop=self.drop)
        self.encoding_, self.columns_ = made.encoding, made.columns
        return _numbers(made)

    def _read(self, X: Any, least: int = 1) -> tuple[Table | None, np.ndarray]:
        """Rows with the columns of the fit: as a table, None of an array, and as float64."""
        encoding = self.encoding_
        if encoding is None:
            return None, self._checked(X, least=least).astype(np.float64)
        if not _is_frame(X):
            raise ValueError(
                f"X must be a data frame with the columns of the fit, as those of {encoding.library}, got "
                f"{type(X).__name__}"
            )
        names = [str(name) for name in getattr(X, "column_names", X.columns)]  # the first of pyarrow
        kept = [name for name in names if name not in encoding.dropped]
        wanted = [column.name for column in encoding.columns]
        if sorted(kept) != sorted(wanted) and {*encoding.dropped} <= {*names}:
            validate_data(self, X, reset=False, skip_check_array=True)  # says what is absent or unknown
        made = encode(encoding, X)  # which knows columns by their names; those that a fit drops may be absent
        if kept != wanted:
            raise ValueError(
                "The feature names should match those that were passed during fit.\nFeature names must be in the same "
                f"order as they were in fit.\nGive X[{_some(wanted)}]"
            )
        return made, _numbers(made)

    def _shown(self, x: np.ndarray) -> Any:
        """Rows in the form of the X of the fit, in which binary columns and counts are whole."""
        x = x.astype(np.float64)
        for j, column in enumerate(self.columns_):
            if column.is_discrete:
                x[:, j] = np.round(x[:, j])
        return x if self.encoding_ is None else self.encoding_.frame(torch.from_numpy(x))

    def _completed(self, X: Any, expected: Callable[[np.ndarray], np.ndarray]) -> Any:
        """`X` in its own form with its missing entries filled in by `expected`, a function of rows."""
        check_is_fitted(self)
        made, x = self._read(X)
        rows = np.isnan(x).any(1)
        if rows.any():
            with torch.no_grad():
                filled = expected(x[rows])
            x = x.copy()
            x[rows] = np.where(np.isnan(x[rows]), filled, x[rows])
        return x if made is None else made.frame(torch.from_numpy(x))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.string = True
        return tags


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "shape")


def _numbers(made: Table) -> np.ndarray:
    """The rows of a table with all digits that they came with."""
    return as_numpy(made.x[:] if made.exact is None else made.exact).astype(np.float64)


def _columns_of_array(count: int, kinds: Any, drop: Any) -> tuple[Column, ...]:
    """Real columns x0, x1 and so on, but for those whose kinds are stated."""
    left_out = dropped_names(drop)
    if left_out is not True and left_out:
        raise ValueError(f"drop names columns of a data frame, and X is an array: leave {drop!r} out of X")
    names = [f"x{j}" for j in range(count)]
    stated = {} if kinds is None else kinds
    if not isinstance(stated, Mapping):
        if isinstance(stated, str) or not isinstance(getattr(stated, "columns", stated), Iterable):
            raise TypeError(f"kinds must be a dict from column to kind, as {{'x0': 'count'}}, got {kinds!r}")
        stated = {column.name: column for column in checked_columns(stated)}
    if strange := [name for name in stated if name not in names]:
        raise ValueError(f"kinds names {strange[0]!r}, which is no column: those of an array are x0 to {names[-1]}")
    return checked_columns([_column(name, stated.get(name, "real")) for name in names])


def _column(name: str, stated: Any) -> Column:
    if isinstance(stated, Column):
        if stated.name != name:
            raise ValueError(f"kinds of {name!r} must be a Column of that name, got {stated!r}")
        return stated
    is_pair = isinstance(stated, tuple | list) and len(stated) == 2
    kind, categories = stated if is_pair else (stated, None)
    checks.choice(f"kinds of {name!r}", kind, KINDS)
    return Column(name, kind, categories)


def _some(names: list[str]) -> str:
    return repr(names) if len(names) <= 10 else f"[{', '.join(map(repr, names[:10]))}, ...]"
