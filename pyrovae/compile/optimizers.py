"""One step of each optimiser as a function of tensors, for compiled graphs; states have the layout of torch's."""

from __future__ import annotations

from typing import Any

import pyro.optim.clipped_adam
import torch
from torch import Tensor

__all__ = ["Rule", "kinds_by_name", "register_rule", "rule_of", "supported_names"]

Group = dict[str, Any]
State = dict[str, Tensor]


class Rule:
    """The update of one parameter by one optimiser of torch's or Pyro's.

    `optimizer_class` is the class whose groups and state are kept, so that a state is saved and loaded in its layout.
    A subclass gives the new value of a parameter and of its state; all else about the optimiser follows from these.
    """

    optimizer_class: type[torch.optim.Optimizer]
    options: frozenset[str]  # of a group: those that a graph holds as constants
    state: tuple[str, ...]  # what torch's state has of a parameter, beside the count of steps
    decoupled_weight_decay = False  # whether weights decay apart from the gradient, as AdamW's do

    def state_of(self, group: Group) -> tuple[str, ...]:
        """The names of the state that a group's options ask for."""
        return self.state

    def scalars(self, group: Group, rate: Tensor, count: Tensor) -> list[Tensor]:
        """What all entries of a parameter share at its `count`-th step, such as bias corrections, in float64."""
        raise NotImplementedError

    def update(self, p: Tensor, g: Tensor, state: State, scalars: list[Tensor], group: Group) -> tuple[Tensor, State]:
        """The new value of a parameter with gradient `g`, and of its state."""
        raise NotImplementedError

    def next_rate(self, group: Group, rate: Tensor) -> Tensor:
        """The learning rate after a step."""
        return rate

    def changes_rate(self, group: Group) -> bool:
        """Whether the rate changes from step to step."""
        return False

    def stored_step(self, step: Tensor) -> Any:
        """The count of steps as the optimiser keeps it in its state; None where it keeps none."""
        return step.clone()


class Adam(Rule):
    """torch.optim.Adam (Kingma and Ba 2015, algorithm 1): weight decay goes into the gradient."""

    optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam
    options = frozenset({"betas", "eps", "weight_decay"})
    state = ("exp_avg", "exp_avg_sq")

    def scalars(self, group: Group, rate: Tensor, count: Tensor) -> list[Tensor]:
        beta1, beta2 = group["betas"]
        return [rate / (1 - beta1**count), (1 - beta2**count).sqrt()]

    def update(self, p: Tensor, g: Tensor, state: State, scalars: list[Tensor], group: Group) -> tuple[Tensor, State]:
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        return self._moved(p, g, state, scalars, group)

    def _moved(self, p: Tensor, g: Tensor, state: State, scalars: list[Tensor], group: Group) -> tuple[Tensor, State]:
        beta1, beta2 = group["betas"]
        step_size, bias2_sqrt = scalars
        first = state["exp_avg"].lerp(g, 1 - beta1)
        second = state["exp_avg_sq"] * beta2 + g * g * (1 - beta2)
        moved = p - step_size * first / (second.sqrt() / bias2_sqrt + group["eps"])
        return moved, {"exp_avg": first, "exp_avg_sq": second}


class AdamW(Adam):
    """torch.optim.AdamW (Loshchilov and Hutter 2019, algorithm 2): weights decay apart from the gradient."""

    optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW
    decoupled_weight_decay = True

    def scalars(self, group: Group, rate: Tensor, count: Tensor) -> list[Tensor]:
        return [(1 - rate * group["weight_decay"]).expand_as(count), *super().scalars(group, rate, count)]

    def update(self, p: Tensor, g: Tensor, state: State, scalars: list[Tensor], group: Group) -> tuple[Tensor, State]:
        decayed = p * scalars[0] if group["weight_decay"] else p
        return self._moved(decayed, g, state, scalars[1:], group)


class ClippedAdam(Rule):
    """pyro.optim.ClippedAdam: each entry of the gradient is clipped, and the rate decays by `lrd` in each step."""

    optimizer_class = pyro.optim.clipped_adam.ClippedAdam
    options = frozenset({"betas", "eps", "weight_decay", "clip_norm", "lrd", "centered_variance"})
    state = ("exp_avg", "exp_avg_sq")

    def scalars(self, group: Group, rate: Tensor, count: Tensor) -> list[Tensor]:
        beta1, beta2 = group["betas"]
        return [rate * group["lrd"] * (1 - beta2**count).sqrt() / (1 - beta1**count)]

    def update(self, p: Tensor, g: Tensor, state: State, scalars: list[Tensor], group: Group) -> tuple[Tensor, State]:
        g = g.clamp(-group["clip_norm"], group["clip_norm"])
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        beta1, beta2 = group["betas"]
        first = state["exp_avg"] * beta1 + g * (1 - beta1)
        deviation = g - first if group["centered_variance"] else g
        second = state["exp_avg_sq"] * beta2 + deviation * deviation * (1 - beta2)
        moved = p - scalars[0] * first / (second.sqrt() + group["eps"])  # the floor is not corrected for bias
        return moved, {"exp_avg": first, "exp_avg_sq": second}

    def next_rate(self, group: Group, rate: Tensor) -> Tensor:
        return rate * group["lrd"]

    def changes_rate(self, group: Group) -> bool:
        return True

    def stored_step(self, step: Tensor) -> Any:
        return int(step)


class SGD(Rule):
    """torch.optim.SGD with its momentum, dampening, Nesterov's step and weight decay."""

    optimizer_class = torch.optim.SGD
    options = frozenset({"weight_decay", "momentum", "dampening", "nesterov"})
    state = ("momentum_buffer",)

    def state_of(self, group: Group) -> tuple[str, ...]:
        return self.state if group["momentum"] else ()

    def scalars(self, group: Group, rate: Tensor, count: Tensor) -> list[Tensor]:
        return [rate * torch.ones_like(count), count == 1]

    def update(self, p: Tensor, g: Tensor, state: State, scalars: list[Tensor], group: Group) -> tuple[Tensor, State]:
        rate, is_first = scalars
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        if not group["momentum"]:
            return p - rate * g, {}
        later = state["momentum_buffer"] * group["momentum"] + g * (1 - group["dampening"])
        buffer = torch.where(is_first, g, later)
        direction = g + group["momentum"] * buffer if group["nesterov"] else buffer
        return p - rate * direction, {"momentum_buffer": buffer}

    def stored_step(self, step: Tensor) -> Any:
        return None


_RULES: dict[type[torch.optim.Optimizer], Rule] = {}


def register_rule(rule: Rule) -> None:
    """Let compiled steps take `rule.optimizer_class`, also by the name of the class: `fit(..., optimizer="adam")`.

    A rule of a class of the same qualified name takes the place of an earlier one; ValueError for another class whose
    name is taken. CompiledSVI takes it as a Pyro optimiser of the class.
    """
    for kind in list(_RULES):
        if kind.__name__.lower() != rule.optimizer_class.__name__.lower() or kind is rule.optimizer_class:
            continue
        if (kind.__module__, kind.__qualname__) != (rule.optimizer_class.__module__, rule.optimizer_class.__qualname__):
            raise ValueError(
                f"the name {kind.__name__.lower()!r} is taken by {kind.__module__}.{kind.__qualname__}: give "
                f"{rule.optimizer_class.__module__}.{rule.optimizer_class.__qualname__} another"
            )
        del _RULES[kind]  # the class that an earlier run of the same notebook cell made
    _RULES[rule.optimizer_class] = rule


def kinds_by_name() -> dict[str, type[torch.optim.Optimizer]]:
    """The classes of optimisers that have a rule, by their names in small letters, as `fit(optimizer=...)` takes them.

    >>> from pyrovae.compile.optimizers import kinds_by_name
    >>> kinds_by_name()["adamw"].__name__
    'AdamW'
    """
    return {kind.__name__.lower(): kind for kind in _RULES}


def rule_of(kind: Any) -> Rule | None:
    """The rule of a class of optimisers; None where no compiled step knows it."""
    return _RULES.get(kind)


def supported_names() -> list[str]:
    """The names of the optimisers that compiled steps know."""
    return sorted(kind.__name__ for kind in _RULES)


for _rule in (Adam(), AdamW(), ClippedAdam(), SGD()):
    register_rule(_rule)
