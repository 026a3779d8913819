"""Files of columns as frames: .csv and .tsv of text, and .parquet."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrovae import checks
from pyrovae.data.limits import decoded, require_unpacked
from pyrovae.data.tables.csv_files import read_csv
from pyrovae.data.tables.native import EXTRA

if TYPE_CHECKING:
    from pyrovae.data.tables.encoding import Encoding

__all__ = ["ENDINGS", "is_table_file", "read_file"]

ENDINGS = (".csv", ".tsv", ".parquet")


def is_table_file(source: Any) -> bool:
    """Whether a source is the path of a file whose name ends as those of tables do."""
    return isinstance(source, str | os.PathLike) and Path(source).suffix.lower() in ENDINGS


def read_file(source: str | os.PathLike[str], like: Encoding | None = None) -> tuple[Any, dict[str, str]]:
    """The frame in a file, of pandas, or of polars where a Parquet file has no other reader; and remarks by column.

    Columns whose categories in `like` are text are not made numbers. Raises FileNotFoundError, ValueError for another
    kind of file and for a damaged one, and ImportError where nothing reads Parquet.
    """
    path = checks.path("frame", source)
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"frame must be a data frame, or the path of a {', '.join(ENDINGS)} file, got {str(source)!r}")
    if not path.is_file():
        raise FileNotFoundError(f"frame: there is no file {path.absolute()}")
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path), {}
    columns = () if like is None else like.columns
    of_text = [each.name for each in columns if any(isinstance(value, str) for value in each.categories or ())]
    return read_csv(path, of_text)


def _read_parquet(path: Path) -> Any:
    try:
        import_module("pyarrow")
    except ImportError:
        return _by_polars(path)
    import pandas as pd

    parquet = import_module("pyarrow.parquet")
    with decoded(f"{path} is damaged or no Parquet file"), parquet.ParquetFile(path) as file:
        rows, columns = file.metadata.num_rows, file.metadata.num_columns
    _require_room(path, rows, columns)
    with decoded(f"{path} is damaged or no Parquet file"):
        return pd.read_parquet(path, engine="pyarrow", dtype_backend="numpy_nullable")


def _by_polars(path: Path) -> Any:
    try:
        import polars as pl
    except ImportError:
        raise ImportError(f"reading {path} needs pyarrow or polars: {EXTRA}") from None
    with decoded(f"{path} is damaged or no Parquet file"):
        lazy = pl.scan_parquet(path)
        rows, columns = lazy.select(pl.len()).collect().item(), len(lazy.collect_schema())
    _require_room(path, rows, columns)
    with decoded(f"{path} is damaged or no Parquet file"):
        return pl.read_parquet(path)


def _require_room(path: Path, rows: int, columns: int) -> None:
    """A constant column of any length takes no room in a Parquet file, and a number for each row once it is read."""
    instead = "read it in parts, as by pyarrow.parquet.ParquetFile, and give a frame to data.table"
    require_unpacked(str(path), path.stat().st_size, 8 * rows * columns, instead)
