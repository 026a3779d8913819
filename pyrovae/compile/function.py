"""Compiled pure functions of tensors, for inputs of one kind, with their gradient where it is wanted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

from pyrovae.compile.elementary import with_arithmetic
from pyrovae.compile.errors import summary
from pyrovae.compile.graph import aliases_to_views, capture, constants_to_inputs, is_written, without_noise
from pyrovae.compile.startup import compiled_quickly
from pyrovae.compile.unrepeatable import no_foreign_draws, no_values_read
from pyrovae.exclusive import compiling
from pyrovae.warned import hushed

__all__ = ["CompiledFunction", "Compiler", "compile_function", "compile_graph", "pays", "with_gradient"]

log = logging.getLogger(__name__)

Compiler = Callable[[fx.GraphModule, list[Tensor], int, bool], Callable[..., Any]]

# what a compiled step saves and costs, in processor time of one thread: of training, AIS and IWAE of a 784-400-20
# network
SAVED_A_STEP = 1.5e-3  # s: Python's and Pyro's own time
SAVED_AN_ELEMENT = 1.2e-9  # s: of what layers put out and take back, fused
COMPILED_IN = 9.0  # s, a step, with nothing cached


def pays(steps: int, elements: int) -> bool:
    """Whether compiled steps save more time than compilation takes, if all layers put out `elements` per step."""
    return steps * (SAVED_A_STEP + SAVED_AN_ELEMENT * elements) > COMPILED_IN


def compile_function(function: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> CompiledFunction | None:
    """`function(*inputs)` as a compiled graph for inputs like these; None, with a line in the log, where it is none."""

    def refusal(what: str) -> Callable[[], Exception]:
        return lambda: RuntimeError(f"it {what}, which a graph would keep for ever")

    def repeatable(*values: Tensor) -> list[Tensor]:
        draws, reads = refusal("draws from Python's or NumPy's generator"), refusal("looks at a value")
        with no_foreign_draws(draws), no_values_read(reads):
            return function(*values)

    try:
        with torch.enable_grad():
            graph = capture(repeatable, inputs)
        compiled = CompiledFunction(graph, inputs)
        compiled(*inputs)
    except Exception as error:  # of whatever kind: a compiler that is missing, a folder that cannot be written
        log.warning("runs without a compiled graph (%s)", summary(error))
        return None
    return compiled


def with_gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Callable[[Tensor], Tensor], bool]:
    """A differentiable function of (P,) to a scalar, with value and gradient compiled together, and whether they are.

    `function` must have no control flow on values and no randomness. It is captured at `at`, whose shape, dtype and
    device every later argument has. Without a compiler that works the function itself comes back, with a line in the
    log. A second derivative raises RuntimeError.
    """

    def value_and_gradient(z: Tensor) -> list[Tensor]:
        leaf = z.detach().requires_grad_()
        value = function(leaf)
        return [value.detach(), *torch.autograd.grad(value, leaf)]

    compiled = compile_function(value_and_gradient, [at.detach()])
    if compiled is None:
        return function, False
    return lambda z: _WithGradient.apply(z, compiled), True


class CompiledFunction:
    """A captured graph as a function of tensors like `inputs` to a list of tensors: compiled, or run by torch.

    Tensors that the graph holds stay where they are and are read there, as are the first `lasting` inputs, which are
    the same tensors in each call and may share memory; its noise is drawn eagerly, from torch's generators and in
    eager's order. Without `compile` torch runs the graph, operation by operation. With it `compiler`
    may give another compiled graph: it gets the graph, its inputs, how many of these last, and `keep_noise`.

    Attributes:
        constants: the tensors that the graph holds, as further inputs of it.
        written: those of the inputs and of `constants` that a call writes to.
        is_compiled: whether it is compiled.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        inputs: Sequence[Tensor],
        *,
        compile: bool = True,
        lasting: int = 0,
        compiler: Compiler | None = None,
    ) -> None:
        self._kind = _kind(inputs)
        self.constants = constants_to_inputs(graph)
        fixed = dict(enumerate(inputs[:lasting])) | dict(enumerate(self.constants, len(inputs)))
        placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        both = zip([*inputs, *self.constants], placeholders, strict=True)
        self.written = [t for t, node in both if is_written(node)]
        self._gone, self._bases = aliases_to_views(graph, fixed)
        self._draw_noise = without_noise(graph, inputs[0].device)
        self._run: Callable[..., Any] = graph
        if compile:
            example = [*self._read(inputs), *self._noise()]
            keep_noise = self._draw_noise is None
            if compiler is None:
                self._run = compile_graph(graph, example, keep_noise=keep_noise)
            else:
                self._run = compiler(graph, example, lasting - sum(i < lasting for i in self._gone), keep_noise)
        self.is_compiled = not isinstance(getattr(self._run, "graph", self._run), fx.GraphModule)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            outputs: list[Tensor] = self._run(*self._read(inputs), *self._noise())
        return outputs

    def fits(self, *inputs: Tensor) -> bool:
        """Whether these inputs are like those of the capture."""
        return _kind(inputs) == self._kind

    def _read(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """All inputs of the graph, except its noise."""
        every = [*inputs, *self.constants]
        if not self._bases:
            return every
        return [t for i, t in enumerate(every) if i not in self._gone] + self._bases

    def _noise(self) -> Sequence[Tensor]:
        return () if self._draw_noise is None else self._draw_noise()


def compile_graph(graph: fx.GraphModule, inputs: Sequence[Any], *, keep_noise: bool = False) -> Callable[..., Any]:
    """Compile a graph by inductor, to a function of inputs like these that returns the list of the graph's outputs.

    Fake tensors may stand for inputs of any size. With `keep_noise` what is drawn comes from torch's generators. What
    was compiled before, by this process or another, comes from inductor's cache.
    """
    options: dict[str, Any] = {"size_asserts": False}  # of what inductor itself has planned, in each call
    if keep_noise:
        options["fallback_random"] = True
    with_arithmetic(graph)
    with compiling(), torch.no_grad(), hushed(FutureWarning), _quiet("torch.utils.cpp_extension"):
        return compiled_quickly(graph, list(inputs), options)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Run the body without the warnings of a logger, as of a missing CUDA that nobody asked for."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _kind(inputs: Sequence[Tensor]) -> list[Any]:
    return [(x.shape, x.stride(), x.dtype, x.device) for x in inputs]


class _WithGradient(torch.autograd.Function):
    """A number whose gradient comes with it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, compiled: CompiledFunction) -> Tensor:
        value, gradient = compiled(z)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # asked for with create_graph: it would be taken for a constant
            raise RuntimeError("a compiled function has no second derivative: differentiate the function itself")
        (gradient,) = ctx.saved_tensors
        return outer[0] * gradient, None
