"""The objects that the names in the code of model and guide are bound to, and checks of whether they still are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter, is_
from types import CellType
from typing import Any

from torch import nn

from pyrovae.compile.walk import PLAIN, Walk

__all__ = ["Names"]


class Names:
    """The globals, cells, defaults and attributes that functions reach by name, and what they are bound to now.

    From each function on: the globals and cells that its code reads, and of what is found there, if it is an object,
    class or file, the attributes that some code reached reads. A user's functions, methods, properties and partials
    that are found are followed. Of a library's modules of torch it is the plain numbers and tensors that their methods
    read from the module itself. A library is torch, Pyro, this package, Python's own and whatever is installed, but for
    the packages that the functions are of. Numbers, words and tuples of them are compared by value, all else by
    identity: which things a list or a dict holds is not seen.
    """

    def __init__(self, functions: Sequence[Any], modules: Sequence[nn.Module]) -> None:
        self._gets: list[Callable[[Any], Any]] = []
        self._keys: list[str] = []
        self._values: list[Any] = []
        self._cells: list[CellType] = []
        self._contents: list[Any] = []
        self._words: list[str] = []
        walk = Walk(functions, modules)
        for (_, key), (words, get) in walk.names.items():
            self._gets.append(get)
            self._keys.append(key)
            self._values.append(get(key))
            self._words.append(words)
        for cell, name in walk.cells.values():
            self._cells.append(cell)
            self._contents.append(cell.cell_contents)
            self._words.append(f"the variable {name!r} of an enclosing function")
        self._holds = walk.holds

    def are_bound_alike(self) -> bool:
        """Whether all names are bound to what they were at the capture."""
        try:
            now = [get(key) for get, key in zip(self._gets, self._keys, strict=True)]
            contents = [*map(attrgetter("cell_contents"), self._cells)]
        except ValueError:  # a cell that was emptied
            return False
        if all(map(is_, now, self._values)) and all(map(is_, contents, self._contents)):
            return True
        return all(map(_alike, now, self._values)) and all(map(_alike, contents, self._contents))

    def rebound(self) -> Iterator[tuple[str, Any, Any]]:
        """The names that are bound to something else now: in words, with the earlier and the present value."""
        now = [get(key) for get, key in zip(self._gets, self._keys, strict=True)]
        now += map(_content, self._cells)
        for words, before, after in zip(self._words, [*self._values, *self._contents], now, strict=True):
            if not _alike(before, after):
                yield words, before, after

    def forget_rebound(self) -> None:
        """Leave out the names that are bound to something else now."""
        same = [_alike(get(key), value) for get, key, value in zip(self._gets, self._keys, self._values, strict=True)]
        kept = [_alike(_content(cell), value) for cell, value in zip(self._cells, self._contents, strict=True)]
        for rows in (self._gets, self._keys, self._values):
            rows[:] = [row for row, keep in zip(rows, same, strict=True) if keep]
        self._words = [words for words, keep in zip(self._words, [*same, *kept], strict=True) if keep]
        for cells in (self._cells, self._contents):
            cells[:] = [row for row, keep in zip(cells, kept, strict=True) if keep]


def _content(cell: CellType) -> Any:
    """The value of a variable of an enclosing function; the cell itself where it has none."""
    try:
        return cell.cell_contents
    except ValueError:
        return cell


def _alike(a: Any, b: Any) -> bool:
    """Whether two values are the same object, or plain values of one type that are equal, NaN to itself."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    return isinstance(a, PLAIN) and bool(a == b or (a != a and b != b))
