"""`table`: a data frame as numbers with names, and another frame in the codes of one that was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyrovae.columns import Column
from pyrovae.data.mapped import dtype_that_holds
from pyrovae.data.tables import kinds as rules
from pyrovae.data.tables.codes import encoded
from pyrovae.data.tables.encoding import Encoding, Storage
from pyrovae.data.tables.frames import Frame, known_name, opened
from pyrovae.data.tables.kinds import Finding
from pyrovae.data.tables.rows import Table
from pyrovae.data.tables.stored import Stored

__all__ = ["dropped_names", "encode", "found_in", "made_of", "table"]


def table(frame: Any, kinds: Any = None, *, drop: bool | Iterable[Any] = ()) -> Table:
    """Make numbers of a data frame, with NaN where an entry is missing and codes for categories, and keep its names.

    `frame` is of pandas, polars, pyarrow or another library that narwhals knows, AnnData (its matrix, with the names of
    its variables), a dict of columns, or the path of a .csv, .tsv or .parquet file. Each column has a kind: "real",
    "positive", "count", "binary", "categorical" or "ordinal" (`pyrovae.Column`). It is guessed by these rules, of which
    the first that fits counts, and `print(table)` says which one it was:

    1. Refused: no entry is seen; dates, times and durations; lists, mixtures of numbers and text, and other objects;
       infinite numbers; whole numbers beyond 2^53, which float64 rounds; and a constant.
    2. Booleans are binary.
    3. A type that declares its categories is binary if there are two, ordinal if the type says that their order means
       something (pandas' ordered Categorical, polars' Enum), else categorical.
    4. Text is refused if every entry is a number (as in "1,5") or a date, or if all entries differ (an identifier).
       With two values it is binary, and with at most 5, or at most 100 that are seen twice on average, categorical, in
       Python's order; else refused.
    5. Numbers with two values are binary if these are 0 and 1 or -1 and 1, or if each comes more than once.
    6. Whole numbers, of an integer type, or floats of which some are missing (which pandas makes of integers then), are
       refused as an identifier if 10 or more are one run without a gap, each once, or if all differ and the column is
       called id, index or the like. They are real if one is below 0, else counts. A code 0, 1, 2 is a count by this
       rule, and the printed table says how to change that.
    7. Other floats are positive if all are above 0, else real.

    `kinds` states kinds instead: `{"age": "count"}`; with categories in their order, `{"size": ("ordinal", ("S", "M",
    "L"))}`; or a `Column` for a name, or the columns of another table. Of an ordinal column of text the order has to be
    stated.
    `drop` names columns to leave out, or is True for all that are refused.

    `x` is float32, or float64 where float32 is too coarse: if it would change an entry by more than a thousandth of the
    column's standard deviation, a count, a code, or a positive number's being above 0. `frame` gives the digits back.

    Raises ValueError for columns that are refused, all in one error that says what to do; for names that come twice;
    for kinds that do not fit the entries, or are stated of a column that is dropped; TypeError for what is no frame;
    ImportError where a library is not installed.

    >>> import pandas as pd
    >>> from pyrovae import data
    >>> people = pd.DataFrame({"age": [31, 45, 31], "height": [1.7, None, 1.6], "smoker": ["no", "yes", "no"]})
    >>> print(data.table(people))
    table of 3 rows and 3 columns, 1 of 9 entries missing
      age     count     whole numbers from 0 on: 31 to 45
      height  positive  numbers, all above 0: 1.6 to 1.7, 1 missing
      smoker  binary    text with two values: no, yes
    another kind: data.table(frame, kinds={'age': 'real'})
    """
    return made_of(opened(frame), kinds, drop=drop)


def made_of(read: Frame, kinds: Any, *, drop: bool | Iterable[Any] = (), aside: tuple[str, ...] = ()) -> Table:
    """The table of a frame that was read, without the columns `aside`."""
    findings = [each for each in found_in(read, kinds) if each.name not in aside]
    left_out = _dropped(drop, findings)
    _require_no_kind(kinds, {*left_out, *aside}, "drop leaves it out" if not aside else "it is none of the table's")
    refused = [each for each in findings if each.column is None and each.name not in left_out]
    if refused:
        raise ValueError(_refusal(refused))
    columns = [each.column for each in findings if each.column is not None and each.name not in left_out]
    if not columns:
        raise ValueError("frame must have a column that is not dropped, and all of them are")
    by_name = {column.name: column for column in read.columns}
    storage = tuple(Storage.of(column, by_name[column.name]) for column in columns)
    encoding = Encoding(tuple(columns), read.library, storage, tuple(by_name))
    numbers = [encoded(column, by_name[column.name]) for column in columns]
    return _made(encoding, read, numbers, tuple(findings))


def found_in(frame: Frame, kinds: Any = None) -> list[Finding]:
    """What each column of a frame is taken for, also of those that are refused."""
    statements = rules.stated(kinds, frame.columns)
    return [rules.found(column, statements.get(column.name), all_counts=frame.is_counts) for column in frame.columns]


def encode(encoding: Encoding, frame: Any, *, drop: bool | Iterable[Any] = ()) -> Table:
    """A frame's rows as a table with the columns and codes of an encoding; `Table.like` says what is refused."""
    read = opened(frame, encoding)
    by_name = {column.name: column for column in read.columns}
    names = [column.name for column in encoding.columns]
    absent = [name for name in names if name not in by_name]
    known = {*names, *encoding.dropped}
    extra = [name for name in by_name if name not in known]
    drop = dropped_names(drop)
    if drop is not True:
        asked = {known_name("drop", name, by_name) for name in drop}
        extra = [name for name in extra if name not in asked]
    problems = []
    if absent:
        problems.append(f"it has no {_columns(absent)}")
    if extra and drop is not True:
        problems.append(
            f"{_columns(extra)} {'is' if len(extra) == 1 else 'are'} unknown: drop={extra!r} leaves them out"
        )
    errors: list[Exception] = []
    numbers = []
    for column in encoding.columns:
        if column.name in by_name:
            try:
                numbers.append(encoded(column, by_name[column.name]))
            except (ValueError, TypeError) as error:
                errors.append(error)
    problems += [str(error) for error in errors]
    if problems:
        only_types = errors and len(errors) == len(problems) and all(isinstance(error, TypeError) for error in errors)
        kind = TypeError if only_types else ValueError
        lead = "frame must have the columns that the table was made with: "
        lead = lead if len(errors) < len(problems) else ""
        raise kind(f"{lead}{'; '.join(problems)}")
    return _made(encoding.stored_as(read.library, by_name, list(by_name)), read, numbers)


def dropped_names(drop: Any) -> Literal[True] | list[Any]:
    """The names that `drop` has, or True; False are none. TypeError for what is neither."""
    if isinstance(drop, bool | np.bool_):
        return True if drop else []
    if isinstance(drop, str):
        return [drop]
    if isinstance(drop, bytes | Mapping | Tensor) or not isinstance(drop, Iterable):
        name = f": drop=[{drop!r}] is a list of one name" if isinstance(drop, int | np.integer) else ""
        raise TypeError(f"drop must be names of columns in a list, or True or False, got {drop!r}{name}")
    return list(drop)


def _made(encoding: Encoding, read: Frame, numbers: list[np.ndarray], findings: tuple[Finding, ...] = ()) -> Table:
    """A table of the numbers of each column, with what is kept of the frame's rows."""
    by_name = {column.name: column for column in read.columns}
    exact = torch.from_numpy(np.stack(numbers, 1))
    x = exact.to(_dtype(encoding.columns, by_name, exact))
    gone = exact.isnan()
    others = [by_name[name].label for name in encoding.dropped]
    return Table(
        x,
        missing=gone if bool(gone.any()) else None,
        encoding=encoding,
        findings=findings,
        exact=None if bool((x.double() == exact)[~gone].all()) else exact,
        origin=read.origin(others),
    )


def _dtype(columns: tuple[Column, ...], by_name: dict[str, Stored], exact: Tensor) -> torch.dtype:
    """float32 where it holds all columns: codes and whole numbers exactly, positive ones above 0."""
    single = exact.float()
    same = (single.double() == exact) | exact.isnan()
    for place, column in enumerate(columns):
        whole = column.is_discrete or by_name[column.name].form == "integer"
        if whole and not bool(same[:, place].all()):
            return torch.float64
        smallest = torch.finfo(torch.float32).smallest_normal
        if column.kind == "positive" and bool((single[:, place] < smallest).any()):
            return torch.float64
    return dtype_that_holds([exact], ["frame"])


def _dropped(drop: bool | Iterable[Any], findings: list[Finding]) -> set[str]:
    names = dropped_names(drop)
    if names is True:
        return {each.name for each in findings if each.column is None}
    return {known_name("drop", name, [each.name for each in findings]) for name in names}


def _require_no_kind(kinds: Any, names: set[str], why: str) -> None:
    """Refuse a kind that is stated of a column without use; the columns of another table may have more of them."""
    for name in kinds if isinstance(kinds, Mapping) else ():
        if str(name) in names:
            raise ValueError(f"kinds states a kind of {str(name)!r}, and {why}: take it out of one of the two")


def _refusal(refused: list[Finding]) -> str:
    listed = [f"{each.name!r}: {each.rule}; {each.advice}" for each in refused[:20]]
    if len(refused) > 20:
        listed.append(f"and {len(refused) - 20:,} more")
    names = [each.name for each in refused]
    drop = repr(names) if len(names) <= 5 else "[...]"
    count = "1 column" if len(refused) == 1 else f"{len(refused):,} columns"
    lines = "\n  ".join(listed)
    return (
        f"frame has {count} of no kind:\n  {lines}\ndrop=True leaves out all of them, drop={drop} these by name; "
        f"kinds={{{names[0]!r}: ...}} states a kind"
    )


def _columns(names: list[str]) -> str:
    return f"column{'' if len(names) == 1 else 's'} {', '.join(map(repr, names[:20]))}"
