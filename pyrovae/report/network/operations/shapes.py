"""Operations that move entries: reshaping, axes in another order, parts, enlarged images; softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pyrovae.report.network.operations.registry import Constant, Untranslatable, Value, Writer, reads, translates

__all__: list[str] = []


@translates("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "unsqueeze", "squeeze")
def _reshape(write: Writer, out: Sequence[Tensor], x: Value, *_: Any, **__: Any) -> Value:
    shape = write.shape_of(out[0])
    if math.prod(shape) != math.prod(x.shape):
        raise Untranslatable("an operation across codes")
    return x if shape == x.shape else write.step("reshape", [x], shape)


@reads("reshape")
def _read_reshape(arrays: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    return arrays[0].reshape(len(arrays[0]), *shape)


def gathered(write: Writer, out: Tensor, x: Value, index: np.ndarray) -> Value:
    """A step that takes entries of a value by their places in it, of the shape of `index`."""
    shape = write.shape_of(out)
    return write.step("gather", [x, Constant(index.reshape(-1).astype(np.float32))], shape)


@reads("gather")
def _read_gather(arrays: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    x, index = arrays
    return x.reshape(len(x), -1)[:, index.astype(np.int64)].reshape(len(x), *shape)


def _places(x: Value) -> np.ndarray:
    """The place of each entry of a value of one code, with an axis of the codes before."""
    if math.prod(x.shape) >= 2**24:  # float32 holds no larger whole numbers
        raise Untranslatable("a layer of more than 16 million numbers")
    return np.arange(math.prod(x.shape)).reshape(1, *x.shape)


@translates("permute", "transpose", "t")
def _permute(write: Writer, out: Sequence[Tensor], x: Value, *order: Any) -> Value:
    rank = len(x.shape) + 1
    if len(order) == 1:
        axes = [axis % rank for axis in order[0]]
    else:
        axes = list(range(rank))
        one, other = (axis % rank for axis in (order or (0, 1)))
        axes[one], axes[other] = axes[other], axes[one]
    if axes[0] != 0:
        raise Untranslatable("an operation across codes")
    return gathered(write, out[0], x, _places(x).transpose(axes))


@translates("slice")
def _slice(
    write: Writer, out: Sequence[Tensor], x: Value, axis: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Value:
    axis %= len(x.shape) + 1
    if axis == 0:
        if out[0].shape[0] != write.batch:
            raise Untranslatable("an operation across codes")
        return x
    places = _places(x)
    return gathered(write, out[0], x, places[(*[slice(None)] * axis, slice(start, end, step))])


@translates("select")
def _select(write: Writer, out: Sequence[Tensor], x: Value, axis: int, index: int) -> Value:
    return gathered(write, out[0], x, np.take(_places(x), index, axis=_own_axis(x, axis)))


@translates("split", "split_with_sizes", "chunk")
def _split(write: Writer, out: Sequence[Tensor], x: Value, _: Any, axis: int = 0, **named: Any) -> list[Value]:
    axis = _own_axis(x, named.get("dim", axis))
    ends = np.cumsum([each.shape[axis] for each in out])[:-1]
    parts = np.split(_places(x), ends, axis=axis)
    return [gathered(write, each, x, part) for each, part in zip(out, parts, strict=True)]


@translates("unbind")
def _unbind(write: Writer, out: Sequence[Tensor], x: Value, axis: int = 0) -> list[Value]:
    axis = _own_axis(x, axis)
    return [gathered(write, each, x, np.take(_places(x), i, axis=axis)) for i, each in enumerate(out)]


@translates("cat", "stack")
def _cat(write: Writer, out: Sequence[Tensor], parts: Sequence[Any], axis: int = 0) -> Value:
    shape = write.shape_of(out[0])
    axis %= len(shape) + 1
    if axis == 0:
        raise Untranslatable("an operation across codes")
    flat, before, places = [], 0, []
    stacked = any(isinstance(p, Value) and len(p.shape) < len(shape) for p in parts)
    for part in parts:
        value = part if isinstance(part, Value) else write.constant(part, len(shape) - stacked)
        one = value.shape if isinstance(value, Value) else value.array.shape
        index = np.arange(math.prod(one)).reshape(1, *one) + before
        places.append(np.expand_dims(index, axis) if stacked else index)
        flat.append(value)
        before += math.prod(one)
    _require_exact(before)
    index = np.concatenate(places, axis)
    joined = write.step("concatenate", flat, (before,))
    return gathered(write, out[0], joined, index)


def _require_exact(count: int) -> None:
    if count >= 2**24:
        raise Untranslatable("a layer of more than 16 million numbers")


@reads("concatenate")
def _read_concatenate(arrays: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    return np.concatenate([a.reshape(len(a), -1) for a in arrays], 1)


@translates("pixel_shuffle")
def _pixel_shuffle(write: Writer, out: Sequence[Tensor], x: Value, factor: int) -> Value:
    channels, height, width = x.shape
    cells = _places(x).reshape(channels // factor**2, factor, factor, height, width)
    return gathered(write, out[0], x, cells.transpose(0, 3, 1, 4, 2)[None])


@translates("upsample_nearest2d", "upsample_nearest1d", "_upsample_nearest_exact2d")
def _nearest(write: Writer, out: Sequence[Tensor], x: Value, size: Any, *scales: Any) -> Value:
    shape = write.shape_of(out[0])
    places = _places(x)
    for axis in range(2, len(shape) + 1):
        large, small = shape[axis - 1], x.shape[axis - 1]
        if large % small:
            raise Untranslatable("an image enlarged by a factor that is not whole")
        places = places.repeat(large // small, axis)
    return gathered(write, out[0], x, places)


@translates("upsample_bilinear2d")
def _bilinear(write: Writer, out: Sequence[Tensor], x: Value, size: Any, align_corners: bool, *scales: Any) -> Value:
    shape = write.shape_of(out[0])
    rows, columns = (_weights(a, b, align_corners) for a, b in zip(x.shape[1:], shape[1:], strict=True))
    return write.step("resize", [x, Constant(rows), Constant(columns)], shape)


def _weights(small: int, large: int, align_corners: bool) -> np.ndarray:
    """How much each of the `small` pixels is in each of the `large` ones: (large, small)."""
    if align_corners:
        place = np.arange(large) * ((small - 1) / max(1, large - 1))
    else:
        place = np.maximum((np.arange(large) + 0.5) * small / large - 0.5, 0)
    low = np.minimum(place.astype(int), small - 1)
    high = np.minimum(low + 1, small - 1)
    weights = np.zeros((large, small))
    weights[np.arange(large), low] += 1 - (place - low)
    weights[np.arange(large), high] += place - low
    return weights.astype(np.float32)


@reads("resize")
def _read_resize(arrays: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    x, rows, columns = arrays
    return np.einsum("ncij,hi,wj->nchw", x, rows, columns, optimize=True).astype(np.float32)


@translates("constant_pad_nd")
def _pad(write: Writer, out: Sequence[Tensor], x: Value, padding: Sequence[int], value: float = 0) -> Value:
    rank = len(x.shape)
    widths = [(0, 0)] * (rank + 1)
    for i in range(len(padding) // 2):
        widths[rank - i] = (padding[2 * i], padding[2 * i + 1])
    if widths[0] != (0, 0) or min(padding, default=0) < 0:
        raise Untranslatable("an operation across codes")
    end = math.prod(x.shape)
    _require_exact(end + 1)
    joined = write.step("concatenate", [x, Constant(np.array([value], np.float32))], (end + 1,))
    return gathered(write, out[0], joined, np.pad(_places(x), widths, constant_values=end))


@translates("_softmax", "softmax")
def _softmax(write: Writer, out: Sequence[Tensor], x: Value, axis: int, *_: Any) -> Value:
    return _along(write, "softmax", x, axis, x.shape)


@translates("_log_softmax", "log_softmax")
def _log_softmax(write: Writer, out: Sequence[Tensor], x: Value, axis: int, *_: Any) -> Value:
    return _along(write, "log_softmax", x, axis, x.shape)


def _along(write: Writer, name: str, x: Value, axis: int, shape: Sequence[int]) -> Value:
    axis = _own_axis(x, axis) - 1
    outer, size, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    return write.step(name, [x], shape, axes=[outer, size, inner])


@reads("softmax")
def _read_softmax(arrays: Sequence[np.ndarray], shape: Sequence[int], *, axes: Sequence[int]) -> np.ndarray:
    return np.exp(_read_log_softmax(arrays, shape, axes=axes)).astype(np.float32)


@reads("log_softmax")
def _read_log_softmax(arrays: Sequence[np.ndarray], shape: Sequence[int], *, axes: Sequence[int]) -> np.ndarray:
    x = arrays[0].astype(np.float64).reshape(len(arrays[0]), *axes)
    centred = x - x.max(2, keepdims=True)
    value = centred - np.log(np.exp(centred).sum(2, keepdims=True))
    return value.reshape(arrays[0].shape).astype(np.float32)


def _own_axis(x: Value, axis: int) -> int:
    """The axis counted from the front, that of the codes included; it must not be that one."""
    axis %= len(x.shape) + 1
    if axis == 0:
        raise Untranslatable("an operation across codes")
    return axis
