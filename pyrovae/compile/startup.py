"""Compilation by inductor with little of what it spends on the first graph of a machine or of a process."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from types import ModuleType
from typing import Any

import torch
from torch import fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pyrovae.compile.errors import summary
from pyrovae.compile.one_file import few_files

__all__ = ["compiled_quickly"]

OBJECTS = 100_000  # that are made between two searches for garbage, which find none in a compilation

log = logging.getLogger(__name__)

QUICK = {
    "cpp.vec_isa_ok": True,  # which instructions the processor has is known without a program that tries them
    "cpp_cache_precompile_headers": False,  # that takes as long as three files
    "aot_inductor.enable_line_tables": False,  # by which a debugger would show the lines of kernels
    # a check of a factorisation, which stays in the graph that the cache keeps
    "unsafe_marked_cacheable_functions": {"torch.ops.higher_order.with_effects": "torch._higher_order_ops.effects"},
}


def compiled_quickly(graph: fx.GraphModule, inputs: Sequence[Any], options: dict[str, Any]) -> Callable[..., Any]:
    """`torch._inductor.compile`, with kernels in one file; where that fails, as inductor does it by itself."""
    given = next((x.fake_mode for x in inputs if isinstance(x, FakeTensor)), None)
    try:
        # without an environment for shapes inductor's caches of whole graphs are left out
        environment = ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False)
        shapes = given or FakeTensorMode(allow_non_fake_inputs=True, shape_env=environment)
        fake: list[Any] = list(inputs) if given else [shapes.from_tensor(x, static_shapes=True) for x in inputs]
        with few_files(), _instructions_as_the_processor_says(), _little_garbage(), tracing(TracingContext(shapes)):
            known = set(torch._inductor.list_options())
            quick = {name: value for name, value in QUICK.items() if name in known}
            return torch._inductor.compile(deepcopy(graph), fake, options=options | quick)
    except Exception as error:  # of whatever kind: an old compiler, or another version of inductor
        log.info("is compiled as inductor does it by itself (%s)", summary(error))
        return torch._inductor.compile(graph, list(inputs), options=options)


@contextmanager
def _instructions_as_the_processor_says() -> Iterator[None]:
    """Let inductor list the vector instructions without programs that try them, and list them anew after the body.

    A compiler that knows less of them than the processor fails at the kernels then, and they are compiled again.
    """
    from torch._inductor import cpu_vec_isa

    tries = cpu_vec_isa.VecISA.check_build
    _forget_instructions(cpu_vec_isa)
    cpu_vec_isa.VecISA.check_build = lambda self, code: True  # type: ignore[method-assign]
    try:
        yield
    finally:
        cpu_vec_isa.VecISA.check_build = tries  # type: ignore[method-assign]
        _forget_instructions(cpu_vec_isa)


def _forget_instructions(cpu_vec_isa: ModuleType) -> None:
    """Forget what inductor has found out about vector instructions."""
    cpu_vec_isa.valid_vec_isa_list.cache_clear()
    for one in cpu_vec_isa.supported_vec_isa_list:
        vars(one).pop("_is_avx512_bf16_supported", None)
        for method in (method for kind in type(one).__mro__ for method in vars(kind).values()):
            if hasattr(method, "cache_clear"):
                method.cache_clear()


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Let Python look for garbage in cycles seldom, but where that is turned off."""
    often, *rest = gc.get_threshold()
    gc.set_threshold(max(often, OBJECTS) if often else 0, *rest)
    try:
        yield
    finally:
        gc.set_threshold(often, *rest)
