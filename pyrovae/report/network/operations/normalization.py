"""Normalisation: by the moments of training for batches, by an item's own for layers and groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.report.network.operations.elementwise import mapped
from pyrovae.report.network.operations.registry import Untranslatable, Value, Writer, reads, translates

__all__: list[str] = []


@translates("native_batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(
    write: Writer,
    out: Sequence[Tensor],
    x: Value,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    *options: Any,
) -> list[Value]:
    epsilon = options[-1]
    if mean is None or variance is None or options[0] is True:
        raise Untranslatable("a batch normalisation by the moments of the batch")
    scale = (variance.double() + epsilon).rsqrt() * (1 if weight is None else weight.double())
    shift = (0 if bias is None else bias.double()) - mean.double() * scale
    return [_per_channel(write, x, scale, torch.as_tensor(shift))]


def _per_channel(write: Writer, x: Value, scale: Tensor, shift: Tensor) -> Value:
    ones = (-1, *[1] * (len(x.shape) - 1))
    return mapped(write, "affine", [x, scale.reshape(ones).float(), shift.reshape(ones).float()])


@translates("native_layer_norm")
def _layer_norm(
    write: Writer, out: Sequence[Tensor], x: Value, shape: Sequence[int], weight: Any, bias: Any, epsilon: float
) -> list[Value]:
    if len(shape) > len(x.shape):
        raise Untranslatable("an operation across codes")
    value = write.step("normalize", [x], x.shape, size=math.prod(shape), epsilon=epsilon)
    if weight is None and bias is None:
        return [value]
    scale, shift = (torch.ones(*shape) if weight is None else weight, torch.zeros(*shape) if bias is None else bias)
    return [mapped(write, "affine", [value, scale, shift])]


@translates("native_group_norm")
def _group_norm(
    write: Writer,
    out: Sequence[Tensor],
    x: Value,
    weight: Any,
    bias: Any,
    count: int,
    channels: int,
    size: int,
    groups: int,
    epsilon: float,
) -> list[Value]:
    value = write.step("normalize", [x], x.shape, size=channels // groups * size, epsilon=epsilon)
    scale = torch.ones(channels) if weight is None else weight
    return [_per_channel(write, value, scale, torch.zeros(channels) if bias is None else bias)]


@reads("normalize")
def _read(arrays: Sequence[np.ndarray], shape: Sequence[int], *, size: int, epsilon: float) -> np.ndarray:
    grouped = arrays[0].astype(np.float64).reshape(len(arrays[0]), -1, size)
    centred = grouped - grouped.mean(-1, keepdims=True)
    value = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return value.reshape(arrays[0].shape).astype(np.float32)
