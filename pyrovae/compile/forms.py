"""Captured graphs as rows of plain values, and what those of two sizes of batch have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

__all__ = ["Apart", "At", "Form", "Line", "Number", "dimension_of_size", "follows", "rules_for"]


class At(NamedTuple):
    """The place of a node in its graph."""

    place: int


class Line(NamedTuple):
    """An integer that is `slope * size + start` in a batch of `size`."""

    slope: int
    start: int


class Number(NamedTuple):
    """A floating-point number that goes with the size: an input of the compiled graph."""


class Form:
    """A captured graph and its inputs as rows of plain values, by which it is compared with another."""

    def __init__(self, graph: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
        self.graph, self.shapes = graph, [x.shape for x in inputs]
        self.devices = {x.device for x in inputs}
        nodes = list(graph.graph.nodes)
        places = {node: At(place) for place, node in enumerate(nodes)}
        self.heads = [(node.op, _head(node)) for node in nodes]
        self.rows, self.structures = list[list[Any]](), list[Any]()
        for node in nodes:
            arguments = (node.args, node.kwargs) if node.op != "placeholder" else ()
            row, structure = pytree.tree_flatten(fx.map_arg(arguments, places.__getitem__), _is_leaf)
            self.rows.append(row)
            self.structures.append(structure)
        for x in inputs:
            strides: Any = x.stride() if x.layout == torch.strided else [object()]  # equal to no other
            self.rows.append([x.dtype, x.device, *x.shape, *strides])
        self.ranks = [len(shape) for shape in self.shapes]

    def numbers(self, rules: list[list[Any]]) -> list[float]:
        """The numbers that go with the size."""
        pairs = zip(self.rows, rules, strict=True)
        return [x for row, rule in pairs for x, how in zip(row, rule, strict=True) if type(how) is Number]


class Apart(Exception):  # noqa: N818
    """Two captures that are not one graph."""


def dimension_of_size(one: Form, other: Form, first: int) -> tuple[int, int] | None:
    """The first dimension of an input, from the `first` on, that the two have of unlike sizes."""
    for place, (a, b) in enumerate(zip(one.shapes, other.shapes, strict=False)):
        if place >= first and len(a) == len(b):
            for dim, (m, n) in enumerate(zip(a, b, strict=True)):
                if m != n:
                    return place, dim
    return None


def rules_for(a: list[Any], b: list[Any], sizes: list[int]) -> list[Any]:
    """What each value of a row follows, given the row at two sizes."""
    if len(a) != len(b):
        raise Apart
    rules: list[Any] = []
    for x, y in zip(a, b, strict=True):
        if _equal(x, y):
            rules.append(x)
        elif type(x) is int is type(y) and not (x - y) % (sizes[0] - sizes[1]):
            slope = (x - y) // (sizes[0] - sizes[1])
            rules.append(Line(slope, x - slope * sizes[0]))
        elif type(x) is float is type(y):
            rules.append(Number())
        else:
            raise Apart
    return rules


def follows(x: Any, rule: Any, size: int) -> bool:
    """Whether a value is what its rule says for a size."""
    if type(rule) is Line:
        return type(x) is int and x == rule.slope * size + rule.start
    if type(rule) is Number:
        return type(x) is float
    return _equal(x, rule)


def _head(node: fx.Node) -> Any:
    """What a node does; what it gets by name, or a name by which it is known, is not that."""
    if node.op == "get_attr":
        return object()  # equal to no other
    return None if node.op in ("placeholder", "output") else node.target


def _is_leaf(x: Any) -> bool:
    return isinstance(x, At | torch.Size)


def _equal(x: Any, y: Any) -> bool:
    if type(x) is not type(y):
        return False
    return x.hex() == y.hex() if type(x) is float else bool(x == y)
