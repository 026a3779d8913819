"""Rows of a table as a .csv or .parquet file, with the names, categories and types of the file of the fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from pyrovae.data.tables.native import EXTRA

if TYPE_CHECKING:
    from pyrovae.columns import Column

__all__ = ["TABLES", "best_guess", "with_columns", "write_frame"]

TABLES = (".csv", ".parquet")  # endings of files that hold a frame


def write_frame(frame: Any, path: Path) -> None:
    """Write a frame of pandas, polars or another library, or a dict of columns, by the ending of the path.

    An entry that is missing is an empty cell of a .csv file.
    """
    import narwhals.stable.v2 as nw

    if isinstance(frame, Mapping):
        import pandas as pd

        frame = pd.DataFrame(frame, copy=False)
    wrapped: Any = nw.from_native(frame, eager_only=True)
    if path.suffix.lower() == ".csv":
        wrapped.write_csv(path)
        return
    try:
        wrapped.write_parquet(path)
    except ImportError:
        _by_polars(wrapped).write_parquet(path)


def _by_polars(wrapped: Any) -> Any:
    try:
        import polars as pl
    except ImportError:
        raise click.UsageError(f"writing a .parquet file needs pyarrow or polars: {EXTRA}") from None
    return pl.DataFrame({name: wrapped.get_column(name).to_list() for name in wrapped.columns})


def with_columns(frame: Any, columns: Mapping[str, np.ndarray], *, first: bool = False) -> Any:
    """A frame with further columns, at its end or `first`; a name that is taken gets " 2" behind it."""
    import narwhals.stable.v2 as nw

    wrapped: Any = nw.from_native(frame, eager_only=True)
    taken = list(map(str, wrapped.columns))
    named: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        while name in taken:
            name += " 2"
        taken.append(name)
        named[name] = values
    if wrapped.implementation.is_pandas():
        made = frame.copy()
        for name, values in named.items():
            made[name] = values  # by place, whatever the index is
    else:
        backend = nw.get_native_namespace(wrapped)
        series = [nw.new_series(name, values.tolist(), backend=backend) for name, values in named.items()]
        made = wrapped.with_columns(*series).to_native()
    if not first:
        return made
    order = [*named, *wrapped.columns]
    return nw.from_native(made, eager_only=True).select(order).to_native()


def best_guess(columns: Sequence[Column], draws: np.ndarray) -> np.ndarray:
    """One row in place of draws of it, (num_draws, N, D) to (N, D): a value that each column can have.

    Of real and positive columns it is the mean, of counts the median, the lower one of two, and of categories the one
    that is drawn most often.
    """
    guess: np.ndarray = draws.mean(0)
    for place, column in enumerate(columns):
        values = draws[..., place]
        if column.kind == "count":
            guess[:, place] = np.quantile(values, 0.5, axis=0, method="lower")
        elif column.categories is not None:
            counts = np.stack([(values == code).sum(0) for code in range(column.num_categories)])
            guess[:, place] = counts.argmax(0)
    return guess
