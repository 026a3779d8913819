"""log1p, expm1 and what contains them, in a graph, as arithmetic that a compiler vectorises: `pyrovae.arithmetic`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from pyrovae.arithmetic import expm1_near, log1p_near

__all__ = ["notes_for_any_size", "with_arithmetic"]

aten = torch.ops.aten

ELEMENTS = "elements"  # a node's note of how many its result had at the capture
FEW = 1000  # elements, of which a step's logarithms take less time than the arithmetic takes to compile
EVERY = 20.0  # from here on softplus(x) is x in float32, which is torch's own default for it


def with_arithmetic(graph: fx.GraphModule) -> None:
    """Replace log1p, expm1 and what contains them by products, quotients and one exponential, in place.

    Of arguments and results in float32 on a CPU alone, where they have many elements, and within three units of their
    last place.
    """
    tracer = fx.proxy.GraphAppendingTracer(graph.graph)
    is_changed = False
    for node in list(graph.graph.nodes):
        rule = RULES.get(node.target) if node.op == "call_function" else None
        if rule is None or _elements(node) < FEW or not all(map(_is_float32, (node, *node.all_input_nodes))):
            continue
        with graph.graph.inserting_before(node):
            args, kwargs = _mapped((node.args, node.kwargs), lambda one: fx.Proxy(one, tracer))
            before = node.prev
            result = rule(*args, **kwargs)
        if result is None:
            continue
        _to_aten(before, node)
        _put_in_place_of(node, result)
        is_changed = True
    if is_changed:
        graph.graph.eliminate_dead_code()
        graph.recompile()


def notes_for_any_size(node: fx.Node) -> dict[str, Any]:
    """What the rules read of a node, for its copy in a graph of any size of batch, which a shape would belie."""
    first = _first(node)
    return {"val": first.new_empty(0), ELEMENTS: first.numel()} if isinstance(first, torch.Tensor) else {}


def _mapped(arguments: Any, function: Callable[[fx.Node], Any]) -> Any:
    return fx.map_arg(arguments, function)


def _is_float32(node: fx.Node) -> bool:
    """Whether a node has its result, the first where it has several, in float32 on a CPU."""
    first = _first(node)
    return isinstance(first, torch.Tensor) and first.dtype == torch.float32 and first.device.type == "cpu"


def _elements(node: fx.Node) -> int:
    """The number of elements of a node's result: at the capture, where batches may have any size."""
    first = _first(node)
    count: int = node.meta.get(ELEMENTS, first.numel() if isinstance(first, torch.Tensor) else 0)
    return count


def _first(node: fx.Node) -> Any:
    value: Any = node.meta.get("val")
    return value[0] if isinstance(value, (tuple, list)) and value else value


def _to_aten(before: fx.Node, after: fx.Node) -> None:
    """Name the operations between two nodes as a capture does, for a graph with others is in no cache of inductor's."""
    node = before.next
    while node is not after:
        node.op, node.target = "call_function", OPERATIONS[node.target]
        node = node.next


def _put_in_place_of(node: fx.Node, result: Any) -> None:
    if isinstance(result, tuple):  # each user takes one of several results
        for user in list(node.users):
            assert user.target is operator.getitem
            number: Any = user.args[1]
            user.replace_all_uses_with(result[number].node)
            result[number].node.meta = dict(user.meta)
            node.graph.erase_node(user)
    else:
        node.replace_all_uses_with(result.node)
        result.node.meta = dict(node.meta)
    node.graph.erase_node(node)


def _log1p(x: Any) -> Any:
    is_near = (x >= -0.5) & (x <= 1.0)
    return torch.where(is_near, log1p_near(x), (x + 1.0).log())


def _expm1(x: Any) -> Any:
    return torch.where(x.abs() <= 0.5, expm1_near(x), x.exp() - 1.0)


def _of_size(x: Any) -> Any:
    """log(1 + exp(-|x|))."""
    return log1p_near((-x.abs()).exp())


def _softplus(x: Any, beta: float = 1, threshold: float = 20) -> Any:
    scaled = x if beta == 1 else x * beta
    value = scaled.clamp(min=0.0) + _of_size(scaled)
    value = value if beta == 1 else value / beta
    return value if threshold >= EVERY else torch.where(scaled > threshold, x, value)


def _log_sigmoid(x: Any) -> tuple[Any, Any]:
    """The value, and what torch keeps for its derivative on a CPU."""
    kept = (-x.abs()).exp()
    return x.clamp(max=0.0) - log1p_near(kept), kept


def _binary_cross_entropy(
    x: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: int = 1
) -> Any | None:
    if weight is not None or pos_weight is not None or reduction != 0:
        return None
    return x.clamp(min=0.0) - x * target + _of_size(x)


def _logaddexp(a: Any, b: Any) -> Any:
    larger = torch.maximum(a, b)
    return torch.where(larger.isinf(), larger, larger + _of_size(a - b))


def _elu(x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    scaled = x if input_scale == 1 else x * input_scale
    return torch.where(x > 0, x * scale, _expm1(scaled) * (alpha * scale))


RULES: dict[Any, Callable[..., Any]] = {
    aten.log1p.default: _log1p,
    aten.expm1.default: _expm1,
    aten.softplus.default: _softplus,
    aten.log_sigmoid_forward.default: _log_sigmoid,
    aten.binary_cross_entropy_with_logits.default: _binary_cross_entropy,
    aten.logaddexp.default: _logaddexp,
    aten.elu.default: _elu,
}
OPERATIONS: dict[Any, Any] = {  # by what the rules are written in
    operator.add: aten.add.Tensor,
    operator.sub: aten.sub.Tensor,
    operator.mul: aten.mul.Tensor,
    operator.truediv: aten.div.Tensor,
    operator.neg: aten.neg.default,
    operator.and_: aten.bitwise_and.Tensor,
    operator.ge: aten.ge.Scalar,
    operator.le: aten.le.Scalar,
    operator.gt: aten.gt.Scalar,
    torch.where: aten.where.self,
    torch.maximum: aten.maximum.default,
    "abs": aten.abs.default,
    "exp": aten.exp.default,
    "log": aten.log.default,
    "clamp": aten.clamp.default,
    "isinf": aten.isinf.default,
}
