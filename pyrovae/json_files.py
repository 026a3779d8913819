"""JSON that others wrote: read only as far as its length and its number of values are bounded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from pyrovae.durable import naming

__all__ = ["TooLargeError", "bounded", "is_canonical", "read_bounded", "refuse_many"]

MOST_VALUES = 1_200_000  # commas, colons and brackets: each takes up to 100 bytes of memory once it is parsed
MOST_LISTS = 160_000  # lists and tables, which are written one by one
MOST_DIGITS = 400  # of a whole number, whose reading takes the square of them
DEEPEST = 100  # lists in lists
PIECE = 50_000  # values that are written at once
LISTS = {dict, list}


class TooLargeError(ValueError):
    """JSON of more bytes or values than are read."""


def read_bounded(file: Path, most_bytes: int) -> bytes:
    """The content of a file of at most that many bytes; TooLargeError, before it is read, for a longer one."""
    with naming(file, "it was read"), file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        content = opened.read(size + 1) if size <= most_bytes else b""
        if max(size, len(content)) > most_bytes:
            raise TooLargeError(f"{file} has {max(size, len(content)):,} bytes, and at most {most_bytes:,} are read")
    return content


def bounded(content: bytes, most_values: int = MOST_VALUES) -> Any:
    """Parse JSON of at most so many values. Raises ValueError for what is no JSON, TooLargeError for more values.

    A few bytes of JSON may be many objects: `[{},{},{}]` takes 24 times its length.

    >>> from pyrovae.json_files import bounded
    >>> bounded(b"[1, 2]")
    [1, 2]
    >>> bounded(b"[{},{},{}]", most_values=5)
    Traceback (most recent call last):
        ...
    pyrovae.json_files.TooLargeError: it has 6 values or more, and at most 5 are read
    """
    refuse_many(content, most_values)
    try:
        return json.loads(content, parse_int=_whole)
    except RecursionError:
        raise ValueError("its lists lie too deep in one another") from None


def refuse_many(content: bytes, most_values: int = MOST_VALUES) -> None:
    """Raise TooLargeError for JSON of more values than `bounded` reads."""
    lists = sum(content.count(mark) for mark in (b"[", b"{"))
    count = lists + sum(content.count(mark) for mark in (b",", b":"))
    if count > most_values:
        raise TooLargeError(f"it has {count:,} values or more, and at most {most_values:,} are read")
    if lists > MOST_LISTS:
        raise TooLargeError(f"it has {lists:,} lists and tables, and at most {MOST_LISTS:,} are read")


def is_canonical(content: bytes, value: Any) -> bool:
    """Whether these are the very bytes that `json.dumps(value, indent=1)` gives, of lists that are not very deep."""
    place = 0
    for text in _texts(value, 0):  # the whole is never there a second time
        encoded = text.encode()
        if not content.startswith(encoded, place):
            return False
        place += len(encoded)
    return place == len(content)


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise TooLargeError(f"it has a number of {len(digits):,} digits, and at most {MOST_DIGITS} are read")
    return int(digits)


def _texts(value: Any, depth: int) -> Iterator[str]:
    """What `json.dumps(value, indent=1)` gives, in pieces; ten times as fast, since values are written many at once."""
    if not isinstance(value, dict | list) or not value:
        yield json.dumps(value)
        return
    if depth > DEEPEST:
        yield "lists that lie too deep in one another"
        return
    is_table = isinstance(value, dict)
    between, encode = _written_at(depth + 1)
    within, entries = (value.values(), value.items()) if isinstance(value, dict) else (value, value)
    before = ("{" if is_table else "[") + between[1:]
    is_plain = LISTS.isdisjoint(map(type, within))
    if is_plain and is_table:
        yield before + encode(value)[1:-1] + between[1:-1] + "}"
        return
    groups: Any = [(False, iter(entries))] if is_plain else groupby(entries, key=_holds_more if is_table else _is_list)
    for holds_more, group in groups:
        if holds_more:
            for entry in group:
                name, each = entry if is_table else (None, entry)
                yield f"{before}{json.dumps(name)}: " if is_table else before
                yield from _texts(each, depth + 1)
                before = between
            continue
        while part := list(islice(group, PIECE)):
            yield before + encode(dict(part) if is_table else part)[1:-1]
            before = between
    yield between[1:-1] + ("}" if is_table else "]")


@cache
def _written_at(depth: int) -> tuple[str, Callable[[Any], str]]:
    """What is between two values of a list so deep in others, and what writes them."""
    between = ",\n" + " " * depth
    return between, json.JSONEncoder(separators=(between, ": ")).encode


def _is_list(value: Any) -> bool:
    return isinstance(value, dict | list)


def _holds_more(entry: tuple[str, Any]) -> bool:
    return isinstance(entry[1], dict | list)
