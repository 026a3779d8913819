"""One compiled graph for batches of several sizes: what captures of unlike sizes have in common."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor, fx
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils import _pytree as pytree

from pyrovae.compile import function
from pyrovae.compile.elementary import notes_for_any_size
from pyrovae.compile.errors import summary
from pyrovae.compile.forms import Apart, At, Form, Line, Number, dimension_of_size, follows, rules_for

__all__ = ["SizedGraphs", "sized_graph"]

log = logging.getLogger(__name__)

SEEN = 4  # earlier captures that a new one is compared with

aten = torch.ops.aten
WITH_TENSOR: dict[Any, Any] = {  # operations whose second argument may be a scalar tensor in place of a number
    aten.add.Tensor: aten.add.Tensor,
    aten.sub.Tensor: aten.sub.Tensor,
    aten.mul.Tensor: aten.mul.Tensor,
    aten.div.Tensor: aten.div.Tensor,
    aten.mul.Scalar: aten.mul.Tensor,
    aten.div.Scalar: aten.div.Tensor,
}
FLOATS = (torch.float32, torch.float64)


@dataclass
class SizedGraph:
    """A compiled graph that takes the size of a batch, the numbers that go with it, and the inputs.

    Attributes:
        form: of the capture that it was made from.
        rules: for each value of the form: itself, a `Line`, or a `Number`.
        of_size: the input, and its dimension, that has the size.
        dtypes: of the numbers that go with the size.
        run: the compiled graph.
        shapes: torch's notes of what the compilation took for granted about the size, and the size's symbol.
    """

    form: Form
    rules: list[list[Any]]
    of_size: tuple[int, int]
    dtypes: list[torch.dtype]
    run: Callable[..., Any]
    shapes: tuple[Any, Any]

    def bound(self, form: Form) -> _Bound | None:
        """The compiled graph as a function of inputs of this form; None where it is of another."""
        alike = form.heads == self.form.heads and form.ranks == self.form.ranks
        if not alike or form.structures != self.form.structures:
            return None
        size = form.shapes[self.of_size[0]][self.of_size[1]]
        for row, rule in zip(form.rows, self.rules, strict=True):
            if len(row) != len(rule) or not all(map(follows, row, rule, [size] * len(row))):
                return None
        if not self._takes(size):
            return None
        pairs = zip(form.numbers(self.rules), self.dtypes, strict=True)
        return _Bound(self.run, (size, *[torch.full((), value, dtype=dtype, device="cpu") for value, dtype in pairs]))

    def _takes(self, size: int) -> bool:
        """Whether all that the compilation took for granted is so for this size."""
        environment, symbol = self.shapes
        span = environment.var_to_range[symbol]
        if environment.replace(symbol) != symbol or not span.lower <= size <= span.upper:
            return False
        return all(guard.expr.xreplace({symbol: sympy.Integer(size)}) == sympy.true for guard in environment.guards)


@dataclass(frozen=True)
class _Bound:
    """A graph with its first inputs, as a function of the rest."""

    graph: Callable[..., Any]
    first: tuple[Any, ...]

    def __call__(self, *inputs: Tensor) -> Any:
        return self.graph(*self.first, *inputs)


def sized_graph(
    one: Form, other: Form, compile: Callable[[fx.GraphModule, list[Any]], Callable[..., Any]], first: int
) -> SizedGraph | None:
    """One compiled graph for both forms, captured with batches of unlike sizes, and others; None where there is none.

    The size is that of an input from the `first` on. Where the forms differ by integers, these are linear in the size;
    other numbers become inputs of the graph. Whether a graph of a third size is as this says, `bound` looks at.
    """
    of_size = dimension_of_size(one, other, first)
    if of_size is None or one.heads != other.heads or one.structures != other.structures or one.ranks != other.ranks:
        return None
    sizes = [form.shapes[of_size[0]][of_size[1]] for form in (one, other)]
    if min(sizes) < 2:  # where torch goes other ways
        return None
    try:
        rules = [rules_for(a, b, sizes) for a, b in zip(one.rows, other.rows, strict=True)]
        environment = ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False)
        source = ConstantSource("size")
        symbol = environment.create_symbol(sizes[0], source, dynamic_dim=DimDynamic.DYNAMIC)
        size = environment.create_symintnode(symbol, hint=sizes[0], source=source)
        graph, dtypes = _with_size(one, rules)
    except Apart:
        return None
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=environment):
        fakes = [torch.empty((), dtype=dtype, device="cpu") for dtype in dtypes]
        for rule, rank in zip(rules[len(one.heads) :], one.ranks, strict=True):
            extents: list[Any] = [how.slope * size + how.start if type(how) is Line else how for how in rule]
            shape, strides = extents[2 : 2 + rank], extents[2 + rank :]
            fakes.append(torch.empty_strided(shape, strides, dtype=extents[0], device=extents[1]))
    run = compile(graph, [size, *fakes])
    return SizedGraph(one, rules, of_size, dtypes, run, (environment, symbol))


class SizedGraphs:
    """The compiled graphs of a step, each for batches of several sizes where captures of unlike sizes are one graph.

    Attributes:
        compiles: how many graphs were compiled.
    """

    def __init__(self) -> None:
        self.compiles = 0
        self._known: list[SizedGraph] = []
        self._seen: list[Form] = []  # that none of these served

    def compiled(
        self,
        graph: fx.GraphModule,
        inputs: list[Tensor],
        lasting: int,
        keep_noise: bool,
        at_another_size: Callable[[], Iterator[Form]],
    ) -> Callable[..., Any]:
        """A compiled graph for this capture: one of another size that does the same, or a new one."""
        form = Form(graph, inputs)
        bound = next((bound for known in self._known if (bound := known.bound(form)) is not None), None)
        if bound is None:
            self.compiles += 1
            compile = partial(function.compile_graph, keep_noise=keep_noise)
            others = chain(reversed(self._seen[-SEEN:]), at_another_size())
            bounds = (self._sized(form, other, lasting, compile) for other in others)
            bound = next((bound for bound in bounds if bound is not None), None)
            self._seen.append(form)
        return bound if bound is not None else function.compile_graph(graph, inputs, keep_noise=keep_noise)

    def _sized(
        self, form: Form, other: Form, lasting: int, compile: Callable[[fx.GraphModule, list[Any]], Any]
    ) -> _Bound | None:
        """A new graph for both forms and others; None where there is none."""
        if form.devices | other.devices != {torch.device("cpu")}:
            return None  # elsewhere graphs of any size have not been tried
        try:
            sized = sized_graph(form, other, compile, lasting)
        except Exception as error:  # of whatever kind: inductor's for sizes that are not known
            log.info("is compiled for one size of batch (%s)", summary(error))
            return None
        bound = None if sized is None else sized.bound(form)
        if sized is not None and bound is not None:
            self._known.append(sized)
        return bound


def _with_size(form: Form, rules: list[list[Any]]) -> tuple[fx.GraphModule, list[torch.dtype]]:
    """The graph with the size as first input, then the numbers that go with it; and the dtypes of these."""
    graph, nodes, dtypes = fx.Graph(), list[fx.Node](), list[torch.dtype]()
    size = graph.placeholder("size")
    lines: dict[Line, fx.Node] = {}
    count = sum(type(how) is Number for rule in rules for how in rule)
    numbers = iter([graph.placeholder(f"number_{i}") for i in range(count)])
    olds = list(form.graph.graph.nodes)

    def line(how: Line) -> fx.Node:
        if how not in lines:
            scaled = size if how.slope == 1 else graph.call_function(operator.mul, (size, how.slope))
            lines[how] = scaled if not how.start else graph.call_function(operator.add, (scaled, how.start))
        return lines[how]

    for old, rule, structure in zip(olds, rules, form.structures, strict=False):
        if old.op == "placeholder":
            nodes.append(graph.placeholder(str(old.target)))
            nodes[-1].meta = notes_for_any_size(old)
            continue
        target = old.target
        values = []
        for how in rule:
            if type(how) is At:
                values.append(nodes[how.place])
            elif type(how) is Line:
                values.append(line(how))
            elif type(how) is Number:
                dtypes.append(_dtype_of_number(old))
                target = WITH_TENSOR[old.target]
                values.append(next(numbers))
            else:
                values.append(how)
        args, kwargs = pytree.tree_unflatten(values, structure)
        node = graph.create_node(old.op, target, args, kwargs)
        node.meta = notes_for_any_size(old)
        nodes.append(node)
    return _LazyGraphModule({}, graph), dtypes


def _dtype_of_number(node: fx.Node) -> torch.dtype:
    """The dtype of a scalar tensor that may stand for the second argument of a node."""
    second = len(node.args) == 2 and type(node.args[1]) is float and not node.kwargs
    first = node.args[0] if node.args else None
    if node.target not in WITH_TENSOR or not second or not isinstance(first, fx.Node):
        raise Apart
    meta, of_first = node.meta.get("tensor_meta"), first.meta.get("tensor_meta")
    if meta is None or of_first is None or meta.dtype != of_first.dtype or meta.dtype not in FLOATS:
        raise Apart
    dtype: torch.dtype = meta.dtype
    return dtype
