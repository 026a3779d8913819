"""A walk along the names in a model's code: the globals, cells, defaults and attributes that its functions read."""

from __future__ import annotations

import dis
import enum
import functools
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["PLAIN", "Walk", "is_library_code"]

PLAIN: tuple[Any, ...] = (type(None), bool, int, float, complex, str, bytes, enum.Enum, np.generic)
PLAIN += (torch.dtype, torch.device, torch.Size)
MOST = 4000  # names, of which more would cost a step more than they are worth
GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME"}
ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"}
IMPORTS = {"IMPORT_NAME"}
PARTS: dict[Any, Callable[[Any], Iterator[Any]]] = {
    tuple: tuple.__iter__,
    list: list.__iter__,
    dict: lambda value: iter(dict.values(value)),
}
UNCALLED = {f"__{name}__" for name in ("init", "new", "post_init", "repr", "str", "eq", "hash", "del", "setattr")}
LIBRARIES = tuple(os.path.dirname(str(module.__file__)) + os.sep for module in (torch, pyro, np))
LIBRARIES += (os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,)
STANDARD = os.path.dirname(str(os.__file__)) + os.sep


class Walk:
    """All names that functions and modules reach, directly or through functions that they call.

    Attributes:
        names: by holder and name, in words, and how what it is bound to is read.
        cells: the variables of enclosing functions, by identity, with their names.
        holds: everything that was met, so that no address is given to another.
    """

    def __init__(self, functions: Sequence[Any], modules: Sequence[nn.Module]) -> None:
        self.users_folders = _folders(functions)  # where code is the user's, though it is installed
        self.known = set(map(id, modules))  # whose tables are looked at elsewhere
        self.names: dict[tuple[int, str], tuple[str, Callable[[Any], Any]]] = {}
        self.cells: dict[int, tuple[CellType, str]] = {}
        self.holds: list[Any] = []  # so that no address is given to another
        self.read: dict[str, None] = {}  # the attributes that the user's code reads
        self.objects: list[Any] = []
        self._seen: set[Any] = set()
        for start in (*functions, *modules):
            self.value(start)
        self.attributes()

    def value(self, value: Any) -> None:
        """Follow the value that a name is bound to."""
        if isinstance(value, (*PLAIN, Tensor)) or not self._new(value):
            return
        for kind, parts in PARTS.items():  # which are followed as they are now
            if isinstance(value, kind):
                for part in islice(parts(value), MOST):
                    self.value(part)
        if isinstance(value, FunctionType):
            self.function(value, None)
        elif isinstance(value, MethodType):
            self.value(value.__self__)
            self._method(value.__func__, value.__self__)
        elif isinstance(value, functools.partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self.value(part)
        elif isinstance(value, property | staticmethod | classmethod | functools.cached_property):
            self._method(value, None)
        elif isinstance(value, ModuleType | type):
            if not _is_library(value):
                self.objects.append(value)
        elif isinstance(value, nn.Module | SimpleNamespace | Namespace) or not _is_library(type(value)):
            self.object(value)
        elif isinstance(value, Messenger | Distribution):
            for name, part in list(vars(value).items()):
                if isinstance(part, (*PLAIN, Tensor)):
                    self.note(vars(value), name, f"{name!r} of {type(value).__name__}")
                self.value(part)

    def object(self, value: Any) -> None:
        """Follow what Python calls without a name: a module's `forward`, and methods such as `__getitem__`."""
        self.objects.append(value)
        if isinstance(value, nn.Module):
            for child in value._modules.values():
                self.value(child)
            classes = (vars(c)["forward"] for c in type(value).__mro__ if "forward" in vars(c))
            self._method(_table(value).get("forward") or next(classes, None), value)
        for c in type(value).__mro__:
            for name, part in () if _is_library(c) else list(vars(c).items()):
                if name.startswith("__") and name not in UNCALLED and isinstance(part, FunctionType):
                    self._method(part, value)

    def function(self, function: FunctionType, owner: Any) -> None:
        """Follow a function, of `owner` where it is a method."""
        code = function.__code__
        if (id(function), id(owner)) in self._seen or len(self.names) > MOST:
            return
        self._seen.add((id(function), id(owner)))
        self.holds += [function, owner]
        path = code.co_filename
        installed = _is_installed(path) and not path.startswith(self.users_folders)
        users = not (installed or is_library_code(path))
        read_globals, read_attributes, imported = _read(code)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                inner = cell.cell_contents
            except ValueError:
                continue
            if users:
                self.cells.setdefault(id(cell), (cell, name))
            if users or callable(inner) or isinstance(inner, Messenger):
                self.value(inner)
        if not users:
            # what else an installed object counts for itself, as a progress bar does, is no number of the model
            if isinstance(owner, nn.Module) or (owner is not None and not installed):
                self.of_library(owner, read_attributes)
            return
        for name in read_globals:
            if name in function.__globals__:
                self.note(function.__globals__, name, f"the global {name!r}")
                self.value(function.__globals__[name])
        for name in imported:
            for whole in (name, name.partition(".")[0], f"{function.__globals__.get('__package__')}.{name}"):
                self.value(sys.modules.get(whole))
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        if defaults:
            words = f"a default of {code.co_name}"
            for name in ("__defaults__", "__kwdefaults__"):
                self._note(function, name, words, lambda key: getattr(function, key))
            for name in function.__kwdefaults__ or ():
                self.note(function.__kwdefaults__, name, words)
        for default in defaults:
            self.value(default)
        self.read |= dict.fromkeys(read_attributes)

    def attributes(self) -> None:
        """The attributes of all objects that some code reads; their values are followed too."""
        done: dict[int, int] = {}
        while any(done.get(i) != len(self.read) for i in range(len(self.objects))):
            for i, owner in enumerate(list(self.objects)):
                if done.get(i) != len(self.read):
                    done[i] = len(self.read)
                    for name in list(self.read):
                        self.attribute(owner, name)

    def attribute(self, owner: Any, name: str) -> None:
        """Follow an attribute that the user's code reads, of an object that it may belong to."""
        words = f"{name!r} of {_called(owner)}"
        if isinstance(owner, type):
            holder = next((c for c in owner.__mro__ if name in vars(c) and not _is_library(c)), None)
            if holder is not None:
                self._note(vars(holder), name, words, vars(holder).get, id(holder))
                self.value(vars(holder)[name])
            return
        attributes = _table(owner)
        tables = [attributes]
        if isinstance(owner, nn.Module) and id(owner) not in self.known:
            tables += [owner._parameters, owner._buffers, owner._modules]
        tables += [vars(owner)[kept] for kept in ("_pyro_samples", "_pyro_params") if kept in attributes]
        for table in tables:
            if name in table:
                if name != "training":
                    self.note(table, name, words)
                self.value(table[name])
                return
        if isinstance(owner, nn.Module):
            for table in (owner._parameters, owner._buffers, owner._modules):
                if name in table:
                    self.value(table[name])
                    return
        if isinstance(owner, ModuleType):
            return
        holders = [c for c in type(owner).__mro__ if name in vars(c)]
        for c in holders:  # of a super() too
            if not _is_library(c) or (isinstance(owner, nn.Module) and c is not nn.Module):
                self._method(vars(c)[name], owner)
        if not holders or _is_library(holders[0]):
            return
        holder = holders[0]
        inner = vars(holder)[name]
        if not hasattr(type(inner), "__get__"):
            self.note(attributes, name, words)  # by which one of the object itself would be seen
        if type(inner).__name__ == "member_descriptor":
            self._note(owner, name, words, lambda key: getattr(owner, key, None))
            self.value(getattr(owner, name, None))
            return
        self._note(vars(holder), name, words, vars(holder).get, id(holder))

    def of_library(self, owner: Any, read: Iterable[str]) -> None:
        """The plain numbers and tensors that a library's method reads from its object, and methods that it calls."""
        attributes = _table(owner)
        for name in read:
            if name in attributes:
                if isinstance(attributes[name], (*PLAIN, Tensor)) and name != "training":
                    self.note(attributes, name, f"{name!r} of {_called(owner)}")
                continue
            holder = next((c for c in type(owner).__mro__ if name in vars(c)), None)
            if holder is not None and holder is not nn.Module:
                self._method(vars(holder)[name], owner)

    def note(self, table: Any, name: str, words: str) -> None:
        self._note(table, name, words, table.get)

    def _note(self, held: Any, name: str, words: str, get: Callable[[Any], Any], key: int | None = None) -> None:
        self.holds.append(held)
        self.names.setdefault((id(held) if key is None else key, name), (words, get))

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


@functools.cache
def _read(code: CodeType) -> tuple[tuple[str, ...], ...]:
    """The globals and attributes that a function's code, and that of functions inside it, reads, and its imports."""
    names_read: tuple[dict[str, None], ...] = ({}, {}, {})
    stack = [code]
    while stack:
        inner = stack.pop()
        stack += [const for const in inner.co_consts if isinstance(const, CodeType)]
        for step in dis.get_instructions(inner):
            for names, operations in zip(names_read, (GLOBALS, ATTRIBUTES, IMPORTS), strict=True):
                if step.opname in operations:
                    names[step.argval] = None
    return tuple(map(tuple, names_read))


@functools.cache
def is_library_code(path: str) -> bool:
    """Whether code belongs to torch, Pyro, NumPy, this package or Python, and is not a user's."""
    if path.startswith(LIBRARIES) or path.startswith("<frozen"):
        return True
    return path.startswith(STANDARD) and not _is_installed(path)


def _is_installed(path: str) -> bool:
    """Whether code lies where packages are installed."""
    return "site-packages" in path or "dist-packages" in path


def _folders(functions: Sequence[Any]) -> tuple[str, ...]:
    """The folders of the packages of functions, or of the classes of their objects."""
    places: list[str] = []
    for function in functions:
        while isinstance(function, functools.partial):
            function = function.func
        for part in (function, type(getattr(function, "__self__", function))):
            top = sys.modules.get(str(getattr(part, "__module__", "")).partition(".")[0])
            folders = [folder + os.sep for folder in getattr(top, "__path__", ())]
            places += folders or [str(getattr(top, "__file__", None) or "no file")]
    return tuple(places)


def _table(value: Any) -> dict[str, Any]:
    """The attributes of an object itself, without those of its class."""
    try:
        return vars(value)
    except Exception:  # it has none; and some answer every name with an error of their own
        return {}


def _is_library(value: Any) -> bool:
    """Whether a class or a file is torch's, Pyro's, NumPy's, this package's or Python's own."""
    name = getattr(value, "__module__" if isinstance(value, type) else "__name__", None) or ""
    top = name.partition(".")[0]
    if top in ("torch", "pyro", "numpy", "builtins", "pyrovae"):
        return True
    path = getattr(sys.modules.get(name), "__file__", None)
    return top in sys.builtin_module_names or (path is not None and is_library_code(path))


def _called(owner: Any) -> str:
    return owner.__name__ if isinstance(owner, type | ModuleType) else type(owner).__name__
