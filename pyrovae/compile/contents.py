"""What the lists, dictionaries, sets, queues and arrays that a model reads hold, and whether they hold it still."""

from __future__ import annotations

import enum
from collections import UserDict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import is_
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["PARTS", "PLAIN", "Contents", "alike", "followed", "size_of"]

PLAIN: tuple[Any, ...] = (type(None), bool, int, float, complex, str, bytes, enum.Enum, np.generic)
PLAIN += (torch.dtype, torch.device, torch.Size)
WIDE = 1 << 16  # bytes, of an array whose values each step compares
EACH = 64  # bytes, that are compared as fast as another part
PARTS: dict[Any, Callable[[Any], Iterable[Any]]] = {
    tuple: tuple.__iter__,
    list: list.__iter__,
    dict: lambda held: chain(dict.keys(held), dict.values(held)),
    set: set.__iter__,
    deque: deque.__iter__,
    UserDict: lambda held: chain(held.data.keys(), held.data.values()),
    MappingProxyType: lambda held: chain(held.keys(), held.values()),
    np.ndarray: lambda held: held.flat if held.dtype.hasobject else (held.shape, held.dtype, held.tobytes()),
}


class Contents:
    """What containers hold now: numbers, words and tuples of them by value, all else by identity."""

    def __init__(self, containers: Iterable[Any]) -> None:
        self._held = [(one, _parts(one)) for one in containers]

    def are_alike(self) -> bool:
        """Whether all containers hold what they did."""
        return all(_are_alike(_parts(one), before) for one, before in self._held)

    def changed(self) -> Iterator[tuple[str, Any, Any]]:
        """The containers that hold something else now: in words, the container, and its entry that is another now.

        Where it holds more or less than before, the container is the third too.
        """
        for one, before in self._held:
            if not _are_alike(_parts(one), before):
                yield _in_words(one, before)

    def forget_changed(self) -> None:
        """Leave out the containers that hold something else now."""
        self._held = [(one, before) for one, before in self._held if _are_alike(_parts(one), before)]

    def forget_read_in_place(self, tensors: Iterable[Tensor]) -> None:
        """Leave out the arrays in whose memory one of these tensors lies, which a graph reads anew in each step."""
        places = [t.data_ptr() for t in tensors if t.layout == torch.strided and t.device.type == "cpu"]
        self._held = [row for row in self._held if not _has_within(row[0], places)]


def size_of(container: Any) -> int | None:
    """How many parts of a container are compared, or as how many an array counts; None for a large array."""
    if not isinstance(container, np.ndarray):
        return int(_kind(container).__len__(container))
    if container.dtype.hasobject:
        return int(container.size)
    return 1 + container.nbytes // EACH if container.nbytes <= WIDE else None


def followed(container: Any) -> Iterable[Any]:
    """What a container holds that names may be followed into."""
    if isinstance(container, dict):
        return dict.values(container)
    return () if isinstance(container, np.ndarray) and not container.dtype.hasobject else _parts(container)


def alike(a: Any, b: Any) -> bool:
    """Whether two values are the same object, or plain values of one type that nothing tells apart.

    Of floating-point numbers that includes the sign of a zero; NaN is like itself.
    """
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, float | complex | np.inexact):
        return repr(a) == repr(b)
    return isinstance(a, PLAIN) and bool(a == b or (a != a and b != b))


def _parts(container: Any) -> list[Any]:
    """What a container holds: of a dictionary its keys and its values, of an array of numbers its bytes."""
    return [*PARTS[_kind(container)](container)]


def _kind(container: Any) -> Any:
    """The class by whose own methods a container is read, and not by those of a user's class."""
    return next(kind for kind in PARTS if isinstance(container, kind))


def _are_alike(now: list[Any], before: list[Any]) -> bool:
    return len(now) == len(before) and (all(map(is_, now, before)) or all(map(alike, now, before)))


def _in_words(container: Any, before: list[Any]) -> tuple[str, Any, Any]:
    kind, now = type(container).__name__, _parts(container)
    if len(now) == len(before) and not isinstance(container, np.ndarray):
        place = next(i for i, (a, b) in enumerate(zip(now, before, strict=True)) if not alike(a, b))
        if not isinstance(container, dict):
            return f"entry {place} of a {kind} that the model reads", container, now[place]
        if place >= len(now) // 2:
            return f"entry {now[place - len(now) // 2]!r} of a {kind} that the model reads", container, now[place]
    return f"the contents of a {kind} that the model reads", container, container


def _has_within(container: Any, places: list[int]) -> bool:
    if not isinstance(container, np.ndarray):
        return False
    first = container.__array_interface__["data"][0]
    last = first + sum((n - 1) * step for n, step in zip(container.shape, container.strides, strict=True))
    return any(first <= place <= last for place in places)
