"""Which kind a column of a table is taken for: the rules that `data.table` states, in their order, or a statement."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyrovae import checks
from pyrovae.checks.shown import short
from pyrovae.columns import CODED, KINDS, Column
from pyrovae.data.tables.frames import known_name
from pyrovae.data.tables.stored import EXACT, Stored, plain, shown, times

__all__ = ["MARKERS", "Finding", "found", "stated"]

FEW_CATEGORIES = 5  # values of text, up to which they are categories also where they hardly repeat
MOST_CATEGORIES = 100
NINES = frozenset(float("9" * length) for length in range(2, 7))  # 99, 999, ...: codes of missing entries
STATED = "as stated"
RUN = 10  # whole numbers, from which on a run without a gap is taken for a numbering of the rows
FEW = 10  # values, up to which whole numbers may be codes of categories
NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)*|[.,]\d+)([eE][+-]?\d+)?\s*%?\s*")
DATE = re.compile(
    r"\d{4}([-/.])\d{1,2}\1\d{1,2}([ T].*)?|\d{1,2}([-/.])\d{1,2}\3\d{2,4}( .*)?|\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?"
)
NUMBERING = re.compile(r"(?i)(|row|.*[_ .-])(id|ids|uuid|key|index|idx|rownames?|row|no|nr|number)|unnamed: \d+")
MARKERS = frozenset({"", "?", "-", ".", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "missing"})


@dataclass(frozen=True)
class Finding:
    """What a column is taken for: a `Column`, or None where it is refused; by which rule; and what to do otherwise."""

    name: str
    column: Column | None
    rule: str
    advice: str = ""


def stated(kinds: Any, columns: Sequence[Stored]) -> dict[str, Any]:
    """The argument `kinds` by the names of columns: {name: a kind, (kind, categories) or a Column}, or Columns."""
    if kinds is None:
        return {}
    if not isinstance(kinds, Mapping):
        if not isinstance(kinds, list | tuple) or not all(isinstance(each, Column) for each in kinds):
            raise TypeError(f"kinds must be a dict from column to kind, as {{'age': 'count'}}, got {short(kinds)}")
        kinds = {each.name: each for each in kinds}
    names = [column.name for column in columns]
    return {known_name("kinds", name, names): kind for name, kind in kinds.items()}


def found(column: Stored, stated_kind: Any = None, *, all_counts: bool = False) -> Finding:
    """What a column is taken for, by the rules or as it is stated.

    Raises ValueError and TypeError where the statement does not fit the entries.
    """
    made = _found(column, stated_kind, all_counts)
    if column.remark:
        made = replace(made, rule=f"{made.rule} ({column.remark})")
    code = _code_of_missing(column) if column.is_number and made.column is not None else ""
    return replace(made, advice="; ".join(filter(None, [made.advice, code]))) if code else made


def _found(column: Stored, stated_kind: Any, all_counts: bool) -> Finding:
    if stated_kind is not None:
        return _by_statement(column, stated_kind)
    refusal = _never(column) or _constant(column)
    if refusal is not None:
        return refusal
    if column.form == "boolean":
        return _coded(column, "binary", (False, True), "booleans")
    if column.form == "categories":
        return _declared(column)
    if column.form == "text":
        return _text(column)
    if all_counts:
        return Finding(column.name, Column(column.name, "count"), "the whole matrix is whole numbers from 0 on")
    return _numbers(column)


def _never(column: Stored) -> Finding | None:
    """Why a column can be of no kind at all; None where it can."""
    name = column.name
    if not len(column.values):
        return Finding(name, None, "no entry is seen", "state its categories, or drop it")
    if column.form == "times":
        advice = "make numbers of them, such as the days since the first, or drop it"
        return Finding(name, None, f"dates or times ({column.dtype})", advice)
    if column.form == "other":
        return Finding(name, None, column.words, "make them numbers or text of one kind, or drop it")
    if column.form == "float" and not np.isfinite(column.values).all():
        count = int((~np.isfinite(column.values)).sum())
        advice = "make them missing (NaN) or finite, or drop it"
        return Finding(name, None, f"{count:,} infinite {'value' if count == 1 else 'values'}", advice)
    if column.form == "integer" and any(abs(int(end)) > EXACT for end in (column.values.min(), column.values.max())):
        advice = "subtract an offset, divide, make it text where it is an identifier, or drop it"
        return Finding(name, None, "whole numbers beyond 2^53, which float64 rounds", advice)
    return None


def _constant(column: Stored) -> Finding | None:
    if len(column.distinct) > 1:
        return None
    rule = f"a constant: every entry that is seen is {column.distinct[0]!r}"
    return Finding(column.name, None, rule, "state its kind and all its categories, or drop it")


def _declared(column: Stored) -> Finding:
    if column.categories is None:
        return _categorical(column, "a type of categories")
    if len(column.categories) == 2:
        return _coded(column, "binary", column.categories, "a type with two categories")
    if column.ordered:
        return _coded(column, "ordinal", column.categories, "a type with categories in an order")
    if len(column.categories) > MOST_CATEGORIES:
        return _too_many(column, len(column.categories))
    return _coded(column, "categorical", column.categories, f"a type with {len(column.categories)} categories")


def _categorical(column: Stored, what: str) -> Finding:
    count, seen = len(column.distinct), len(column.values)
    if count == 2:
        return _coded(column, "binary", tuple(column.distinct), f"{what} with two values")
    if count == seen:
        advice = "state 'categorical' if it is none, or drop it"
        return Finding(column.name, None, f"an identifier: no entry comes twice ({what})", advice)
    if count > FEW_CATEGORIES and (count > MOST_CATEGORIES or 2 * count > seen):
        return _too_many(column, count)
    return _coded(column, "categorical", tuple(column.distinct), f"{what} with {count} values")


def _too_many(column: Stored, count: int) -> Finding:
    rule = f"text: {count:,} different values in {len(column.values):,} entries, such as {shown(column.distinct, 2)}"
    return Finding(column.name, None, rule, "state 'categorical' if these are categories, or drop it")


def _text(column: Stored) -> Finding:
    markers = [value for value in column.distinct if value.strip().lower() in MARKERS]
    others = [value for value in column.distinct if value not in markers]
    if others and all(NUMBER.fullmatch(value) for value in others):
        advice = "convert them to numbers, state 'categorical' if they are codes, or drop it"
        beside = f", and {shown(markers)}" if markers else ""
        return Finding(column.name, None, f"numbers stored as text, such as {shown(others, 2)}{beside}", advice)
    if all(DATE.fullmatch(value) for value in others) and others:
        advice = "make numbers of them, such as the days since the first, or drop it"
        return Finding(column.name, None, f"dates or times stored as text, such as {shown(others, 2)}", advice)
    found = _categorical(column, "text")
    if found.column is None or not markers:
        return found
    counts = Counter(column.values.tolist())
    words = " and ".join(f"{marker!r} ({times(counts[marker])})" for marker in markers)
    return Finding(found.name, found.column, found.rule, f"{words} counts as a category: make it missing if it is none")


def _numbers(column: Stored) -> Finding:
    values, distinct = column.values, column.distinct
    if len(distinct) == 2:
        pair = tuple(distinct)
        repeated = bool((np.bincount(np.searchsorted(np.unique(values), values)) > 1).all())
        if pair in ((0, 1), (-1, 1)) or repeated:
            return _coded(column, "binary", pair, "two values")
    column_name, low = column.name, values.min()
    if column.is_whole and (column.form == "integer" or column.widened):
        what = "whole numbers" if column.form == "integer" else "whole numbers (floats, as some are missing)"
        if len(distinct) == len(values) and len(values) > 1:
            span = int(values.max()) - int(low) + 1
            advice = "state 'count' or 'real' if it is none, or drop it"
            if len(values) >= RUN and span == len(values):
                return Finding(column_name, None, "an identifier: whole numbers in one run, each once", advice)
            if len(values) > 2 and NUMBERING.fullmatch(column_name):
                return Finding(column_name, None, "an identifier: by its name, and no number comes twice", advice)
        if low < 0:
            return Finding(column_name, Column(column_name, "real"), f"{what}, some below 0")
        few = ""
        if len(distinct) <= FEW and float(values.max()) <= 2 * FEW:
            few = f"if these {len(distinct)} values are codes, state 'categorical' or 'ordinal'"
        return Finding(column_name, Column(column_name, "count"), f"{what} from 0 on", few)
    if low > 0:
        return Finding(column_name, Column(column_name, "positive"), "numbers, all above 0")
    return Finding(column_name, Column(column_name, "real"), "numbers, some not above 0")


def _code_of_missing(column: Stored) -> str:
    """What to do about a number such as -999 that comes again and again, far from all others; nothing without one."""
    values = column.values.astype(np.float64)
    if len(values) < 3 or column.distinct[0] == column.distinct[-1]:
        return ""
    low, high = float(column.distinct[0]), float(column.distinct[-1])
    second, last_but_one = float(column.distinct[1]), float(column.distinct[-2])
    code = None
    if -low in NINES and second >= 0:
        code = low
    elif high in NINES and high > 5 * last_but_one:
        code = high
    if code is None or (count := int((values == code).sum())) < 2:
        return ""
    return f"{code:g} comes {times(count)}, far from all others: make it missing if it says that"


def _coded(column: Stored, kind: Any, categories: tuple[Any, ...], rule: str) -> Finding:
    return Finding(column.name, Column(column.name, kind, categories), rule)


def _by_statement(column: Stored, statement: Any) -> Finding:
    """The kind that was stated, with its categories, held against the entries."""
    name = column.name
    rule = STATED
    if isinstance(statement, Column):
        if statement.name != name:
            raise ValueError(f"kinds of {name!r} must be a Column of that name, got {statement!r}")
        made = statement
    else:
        kind, categories = statement if isinstance(statement, tuple) and len(statement) == 2 else (statement, None)
        checks.choice(f"kinds of {name!r}", kind, KINDS)
        if categories is None and kind in CODED:
            categories, rule = _own_categories(column, kind)
        made = Column(name, kind, categories)
    if made.categories is not None:
        made = Column(name, made.kind, tuple(plain(value) for value in made.categories))
    refusal = _never(column)
    if refusal is not None and len(column.values):
        raise ValueError(f"kinds of {name!r} is {made.kind!r}, and it has {refusal.rule}: {refusal.advice}")
    if made.kind in CODED:
        return Finding(name, made, rule)
    if column.form not in ("integer", "float", "boolean") and len(column.values):
        raise TypeError(
            f"kinds of {name!r} is {made.kind!r}, and its entries are {_form_in_words(column)}: convert them to "
            "numbers first, or state 'categorical'"
        )
    return Finding(name, made, rule)


def _own_categories(column: Stored, kind: str) -> tuple[tuple[Any, ...], str]:
    """The categories of a column of which a kind with codes was stated and no categories."""
    name = column.name
    if column.form in ("times", "other") or not len(column.values):
        what = _form_in_words(column) if len(column.values) else "all missing"
        raise ValueError(
            f"kinds of {name!r} is {kind!r}, and its entries are {what}: state the categories, as "
            f"({kind!r}, (first, second, ...)), of text or numbers"
        )
    has_order = column.form in ("integer", "float", "boolean") or column.ordered
    if kind == "ordinal" and not has_order:
        example = tuple((column.categories or tuple(column.distinct))[:3])
        raise ValueError(
            f"kinds of {name!r} is 'ordinal', and its entries have no order of their own: state the categories from "
            f"the lowest to the highest, as ('ordinal', {example!r})"
        )
    categories = tuple(column.distinct) if column.categories is None else column.categories
    if column.form == "boolean":
        categories = (False, True)
    if len(categories) < 2 or (kind == "binary" and len(categories) > 2):
        wanted = "two categories" if kind == "binary" else "at least two categories"
        raise ValueError(
            f"kinds of {name!r} is {kind!r}, which has {wanted}, and its entries have {len(categories)}: "
            f"{shown(categories)}; state them, as ({kind!r}, (first, second))"
        )
    order = "in the order of numbers" if column.is_number else "in Python's order"
    if column.form == "categories" and column.categories is not None:
        order = "in the order of its type"
    return tuple(plain(value) for value in categories), f"{STATED}, with the categories that are seen, {order}"


def _form_in_words(column: Stored) -> str:
    words = {"text": "text", "categories": "categories", "times": "dates or times"}
    return words.get(column.form, column.words or column.form)
