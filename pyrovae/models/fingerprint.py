"""What a module and its parts were set to, in words that are the same in every process."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae.exclusive import exclusive
from pyrovae.models.describing import COMPUTED, HOOKS, WITHOUT, Describing, is_users, own_attributes

__all__ = ["attributes", "compared", "differing", "digests", "has_users_parts", "settings", "writes_noted"]

# what a pair says of itself beside its density
STATED = frozenset(
    {"event_shape", "is_normalized", "has_global_latents", "takes_labels", "num_classes", "names", "names_are_given"}
)
NESTED = 20  # lists inside one another, of which the innermost holds numbers


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
        describing = Describing(module)
        found: dict[str, str] = {}
        for path, part in module.named_modules():
            for name, value in _other_attributes(part, outermost=not path).items():
                if name not in _written(part):
                    found[f"{path}.{name}".lstrip(".")] = describing.words(value)
    return found


def compared(module: nn.Module) -> tuple[dict[str, str], set[str]]:
    """All that `differing` looks at of a module: attributes and buffers in words, and what calls write."""
    with exclusive():
        return _everything(module), _written_names(module)


def differing(one: nn.Module, other: nn.Module) -> list[str]:
    """The names of the attributes and of the buffers outside of the state that differ between two alike modules.

    What the calls of either write is left out, and tensors that one of the two has on the meta device, without values.
    """
    (left, written), (right, others) = compared(one), compared(other)
    written = written | others
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
    return any(is_users(type(part)) for part in module.modules())


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
    parts = [part for part in module.modules() if is_users(type(part))]
    noted = [part for part in (onto or module).modules() if is_users(type(part))]
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
    describing = Describing(module, "changes")
    return [{name: describing.words(value) for name, value in own_attributes(part).items()} for part in parts]


def _everything(module: nn.Module, *, users_only: bool = False, how: str = "whole") -> dict[str, str]:
    """Every attribute of the parts of a module, and of itself where it is a user's; and buffers not in its state."""
    describing = Describing(module, how)
    found: dict[str, str] = {}
    for path, part in module.named_modules():
        if users_only and not is_users(type(part)):
            continue
        values = {name: value for name, value in own_attributes(part).items() if path and name[0] != "_"}
        if not is_users(type(part)):
            values = {name: value for name, value in values.items() if _is_plain(value)}
        values |= _other_attributes(part, outermost=not path)
        if not type(part).__module__.startswith("pyrovae."):  # ours keep in them what a constructor may draw
            values |= {name: part._buffers.get(name) for name in sorted(part._non_persistent_buffers_set)}
        for name, value in values.items():
            if value is not None:
                found[f"{path}.{name}".lstrip(".")] = describing.words(value)
    return found


def _other_attributes(part: nn.Module, *, outermost: bool) -> dict[str, Any]:
    """Those that `settings` leaves out and that may be in the density."""
    users = is_users(type(part))
    if outermost and not users:
        return {}
    kept = own_attributes(part)
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
