"""One place for arguments that are True or False: those whose default is one of the two."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from pyrovae.checks.shown import short

__all__ = ["flag", "flags", "flags_of", "require_flags"]

P = ParamSpec("P")

T = TypeVar("T")


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool; TypeError for anything but True and False, or 1 and 0.

    >>> from pyrovae.checks import flag
    >>> flag("resume", "no")
    Traceback (most recent call last):
        ...
    TypeError: resume must be True or False, got 'no'
    """
    if isinstance(value, bool | np.bool_) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {short(value)}")


def flags_of(signature: inspect.Signature) -> dict[str, int]:
    """The names of the arguments that are True or False, and their places."""
    parameters = enumerate(signature.parameters.values())
    return {each.name: place for place, each in parameters if isinstance(each.default, bool) and _is_flag(each)}


def _is_flag(parameter: inspect.Parameter) -> bool:
    """Whether nothing but a bool is stated, as `bool | Iterable` does not."""
    return parameter.annotation in (bool, "bool", parameter.empty)


def require_flags(flags: Mapping[str, int], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse a call with anything else for them."""
    for name, place in flags.items():
        if name in kwargs:
            flag(name, kwargs[name])
        elif place < len(args):
            flag(name, args[place])


def flags(function: Callable[P, T]) -> Callable[P, T]:
    """A function that refuses anything but True and False for arguments whose default is one of them."""
    own = flags_of(inspect.signature(function))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        require_flags(own, args, kwargs)
        return function(*args, **kwargs)

    return call
