"""States of torch's optimisers, read parameter by parameter, and the matching of their rows to parameters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from pyrovae.compile.optimizers import Rule

__all__ = [
    "REFUSED",
    "Row",
    "as_numbered",
    "matched",
    "name_in_module",
    "options_of",
    "require_layout",
    "require_rule",
    "require_shapes",
    "rows_of",
]

REFUSED = ("amsgrad", "maximize", "differentiable", "decoupled_weight_decay")  # options that no rule has


class Row(NamedTuple):
    """The part of a state that belongs to one parameter."""

    name: str | None
    group: int
    options: dict[str, Any]  # of the group
    state: dict[str, Any]


def rows_of(state: dict[str, Any]) -> list[Row]:
    """The rows of a state in torch's layout, one for each parameter, in the order of its numbers."""
    rows = []
    for number, group in enumerate(state["param_groups"]):
        names = group.get("param_names") or [None] * len(group["params"])
        options = {option: value for option, value in group.items() if option not in ("params", "param_names")}
        for name, at in zip(names, group["params"], strict=True):
            rows.append(Row(name, number, options, state["state"].get(at, {})))
    return rows


def matched(rows: list[Row], names: Sequence[str], group_sizes: list[int]) -> list[Row]:
    """The row of each of these parameters, in their order: by names where the state has any, else by numbers.

    Raises ValueError where the rows are of others.
    """
    if any(row.name is None for row in rows):
        sizes = [*Counter(row.group for row in rows).values()]
        if sizes != group_sizes:
            raise ValueError(f"the state is of groups of {sizes} parameters, and these are {group_sizes}: {names}")
        return rows
    theirs = [row.name or "" for row in rows]
    for known_as in (str, name_in_module):
        by_name = dict(zip(map(known_as, theirs), rows, strict=True))
        wanted = [known_as(name) for name in names]
        if len(by_name) == len(rows) and len(set(wanted)) == len(wanted) and set(wanted) <= set(by_name):
            return [by_name[name] for name in wanted]
    if [name_in_module(name) for name in theirs] != [name_in_module(name) for name in names]:
        raise ValueError(f"the state has the names {theirs}, and these are {names}")
    return rows


def require_layout(state: dict[str, Any]) -> None:
    """Refuse a state that is not in the layout of torch's optimisers."""
    if not {"state", "param_groups"} <= set(state):
        raise ValueError(
            "state must have 'state' and 'param_groups', as state_dict() and torch's optimisers give them, got "
            f"{list(state)[:3]}: a Pyro optimiser's own has a state for each name"
        )


def require_rule(state: dict[str, Any], rule: Rule) -> None:
    """Refuse the state of an optimiser that steps otherwise than this rule."""
    expected = {**dict.fromkeys(REFUSED, False), "decoupled_weight_decay": rule.decoupled_weight_decay}
    for group in state["param_groups"]:
        for name, value in expected.items():
            if bool(group.get(name, value)) is not value:
                raise ValueError(f"the state is of an optimiser with {name}={group[name]!r}, and this has {value}")
    for number, theirs in state["state"].items():
        kinds = sorted(kind for kind, value in theirs.items() if kind != "step" and value is not None)
        if kinds and kinds != sorted(rule.state):
            raise ValueError(
                f"the state of parameter {number} has {kinds}, and {rule.optimizer_class.__name__}'s has "
                f"{list(rule.state)}: it is another optimiser's"
            )


def require_shapes(name: str | None, p: Tensor, state: dict[str, Any]) -> None:
    """Refuse a state whose tensors are not of the parameter's shape: a smaller one would be broadcast to it."""
    for kind, value in state.items():
        if kind != "step" and isinstance(value, Tensor) and value.shape != p.shape:
            raise ValueError(f"{kind!r} of {name!r} has shape {tuple(value.shape)}, and it has {tuple(p.shape)}")


def options_of(group: dict[str, Any]) -> dict[str, Any]:
    """The options of a group that belong to torch's optimiser: without its parameters, and Pyro's clipping."""
    return {k: v for k, v in group.items() if k not in ("params", "param_names") and not k.startswith("gradient_")}


def name_in_module(name: str) -> str:
    """The name of a parameter in its module, without the prefix of Pyro, or of a pair, which has a serial number."""
    return re.sub(r"^(.*\$\$\$|[A-Z]\w*?\d+\.)", "", name)


def as_numbered(name: str) -> list[tuple[int, str]]:
    """A key by which names are sorted as people number them: the 9th before the 10th."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]
