"""The optimiser of a fit: by name, a class or partial of one, Pyro's own, or torch's over the pair's parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.compile.aliases import same_values
from pyrovae.compile.optimizers import kinds_by_name

__all__ = ["HOW", "DefaultRate", "Group", "OptimizerChoice", "defaults_of", "stated_rate"]

HOW = {"foreach", "fused", "capturable"}  # an update is computed, by which its numbers change in rounding alone
WAYS = (
    "give a name, a class such as torch.optim.AdamW, functools.partial(torch.optim.AdamW, weight_decay=0.01), "
    "pyro.optim.AdamW({...}), or torch's optimiser over the pair's parameters"
)


class DefaultRate(float):
    """A learning rate that nobody has stated: an optimiser's own lr takes its place."""


class Group(NamedTuple):
    """Parameters by name, and their options, "lr" among them."""

    names: list[str]
    options: dict[str, Any]


@dataclass(frozen=True)
class OptimizerChoice:
    """A class of optimisers with its options and learning rate; a fit makes a new one of them.

    Attributes:
        kind: torch.optim.Adam, or another class of such.
        options: what it is made with, but for the learning rate.
        learning_rate: that of step 0 where the schedule's factor is 1; of the first group whose rate is not 0
            where there are several.
        bound: an optimiser of torch's that was handed in, whose groups say which parameter has which options.
    """

    kind: Any
    options: Mapping[str, Any]
    learning_rate: float
    bound: torch.optim.Optimizer | None = None

    @classmethod
    def of(cls, optimizer: Any, learning_rate: float) -> OptimizerChoice:
        """What `fit(optimizer=..., learning_rate=...)` asks for; a `DefaultRate` gives way to the optimiser's own lr.

        Raises ValueError or TypeError for what is no optimiser, for options that it does not take, and for two rates.
        """
        kind, options, bound = _parts(optimizer)
        own_rate = options.pop("lr", None)
        if own_rate is not None:
            own_rate = checks.positive("the optimizer's lr", float(own_rate))
            if not isinstance(learning_rate, DefaultRate) and own_rate != learning_rate:
                raise ValueError(
                    f"learning_rate={learning_rate:g} and the optimizer's lr={own_rate:g} differ: leave one of them out"
                )
            learning_rate = own_rate
        choice = cls(kind, options, float(learning_rate), bound)
        choice._require_valid()
        if bound is not None and _has_taken_steps(choice):
            raise ValueError(
                "optimizer has taken steps, and a fit begins with a new one: give its class, or a functools.partial"
            )
        return choice

    def _require_valid(self) -> None:
        """Make one of a parameter that counts for nothing: the class itself checks its options."""
        groups: list[Any] = [self.options] if self.bound is None else self.bound.param_groups
        for name in ("maximize", "differentiable"):
            if any(group.get(name) for group in groups):
                raise ValueError(f"optimizer has {name}=True, and fit lowers a loss by plain steps: leave it out")
        if self.options.get("lrd", 1.0) != 1.0:
            lrd = self.options["lrd"]
            raise ValueError(
                f"optimizer has lrd={lrd:g}, a decay of the rate: leave it out, and give "
                f"schedule=lambda step, steps: {lrd:g} ** (step + 1)"
            )
        if issubclass(self.kind, torch.optim.LBFGS):
            raise ValueError("optimizer=LBFGS looks at a loss several times a step, and batches differ: take another")
        closure = inspect.signature(self.kind.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ValueError(
                f"optimizer={self.kind.__name__} has a step(closure) that needs its closure, and fit takes step(): "
                "take another"
            )
        if "lr" not in inspect.signature(self.kind).parameters:
            raise ValueError(f"optimizer={self.kind.__name__} has no learning rate lr for fit to set: take another")
        try:
            self.kind([nn.Parameter(torch.zeros(1, 1))], lr=self.learning_rate, **self.options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"optimizer={self.kind.__name__} with {dict(self.options)}: {error}") from error

    def groups(self, named: Mapping[str, Tensor]) -> list[Group]:
        """The trained parameters by groups of like options.

        Raises ValueError where the optimiser that was handed in holds others, naming what differs.
        """
        if self.bound is None:
            return [Group(list(named), {**self.options, "lr": self.learning_rate})]
        names = {id(p): name for name, p in named.items()}
        bound_params = [p for group in self.bound.param_groups for p in group["params"]]
        foreign = [tuple(p.shape) for p in bound_params if id(p) not in names]
        absent = [name for name, p in named.items() if all(p is not q for q in bound_params)]
        if foreign or absent:
            parts = []
            if foreign:
                parts.append(f"holds {len(foreign)} that it does not train, of shape {foreign[0]}")
            if absent:
                parts.append(f"lacks {', '.join(map(repr, absent[:3]))}{' and others' if len(absent) > 3 else ''}")
            raise ValueError(
                f"optimizer must hold the pair's trained parameters, and it {' and '.join(parts)}: make it of those, "
                "or give its class or a functools.partial of it"
            )
        return [
            Group([names[id(p)] for p in group["params"]], _constructor_options(type(self.bound), group))
            for group in self.bound.param_groups
        ]

    def made(self, groups: Sequence[Mapping[str, Any]], **how: Any) -> Any:
        """A new optimiser over groups of parameters with their options.

        Its constructor is told the options too: a class may use one there alone, as Adagrad does the initial value of
        its sums.
        """
        options = self.options if self.bound is None else _constructor_options(self.kind, self.bound.defaults)
        return self.kind(list(groups), **{**options, "lr": self.learning_rate, **how})

    def identity(self, named: Mapping[str, Tensor]) -> dict[str, Any]:
        """The class and the groups, which the words leave out and a run that goes on has in common with the earlier."""
        is_known = self.kind.__module__.partition(".")[0] in ("torch", "pyro")
        groups = self.groups(named)
        return {
            "optimizer_class": self.kind.__name__ if is_known else f"{self.kind.__module__}.{self.kind.__qualname__}",
            "optimizer_groups": [group.names for group in groups] if len(groups) > 1 else None,
        }

    def __str__(self) -> str:
        """In words: the class and the options that are not its defaults, group by group where there are several."""
        if self.bound is None or len(self.bound.param_groups) == 1:
            return _in_words(self.kind, self.options)
        groups = []
        for group in self.bound.param_groups:
            options = _constructor_options(self.kind, group)
            groups.append(f"{len(group['params'])} parameters: {_listed(self.kind, options)}")
        return f"{self.kind.__name__}({'; '.join(groups)})"


def stated_rate(optimizer: Any) -> float | None:
    """The learning rate that an optimiser states itself; None where it leaves it to `learning_rate`."""
    rate = _parts(optimizer)[1].get("lr")
    return None if rate is None else float(rate)


def defaults_of(kind: type) -> dict[str, Any]:
    """The options of a class of optimisers that are not given to it."""
    parameters = list(inspect.signature(kind).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters}


def _parts(optimizer: Any) -> tuple[type[torch.optim.Optimizer], dict[str, Any], torch.optim.Optimizer | None]:
    """The class, its options, and the object where it is bound to parameters."""
    if isinstance(optimizer, OptimizerChoice):
        return optimizer.kind, {**optimizer.options, "lr": optimizer.learning_rate}, optimizer.bound
    if isinstance(optimizer, str):
        known = kinds_by_name()
        return known[checks.choice("optimizer", optimizer, known)], {}, None
    if isinstance(optimizer, torch.optim.Optimizer):
        options = _constructor_options(type(optimizer), optimizer.param_groups[0])
        if "lr" in options:
            options["lr"] = _leading_rate(optimizer)
        return type(optimizer), options, optimizer
    if isinstance(optimizer, PyroOptim):
        return _parts_of_pyros(optimizer)
    kind: Any = optimizer
    options = {}
    while isinstance(kind, partial):
        if kind.args:
            raise ValueError("optimizer is a partial with positional arguments: give its options by keyword alone")
        kind, options = kind.func, {**kind.keywords, **options}
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise TypeError(f"optimizer must be an optimiser of torch's or Pyro's, got {optimizer!r}: {WAYS}")
    return kind, options, None


def _leading_rate(optimizer: torch.optim.Optimizer) -> float:
    """The rate of the first group that moves; 0 where none does."""
    rates = [checks.positive("the optimizer's lr", float(group["lr"]), zero=True) for group in optimizer.param_groups]
    return next((rate for rate in rates if rate > 0), 0.0)


def _has_taken_steps(choice: OptimizerChoice) -> bool:
    """Whether its state is another than that of a new one, which some classes have from their constructor on."""
    assert choice.bound is not None
    state_of = {p: state for p, state in choice.bound.state.items() if state}
    if not state_of:
        return False
    groups = choice.bound.param_groups
    new = choice.made([{"params": group["params"], **_constructor_options(choice.kind, group)} for group in groups])
    new_state_of = {p: state for p, state in new.state.items() if state}
    if state_of.keys() != new_state_of.keys():
        return True
    return any(not _is_same_state(state, new_state_of[p]) for p, state in state_of.items())


def _is_same_state(state: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if state.keys() != other.keys():
        return False
    for name, value in state.items():
        if not isinstance(value, Tensor):
            if value != other[name]:
                return False
        elif value.shape != other[name].shape or not same_values(value, other[name].to(value.device)):
            return False
    return True


def _parts_of_pyros(optimizer: Any) -> tuple[type[torch.optim.Optimizer], dict[str, Any], None]:
    name = type(optimizer).__name__
    kind: Any = optimizer.pt_optim_constructor
    if type(optimizer) is not PyroOptim or not isinstance(kind, type):
        raise TypeError(f"optimizer is a {name} of Pyro's, and no optimiser alone: {WAYS}; schedule= is for rates")
    if callable(optimizer.pt_optim_args):
        raise TypeError(
            "optimizer takes its options from a function of a parameter's name, which Pyro's store has: give a "
            "dictionary, or torch's optimiser with a group for each set of options"
        )
    if optimizer.pt_clip_args:
        raise ValueError(
            "optimizer has clip_args, which clip each parameter by itself: leave them out, and give clip_norm=, the "
            "norm of all gradients"
        )
    if optimizer.optim_objs:
        raise ValueError("optimizer has taken steps, and a fit begins with a new one: make it anew")
    return kind, dict(optimizer.pt_optim_args), None


def _constructor_options(kind: type, group: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a group that its class is made with, as it was made."""
    known = inspect.signature(kind).parameters
    return {name: value for name, value in group.items() if name in known and name != "params" and value is not None}


def _in_words(kind: type, options: Mapping[str, Any]) -> str:
    listed = _listed(kind, options)
    return f"{kind.__name__}({listed})" if listed else kind.__name__


def _listed(kind: type, options: Mapping[str, Any]) -> str:
    """The options that are not the defaults."""
    defaults = defaults_of(kind)
    shown = {name: value for name, value in options.items() if name not in HOW and value != defaults.get(name)}
    return ", ".join(f"{name}={value!r}" for name, value in sorted(shown.items()))
