"""A function of tensors as one graph: captured, its constants and noise taken out, compiled."""

from __future__ import annotations

import logging
import operator
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae.aliases import base_of, overlapping, views
from pyrovae.exclusive import exclusive
from pyrovae.warned import hushed

__all__ = ["Program", "blind", "capture", "pays", "programmed", "summary", "unmoved", "with_gradient"]

log = logging.getLogger(__name__)

# what a compiled step saves and costs, as measured by analysis/throughput.py on two cores
SAVED_A_STEP = 1.5e-3  # s: Python's and Pyro's own time
SAVED_AN_ELEMENT = 2.5e-9  # s: of what layers put out and take back, fused
COMPILED_IN = 30.0  # s, a step, with nothing cached
READS = ("item", "tolist", "numpy", "__array__", "__float__", "__int__", "__bool__", "__index__", "__complex__")


aten = torch.ops.aten
SHAPED: dict[Any, str] = {  # what they make depends on the shape of their argument alone
    aten.empty_like.default: "",
    aten.new_empty.default: "",
    aten.zeros_like.default: "zero_",
    aten.new_zeros.default: "zero_",
    aten.rand_like.default: "uniform_",
    aten.randn_like.default: "normal_",
}


def pays(steps: int, elements: int) -> bool:
    """Whether compiled steps save more time than their compilation takes; all layers put out `elements` a step."""
    return steps * (SAVED_A_STEP + SAVED_AN_ELEMENT * elements) > COMPILED_IN


@contextmanager
def blind(refusal: Callable[[], Exception]) -> Iterator[None]:
    """Raise `refusal()` where the body hands the value of a tensor to Python: a graph would keep it for ever."""
    with _Reading(refusal), _Depending(refusal):
        yield


@contextmanager
def unmoved(refusal: Callable[[], Exception]) -> Iterator[None]:
    """Raise `refusal()` where the body draws from Python's or NumPy's generator: a graph would draw once for all."""
    python, before = random.getstate(), cast(Any, np.random.get_state())
    yield
    after = cast(Any, np.random.get_state())
    if random.getstate() != python or before[2:] != after[2:] or not np.array_equal(before[1], after[1]):
        random.setstate(python)
        np.random.set_state(before)
        raise refusal()


class _Reading(TorchFunctionMode):
    """By Python."""

    def __init__(self, refusal: Callable[[], Exception]) -> None:
        super().__init__()
        self.refusal = refusal

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "__bool__" and _of_validation(sys._getframe(1)):
            return True  # of arguments and values that the eager evaluation before has seen
        made = func in (torch.tensor, torch.as_tensor) and isinstance(args[0] if args else None, list | tuple)
        if getattr(func, "__name__", "") in READS or (made and _holds_tensor(args[0])):
            raise self.refusal()
        return func(*args, **(kwargs or {}))


def _of_validation(frame: Any) -> bool:
    """Whether a distribution asks there whether its arguments, or a value of its own, are within their support.

    One that was made elsewhere, or with validate_args=True, does so whatever the default is; its flag is left alone,
    for it may be in use by others.
    """
    while isinstance(frame.f_locals.get("self"), Constraint):
        frame = frame.f_back
    if frame.f_code is Distribution.__init__.__code__:
        return True
    return frame.f_code.co_name == "_validate_sample" and isinstance(frame.f_locals.get("self"), Distribution)


class _Depending(TorchDispatchMode):
    """By torch itself, as a size, a fill or a comparison."""

    def __init__(self, refusal: Callable[[], Exception]) -> None:
        super().__init__()
        self.refusal = refusal

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in func.tags:
            raise self.refusal()
        return func(*args, **(kwargs or {}))


def _holds_tensor(values: Any) -> bool:
    return isinstance(values, Tensor) or (isinstance(values, list | tuple) and any(map(_holds_tensor, values)))


def capture(function: Callable[..., Any], inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The operations of `function(*inputs)` on tensors; it runs once, on the inputs themselves.

    A tensor of `inputs` is an input of the graph wherever it turns up, also where `function` reaches it by another way,
    such as a module's parameter; none may stand there twice. Raises what torch raises for a step whose course depends
    on a value.
    """
    if len({id(x) for x in inputs}) < len(inputs):
        raise ValueError("a tensor is two inputs at once: the graph could not tell them apart later; hand in copies")
    # without a mode to share, torch makes one for the shape of each operation: half of a capture's time
    shapes = tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))
    with exclusive(), shapes, torch.autograd.set_multithreading_enabled(False):
        graph = make_fx(function, tracing_mode="real")(*inputs)
    _masks_to_indices(graph)
    return graph


def _masks_to_indices(graph: fx.GraphModule) -> None:
    """Put numbers in place of masks that depend on no input, as of a triangle: they fix the shape of what they pick."""
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


def drawn(node: fx.Node) -> bool:
    """Whether it takes numbers from a random generator."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _writes(node: fx.Node) -> bool:
    """Whether it changes one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def _is_written(node: fx.Node) -> bool:
    """Whether it is changed where it lies, or through a view of it."""
    onward = [user for user in node.users if user.args and user.args[0] is node]
    return any(_writes(user) or (_is_view(user) and _is_written(user)) for user in onward)


def _is_view(node: fx.Node) -> bool:
    """Whether it may share memory with its first argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(one.alias_info is not None for one in schema.returns)


def _fixed(node: fx.Node) -> Tensor | None:
    """What a node is whatever the inputs are; None where it depends on them, on a tensor that is held, or on chance."""
    if node.op != "call_function" or drawn(node) or _is_written(node):
        return None
    values = {}
    for one in node.all_input_nodes:
        values[one] = _fixed(one)
        if values[one] is None:
            return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    found = node.target(*args, **kwargs)  # type: ignore[operator]
    return found if isinstance(found, Tensor) else None


def constants_to_inputs(graph: fx.GraphModule) -> list[Tensor]:
    """Make the tensors that the graph holds inputs of it, after those it has: they keep their addresses.

    So a module's buffers are read, and changed, where they are.
    """
    held, names = list[Tensor](), set[str]()
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        value = operator.attrgetter(node.target)(graph)
        place = next((i for i, other in enumerate(held) if other is value), None)
        if place is None:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(f"held_{len(held)}")
            held.append(value)
            made = last
        else:
            made = next(n for n in graph.graph.nodes if n.op == "placeholder" and n.target == f"held_{place}")
        node.replace_all_uses_with(made)
        graph.graph.erase_node(node)
        names.add(node.target)
    for name in names:  # which a compiler would take for further inputs, in the same memory
        if hasattr(graph, name):
            delattr(graph, name)
    graph.recompile()
    return held


def aliases_to_views(graph: fx.GraphModule, lasting: dict[int, Tensor]) -> tuple[list[int], list[Tensor]]:
    """Read inputs that share memory, one of which is written, as views of one tensor each: a further, last input.

    `lasting`: the inputs that keep their addresses, by place. A compiler takes each input for memory of its own, so
    that a read of one could come after the write to another that followed it. Gives the places of the inputs that are
    gone, and what the new ones are.
    """
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    places, gone, bases = list(lasting), list[int](), list[Tensor]()
    last, begin = placeholders[-1], placeholders[-1].next
    for group in overlapping(list(lasting.values())):
        members = [places[i] for i in group]
        if not any(_is_written(placeholders[i]) for i in members):
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
    """Take out what draws from random generators: a function that draws it eagerly, for further inputs of `graph`.

    It draws what the captured function would have drawn, in its order. None where a draw depends on a value, and all of
    them stay in the graph.
    """
    nodes = list(graph.graph.nodes)
    wanted: set[fx.Node] = set()
    stack = [node for node in nodes if drawn(node)]
    while stack:
        node = stack.pop()
        if node in wanted:
            continue
        if node.op != "call_function" or (_writes(node) and not drawn(node)):
            return None
        wanted.add(node)
        if node.target not in SHAPED:
            stack += node.all_input_nodes
    place = {node: i for i, node in enumerate(nodes)}
    for node in wanted:  # a tensor that is filled is not read before, and filled once
        fills = [user for user in node.users if user in wanted and _writes(user) and user.args[0] is node]
        if len(fills) > 1 or (fills and any(place[user] < place[fills[0]] for user in node.users)):
            return None
        if fills and any(_writes(user) for user in node.users if user not in wanted):
            return None
    noise, made = fx.Graph(), {}
    for node in (node for node in nodes if node in wanted):
        if node.target in SHAPED:
            meta = node.meta["tensor_meta"]
            options = {"dtype": meta.dtype, "device": node.kwargs.get("device") or device}
            empty = noise.call_function(torch.empty_strided, (tuple(meta.shape), tuple(meta.stride)), options)
            fill = SHAPED[node.target]
            made[node] = noise.call_method(fill, (empty,)) if fill else empty
        else:
            made[node] = noise.node_copy(node, made.__getitem__)
    out = [node for node in nodes if node in wanted and any(user not in wanted for user in node.users)]
    noise.output([made[node] for node in out])
    last = [node for node in nodes if node.op == "placeholder"][-1]
    for number, node in enumerate(out):
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"noise_{number}")
        node.replace_all_uses_with(last, delete_user_cb=lambda user: user not in wanted)
    for node in reversed([node for node in nodes if node in wanted]):
        graph.graph.erase_node(node)
    graph.recompile()
    draw: Callable[[], Sequence[Tensor]] = fx.GraphModule({}, noise).forward
    return draw


def compiled(graph: fx.GraphModule, inputs: Sequence[Tensor], *, keep_noise: bool = False) -> Callable[..., Any]:
    """The graph through inductor: a function of inputs like these, which gives a list of what the graph does.

    With `keep_noise` what it draws comes from torch's generators.
    """
    options: dict[str, Any] = {"size_asserts": False}  # of what inductor itself has planned, in each call
    if keep_noise:
        options["fallback_random"] = True
    with exclusive(), torch.no_grad(), hushed(FutureWarning), _quiet("torch.utils.cpp_extension"):
        done: Callable[..., Any] = torch._inductor.compile(graph, list(inputs), options=options)
    return done


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without that logger's warnings, as of a CUDA that is not there and that nobody asked for."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class Program:
    """A captured graph, compiled or left to torch: called with tensors like `inputs`, it gives a list.

    Tensors that the graph holds stay where they are and are read there, as are the first `lasting` inputs, which are
    the same tensors in each call and may share memory; its noise is drawn eagerly, from torch's generators and in
    eager's order.
    """

    def __init__(
        self, graph: fx.GraphModule, inputs: Sequence[Tensor], *, compile: bool = True, lasting: int = 0
    ) -> None:
        self.kind = _kind(inputs)
        self.held = constants_to_inputs(graph)
        fixed = dict(enumerate(inputs[:lasting])) | dict(enumerate(self.held, len(inputs)))
        placeholders = (node for node in graph.graph.nodes if node.op == "placeholder")
        self.written = [t for t, node in zip([*inputs, *self.held], placeholders, strict=True) if _is_written(node)]
        self._gone, self._bases = aliases_to_views(graph, fixed)
        self.noise = without_noise(graph, inputs[0].device)
        self.run: Callable[..., Any] = graph
        if compile:
            given = [*self._read(inputs), *self._drawn()]
            self.run = compiled(graph, given, keep_noise=self.noise is None)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            found: list[Tensor] = self.run(*self._read(inputs), *self._drawn())
        return found

    def _read(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """All inputs of the graph but its noise."""
        every = [*inputs, *self.held]
        if not self._bases:
            return every
        return [t for i, t in enumerate(every) if i not in self._gone] + self._bases

    def fits(self, *inputs: Tensor) -> bool:
        """Whether these are like those of the capture."""
        return _kind(inputs) == self.kind

    def _drawn(self) -> Sequence[Tensor]:
        return () if self.noise is None else self.noise()


def _kind(inputs: Sequence[Tensor]) -> list[Any]:
    return [(x.shape, x.stride(), x.dtype, x.device) for x in inputs]


def summary(error: Exception) -> str:
    """Its kind and the first line of what it says."""
    first = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {first}"


def programmed(function: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> Program | None:
    """`function(*inputs)` as a compiled graph for inputs like these; None, with a line in the log, where it is none."""

    def refusal(what: str) -> Callable[[], Exception]:
        return lambda: RuntimeError(f"it {what}, which a graph would keep for ever")

    def watched(*given: Tensor) -> list[Tensor]:
        with unmoved(refusal("draws from Python's or NumPy's generator")), blind(refusal("looks at a value")):
            return function(*given)

    try:
        with torch.enable_grad():
            graph = capture(watched, inputs)
        program = Program(graph, inputs)
        program(*inputs)
    except Exception as error:  # of whatever kind: a compiler that is missing, a folder that cannot be written
        log.warning("runs without a compiled graph (%s)", summary(error))
        return None
    return program


class _Known(torch.autograd.Function):
    """A number whose gradient comes with it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, both: Program) -> Tensor:
        value, gradient = both(z)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # asked for with create_graph: it would be taken for a constant
            raise RuntimeError("a compiled function has no second derivative: differentiate the function itself")
        (gradient,) = ctx.saved_tensors
        return outer[0] * gradient, None


def with_gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Callable[[Tensor], Tensor], bool]:
    """A differentiable function of (P,) to a scalar, its value and gradient compiled together, and whether they are.

    `function` must have no control flow on values and no randomness. It is captured at `at`, whose shape, dtype and
    device every later argument has. Without a compiler that works the function itself comes back, with a line in the
    log. A second derivative raises RuntimeError.
    """

    def both(z: Tensor) -> list[Tensor]:
        leaf = z.detach().requires_grad_()
        value = function(leaf)
        return [value.detach(), *torch.autograd.grad(value, leaf)]

    program = programmed(both, [at.detach()])
    return (function, False) if program is None else (lambda z: _Known.apply(z, program), True)
