"""Warnings of one thread, hushed or gathered: `warnings.catch_warnings` would do so to every thread."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

__all__ = ["Gathered", "gathered", "hushed", "teller", "told"]


class Gathered(NamedTuple):
    """A warning that nobody has seen yet."""

    message: str
    category: type[Warning]


_tell: ContextVar[Callable[[Gathered], None] | None] = ContextVar("tell", default=None)


@contextmanager
def told(tell: Callable[[Gathered], None]) -> Iterator[None]:
    """Give `tell` what this thread warns of by `checks.warn` in the body, as it comes and whatever its category is."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


@contextmanager
def gathered() -> Iterator[list[Gathered]]:
    """What this thread warns of by `checks.warn` in the body, in a list and not to the user."""
    messages: list[Gathered] = []
    with told(messages.append):
        yield messages


def teller() -> Callable[[Gathered], None] | None:
    """Who is given the warnings of this code, by the innermost `told` or `gathered`; None outside of one."""
    return _tell.get()


@contextmanager
def hushed(category: type[Warning]) -> Iterator[None]:
    """Ignore warnings of a category, of another library's, that come from this thread in the body."""
    entry, filters = ("ignore", _Here(), category, None, 0), cast(list[Any], warnings.filters)
    filters.insert(0, entry)
    try:
        yield
    finally:
        if entry in filters:
            filters.remove(entry)


class _Here:
    """In place of a filter's pattern: any message, in the thread that made it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def match(self, _: str) -> bool:
        return threading.get_ident() == self.thread
