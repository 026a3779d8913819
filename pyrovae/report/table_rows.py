"""Rows of a table as a page shows them, by the names of columns and categories, and what each column holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyrovae.columns import Column
from pyrovae.report.markup import Markup, estimate, joined, number, table

__all__ = ["columns_table", "rows_table"]

MOST_COLUMNS = 12  # of a table of rows
MOST_SUMMARIZED = 60
MOST_SHARES = 6  # of categories in a cell
ABSENT = "—"  # of an entry that is missing


def rows_table(caption: Any, what: str, columns: Sequence[Column], x: np.ndarray, like: np.ndarray) -> Markup:
    """Rows (N, D), numbered, each entry in the words of its column, a number in as many digits as `like` asks for.

    >>> import numpy as np
    >>> from pyrovae import Column
    >>> from pyrovae.report.table_rows import rows_table
    >>> x = np.array([[1.0], [0.0]])
    >>> "Bonn" in rows_table("Two rows", "draw", [Column("town", "binary", ("Aachen", "Bonn"))], x, x)
    True
    """
    shown = columns[:MOST_COLUMNS]
    forms = [_form(column, like[:, place]) for place, column in enumerate(shown)]
    rows = [
        [f"{what} {row + 1}", *(_entry(column, x[row, place], forms[place]) for place, column in enumerate(shown))]
        for row in range(len(x))
    ]
    return table(caption, [what, *(column.name for column in shown)], rows)


def columns_table(caption: Any, columns: Sequence[Column], real: np.ndarray, drawn: Mapping[str, np.ndarray]) -> Markup:
    """A row for each column: the mean and the spread of a number, the share of each category, of `real` and of draws.

    Entries that are missing of `real` are left out, and their share is told where there are some.
    """
    some_missing = bool(np.isnan(real).any())
    rows: list[list[Any]] = []
    for place, column in enumerate(columns[:MOST_SUMMARIZED]):
        seen = real[:, place][~np.isnan(real[:, place])]
        missing = [number(1 - len(seen) / max(1, len(real)), ".0%")] if some_missing else []
        cells = [_summary(column, each, seen) for each in (seen, *(values[:, place] for values in drawn.values()))]
        rows.append([column.name, column.kind, *missing, *cells])
    head = ["column", "kind", *["missing"] * some_missing, "test rows", *drawn]
    return table(caption, head, rows)


def _entry(column: Column, value: float, form: str) -> Any:
    if math.isnan(value):
        return ABSENT
    if column.categories is not None:
        return str(column.categories[round(value)])
    return number(value, form)


def _summary(column: Column, values: np.ndarray, like: np.ndarray) -> Any:
    if not len(values):
        return "no entry is seen"
    if column.categories is None:
        spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        return estimate(float(values.mean()), spread, _form(column, like, whole=False))
    counts = np.bincount(np.rint(values).astype(int), minlength=column.num_categories) / len(values)
    parts: list[Any] = []
    for category, share in list(zip(column.categories, counts, strict=True))[:MOST_SHARES]:
        parts += [", "] * bool(parts) + [f"{category} ", number(float(share), ".2f")]
    return joined(*parts, ", …" if len(counts) > MOST_SHARES else "")


def _form(column: Column, values: np.ndarray, *, whole: bool = True) -> str:
    """How a number of the column is written: three digits of its spread, and no more than whole entries have."""
    if column.kind == "count" and whole:
        return ",.0f"
    seen = values[~np.isnan(values)]
    spread = float(seen.std()) if len(seen) else 0.0
    if not 1e-6 < spread < 1e9:
        return ".4g"
    most = max(0, 2 - math.floor(math.log10(spread)))
    near = 1e-6 * float(np.abs(seen).max())  # what single precision leaves of a decimal number
    exact = (digits for digits in range(most) if np.allclose(seen, seen.round(digits), rtol=0, atol=near))
    return f",.{next(exact, most) if whole else most}f"
