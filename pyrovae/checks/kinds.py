"""Arguments that must be a thing of one kind, as a pair, a data set or a table of results, known by what they have."""

from __future__ import annotations

from typing import Any

from pyrovae.checks.shown import short

__all__ = ["function", "having", "text"]


def having(name: str, value: Any, *attributes: str, what: str) -> Any:
    """Return `value` if it has these attributes; TypeError that says what it must be otherwise.

    >>> from pyrovae.checks import having
    >>> having("data", "digits", "train", "test", what="a data set, as data.load gives it")
    Traceback (most recent call last):
        ...
    TypeError: data must be a data set, as data.load gives it, got 'digits'
    """
    if isinstance(value, type) or not all(_has(value, each) for each in attributes):
        raise TypeError(f"{name} must be {what}, got {_shown(value)}")
    return value


def function(name: str, value: Any, what: str) -> Any:
    """Return `value` if it can be called; TypeError otherwise.

    >>> from pyrovae.checks import function
    >>> function("build", 3, "a function that makes a pair")
    Traceback (most recent call last):
        ...
    TypeError: build must be a function that makes a pair, got 3
    """
    if not callable(value):
        raise TypeError(f"{name} must be {what}, got {_shown(value)}")
    return value


def text(name: str, value: Any) -> str:
    """Return `value` if it is text; TypeError otherwise.

    >>> from pyrovae.checks import text
    >>> text("title", 3)
    Traceback (most recent call last):
        ...
    TypeError: title must be text, got 3
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    is_plain = value is None or isinstance(value, str | int | float | complex | bytes)
    return short(value) if is_plain else f"a {type(value).__name__}"


def _has(value: Any, attribute: str) -> bool:
    try:
        getattr(value, attribute)
    except Exception:  # a nested tensor has no shape, and says so by another error than AttributeError
        return False
    return True
