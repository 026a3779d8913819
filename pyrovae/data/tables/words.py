"""What `print` says of a table: of each column its kind, by which rule, what it holds, and how to change it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.data.tables.kinds import STATED, Finding

if TYPE_CHECKING:
    from pyrovae.data.tables.rows import Table

__all__ = ["aligned", "another_kind", "contents", "in_words", "without_order"]

MOST_COLUMNS = 60
MOST_CATEGORIES = 6


def in_words(table: Table) -> str:
    """The lines of a table."""
    entries = len(table) * len(table.columns)
    missing = 0 if table.missing is None else int(table.missing.sum())
    gone = f"{missing:,} of {entries:,} entries missing" if missing else "nothing missing"
    lines = [f"table of {_counted(len(table), 'row')} and {_counted(len(table.columns), 'column')}, {gone}"]
    findings = {each.name: each for each in table.findings}
    rows: list[tuple[str, ...]] = []
    for place, column in enumerate(table.columns[:MOST_COLUMNS]):
        finding = findings.get(column.name)
        words = contents(column, table.x[:, place].numpy())
        if finding is not None:
            words = f"{finding.rule}: {words}{f'; {finding.advice}' if finding.advice else ''}"
        rows.append((column.name, column.kind, words))
    lines += aligned(rows)
    if len(table.columns) > MOST_COLUMNS:
        lines.append(f"  and {len(table.columns) - MOST_COLUMNS:,} more")
    if table.dropped:
        lines.append("dropped:")
        dropped = table.dropped[:MOST_COLUMNS]
        lines += aligned([(name, findings[name].rule if name in findings else "") for name in dropped])
    lines += _advice([each for each in table.findings if each.name not in table.dropped])
    return "\n".join(lines)


def _advice(findings: Sequence[Finding]) -> list[str]:
    """How another kind is stated, and the order of categories, each by an example of the table's own."""
    lines = []
    if (number := another_kind(findings)) is not None:
        lines.append(f"another kind: data.table(frame, kinds={dict([number])!r})")
    if (unordered := without_order(findings)) is not None:
        columns, name, categories = unordered
        lines.append(
            f"if {columns} has an order: kinds={{{name!r}: ('ordinal', {categories!r})}}, rearranged, the lowest first"
        )
    return lines


def another_kind(findings: Sequence[Finding]) -> tuple[str, str] | None:
    """A column of numbers that was guessed, and what it may be in place of that; None where there is none."""
    numbers = [each for each in _guessed(findings) if each.column.kind in ("count", "positive")]  # type: ignore[union-attr]
    advised = next((each for each in _guessed(findings) if each.advice), None)
    if advised is not None and advised in numbers:
        return advised.name, "categorical"
    return (numbers[0].name, "real") if numbers else None


def without_order(findings: Sequence[Finding]) -> tuple[str, str, tuple[Any, ...]] | None:
    """The columns whose categories were taken for unordered, in words, the first of them, and its categories."""
    found = [each for each in _guessed(findings) if each.column is not None and each.column.kind == "categorical"]
    if not found:
        return None
    categories = found[0].column.categories or ()  # type: ignore[union-attr]
    shown = categories if len(categories) <= MOST_CATEGORIES else (*categories[:MOST_CATEGORIES], ...)
    names = [repr(each.name) for each in found[:MOST_CATEGORIES]] + ["another column"] * (len(found) > MOST_CATEGORIES)
    return names[0] if len(names) == 1 else "any of " + ", ".join(names), found[0].name, shown


def _guessed(findings: Sequence[Finding]) -> list[Finding]:
    return [each for each in findings if each.column is not None and each.rule != STATED]


def contents(column: Any, values: np.ndarray) -> str:
    """The range or the categories of a column of numbers, and how many entries are missing."""
    missing = int(np.isnan(values).sum())
    gone = f", {missing:,} missing" if missing else ""
    if missing == len(values):
        return f"all {missing:,} missing"
    if column.categories is None:
        return f"{_number(np.nanmin(values))} to {_number(np.nanmax(values))}{gone}"
    shown = [str(value) for value in column.categories[:MOST_CATEGORIES]]
    sign = " < " if column.kind == "ordinal" else ", "
    more = len(column.categories) - len(shown)
    return sign.join(shown) + (f", and {more} more" if more else "") + gone


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of words as lines, their columns below each other; the last one as long as it is."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]) - 1)] if rows else []
    return [
        "  " + "  ".join([*(word.ljust(width) for word, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
