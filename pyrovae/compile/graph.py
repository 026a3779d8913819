"""Capture of a function of tensors as one graph, in which constants, shared memory and noise are inputs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.compile.aliases import base_of, overlapping, views
from pyrovae.exclusive import compiling

__all__ = ["aliases_to_views", "capture", "constants_to_inputs", "is_written", "without_noise"]

aten = torch.ops.aten
SHAPED: dict[Any, str] = {  # operations that read the shape of their argument and never its values
    aten.empty_like.default: "",
    aten.new_empty.default: "",
    aten.zeros_like.default: "zero_",
    aten.new_zeros.default: "zero_",
    aten.rand_like.default: "uniform_",
    aten.randn_like.default: "normal_",
}


def capture(function: Callable[..., Any], inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The operations of `function(*inputs)` on tensors; it runs once, on the inputs themselves.

    A tensor of `inputs` is an input of the graph wherever it turns up, also where `function` reaches it by another way,
    such as a module's parameter; the same tensor may be listed only once. Raises what torch raises for a step
    whose course depends on a value.
    """
    if len({id(x) for x in inputs}) < len(inputs):
        raise ValueError("a tensor is two inputs at once: the graph could not tell them apart later; hand in copies")
    # without a mode to share, torch makes one for the shape of each operation: half of a capture's time
    shapes = tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))
    # each rewriting of a graph writes its Python code anew, unless it waits for somebody who runs it
    with compiling(), shapes, torch.autograd.set_multithreading_enabled(False), _use_lazy_graph_module(True):
        graph = make_fx(function, tracing_mode="real")(*inputs)
    _masks_to_indices(graph)
    return graph


def _masks_to_indices(graph: fx.GraphModule) -> None:
    """Replace masks that depend on no input, as of a triangle, by indices, which fix the shape of the result."""
    for node in list(graph.graph.nodes):
        if node.target not in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default):
            continue
        picks: list[Any] = []
        for pick in node.args[1]:
            mask = _fixed(pick) if isinstance(pick, fx.Node) else None
            if mask is None or mask.dtype != torch.bool:
                picks.append(pick)
                continue
            for index in mask.nonzero(as_tuple=True):
                name = f"index_{len(list(graph.named_buffers()))}"
                graph.register_buffer(name, index)
                with graph.graph.inserting_before(node):
                    picks.append(graph.graph.get_attr(name))
        node.args = (node.args[0], picks, *node.args[2:])
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _draws(node: fx.Node) -> bool:
    """Whether a node takes numbers from a random generator."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _writes(node: fx.Node) -> bool:
    """Whether a node changes one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def is_written(node: fx.Node) -> bool:
    """Whether a node's tensor is changed in place, or through a view."""
    onward = [user for user in node.users if user.args and user.args[0] is node]
    return any(_writes(user) or (_is_view(user) and is_written(user)) for user in onward)


def _is_view(node: fx.Node) -> bool:
    """Whether a node may share memory with its first argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(one.alias_info is not None for one in schema.returns)


def _fixed(node: fx.Node) -> Tensor | None:
    """The value of a node that is the same for all inputs; None where it depends on inputs, constants or noise."""
    if node.op != "call_function" or _draws(node) or is_written(node):
        return None
    values = {}
    for one in node.all_input_nodes:
        values[one] = _fixed(one)
        if values[one] is None:
            return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    value = node.target(*args, **kwargs)  # type: ignore[operator]
    return value if isinstance(value, Tensor) else None


def constants_to_inputs(graph: fx.GraphModule) -> list[Tensor]:
    """Make the constants of the graph further inputs of it, so that they keep their addresses.

    So a module's buffers are read, and changed, where they are.
    """
    constants, names = list[Tensor](), set[str]()
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        value = operator.attrgetter(node.target)(graph)
        place = next((i for i, other in enumerate(constants) if other is value), None)
        if place is None:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(f"held_{len(constants)}")
            last.meta = dict(node.meta)
            constants.append(value)
            node_of_value = last
        else:
            node_of_value = next(n for n in graph.graph.nodes if n.op == "placeholder" and n.target == f"held_{place}")
        node.replace_all_uses_with(node_of_value)
        graph.graph.erase_node(node)
        names.add(node.target)
    for name in names:  # a compiler would take attributes that are left for further inputs, in the same memory
        if hasattr(graph, name):
            delattr(graph, name)
    graph.recompile()
    return constants


def aliases_to_views(graph: fx.GraphModule, lasting: dict[int, Tensor]) -> tuple[list[int], list[Tensor]]:
    """Read inputs that share memory, one of which is written, as views of one tensor each: a further, last input.

    `lasting`: the inputs that keep their addresses, by place. A compiler takes each input for memory of its own
    and may move a read of one input past a later write to the memory that it shares with another. Gives the places of
    the inputs that are gone, and what the new ones are.
    """
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    places, gone, bases = list(lasting), list[int](), list[Tensor]()
    last, begin = placeholders[-1], placeholders[-1].next
    for group in overlapping(list(lasting.values())):
        members = [places[i] for i in group]
        if not any(is_written(placeholders[i]) for i in members):
            continue
        base, begins = base_of([lasting[i] for i in members])
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"base_{len(bases)}")
        for i, offset in zip(members, begins, strict=True):
            view = last
            with graph.graph.inserting_before(begin):
                for step, args in views(lasting[i], base.numel(), offset):
                    view = graph.graph.call_function(step, (view, *args))
            view.meta = dict(placeholders[i].meta)
            placeholders[i].replace_all_uses_with(view)
            graph.graph.erase_node(placeholders[i])
        gone += members
        bases.append(base)
    graph.recompile()
    return gone, bases


def without_noise(graph: fx.GraphModule, device: torch.device) -> Callable[[], Sequence[Tensor]] | None:
    """Turn the noise of the graph into further inputs, and return a function that draws it eagerly.

    It draws what the captured function would have drawn, in its order. Where one draw depends on an input, the graph is
    left as it is and None is returned.
    """
    nodes = list(graph.graph.nodes)
    draws = _draws_and_their_arguments(nodes)
    if draws is None or not _are_filled_once(nodes, draws):
        return None
    noise, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in nodes:
        if node not in draws:
            continue
        if node.target in SHAPED:
            meta = node.meta["tensor_meta"]
            options = {"dtype": meta.dtype, "device": node.kwargs.get("device") or device}
            empty = noise.call_function(torch.empty_strided, (tuple(meta.shape), tuple(meta.stride)), options)
            fill = SHAPED[node.target]
            copies[node] = noise.call_method(fill, (empty,)) if fill else empty
        else:
            copies[node] = noise.node_copy(node, copies.__getitem__)
    read = [node for node in nodes if node in draws and any(user not in draws for user in node.users)]
    noise.output([copies[node] for node in read])
    last = [node for node in nodes if node.op == "placeholder"][-1]
    for number, node in enumerate(read):
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"noise_{number}")
        last.meta = dict(node.meta)
        node.replace_all_uses_with(last, delete_user_cb=lambda user: user not in draws)
    for node in reversed([node for node in nodes if node in draws]):
        graph.graph.erase_node(node)
    graph.recompile()
    draw: Callable[[], Sequence[Tensor]] = fx.GraphModule({}, noise).forward
    return draw


def _draws_and_their_arguments(nodes: list[fx.Node]) -> set[fx.Node] | None:
    """The nodes that draw, with those that they are computed from; None where one of these is an input or a write."""
    draws: set[fx.Node] = set()
    stack = [node for node in nodes if _draws(node)]
    while stack:
        node = stack.pop()
        if node in draws:
            continue
        if node.op != "call_function" or (_writes(node) and not _draws(node)):
            return None
        draws.add(node)
        if node.target not in SHAPED:
            stack += node.all_input_nodes
    return draws


def _are_filled_once(nodes: list[fx.Node], draws: set[fx.Node]) -> bool:
    """Whether each tensor that a draw fills has no use before it, is filled once, and is not written to later."""
    place = {node: i for i, node in enumerate(nodes)}
    for node in draws:
        fills = [user for user in node.users if user in draws and _writes(user) and user.args[0] is node]
        if len(fills) > 1 or (fills and any(place[user] < place[fills[0]] for user in node.users)):
            return False
        if fills and any(_writes(user) for user in node.users if user not in draws):
            return False
    return True
