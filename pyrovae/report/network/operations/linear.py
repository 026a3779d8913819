"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pyrovae.report.network.operations.registry import Untranslatable, Value, Writer, is_tensor, reads, translates

__all__: list[str] = []


def _linear(write: Writer, x: Any, weight: Any, bias: Any) -> Value:
    """x W' + b for a weight (outputs, inputs)."""
    if not isinstance(x, Value) or len(x.shape) != 1 or not is_tensor(weight) or isinstance(bias, Value):
        raise Untranslatable("a product of two arrays that both depend on the code")
    outputs = weight.shape[0]
    shift = write.constant(np.zeros(outputs) if bias is None else bias, 1)
    if shift.array.shape != (outputs,):
        shift = write.constant(np.broadcast_to(shift.array, outputs).copy())
    return write.step("linear", [x, write.constant(weight, half=True), shift], (outputs,))


@translates("addmm")
def _addmm(
    write: Writer, out: Sequence[Tensor], bias: Any, x: Any, weight: Any, *, beta: float = 1, alpha: float = 1
) -> Value:
    if beta != 1 or alpha != 1:
        raise Untranslatable("a linear layer that is scaled")
    return _linear(write, x, weight.T if is_tensor(weight) else weight, bias)


@translates("mm")
def _mm(write: Writer, out: Sequence[Tensor], x: Any, weight: Any) -> Value:
    return _linear(write, x, weight.T if is_tensor(weight) else weight, None)


@translates("linear")
def _whole(write: Writer, out: Sequence[Tensor], x: Any, weight: Any, bias: Any = None) -> Value:
    return _linear(write, x, weight, bias)


@reads("linear")
def _read(arrays: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    x, weight, bias = arrays
    return x @ weight.T + bias
