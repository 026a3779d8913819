"""The objects that the names in the code of model and guide are bound to, and checks of whether they still are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter, call, is_
from types import CellType
from typing import Any

from torch import Tensor, nn

from pyrovae.compile.contents import Contents, alike
from pyrovae.compile.walk import Walk

__all__ = ["Names"]


class Names:
    """The globals, cells, defaults and attributes that functions reach by name, and what they are bound to now.

    From each function on: its code, the globals and cells that it reads, and of what is found there, if it is an
    object, class or file, the attributes that some code reached reads, also by a text as of `getattr`. A user's
    functions, methods, properties and partials that are found are followed, and so are the classes of objects, their
    `forward` and the methods that Python calls without a name. Of a library's modules of torch it is the plain numbers
    and tensors that their methods read from the module itself, and these methods. A library is torch, Pyro, this
    package, Python's own and whatever is installed, but for the packages that the functions are of. Numbers, words and
    tuples of them are compared by value, all else by identity, and so is what lists, dictionaries, sets, queues and
    arrays hold that are found.

    Attributes:
        ask_types: whether the code may ask what type a value is in a way that no value can see.
        are_all: whether no name was left out because there are too many.
    """

    def __init__(self, functions: Sequence[Any], modules: Sequence[nn.Module]) -> None:
        walk = Walk(functions, modules)
        self.ask_types = walk.asks_types
        self._words = [words for words, *_ in walk.names.values()]
        self._gets = [get for _, get, _ in walk.names.values()]
        self._arguments = [argument for *_, argument in walk.names.values()]
        self._values = self._now()
        self._cells = [cell for cell, _ in walk.cells.values()]
        self._contents = [cell.cell_contents for cell in self._cells]
        self._words += [f"the variable {name!r} of an enclosing function" for _, name in walk.cells.values()]
        self._inside = Contents(walk.containers)
        self.are_all = walk.is_whole
        self._holds = walk.holds

    def are_bound_alike(self) -> bool:
        """Whether all names are bound to what they were at the capture."""
        try:
            now = [*map(call, self._gets, self._arguments)]
            contents = [*map(attrgetter("cell_contents"), self._cells)]
        except (ValueError, AttributeError):  # a cell that was emptied, or a class's attribute that is gone
            return False
        same = all(map(is_, now, self._values)) and all(map(is_, contents, self._contents))
        if not same and not (all(map(alike, now, self._values)) and all(map(alike, contents, self._contents))):
            return False
        return self._inside.are_alike()

    def rebound(self) -> Iterator[tuple[str, Any, Any]]:
        """What is bound to something else now, and containers that hold something else: in words, before and now.

        Of a container it is itself and the entry that is another now.
        """
        now = [*self._now(), *map(_content, self._cells)]
        for words, before, after in zip(self._words, [*self._values, *self._contents], now, strict=True):
            if not alike(before, after):
                yield words, before, after
        yield from self._inside.changed()

    def forget_rebound(self) -> None:
        """Leave out what is bound to something else now, and containers that hold something else."""
        self._inside.forget_changed()
        same = [*map(alike, self._now(), self._values)]
        kept = [alike(_content(cell), value) for cell, value in zip(self._cells, self._contents, strict=True)]
        for rows in (self._gets, self._arguments, self._values):
            rows[:] = [row for row, keep in zip(rows, same, strict=True) if keep]
        self._words = [words for words, keep in zip(self._words, [*same, *kept], strict=True) if keep]
        for cells in (self._cells, self._contents):
            cells[:] = [row for row, keep in zip(cells, kept, strict=True) if keep]

    def forget_read_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Leave out the arrays whose memory these tensors of a graph are in."""
        self._inside.forget_read_in_place(tensors)

    def _now(self) -> list[Any]:
        return [*map(_result, self._gets, self._arguments)]


def _result(get: Callable[[Any], Any], argument: Any) -> Any:
    """What a name is bound to; an attribute that is gone is the error that says so."""
    try:
        return get(argument)
    except AttributeError as error:
        return error


def _content(cell: CellType) -> Any:
    """The value of a variable of an enclosing function; the cell itself where it has none."""
    try:
        return cell.cell_contents
    except ValueError:
        return cell
