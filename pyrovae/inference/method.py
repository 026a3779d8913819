"""The methods of `fit`: what a method is, which methods a pair has, and to which method an option belongs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from pyrovae import checks
from pyrovae.inference.history import History
from pyrovae.inference.snapshots import Snapshots

__all__ = [
    "Method",
    "Task",
    "chosen",
    "every_method",
    "is_same_value",
    "methods_of",
    "options_of",
    "register",
    "register_methods",
]


# the arguments of `fit` itself that a misspelt option may have been meant for
ARGUMENTS = (
    "validation",
    "unlabeled",
    "method",
    "seed",
    "progress",
    "device",
    "covariates",
    "exposure",
    "weight",
    "missing",
)


@dataclass(frozen=True)
class Task:
    """The arguments of one call of `fit`, whatever the method is.

    `fit` has checked the seed, the device, and whether labels, unlabelled items and a checkpoint may be given at all.
    The items are as they came, without gradients: `pyrovae.models.items.checked_items(pair, x)` checks them and makes
    them a tensor in the pair's dtype. A method moves the pair to `device` and back itself, and its random numbers
    depend on `seed` alone: `pyrovae.models.scopes.Workspace` gives it generators, a parameter store and flags of its
    own.

    Attributes:
        pair: the pair to fit, in place.
        x: items, an array, a tensor, a frame or a memory-mapped view; with covariates, an exposure, weights or missing
            entries, a split of them.
        y: labels of a classifier, else None.
        validation: items, or (items, labels) where the pair is a classifier; None where there are none.
        unlabeled: more items of a generative classifier, else None.
        device: where to compute.
        progress: whether to show a bar, in a terminal or a notebook.
        seed: the seed of all noise.
        snapshots: where to leave states, for a method that keeps checkpoints; else None.
        label: the class whose density this is, where a classifier's are fitted one by one; else None.
        labels: all classes of that classifier, in the order of their fits; else empty.
    """

    pair: Any
    x: Any
    y: Any
    validation: Any
    unlabeled: Any
    device: torch.device
    progress: bool
    seed: int
    snapshots: Snapshots | None
    label: Any = None
    labels: tuple[Any, ...] = ()


class Method:
    """A method by which `fit` finds a pair's parameters. A subclass is a frozen dataclass whose fields are its options.

    A method checks its options when it is made. In `run(task)` it checks what depends on the pair or on the items,
    before it changes anything, fits the pair in place, and returns a `History`. To `fit`, an option of None is one that
    is left out: where None has a meaning, it is the default. `fit` holds Ctrl-C and SIGTERM back while it runs: a
    method that takes long calls `pyrovae.interruption.deliver()` from time to time, where the pair is whole.

    Attributes of the class:
        name: what `fit(method=...)` takes; a subclass that a pair has beside its parent needs one of its own.
        title: what errors call it; `name` where it is left out.
        keeps_checkpoints: whether it leaves states in `task.snapshots`; False where it is left out.
        takes_validation: whether it takes held-out items; True where it is left out.
        takes_beside: whether it reads the covariates and the exposure of the items; False where it is left out.
        takes_weight: whether it reads the weights of items; False where it is left out, and `fit` then refuses them.
        takes_missing: whether it reads missing entries; False where it is left out, and `fit` then refuses them.
        takes_unlabeled: whether it reads `task.unlabeled`; False where it is left out, and `fit` then refuses them.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> import pyrovae
    >>> from pyrovae.methods import Method
    >>> @dataclass(frozen=True)
    ... class Zero(Method):
    ...     name = "zero"
    ...     shift: float = 0.0
    ...     def run(self, task):
    ...         with torch.no_grad():
    ...             for p in task.pair.parameters():
    ...                 p.fill_(self.shift)
    ...         return pyrovae.History.from_rows([{"loss": 0.0}], {"method": self.name})
    >>> vae = pyrovae.linear_vae(3, 1)
    >>> history = pyrovae.fit(vae, torch.zeros(2, 3), method=Zero(), shift=1.0)
    >>> float(vae.likelihood.network.bias[0].detach())
    1.0
    """

    name: ClassVar[str]  # what fit(method=...) takes
    title: ClassVar[str]
    belongs_to: ClassVar[str] = ""  # the class of pairs that it is for, as errors call it
    keeps_checkpoints: ClassVar[bool] = False
    takes_validation: ClassVar[bool] = True
    takes_beside: ClassVar[bool] = False
    takes_weight: ClassVar[bool] = False
    takes_missing: ClassVar[bool] = False
    takes_unlabeled: ClassVar[bool] = False
    is_shown: ClassVar[bool] = True  # in the signature of fit; not where the options are those of other methods

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "title" not in own and ("name" in own or not hasattr(cls, "title")):
            cls.title = getattr(cls, "name", cls.__name__)

    def run(self, task: Task) -> History:
        """Fit `task.pair` in place."""
        raise NotImplementedError(f"{type(self).__name__} has no run(task)")

    def with_options(self, options: Mapping[str, Any], others: Iterable[Method] = ()) -> Self:
        """A copy with these options; an option of another method is refused. `others` are the pair's methods."""
        known = options_of(self)
        for name, value in options.items():
            if name not in known:
                self.refuse(name, value, others)
        changed = {name: value for name, value in options.items() if name in known}
        return dataclasses.replace(self, **changed)  # type: ignore[type-var]

    def refuse(self, name: str, value: Any, others: Iterable[Method]) -> None:
        """Raise an error that names the methods with this option; a value that is their default is let through."""
        owners = [method for method in others if name in options_of(method)]
        owners = owners or [method for method in every_method() if name in options_of(method)]
        if not owners:
            hint = checks.near(name, [*options_of(self), *ARGUMENTS])
            hint = f" ({hint.removeprefix('; ')})" if hint else ""
            listed = ", ".join(options_of(self)) or "none"
            raise TypeError(f"no method has an option {name!r}{hint}; this fit is by {self.title}, whose are: {listed}")
        if not any(is_same_value(value, options_of(owner)[name]) for owner in owners):
            whose = " or ".join(sorted({owner.title for owner in owners}, key=str.casefold))
            raise ValueError(f"{name} is an argument of {whose}, and this fit is by {self.title}: leave it out")

    def refuse_checkpoint(self, name: str) -> None:
        """Raise the error of a method that keeps no checkpoints."""
        raise ValueError(f"{name} is an argument of SVI, and this fit is by {self.title}: leave it out")

    def refuse_other(self, asked: str, other: Method, pair: Any) -> None:
        """Raise the error of a pair, with this default method, that does not have the other one."""
        whose = f"for a {other.belongs_to}" if other.belongs_to else "not among its methods"
        raise ValueError(f"method={asked} is {whose}, and this is a {type(pair).__name__}: take {self.name!r}")


Order = Callable[[Any], Sequence[Method]]

_TABLE: dict[type, tuple[Sequence[Method], Order | None]] = {}


def register_methods(kind: type, *methods: Method, order: Order | None = None) -> None:
    """Give a class of pairs its methods of `fit`, the default first.

    A subclass inherits them, unless it is given its own; `object` stands for all classes without. Where the methods
    depend on the pair, `order(pair)` returns those of that pair. A class may have a method with other defaults, as in
    `register_methods(MyPair, SVI(epochs=100))`. The methods of a pair have different names. Raises TypeError for what
    is no class or no method, and ValueError for no method or two of one name.
    """
    whatever: Any = kind
    if not isinstance(whatever, type):
        raise TypeError(f"kind must be the class of the pairs, got {kind!r}")
    if getattr(whatever, "_is_protocol", False):
        raise TypeError(
            f"kind must be the class of the pairs, and {kind.__name__} is a protocol, which no pair need be made from: "
            "name your own class, or object for all pairs that have no methods of their own"
        )
    _TABLE[kind] = tuple(_by_name(kind, methods).values()), order


def _by_name(kind: type, methods: Sequence[Method]) -> dict[str, Method]:
    """The methods of a class of pairs by their names, of which none may stand twice."""
    if not methods:
        raise ValueError(f"give at least one method of {kind.__name__}, the default first")
    by_name: dict[str, Method] = {}
    for method in methods:
        _require_method(method)
        if method.name in by_name:
            both = " and ".join(type(one).__name__ for one in (by_name[method.name], method))
            raise ValueError(
                f"two methods of {kind.__name__} are called {method.name!r} ({both}): leave one out, or give a "
                "subclass a name of its own"
            )
        by_name[method.name] = method
    return by_name


register = register_methods  # the name that it had before


def _require_method(method: Any) -> None:
    """Raise TypeError that names what is missing for this to be a method."""
    if isinstance(method, type):
        raise TypeError(f"a method is an object that holds its options: give {method.__name__}(), not the class")
    if not isinstance(method, Method):
        raise TypeError(f"a method must be a pyrovae.methods.Method, got {method!r}")
    kind: Any = type(method)
    if "__dataclass_fields__" not in vars(kind):
        raise TypeError(f"{kind.__name__} must be a dataclass: put @dataclass(frozen=True) above it")
    if not isinstance(getattr(method, "name", None), str):
        raise TypeError(f"{kind.__name__} must have a name: name = {kind.__name__.lower()!r} in the class")


def methods_of(pair: Any) -> dict[str, Method]:
    """The methods that a pair has, by name, the default first."""
    methods, order = next(_TABLE[kind] for kind in type(pair).__mro__ if kind in _TABLE)
    return _by_name(type(pair), methods if order is None else order(pair))


def every_method() -> list[Method]:
    """One method of each class of methods that is registered."""
    by_class: dict[type, Method] = {}
    for methods, _ in _TABLE.values():
        for method in methods:
            by_class.setdefault(type(method), method)
    return list(by_class.values())


def options_of(method: Method) -> dict[str, Any]:
    """The options of a method and their values in it."""
    fields = dataclasses.fields(method)  # type: ignore[arg-type]
    return {field.name: getattr(method, field.name) for field in fields}


def is_same_value(value: Any, other: Any) -> bool:
    """Whether two values of an option are equal, arrays in every entry."""
    if value is other:
        return True
    try:
        if getattr(value, "shape", None) != getattr(other, "shape", None):
            return False
        equal = value == other
        return bool(equal.all() if hasattr(equal, "all") else equal)
    except Exception:  # of what has no one truth value, or no shape
        return False


def chosen(pair: Any, method: str | Method | None, options: Mapping[str, Any]) -> Method:
    """The method that is asked for, or the pair's default, with these options; None stands for an option left out."""
    asked = {name: value for name, value in options.items() if value is not None}
    known = methods_of(pair)
    default = next(iter(known.values()))
    if method is None:
        method = default
    elif isinstance(method, str):
        if method not in known:
            for other in every_method():
                if other.name == method and other.belongs_to:
                    default.refuse_other(repr(method), other, pair)
        method = known[checks.choice("method", method, known)]
    else:
        _require_method(method)
        listed = {type(one) for one in every_method()}
        if type(method) in listed and not any(isinstance(one, type(method)) for one in known.values()):
            default.refuse_other(f"{type(method).__name__}(...)", method, pair)
    return method.with_options(asked, known.values())
