"""JSON that others wrote: read only as far as its length and its number of values are bounded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["TooLargeError", "bounded", "is_canonical", "read_bounded"]

MOST_VALUES = 3_000_000  # commas, colons and brackets: each takes up to 75 bytes of memory once it is parsed


class TooLargeError(ValueError):
    """JSON of more bytes or values than are read."""


def read_bounded(file: Path, most_bytes: int) -> bytes:
    """The content of a file of at most that many bytes; TooLargeError, before it is read, for a longer one."""
    with file.open("rb") as opened:
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
    count = sum(content.count(mark) for mark in (b",", b":", b"[", b"{"))
    if count > most_values:
        raise TooLargeError(f"it has {count:,} values or more, and at most {most_values:,} are read")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("its lists lie too deep in one another") from None


def is_canonical(content: bytes, value: Any) -> bool:
    """Whether these are the very bytes that `json.dumps(value, indent=1)` gives."""
    place = 0
    for chunk in json.JSONEncoder(indent=1).iterencode(value):  # the whole text is never there a second time
        encoded = chunk.encode()
        if not content.startswith(encoded, place):
            return False
        place += len(encoded)
    return place == len(content)
