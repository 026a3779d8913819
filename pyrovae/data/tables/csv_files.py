"""A file of comma-separated values as a frame: its separator, header, numbers and missing entries, or what is wrong.

A cell that says that nothing is there is missing: an empty one, NA, N/A, NaN, NULL, `?`; in a column of numbers also a
dot, a dash, none and missing. What was taken for that, other than empty cells, is said in the column's remark.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyrovae.data.tables.native import require
from pyrovae.data.tables.stored import times

__all__ = ["read_csv"]

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
LOOKED_AT = 200  # rows by which the separator is chosen
CHUNK = 10_000  # rows
DIGITS = 309  # of the largest whole number that float64 holds

GONE = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "null", "?"})
GONE_OF_NUMBERS = GONE | {"-", "--", ".", "none", "missing"}
WHOLE = r"[+-]?\d+"
PLAIN = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:inf|Inf|INF)(?:inity)?"
WITH_COMMA = r"[+-]?(?:\d+,?\d*|,\d+)(?:[eE][+-]?\d+)?"
COMMA_OF_EITHER_KIND = r"[+-]?[1-9]\d{0,2},\d{3}"  # 1,234 is a thousand, or little more than one
PADDED = re.compile(r"^[+-]?0\d", re.MULTILINE)


def read_csv(path: Path, as_text: Collection[str] = ()) -> tuple[Any, dict[str, str]]:
    """The file's table as a frame of pandas, and remarks by column; the columns `as_text` are not made numbers.

    Raises ValueError, with the line, for another encoding than UTF-8, rows of another length than the header, a header
    that is missing, and names that come twice.
    """
    text = _text(path)
    separator = _separator(path, text)
    names, lookups, codes = _cells(path, text, separator)
    cells = [[cell.strip() for cell in lookup] for lookup in lookups]
    _require_header(path, names, cells)
    pd = require("pandas", f"reading {path}")
    columns: dict[str, Any] = {}
    remarks: dict[str, str] = {}
    for place, (name, distinct, its_codes) in enumerate(zip(names, cells, codes, strict=True)):
        rows = np.frombuffer(its_codes, dtype=np.int64)
        if not name and set(distinct) == {""}:
            continue  # a separator at the end of each line
        name = name or f"column {place + 1}"
        longest = max(distinct, key=len)
        if len(longest) > DIGITS and _all(WHOLE, [longest]):
            raise ValueError(
                f"{path} has an integer of {len(longest):,} digits in {name!r}, and no number here holds it"
            )
        counts = Counter(
            dict(zip(range(len(distinct)), np.bincount(rows, minlength=len(distinct)).tolist(), strict=True))
        )
        columns[name], remark = _column(pd, distinct, rows, counts, as_text=name in as_text)
        if remark:
            remarks[name] = remark
    return pd.DataFrame(columns), remarks


def _text(path: Path) -> str:
    raw = path.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{path} must be in UTF-8, and it is in UTF-16: save it as CSV UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} must be in UTF-8, and line {line} is not: save it as CSV UTF-8, or read it with its own encoding, "
            "as pandas.read_csv(path, encoding='cp1252'), and give the frame to data.table"
        ) from None
    if "\0" in text:
        raise ValueError(
            f"{path} must be a text of separated values, and it holds NUL characters: it is another format"
        )
    if not text.strip():
        raise ValueError(f"{path} is empty: expected a line of names, and a line for each row")
    return text


def _rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank with the line that it ends in."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        if "field larger" in str(error):
            raise ValueError(
                f"{path} has a cell of over {csv.field_size_limit():,} characters before line {reader.line_num + 1}: "
                "a quotation mark may not be closed"
            ) from None
        raise ValueError(
            f"{path} has a quotation mark out of place before line {reader.line_num + 1}: {error}"
        ) from None


def _separator(path: Path, text: str) -> str:
    """The separator by which all rows have the same number of cells, and the most; a comma where none has any."""
    widths: dict[str, Counter[int]] = {}
    for separator in SEPARATORS:
        try:
            rows = list(itertools.islice(_rows(path, text, separator), LOOKED_AT))
        except ValueError:
            continue
        widths[separator] = Counter(len(row) for _, row in rows)
    even = {separator: max(found) for separator, found in widths.items() if len(found) == 1 and max(found) > 1}
    if even:
        most = max(even.values())
        best = [separator for separator, width in even.items() if width == most]
        if len(best) > 1:
            words = " and ".join(SEPARATORS[separator] for separator in best)
            raise ValueError(
                f"{path} may be separated by {words}: read it with one of them, as pandas.read_csv(path, sep=';'), and "
                "give the frame to data.table"
            )
        return best[0]
    # no separator fits all rows: the one that fits the most of them, of which the error then names the first other row
    uneven = {separator: found for separator, found in widths.items() if max(found) > 1}
    return max(uneven, key=lambda separator: max(n for width, n in uneven[separator].items() if width > 1), default=",")


def _cells(path: Path, text: str, separator: str) -> tuple[list[str], list[list[str]], list[array]]:
    """The header, and of each column its different cells and the place of each row's cell among them."""
    rows = _rows(path, text, separator)
    _, header = next(rows)
    width = len(header)
    lookups: list[defaultdict[str, int]] = []
    for _ in header:
        lookups.append(defaultdict(itertools.count().__next__))
    codes = [array("q") for _ in header]
    while chunk := list(itertools.islice(rows, CHUNK)):
        for line, row in chunk:
            if len(row) != width:
                hint = "quote cells that hold the separator"
                if len(row) == width + 1:
                    hint = f"{hint}, and give row names a name in the header"
                raise ValueError(
                    f"{path} has {width} names in its header and {len(row)} cells in line {line} (separated by "
                    f"{SEPARATORS[separator]}): {hint}"
                )
        for place, cells in enumerate(zip(*(row for _, row in chunk), strict=True)):
            codes[place].extend(map(lookups[place].__getitem__, cells))
    if not codes[0]:
        raise ValueError(f"{path} has a header and no row")
    return [name.strip() for name in header], [list(lookup) for lookup in lookups], codes


def _require_header(path: Path, names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1 and name]
    if any(map(_is_number, names)) and _is_a_row(names, cells):
        raise ValueError(
            f"{path} seems to have no header: its first line is {', '.join(map(repr, names[:5]))}; put a line of names "
            "first, or read it with pandas.read_csv(path, header=None, names=[...]) and give the frame to data.table"
        )
    if repeated:
        raise ValueError(
            f"{path} must have a name of its own for each column, and {repeated[0]!r} comes twice: rename one"
        )
    unnamed = [place for place, name in enumerate(names) if not name and set(cells[place]) != {""}]
    taken = [f"column {place + 1}" for place in unnamed if f"column {place + 1}" in names]
    if taken:
        raise ValueError(f"{path} has a column without a name, and another is called {taken[0]!r}: name it")


def _is_a_row(names: Sequence[str], cells: Sequence[Sequence[str]]) -> bool:
    """Whether a first line with numbers in it is the first row: all are numbers, or fractions, or text that recurs."""
    if all(map(_is_number, names)):
        return True
    of_numbers = [
        _is_number(name)
        for name, column in zip(names, cells, strict=True)
        if all(_is_number(cell) or cell.lower() in GONE_OF_NUMBERS for cell in column)
    ]
    recurs = any(name in column for name, column in zip(names, cells, strict=True) if name and not _is_number(name))
    has_fractions = any(_is_number(name) and not _all(WHOLE, [name]) for name in names)
    return bool(of_numbers) and all(of_numbers) and (recurs or has_fractions)


def _is_number(cell: str) -> bool:
    return _all(PLAIN, [cell]) or _all(WITH_COMMA, [cell])


def _all(pattern: str, cells: Sequence[str]) -> bool:
    """Whether a pattern fits each of the cells; one call for all of them, as there may be millions."""
    lines = "\n".join(cells)
    if lines.count("\n") >= len(cells):  # a cell of several lines, or none
        return False
    # each line is matched by itself: one expression for all of them would need what Python 3.11.0 to 3.11.4 have wrong
    return re.subn(f"^(?:{pattern})$", "", lines, flags=re.MULTILINE)[1] == len(cells)


def _column(pd: Any, cells: Sequence[str], rows: np.ndarray, counts: Counter[int], *, as_text: bool) -> tuple[Any, str]:
    """A column of numbers or text, and what was done to make it one."""
    values, words = (None, "") if as_text else _numbers(cells)
    absent = GONE if values is None else GONE_OF_NUMBERS
    gone = np.array([cell.lower() in absent for cell in cells])
    markers = [f"{cell!r} ({times(counts[i])})" for i, cell in enumerate(cells) if gone[i] and cell]
    remarks = [f"{' and '.join(markers)} taken as missing"] if markers else []
    if words:
        remarks.append(words)
    missing = gone[rows]
    if values is None:
        texts = np.array([None if absent else cell for cell, absent in zip(cells, gone, strict=True)], dtype=object)
        return pd.Series(texts[rows].tolist(), dtype=object).infer_objects(), "; ".join(remarks)
    taken = np.array([0 if absent else value for value, absent in zip(values, gone, strict=True)])
    column = taken[rows]
    if column.dtype.kind == "f":
        return np.where(missing, np.nan, column), "; ".join(remarks)
    if column.dtype.kind == "O" or not missing.any():
        return column, "; ".join(remarks)
    return pd.arrays.IntegerArray(column.astype(np.int64), missing), "; ".join(remarks)


def _numbers(cells: Sequence[str]) -> tuple[list[Any] | None, str]:
    """The cells as numbers, those that are missing as 0, with a remark; None where they are no numbers."""
    gone = [cell.lower() in GONE_OF_NUMBERS for cell in cells]
    seen = [cell for cell, absent in zip(cells, gone, strict=True) if not absent]
    if not seen or PADDED.search("\n".join(seen)):
        return None, ""
    if _all(PLAIN, seen):
        read: Any = int if _all(WHOLE, seen) else float
        return [0 if absent else read(cell) for cell, absent in zip(cells, gone, strict=True)], ""
    if not _all(WITH_COMMA, seen) or _all(COMMA_OF_EITHER_KIND, [cell for cell in seen if "," in cell]):
        return None, ""
    numbers = [0.0 if absent else float(cell.replace(",", ".")) for cell, absent in zip(cells, gone, strict=True)]
    return numbers, "decimal commas"
