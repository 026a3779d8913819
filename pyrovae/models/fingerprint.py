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
from collections.abc import Iterator
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
WITHOUT = "without values"  # a tensor on the meta device
DEEPEST = 100  # objects inside one another; what lies deeper is not looked at


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
    constraints, dataclasses and other objects by what they keep, modules that are hidden in a list by their weights
    too, functions and forward hooks by their code, their defaults and what they close over. Left out are a module's
    notes (name, shapes, what it was made with), what its calls write (`writes_noted`), and what is computed on demand
    and kept.

    Not seen are the code of a class, its class attributes, the globals that a function reads, and the inside of objects
    of the standard library and of numpy and torch other than those named: of these, the class alone.
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
def writes_noted(module: nn.Module, onto: nn.Module | None = None) -> Iterator[None]:
    """Note on each part which of its attributes the body writes, such as a count of calls or the last code.

    Such an attribute is no setting: it has no part in the hash of a pair, which would be another after every call. The
    note goes along with copies and pickles. Parts of this package, of torch and of Pyro have none. `onto`: the module
    that gets the notes, where the body works on a copy of it.
    """
    parts = [part for part in module.modules() if _is_users(type(part))]
    noted = [part for part in (onto or module).modules() if _is_users(type(part))]
    before = _attributes_of_each(module, parts)
    try:
        yield
    finally:
        after = _attributes_of_each(module, parts)
        for part, old, new in zip(noted, before, after, strict=True):
            changed = {name for name in {**old, **new} if old.get(name) != new.get(name)}
            if changed - _written(part):
                vars(part)["_written"] = _written(part) | changed


def _attributes_of_each(module: nn.Module, parts: list[nn.Module]) -> list[dict[str, str]]:
    """Every attribute of these parts in words."""
    if not parts:
        return []
    describing = _Describing(module)
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
            values = {name: value for name, value in values.items() if _plain(value) is not None}
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
        elif _plain(value) is None:
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
    """Values in words; a part of the module by its name in it."""

    def __init__(self, module: nn.Module, how: str = "whole") -> None:
        self._floats, self._code = how != "rough", how == "whole"
        self._paths = {id(part): path for path, part in module.named_modules()}
        self._above: list[int] = []  # the objects that hold the one at hand

    def words(self, value: Any) -> str:
        """A value in words that are the same in every process."""
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, enum.Enum):
            return f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, float | complex) and not self._floats:
            return type(value).__name__
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return repr(value)
        if isinstance(value, AS_TEXT):
            return f"{type(value).__qualname__} {value}"
        if isinstance(value, Tensor | np.ndarray):
            return _of_array(value, floats=self._floats)
        if id(value) in self._paths:
            return f"part {self._paths[id(value)]!r}"
        if id(value) in self._above or len(self._above) > DEEPEST:
            return f"{type(value).__qualname__} again"
        self._above.append(id(value))
        try:
            return self._of_object(value)
        finally:
            self._above.pop()

    def _of_object(self, value: Any) -> str:
        kind = type(value).__qualname__  # without its module, which is __main__ where it is a script
        if isinstance(value, dict | types.MappingProxyType):
            rows = sorted(f"{self.words(key)}: {self.words(each)}" for key, each in value.items())
            return f"{{{', '.join(rows)}}}"
        if isinstance(value, set | frozenset):
            return f"set({', '.join(sorted(self.words(each) for each in value))})"
        if isinstance(value, list | tuple | deque):
            return f"[{', '.join(self.words(each) for each in value)}]"
        if isinstance(value, type):
            return f"class {value.__qualname__}"
        if isinstance(value, functools.partial):
            return f"partial({self.words([value.func, value.args, value.keywords])})"
        if isinstance(value, types.MethodType):
            return f"{value.__name__} of {self.words(value.__self__)}"
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if callable(value) and hasattr(value, "__wrapped__"):
            return f"{kind} of {self.words(value.__wrapped__)}"
        if callable(value) and hasattr(value, "__qualname__"):  # torch.tanh, math.exp
            return f"function {value.__qualname__}"
        if isinstance(value, nn.Module):
            return f"{kind} {self._of_module(value)}"
        if isinstance(value, Distribution):
            return f"{kind} {self.words(_of_distribution(value))}"
        if isinstance(value, Transform):
            return f"{kind} {self.words(_of_transform(value))}"
        if isinstance(value, Constraint | types.SimpleNamespace | Namespace) or _is_plain_object(type(value)):
            return f"{kind} {self.words(_kept(value))}"
        return kind

    def _of_function(self, function: Any) -> str:
        if str(function.__module__).partition(".")[0] in (*LIBRARIES, *sys.stdlib_module_names):
            return f"function {function.__module__}.{function.__qualname__}"
        held: list[Any] = [function.__defaults__, function.__kwdefaults__]
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # an empty one
                held.append(cell.cell_contents)
        code = self._of_code(function.__code__) if self._code else ""
        return f"function {code} {self.words(held)}"

    def _of_code(self, code: types.CodeType) -> str:
        constants = [self._of_code(c) if isinstance(c, types.CodeType) else self.words(c) for c in code.co_consts]
        whole = repr((code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars))
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def _of_module(self, module: nn.Module) -> str:
        """A module that is no part of the one described, as one in a list."""
        rows = [repr(module)]
        for path, part in module.named_modules():
            private = _is_users(type(part))
            kept = {name: value for name, value in _own_attributes(part).items() if private or name[0] != "_"}
            rows.append(f"{path} {self.words(kept)}")
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        return f"{rows} {self.words({name: t.detach() for name, t in tensors.items()})}"


def _of_array(value: Tensor | np.ndarray, *, floats: bool) -> str:
    """Type, shape and the SHA-256 of the values of an array; without `floats` those of whole numbers alone."""
    try:
        if isinstance(value, Tensor):
            dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
            if dense.is_meta:
                return f"tensor {dense.dtype} {tuple(dense.shape)} {WITHOUT}"
            content = dense.cpu().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8).numpy()
            kind, shape = str(dense.dtype), tuple(dense.shape)
            data = content.tobytes()
        else:
            kind, shape = str(value.dtype), value.shape
            data = repr(value.tolist()).encode() if value.dtype == object else np.ascontiguousarray(value).tobytes()
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return f"array {type(value).__name__}"
    if not floats and ("float" in kind or "complex" in kind):
        return f"array {kind} {shape}"
    return f"array {kind} {shape} {hashlib.sha256(data).hexdigest()}"


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
    """The attributes of an object, but for those that are computed on demand and kept."""
    kept = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            with suppress(AttributeError):
                kept[name] = getattr(value, name)
    static = {name: inspect.getattr_static(type(value), name, None) for name in kept}
    return {name: each for name, each in kept.items() if not isinstance(static[name], COMPUTED)}


def _is_plain_object(kind: type) -> bool:
    """Whether a class is a user's: an object of another library's, such as a logger or a lock, may hold anything."""
    top = kind.__module__.partition(".")[0]
    return top not in (*LIBRARIES, *sys.stdlib_module_names) or kind.__module__ == "__main__"


def _plain(value: Any) -> str | None:
    """A setting as a string that is the same in every process; None for what is no setting."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Tensor | np.ndarray):
        return _in_numbers(value)
    if isinstance(value, tuple | list):
        each = [_plain(v) for v in value]
        return None if None in each else f"[{', '.join(map(str, each))}]"
    return None


def _in_numbers(value: Tensor | np.ndarray) -> str | None:
    """The values of an array; None where it has none to show, as on the meta device."""
    try:
        return repr(torch.as_tensor(value).detach().cpu().tolist())
    except (RuntimeError, NotImplementedError, TypeError):
        return None
