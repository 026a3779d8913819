"""A walk along the names in a model's code: the globals, cells, defaults and attributes that its functions read."""

from __future__ import annotations

import builtins
import functools
import os
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import attrgetter
from types import CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution

from pyrovae.compile.bytecode import identifiers, path, reads
from pyrovae.compile.contents import PARTS, PLAIN, followed, size_of
from pyrovae.compile.libraries import folders, is_installed, is_library, is_library_code

__all__ = ["MOST", "Walk"]

MOST = 16_000  # names, and as many parts of containers, of which more would cost a step more than they are worth
UNCALLED = {f"__{name}__" for name in ("init", "new", "post_init", "repr", "str", "eq", "hash", "del", "setattr")}
PASSING = (nn.Module, PyroModule, object, tuple, list, dict)  # bases that call nothing of a user's by another name
CONTAINERS = tuple(PARTS)
OBJECTS = SimpleNamespace | Namespace | threading.local  # of Python's own, with attributes of the user's
ENVIRONMENT = (os.environ, os.getenv)
CODE = attrgetter("__code__")

Get = Callable[[Any], Any]


class Walk:
    """All names that functions and modules reach, directly or through functions that they call.

    Attributes:
        names: by holder and name, in words, how what it is bound to is read, and from what.
        cells: the variables of enclosing functions, by identity, with their names.
        holds: everything that was met, so that no address is given to another.
        containers: what was met that holds other things, or numbers, and may come to hold others.
        is_whole: whether nothing was left out because there is too much.
        asks_types: whether a user's function may ask what type a value is in a way that no value can see.
    """

    def __init__(self, functions: Sequence[Any], modules: Sequence[nn.Module]) -> None:
        self.users_folders = folders(functions)  # where code is the user's, though it is installed
        self.known = set(map(id, modules))  # whose tables are looked at elsewhere
        self.names: dict[tuple[int, str], tuple[str, Get, Any]] = {}
        self.cells: dict[int, tuple[CellType, str]] = {}
        self.holds: list[Any] = []  # so that no address is given to another
        self.containers: list[Any] = []
        self.is_whole, self.asks_types = True, False
        self.read: dict[str, None] = {}  # the attributes that the user's code reads
        self.objects: list[Any] = []
        self._by_words = False  # whether some code may ask for an attribute by a text
        self._texts: dict[str, None] = {}
        self._tables: list[dict[str, Any]] = []  # of globals that may be asked for so
        self._opened: list[Any] = []  # objects of which any attribute may be read
        self._files: list[ModuleType] = []  # of libraries
        self._environment = False  # whether some code reads the environment's variables
        self._inside = 0  # how much containers hold
        self._seen: set[Any] = set()
        for start in (*functions, *modules):
            self.value(start)
        self.attributes()

    def value(self, value: Any) -> None:
        """Follow the value that a name is bound to."""
        if isinstance(value, str):
            self._texts[value] = None
        if (isinstance(value, (*PLAIN, Tensor)) and is_library(type(value))) or not self._new(value):
            return
        self.asks_types |= value is type
        self._environment |= any(value is one for one in ENVIRONMENT)
        if isinstance(value, CONTAINERS):
            self.container(value)
        if isinstance(value, FunctionType):
            self.function(value, None)
        elif isinstance(value, MethodType):
            self.value(value.__self__)
            self._method(value.__func__, value.__self__)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self.value(part)
        elif isinstance(value, property | staticmethod | classmethod | functools.cached_property):
            self._method(value, None)
        elif isinstance(value, ModuleType):
            (self._files if is_library(value) else self.objects).append(value)
        elif isinstance(value, type):
            if not is_library(value):
                self.objects.append(value)
                self.implicit(value, None)
                self.value(type(value))
        elif isinstance(value, nn.Module | OBJECTS) or not is_library(type(value)):
            self.object(value)
        elif isinstance(value, Messenger | Distribution):
            for name, part in list(vars(value).items()):
                if isinstance(part, (*PLAIN, Tensor)):
                    self.note(vars(value), name, f"{name!r} of {type(value).__name__}")
                self.value(part)
        elif isinstance(inner := _table(value).get("__wrapped__"), FunctionType):  # as in functools.cache
            self.value(inner)

    def container(self, value: Any) -> None:
        """Follow what a container holds, and note that it does."""
        count = size_of(value)
        if count is None:
            return
        if self._inside + count > MOST:
            self.is_whole = False
        else:
            self._inside += count
            self.containers += [] if isinstance(value, tuple) else [value]
        for part in islice(followed(value), MOST):
            self.value(part)

    def object(self, value: Any) -> None:
        """Follow an object: its class, and what Python calls without a name."""
        self.objects.append(value)
        self._note(value, "__class__", f"the class of {_called(value)}", type, value)
        if isinstance(value, nn.Module):
            # what a PyroModule draws or constrains is reached by the layers of torch's that it is made of
            for child in (*value._modules.values(), *map(_table(value).get, ("_pyro_samples", "_pyro_params"))):
                self.value(child)
            self.note(_table(value), "forward", f"'forward' of {_called(value)}")
            self.of_class(type(value), "forward", f"'forward' of {_called(value)}")
            classes = (vars(c)["forward"] for c in type(value).__mro__ if "forward" in vars(c))
            self._method(_table(value).get("forward") or next(classes, None), value)
        self.implicit(type(value), value)

    def implicit(self, kind: type, owner: Any) -> None:
        """Follow the methods of a class that are called without a name: `__getitem__`, and what its library calls.

        Without an object those too that make one.
        """
        bases = [c for c in kind.__mro__ if is_library(c) and c not in PASSING and not issubclass(c, nn.Module)]
        for c in kind.__mro__:
            if is_library(c):
                continue
            # a further method is one that overrides another
            self._note(c, "number of attributes", f"an attribute of {c.__name__}", len, vars(c))
            for name, part in list(vars(c).items()):
                special = name.startswith("__") and name.endswith("__")
                called = special and (owner is None or name not in UNCALLED or _is_written(name, part))
                called |= not special and (issubclass(kind, Messenger) or any(name in vars(base) for base in bases))
                if called and isinstance(part, FunctionType | property | staticmethod | classmethod):
                    self.of_class(kind, name, f"{name!r} of {kind.__name__}")
                    self._method(part, owner)

    def function(self, function: FunctionType, owner: Any) -> None:
        """Follow a function, of `owner` where it is a method."""
        code = function.__code__
        if (id(function), id(owner)) in self._seen:
            return
        if len(self.names) > MOST:
            self.is_whole = False
            return
        self._seen.add((id(function), id(owner)))
        self.holds += [function, owner]
        path = code.co_filename
        installed = is_installed(path) and not path.startswith(self.users_folders)
        users = not (installed or is_library_code(path))
        read, reached = reads(code), [owner]
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                inner = cell.cell_contents
            except ValueError:
                continue
            if users:
                self.cells.setdefault(id(cell), (cell, name))
                reached.append(inner)
            if users or callable(inner) or isinstance(inner, Messenger):
                self.value(inner)
        if not users:
            # what else an installed object counts for itself, as a progress bar does, is no number of the model
            if isinstance(owner, nn.Module) or (owner is not None and not installed):
                self.of_library(owner, read.attributes)
            return
        self._note(function, "__code__", f"the code of {code.co_name}", CODE, function)
        if vars(function):
            self.objects.append(function)
        for name in read.of_globals:
            value = function.__globals__.get(name, getattr(builtins, name, None))
            self.note(function.__globals__, name, f"the global {name!r}")
            self.asks_types |= value is type and name in read.of_others
            if value is not type:
                self.value(value)
            reached.append(value)
        for name in read.imports:
            for whole in (name, name.partition(".")[0], f"{function.__globals__.get('__package__')}.{name}"):
                self.value(sys.modules.get(whole))
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        if defaults:
            words = f"a default of {code.co_name}"
            for name in ("__defaults__", "__kwdefaults__"):
                self._note(function, name, words, attrgetter(name), function)
            for name in function.__kwdefaults__ or ():
                self.note(function.__kwdefaults__, name, words)
        for default in defaults:
            self.value(default)
        self.read |= dict.fromkeys(read.attributes)
        self._texts |= dict.fromkeys(read.texts)
        self._by_words |= read.by_words
        if read.evaluates:
            self._tables.append(function.__globals__)
        if read.is_open:
            self._opened += reached

    def attributes(self) -> None:
        """The attributes of all objects that some code reads; their values are followed too."""
        done: dict[int, int] = {}
        while True:
            texts = list(self._texts)
            for table in list(self._tables):
                for name in {name for text in texts for name in identifiers(text) if name in table}:
                    self.note(table, name, f"the global {name!r}")
                    self.value(table[name])
            opened = {id(one) for one in self._opened}
            named = [name for text in texts for name in path(text)] if self._by_words else []
            read = dict.fromkeys([*self.read, *named])
            rest = [one for one in self.objects if done.get(id(one)) != len(read)]
            if not rest:
                break
            for owner in rest:
                done[id(owner)] = len(read)
                own = _public(owner) if id(owner) in opened else ()
                for name in (*read, *own):
                    self.attribute(owner, name)
        for file in self._files:
            for name in self.read:
                if name in vars(file):
                    self.note(vars(file), name, f"{name!r} of {file.__name__}")
                    self.asks_types |= vars(file)[name] is type
                    self._environment |= any(vars(file)[name] is one for one in ENVIRONMENT)
        if self._environment:
            for variable in {text for text in self._texts if path(text) == [text]}:
                self._note(os.environ, variable, f"the environment's {variable!r}", os.environ.get, variable)

    def attribute(self, owner: Any, name: str) -> None:
        """Follow an attribute that the user's code reads, of an object that it may belong to."""
        words = f"{name!r} of {_called(owner)}"
        if isinstance(owner, type):
            holder = next((c for c in owner.__mro__ if name in vars(c) and not is_library(c)), None)
            if holder is not None:
                self.of_class(owner, name, words)
                self.value(vars(holder)[name])
            return
        attributes = _table(owner)
        tables = [attributes]
        if isinstance(owner, nn.Module) and id(owner) not in self.known:
            tables += [owner._parameters, owner._buffers, owner._modules]
        tables += [vars(owner)[kept] for kept in ("_pyro_samples", "_pyro_params") if kept in attributes]
        table = next((table for table in tables if name in table), None)
        if table is not None:
            if name != "training":
                self.note(table, name, words)
            self.value(table[name])
        elif isinstance(owner, nn.Module):
            table = next(
                (table for table in (owner._parameters, owner._buffers, owner._modules) if name in table), None
            )
            if table is not None:
                self.value(table[name])
        if isinstance(owner, ModuleType):
            return
        holders = [c for c in type(owner).__mro__ if name in vars(c)]
        inner = vars(holders[0])[name] if holders else None
        if not holders or (table is not None and not _comes_first(inner)):
            return
        for c in holders:  # of a super() too
            if not is_library(c) or (isinstance(owner, nn.Module) and c is not nn.Module):
                self._method(vars(c)[name], owner)
        if is_library(holders[0]) and (not isinstance(owner, nn.Module) or holders[0] in (nn.Module, object)):
            return
        if not _comes_first(inner):
            self.note(attributes, name, words)  # by which one of the object itself would be seen
        if type(inner).__name__ == "member_descriptor":
            self._note(owner, name, words, lambda of: getattr(of, name, None), owner)
            self.value(getattr(owner, name, None))
            return
        self.of_class(type(owner), name, words)

    def of_class(self, kind: type, name: str, words: str) -> None:
        """Note what a class has, or inherits, by a name."""
        holders = [c for c in kind.__mro__ if name in vars(c)]
        if not holders:
            return
        inner = vars(holders[0])[name]
        plainly = isinstance(inner, FunctionType | property) or not hasattr(type(inner), "__get__")
        if plainly and getattr(kind, name, None) is inner:
            self._note(kind, name, words, attrgetter(name), kind)
            return
        for c in kind.__mro__[: kind.__mro__.index(holders[0]) + 1]:  # which may answer for itself
            self._note(c, f"{name} itself", words, vars(c).get, name)

    def of_library(self, owner: Any, read: Iterable[str]) -> None:
        """The plain numbers and tensors that a library's method reads from its object, and methods that it calls."""
        attributes = _table(owner)
        for name in read:
            if name in attributes:
                if isinstance(attributes[name], (*PLAIN, Tensor)) and name != "training":
                    self.note(attributes, name, f"{name!r} of {_called(owner)}")
                continue
            holder = next((c for c in type(owner).__mro__ if name in vars(c)), None)
            if holder is not None and holder not in (nn.Module, object):
                self.of_class(type(owner), name, f"{name!r} of {_called(owner)}")
                if not _comes_first(vars(holder)[name]):
                    self.note(attributes, name, f"{name!r} of {_called(owner)}")
                self._method(vars(holder)[name], owner)

    def note(self, table: Any, name: str, words: str) -> None:
        self._note(table, name, words, table.get, name)

    def _note(self, held: Any, name: str, words: str, get: Get, argument: Any) -> None:
        self.holds.append(held)
        self.names.setdefault((id(held), name), (words, get, argument))

    def _method(self, method: Any, owner: Any) -> None:
        """A function from the class of an object, with that object."""
        if hasattr(type(method), "__get__"):  # what else it may be answers a name as it likes, or with an error
            for part in ("fget", "func", "__func__"):
                if isinstance(getattr(method, part, None), FunctionType):
                    method = getattr(method, part)
        if isinstance(method, FunctionType):
            self.function(method, owner)
        else:
            self.value(method)

    def _new(self, value: Any) -> bool:
        key = (value.__func__, id(value.__self__)) if isinstance(value, MethodType) else id(value)
        if key in self._seen:
            return False
        self._seen.add(key)
        self.holds.append(value)
        return True


def _is_written(name: str, part: Any) -> bool:
    """Whether a class's `__eq__` is one that somebody wrote, and not one of a dataclass."""
    return name == "__eq__" and isinstance(part, FunctionType) and part.__code__.co_filename != "<string>"


def _comes_first(inner: Any) -> bool:
    """Whether what a class has by a name comes before what its object has by it."""
    return hasattr(type(inner), "__set__") or hasattr(type(inner), "__delete__")


def _table(value: Any) -> dict[str, Any]:
    """The attributes of an object itself, without those of its class."""
    try:
        return vars(value)
    except Exception:  # it has none; and some answer every name with an error of their own
        return {}


def _public(owner: Any) -> list[str]:
    """The attributes of an object and of its user's classes, without those that begin with an underscore."""
    tables = [_table(owner), *(vars(c) for c in type(owner).__mro__ if not is_library(c))]
    return [name for table in tables for name in table if not name.startswith("_")]


def _called(owner: Any) -> str:
    return owner.__name__ if isinstance(owner, type | ModuleType | FunctionType) else type(owner).__name__
