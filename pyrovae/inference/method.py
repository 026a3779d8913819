"""What a method of `fit` is, which methods a pair has, and whose each option is."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from pyrovae import checks
from pyrovae.inference.history import History
from pyrovae.inference.snapshots import Snapshots

__all__ = ["Method", "Task", "chosen", "every_method", "methods_of", "options_of", "register"]


@dataclass(frozen=True)
class Task:
    """What a call of `fit` asks for, whatever the method is."""

    pair: Any
    x: Any
    y: Any
    validation: Any  # items, or items with labels where the pair is a classifier
    unlabeled: Any
    device: torch.device
    progress: bool
    seed: int
    snapshots: Snapshots | None


class Method:
    """A method of finding a pair's parameters. A subclass is a frozen dataclass: its fields are options of `fit`.

    It checks its options when it is made. What depends on the pair or on the items it checks in `run`, before it
    changes anything.
    """

    name: ClassVar[str]  # what fit(method=...) takes
    title: ClassVar[str]  # what errors call it
    belongs_to: ClassVar[str] = ""  # the class of pairs that it is for, where there is only one
    keeps_checkpoints: ClassVar[bool] = False

    def run(self, task: Task) -> History:
        """Fit `task.pair` in place."""
        raise NotImplementedError(f"{type(self).__name__} has no run(task)")

    def with_options(self, options: Mapping[str, Any], others: Iterable[Method] = ()) -> Self:
        """A copy with these options; one that is not the method's own is refused, `others` being the pair's methods."""
        known = options_of(self)
        for name, value in options.items():
            if name not in known:
                self.refuse(name, value, others)
        own = {name: value for name, value in options.items() if name in known}
        return dataclasses.replace(self, **own)  # type: ignore[type-var]

    def refuse(self, name: str, value: Any, others: Iterable[Method]) -> None:
        """Say whose option this is; one that has its default value there changes nothing, and is let through."""
        owners = [method for method in others if name in options_of(method)]
        owners = owners or [method for method in every_method() if name in options_of(method)]
        if not owners:
            known = {option for method in (self, *every_method()) for option in options_of(method)}
            close = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            own = ", ".join(options_of(self)) or "none"
            raise TypeError(f"no method has an option {name!r}{hint}; this fit is by {self.title}, whose are: {own}")
        if all(value != options_of(owner)[name] for owner in owners):
            whose = " or ".join(dict.fromkeys(owner.title for owner in owners))
            raise ValueError(f"{name} is an argument of {whose}, and this fit is by {self.title}: leave it out")

    def refuse_checkpoint(self, name: str) -> None:
        """Say that this method leaves no checkpoint."""
        raise ValueError(f"{name} is an argument of SVI, and this fit is by {self.title}: leave it out")

    def refuse_name(self, name: str, pair: Any) -> None:
        """Say whose method was named, of a pair whose default is this one; return where no class of pairs has it."""
        owners = [method for method in every_method() if method.name == name and method.belongs_to]
        if owners:
            raise ValueError(
                f"method={name!r} is for a {owners[0].belongs_to}, and this is a {type(pair).__name__}: take "
                f"{self.name!r}"
            )


Order = Callable[[Any], Sequence[Method]]

_TABLE: dict[type, tuple[Sequence[Method], Order | None]] = {}


def register(kind: type, *methods: Method, order: Order | None = None) -> None:
    """State the methods of a class of pairs, the default first; a subclass has them too, unless it states its own.

    Where they depend on the pair, `order(pair)` gives those that this pair has. `object` stands for all other pairs.
    A pair may have a method with defaults of its own: `register(MyPair, SVI(epochs=100))`.
    """
    _TABLE[kind] = methods, order


def methods_of(pair: Any) -> dict[str, Method]:
    """The methods that a pair has, by name, the default first."""
    methods, order = next(_TABLE[kind] for kind in type(pair).__mro__ if kind in _TABLE)
    return {method.name: method for method in (methods if order is None else order(pair))}


def every_method() -> list[Method]:
    """One of each class of methods that stands in the table."""
    found: dict[type, Method] = {}
    for methods, _ in _TABLE.values():
        for method in methods:
            found.setdefault(type(method), method)
    return list(found.values())


def options_of(method: Method) -> dict[str, Any]:
    """The options of a method and their values in it."""
    fields = dataclasses.fields(method)  # type: ignore[arg-type]
    return {field.name: getattr(method, field.name) for field in fields}


def chosen(pair: Any, method: str | Method | None, options: Mapping[str, Any]) -> Method:
    """The method that is asked for, else the pair's default, with its options; None stands for an option left out."""
    given = {name: value for name, value in options.items() if value is not None}
    known = methods_of(pair)
    default = next(iter(known.values()))
    if method is None:
        method = default
    elif not isinstance(method, Method):
        if method not in known:
            default.refuse_name(method, pair)
        method = known[checks.choice("method", method, known)]
    return method.with_options(given, known.values())
