"""Sums and means over entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pyrovae.report.network.operations.elementwise import mapped
from pyrovae.report.network.operations.registry import Untranslatable, Value, Writer, reads, translates

__all__: list[str] = []


@translates("sum")
def _sum(write: Writer, out: Sequence[Tensor], x: Value, axes: Any = None, *_: Any, **__: Any) -> Value:
    """Over one axis after the other, the last one first."""
    rank = len(x.shape) + 1
    wanted = [axes] if isinstance(axes, int) else list(range(rank)) if axes is None else list(axes)
    own = sorted({axis % rank for axis in wanted}, reverse=True)
    if 0 in own or not own:
        raise Untranslatable("an operation across codes")
    value = x
    for axis in own:
        shape = value.shape
        outer, inner = math.prod(shape[: axis - 1]), math.prod(shape[axis:])
        summed = (*shape[: axis - 1], *shape[axis:])
        value = write.step("sum", [value], summed, axes=[outer, shape[axis - 1], inner])
    shape = write.shape_of(out[0])
    return value if value.shape == shape else write.step("reshape", [value], shape)


@translates("mean")
def _mean(write: Writer, out: Sequence[Tensor], x: Value, *axes: Any, **named: Any) -> Value:
    value = _sum(write, out, x, *axes, **named)
    count = math.prod(x.shape) / max(1, math.prod(value.shape))
    return mapped(write, "div", [value, count])


@reads("sum")
def _read(arrays: Sequence[np.ndarray], shape: Sequence[int], *, axes: Sequence[int]) -> np.ndarray:
    x = arrays[0].astype(np.float64).reshape(len(arrays[0]), *axes)
    value: np.ndarray = x.sum(2).reshape(len(x), *shape).astype(np.float32)
    return value
