"""Any value in words that are the same in every process, as far as it can be looked at without asking it anything."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import inspect
import pathlib
import sys
import types
from argparse import Namespace
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint
from torch.distributions.utils import lazy_property

from pyrovae.models.outline import tree

__all__ = ["COMPUTED", "HOOKS", "WITHOUT", "Describing", "is_users", "own_attributes"]

LIBRARIES = ("pyrovae", "torch", "pyro", "numpy")  # whose private attributes follow from what is shown
# by which this package knows a module again, and keeps it from training
NOTES = frozenset({"_frozen", "_made_by", "_noted", "_site", "_site_prefix", "_written", "train"})
TORCHS = frozenset(vars(nn.Module()))
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
COMPUTED = (lazy_property, functools.cached_property)  # kept on the object at the first use
AS_TEXT = (
    decimal.Decimal,
    fractions.Fraction,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    pathlib.PurePath,
    range,
    torch.dtype,
    torch.layout,
    torch.memory_format,
)
PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
FUNCTIONS = (  # of C: torch.tanh, math.exp, np.exp
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    np.ufunc,
)
WITHOUT = "without values"  # a tensor on the meta device
DEEPEST = 50  # objects inside one another; what lies deeper is seen by its class alone
MOST, FEW = 10_000, 1_000  # values that are looked at in one attribute, and where only changes are looked for
LARGE = 1_000  # entries from which on a container of plain values is digested whole, and not walked
LARGEST = 10_000_000  # plain values in such a container; of a larger one only the number of entries is seen
SAMPLED = 100_000  # entries of an array that are compared where only changes are looked for
INSTALLED = frozenset({"site-packages", "dist-packages"})


def is_users(kind: type) -> bool:
    """Whether a class is from outside this package, torch, Pyro and NumPy."""
    return kind.__module__.partition(".")[0] not in LIBRARIES


def own_attributes(part: nn.Module) -> dict[str, Any]:
    """What a module keeps beside torch's own attributes and this package's notes; hooks where it has any."""
    kept = {name: value for name, value in sorted(vars(part).items()) if name not in TORCHS and name not in NOTES}
    hooks = {name: list(getattr(part, name).values()) for name in HOOKS if getattr(part, name, None)}
    return {name: value for name, value in (kept | hooks).items() if value is not None}


class Describing:
    """Values in words; a part of the module by its name in it.

    `how` is "whole", "exact" (without the code of functions), "rough" (without floating-point values too), or
    "changes" (all of these, and few entries of what is large).
    """

    def __init__(self, module: nn.Module, how: str = "whole") -> None:
        self._floats, self._code, self._changes = how != "rough", how in ("whole", "changes"), how == "changes"
        self._paths = {id(part): path for path, part in module.named_modules()}
        self._packages = {_package(type(part)) for part in module.modules() if is_users(type(part))}
        self._above: set[int] = set()  # the objects that hold the one at hand
        self._described: dict[int, tuple[Any, str]] = {}  # by identity, with the object, which stays alive by it
        self._left = 0  # how many more values are looked at

    def words(self, value: Any) -> str:
        """An attribute's value in words that are the same in every process; each object in it is looked at once."""
        self._described.clear()
        self._left = FEW if self._changes else MOST
        return self._words(value)

    def _words(self, value: Any) -> str:
        self._left -= 1
        try:
            known = self._of_plain(value)
            if known is not None:
                return known
            if id(value) in self._described:
                return self._described[id(value)][1]
            if id(value) in self._above:
                return f"{type(value).__qualname__} again"
            if self._left < 0 or len(self._above) > DEEPEST:
                return type(value).__qualname__
            self._above.add(id(value))
            try:
                words = self._of_object(value)
            finally:
                self._above.discard(id(value))
        except Exception:  # an object may raise whatever it is asked
            words = type(value).__qualname__
        if len(words) > 200:  # an object that is held by many would be written out for each
            words = f"{type(value).__qualname__} {_digest(words)}"
        self._described[id(value)] = (value, words)
        return words

    def _of_plain(self, value: Any) -> str | None:
        """What holds no other object, in words; None for another value."""
        if isinstance(value, np.generic) and not value.dtype.hasobject:
            value = value.item()
        if isinstance(value, enum.Enum):
            return f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, float | complex) and not self._floats:
            return type(value).__name__
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return repr(value)
        if isinstance(value, AS_TEXT):
            return f"{type(value).__qualname__} {value}"
        if id(value) in self._paths:
            return f"part {self._paths[id(value)]!r}"
        return None

    def _each(self, values: Iterable[Any]) -> Iterator[str]:
        """Each of these in words, until enough was looked at."""
        for value in values:
            if self._left < 0:
                return
            yield self._words(value)

    def _of_object(self, value: Any) -> str:
        kind = type(value).__qualname__  # without its module, which is __main__ where it is a script
        if isinstance(value, np.ndarray | np.generic) and value.dtype.hasobject:
            entries = np.asarray(value)
            return f"array {entries.shape} {self._words(entries.ravel().tolist())}"
        if isinstance(value, Tensor | np.ndarray):
            return _of_array(value, floats=self._floats, at_most=SAMPLED if self._changes else None)
        if isinstance(value, dict | types.MappingProxyType | list | tuple | deque | set | frozenset):
            return self._of_container(value)
        if isinstance(value, type):
            return f"class {value.__qualname__}"
        if isinstance(value, functools.partial):
            return f"partial({self._words([value.func, value.args, value.keywords])})"
        if isinstance(value, types.MethodType):
            return f"{value.__name__} of {self._words(value.__self__)}"
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if isinstance(value, FUNCTIONS):
            return f"function {getattr(value, '__qualname__', value.__name__)}"
        if isinstance(value, nn.Module):
            return f"{kind} {self._of_module(value)}"
        if isinstance(value, Distribution):
            return f"{kind} {self._of_container(_of_distribution(value))}"
        if isinstance(value, Transform):
            return f"{kind} {self._of_container(_of_transform(value))}"
        if isinstance(value, Constraint | types.SimpleNamespace | Namespace) or self._is_looked_into(type(value)):
            return f"{kind} {self._of_container(_kept(value))}"
        wrapped = inspect.getattr_static(value, "__wrapped__", None)  # as functools.lru_cache keeps it
        return kind if wrapped is None else f"{kind} of {self._words(wrapped)}"

    def _of_container(self, value: Any) -> str:
        """The number of entries and the entries; those of a large one of plain values by one digest."""
        is_set = isinstance(value, set | frozenset)
        name = "set" if is_set else "list" if isinstance(value, list | tuple | deque) else "dict"
        if len(value) > LARGE and not self._changes:
            digest = _of_many(value)
            if digest is not None:
                return f"{name} of {len(value)} {digest if self._floats else ''}"
        if is_set:
            if len(value) > self._left:  # which ones would be seen is another in every process
                return f"set of {len(value)}"
            each = (entry if _has_order(entry) else type(entry) for entry in value)
            return f"set({', '.join(sorted(self._each(each)))})"
        if name == "dict":
            rows = [f"{self._words(key)}: {each}" for key, each in zip(value, self._each(value.values()), strict=False)]
            return f"dict of {len(value)} {{{', '.join(sorted(rows))}}}"
        return f"list of {len(value)} [{', '.join(self._each(value))}]"

    def _is_looked_into(self, kind: type) -> bool:
        """Whether a class is a user's: an object of a library's, such as a logger or a lock, may hold anything."""
        package = _package(kind)
        if package == "__main__" or package in self._packages:
            return True
        if package in LIBRARIES or package in sys.stdlib_module_names:
            return False
        imported = sys.modules.get(package)
        places = [getattr(imported, "__file__", None) or "", *getattr(imported, "__path__", [])]
        return not any(INSTALLED.intersection(pathlib.PurePath(place).parts) for place in places)

    def _of_function(self, function: Any) -> str:
        if str(function.__module__).partition(".")[0] in (*LIBRARIES, *sys.stdlib_module_names):
            return f"function {function.__module__}.{function.__qualname__}"
        held: list[Any] = [function.__defaults__, function.__kwdefaults__]
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # an empty one
                held.append(cell.cell_contents)
        code = self._of_code(function.__code__) if self._code else ""
        return f"function {code} {self._words(held)}"

    def _of_code(self, code: types.CodeType) -> str:
        constants = [self._of_code(c) if isinstance(c, types.CodeType) else self._words(c) for c in code.co_consts]
        whole = repr((code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars))
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def _of_module(self, module: nn.Module) -> str:
        """A module that is no part of the one described, as one in a list."""
        rows = [tree(module)]
        for path, part in module.named_modules():
            private = is_users(type(part))
            kept = {name: value for name, value in own_attributes(part).items() if private or name[0] != "_"}
            rows.append(f"{path} {self._words(kept)}")
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        return f"{rows} {self._words({name: t.detach() for name, t in tensors.items()})}"


def _of_array(value: Tensor | np.ndarray, *, floats: bool, at_most: int | None = None) -> str:
    """Type, shape and the SHA-256 of the values of an array; without `floats` those of whole numbers alone.

    Of a larger array than `at_most` so many entries are taken, evenly spread.
    """
    if isinstance(value, Tensor):
        dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
        if dense.is_meta:
            return f"tensor {dense.dtype} {tuple(dense.shape)} {WITHOUT}"
        kind, shape = str(dense.dtype), tuple(dense.shape)
    else:
        kind, shape = str(value.dtype), value.shape
    if not floats and ("float" in kind or "complex" in kind):
        return f"array {kind} {shape}"
    flat = dense.flatten() if isinstance(value, Tensor) else np.asarray(value).reshape(-1)
    if at_most is not None and len(flat) > at_most:
        flat = flat[:: len(flat) // at_most]
    if isinstance(flat, Tensor):
        flat = flat.cpu().resolve_conj().resolve_neg().contiguous().view(torch.uint8).numpy()
    return f"array {kind} {shape} {hashlib.sha256(np.ascontiguousarray(flat).tobytes()).hexdigest()}"


def _of_many(value: Any) -> str | None:
    """The digest of a large container of plain values or of rows of these; None where it holds others."""
    count = 0
    is_dict = isinstance(value, dict | types.MappingProxyType)
    for entry in value.items() if is_dict else value:
        for each in entry if is_dict else (entry,):
            rows = (*each, *each.values()) if type(each) is dict else each if type(each) in (list, tuple) else (each,)
            count += len(rows)
            if count > LARGEST:
                return "more than are looked at"
            if not PLAIN.issuperset(map(type, rows)):
                return None
    entries = map(repr, value.items() if is_dict else value)
    return _digest("\n".join(entries if isinstance(value, list | tuple | deque) else sorted(entries)))


def _has_order(entry: Any) -> bool:
    """Whether an entry of a set is one of which the words do not depend on what was looked at before."""
    return isinstance(entry, (*PLAIN, *AS_TEXT, tuple, frozenset, enum.Enum, type))


def _digest(words: str) -> str:
    return hashlib.sha256(words.encode(errors="backslashreplace")).hexdigest()[:32]


def _package(kind: type) -> str:
    return str(kind.__module__).partition(".")[0]


def _of_distribution(p: Distribution) -> dict[str, Any]:
    """What a distribution was made of, and nothing that it computed from that."""
    kept = {name: value for name, value in _kept(p).items() if name != "_validate_args"}
    if any(name.startswith(("_param", "_unbroadcasted")) for name in kept):
        return kept
    constrained = inspect.getattr_static(type(p), "arg_constraints", None)
    scratch = object.__new__(type(p))  # what is computed stays on this one
    vars(scratch).update(vars(p))
    for name in constrained if isinstance(constrained, dict) else ():
        if name not in kept:
            with suppress(Exception), torch.no_grad():
                kept[name] = getattr(scratch, name)
    return kept


def _of_transform(transform: Transform) -> dict[str, Any]:
    """What a transform was made of: not the last point that it was called at, nor its inverse."""
    kept = {name: value for name, value in _kept(transform).items() if not name.startswith("_cache")}
    if type(transform).__name__ != "_InverseTransform":
        kept.pop("_inv", None)
    return kept


def _kept(value: Any) -> dict[str, Any]:
    """The attributes of an object, but for those that are computed on demand and kept; it is not asked itself."""
    kept: dict[str, Any] = {}
    with suppress(AttributeError):
        kept |= object.__getattribute__(value, "__dict__")
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            is_mangled = name.startswith("__") and not name.endswith("__")
            full_name = f"_{kind.__name__.lstrip('_')}{name}" if is_mangled else name
            if name not in ("__dict__", "__weakref__"):
                with suppress(AttributeError):
                    kept[full_name] = object.__getattribute__(value, full_name)
    static = {name: inspect.getattr_static(type(value), name, None) for name in kept}
    return {name: each for name, each in kept.items() if not isinstance(static[name], COMPUTED)}
