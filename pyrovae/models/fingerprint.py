"""What a module and its parts were set to, in words that are the same in every process."""

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint
from torch.distributions.utils import lazy_property

from pyrovae.exclusive import exclusive

__all__ = ["attributes", "differing", "digests", "has_users_parts", "settings", "writes_noted"]

LIBRARIES = ("pyrovae", "torch", "pyro", "numpy")  # whose private attributes follow from what is shown
# by which this package knows a module again
NOTES = frozenset({"_made_by", "_noted", "_site", "_site_prefix", "_written"})
TORCHS = frozenset(vars(nn.Module()))
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
# what a pair says of itself beside its density
STATED = frozenset(
    {"event_shape", "is_normalized", "has_global_latents", "takes_labels", "num_classes", "names", "names_are_given"}
)
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
NESTED = 20  # lists inside one another, of which the innermost holds numbers
MOST, FEW = 10_000, 1_000  # values that are looked at in one attribute, and where only changes are looked for
LARGE = 1_000  # entries from which on a container of plain values is digested whole, and not walked
LARGEST = 10_000_000  # plain values in such a container; of a larger one only the number of entries is seen
SAMPLED = 100_000  # entries of an array that are compared where only changes are looked for
INSTALLED = frozenset({"site-packages", "dist-packages"})


def settings(module: nn.Module, *, written: bool = True) -> str:
    """The settings of a module's parts that their repr and tensors may not show: numbers, strings, lists of these.

    The attributes of the outermost module itself are left out: its name and notes are no part of its density. With
    `written` False what calls write is left out too (`writes_noted`).
    """
    rows_by_part = []
    for path, part in module.named_modules():
        if not path:
            continue
        left_out = frozenset() if written else _written(part)
        rows = []
        for name, value in sorted(vars(part).items()):
            words = None if name == "training" or name in left_out or name[0] == "_" else _plain(value)
            if words is not None:
                rows.append((name, words))
        rows_by_part.append((path, rows))
    return repr(rows_by_part)


def attributes(module: nn.Module) -> dict[str, str]:
    """What else a module and its parts keep, by name: that which `settings`, their repr and their tensors leave out.

    These are private attributes and those of the outermost module, where the class is not of this package, of torch or
    of Pyro; and, of every part but this package's, what is no plain value: dictionaries, distributions, transforms,
    constraints, dataclasses and other objects of the user's own classes by what they keep, modules that are hidden in a
    list by their weights too, functions and forward hooks by their code, their defaults and what they close over. Left
    out are a module's notes (name, shapes, what it was made with), what each of its calls writes (`writes_noted`), and
    what is computed on demand and kept. All that an object of the user's own class keeps counts as a setting: a counter
    on it that moves between two estimates makes them those of two pairs.

    Not seen are the code of a class, its class attributes, the globals that a function reads, and the inside of objects
    of other libraries, such as a data frame, a configuration object or a logger: of these, the class alone, unless they
    are distributions, transforms, constraints, modules, arrays, functions, lists, dictionaries or sets. A library is
    what is installed among Python's packages and none of the module's parts is from.

    Of one attribute 10,000 values are looked at, in the order in which it holds them, and no deeper than 50 objects
    inside one another; the others are seen by their class or by their number alone. Lists, dictionaries and sets of
    more than 1,000 plain values, or of rows of these, count whole, as arrays do. What raises when it is looked at is
    seen by its class alone. Describing raises nothing.
    """
    with exclusive():  # in another thread's turn a module may have another `forward`
        describing = _Describing(module)
        found: dict[str, str] = {}
        for path, part in module.named_modules():
            for name, value in _other_attributes(part, outermost=not path).items():
                if name not in _written(part):
                    found[f"{path}.{name}".lstrip(".")] = describing.words(value)
    return found


def differing(one: nn.Module, other: nn.Module) -> list[str]:
    """The names of the attributes and of the buffers outside of the state that differ between two alike modules.

    What the calls of either write is left out, and tensors that one of the two has on the meta device, without values.
    """
    with exclusive():
        left, right = _everything(one), _everything(other)
    written = _written_names(one) | _written_names(other)
    names = []
    for name in {**left, **right}:
        pair = [side.get(name, "") for side in (left, right)]
        if pair[0] != pair[1] and name not in written and not any(words.endswith(WITHOUT) for words in pair):
            names.append(name)
    return names


def digests(module: nn.Module) -> dict[str, list[str]]:
    """Two digests of each attribute of a user's parts, and of each buffer of theirs outside of the state, by name.

    The first leaves floating-point values out, which another machine may compute with other last bits; neither looks at
    the code of a function, which another Python compiles otherwise. What calls write is left out.
    """
    with exclusive():
        rough, exact = (_everything(module, users_only=True, how=how) for how in ("rough", "exact"))
    written = _written_names(module)
    return {
        name: [hashlib.sha256(words.encode()).hexdigest()[:12] for words in (rough[name], exact[name])]
        for name in rough
        if name not in written
    }


def has_users_parts(module: nn.Module) -> bool:
    """Whether the module or a part of it is of a class from outside this package, torch and Pyro."""
    return any(_is_users(type(part)) for part in module.modules())


@contextmanager
def writes_noted(module: nn.Module, onto: nn.Module | None = None) -> Iterator[Callable[[], bool]]:
    """Note on each part which of its attributes every call writes, such as a count of calls or the last code.

    Such an attribute is no setting: it has no part in the hash of a pair, which would be another after every call. What
    the first call fills in and the next ones leave alone is a setting, as a scale is that was None. So the body calls
    what it is given when it has called the module for the first time, and calls the module again, on other items and on
    another number of these, as what is kept for one number of items is no setting either. What differs after the body
    from what there was by then is noted. The function says whether there is anything to call again for: parts of this
    package, of torch and of Pyro have no notes. The note goes along with copies and pickles. `onto`: the module that
    gets the notes, where the body works on a copy of it.
    """
    parts = [part for part in module.modules() if _is_users(type(part))]
    noted = [part for part in (onto or module).modules() if _is_users(type(part))]
    after_first: list[dict[str, str]] = []

    def called_once() -> bool:
        if not after_first:
            after_first[:] = _attributes_of_each(module, parts)
        return bool(parts)

    try:
        yield called_once
    finally:
        after = _attributes_of_each(module, parts) if after_first else []
        for part, old, new in zip(noted, after_first, after, strict=False):
            changed = {name for name in old if old[name] != new.get(name)}
            if changed - _written(part):
                vars(part)["_written"] = _written(part) | changed


def _attributes_of_each(module: nn.Module, parts: list[nn.Module]) -> list[dict[str, str]]:
    """Every attribute of these parts in few words, which differ where a call has changed it."""
    if not parts:
        return []
    describing = _Describing(module, "changes")
    return [{name: describing.words(value) for name, value in _own_attributes(part).items()} for part in parts]


def _everything(module: nn.Module, *, users_only: bool = False, how: str = "whole") -> dict[str, str]:
    """Every attribute of the parts of a module, and of itself where it is a user's; and buffers not in its state."""
    describing = _Describing(module, how)
    found: dict[str, str] = {}
    for path, part in module.named_modules():
        if users_only and not _is_users(type(part)):
            continue
        values = {name: value for name, value in _own_attributes(part).items() if path and name[0] != "_"}
        if not _is_users(type(part)):
            values = {name: value for name, value in values.items() if _is_plain(value)}
        values |= _other_attributes(part, outermost=not path)
        if not type(part).__module__.startswith("pyrovae."):  # ours keep in them what a constructor may draw
            values |= {name: part._buffers.get(name) for name in sorted(part._non_persistent_buffers_set)}
        for name, value in values.items():
            if value is not None:
                found[f"{path}.{name}".lstrip(".")] = describing.words(value)
    return found


def _own_attributes(part: nn.Module) -> dict[str, Any]:
    """What a module keeps beside torch's own attributes and this package's notes; hooks where it has any."""
    kept = {name: value for name, value in sorted(vars(part).items()) if name not in TORCHS and name not in NOTES}
    hooks = {name: list(getattr(part, name).values()) for name in HOOKS if getattr(part, name, None)}
    return {name: value for name, value in (kept | hooks).items() if value is not None}


def _other_attributes(part: nn.Module, *, outermost: bool) -> dict[str, Any]:
    """Those that `settings` leaves out and that may be in the density."""
    users = _is_users(type(part))
    if outermost and not users:
        return {}
    kept = _own_attributes(part)
    if type(part).__module__.startswith("pyrovae."):  # reads nothing that is put on it later, but for these
        return {name: value for name, value in kept.items() if name in (*HOOKS, "forward")}
    others = {}
    for name, value in kept.items():
        if name in HOOKS:
            others[name] = value
        elif name[0] == "_":
            if users and not isinstance(inspect.getattr_static(type(part), name, None), COMPUTED):
                others[name] = value
        elif outermost:
            is_stated = name in STATED or (name == "latent_dim" and hasattr(part, "prior"))
            if not is_stated and not isinstance(inspect.getattr_static(type(part), name, None), COMPUTED):
                others[name] = value
        elif not _is_plain(value):
            others[name] = value
    return others


def _written(part: nn.Module) -> frozenset[str]:
    noted: frozenset[str] = vars(part).get("_written", frozenset())
    return noted


def _written_names(module: nn.Module) -> set[str]:
    return {f"{path}.{name}".lstrip(".") for path, part in module.named_modules() for name in _written(part)}


def _is_users(kind: type) -> bool:
    return kind.__module__.partition(".")[0] not in LIBRARIES


class _Describing:
    """Values in words; a part of the module by its name in it.

    `how` is "whole", "exact" (without the code of functions), "rough" (without floating-point values too), or
    "changes" (all of these, and few entries of what is large).
    """

    def __init__(self, module: nn.Module, how: str = "whole") -> None:
        self._floats, self._code, self._changes = how != "rough", how in ("whole", "changes"), how == "changes"
        self._paths = {id(part): path for path, part in module.named_modules()}
        self._packages = {_package(type(part)) for part in module.modules() if _is_users(type(part))}
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
        rows = [repr(module)]
        for path, part in module.named_modules():
            private = _is_users(type(part))
            kept = {name: value for name, value in _own_attributes(part).items() if private or name[0] != "_"}
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


def _plain(value: Any, depth: int = 0) -> str | None:
    """A setting as a string that is the same in every process; None for what is no setting."""
    try:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool | int | float | str):
            return repr(value)
        if isinstance(value, Tensor | np.ndarray):
            return _in_numbers(value)
        if isinstance(value, tuple | list) and depth < NESTED:
            rows = []
            for entry in value:
                words = _plain(entry, depth + 1)
                if words is None:
                    return None
                rows.append(words)
            return f"[{', '.join(rows)}]"
    except Exception:  # an object may raise whatever it is asked
        return None
    return None


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether `_plain` has words for a value, by its type: the values of an array are not looked at."""
    try:
        if isinstance(value, np.generic):
            return _is_plain(value.item(), depth)
        if isinstance(value, Tensor):
            return value.layout == torch.strided and not value.is_meta
        if isinstance(value, np.ndarray):  # torch takes these
            return min(value.strides, default=0) >= 0 and _in_numbers(np.empty(0, value.dtype)) is not None
        if isinstance(value, tuple | list):
            return depth < NESTED and all(_is_plain(entry, depth + 1) for entry in value)
        return isinstance(value, bool | int | float | str)
    except Exception:  # an object may raise whatever it is asked
        return False


def _in_numbers(value: Tensor | np.ndarray) -> str | None:
    """The values of an array; None where it has none to show, as on the meta device."""
    try:
        return repr(torch.as_tensor(value).detach().cpu().tolist())
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None
