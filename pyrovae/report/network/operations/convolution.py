"""Convolutions and transposed convolutions over one or two axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pyrovae.report.network.operations.registry import Untranslatable, Value, Writer, is_tensor, reads, translates

__all__: list[str] = []


@translates("convolution", "_convolution", "mkldnn_convolution")
def _convolution(
    write: Writer,
    out: Sequence[Tensor],
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    *_: Any,
) -> Value:
    if not isinstance(x, Value) or not is_tensor(weight) or isinstance(bias, Value):
        raise Untranslatable("a convolution whose weights depend on the code")
    axes = weight.ndim - 2
    if axes not in (1, 2):
        raise Untranslatable(f"a convolution over {axes} axes")
    shape = write.shape_of(out[0])
    kernel = weight if axes == 2 else weight[:, :, None]
    channels = shape[0]
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    of_one_row = {"stride": 1, "padding": 0, "dilation": 1}
    both = {}
    for name, value in options.items():
        each = [int(v) for v in value] * (axes if len(value) == 1 else 1)  # torch states one number for all axes
        both[name] = each if axes == 2 else [of_one_row[name], *each]
    image = write.step("reshape", [x], (x.shape[0], 1, x.shape[1])) if axes == 1 else x
    size = shape if axes == 2 else (channels, 1, shape[1])
    made = write.step(
        "convolution",
        [image, write.constant(kernel, half=True), write.constant(np.zeros(channels) if bias is None else bias)],
        size,
        transposed=bool(transposed),
        groups=int(groups),
        **both,
    )
    return made if axes == 2 else write.step("reshape", [made], shape)


@reads("convolution")
def _read(
    arrays: Sequence[np.ndarray],
    shape: Sequence[int],
    *,
    transposed: bool,
    groups: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> np.ndarray:
    """Each tap of the kernel is a product of matrices, added where it falls."""
    x, weight, bias = arrays
    _, height, width = shape
    n, inputs, rows, columns = x.shape
    out = np.zeros((n, shape[0], height, width), np.float32)
    for g in range(groups):
        ins = slice(g * inputs // groups, (g + 1) * inputs // groups)
        outs = slice(g * shape[0] // groups, (g + 1) * shape[0] // groups)
        kernel = weight[ins] if transposed else weight[outs]  # (in, out, ...) where transposed, else (out, in, ...)
        for i, j in np.ndindex(*weight.shape[2:]):
            shift = (i * dilation[0] - padding[0], j * dilation[1] - padding[1])
            if transposed:  # from pixel r of the input to pixel r * stride + shift of the output
                (r, up), (c, across) = (
                    _taps(count, s, step, end)
                    for count, s, step, end in zip((rows, columns), shift, stride, (height, width), strict=True)
                )
                taken = x[:, ins, r][..., c]
                product = np.einsum("nirc,io->norc", taken, kernel[:, :, i, j], optimize=True)
                out[:, outs, up, across] += product
            else:  # from pixel r * stride + shift of the input to pixel r of the output
                (r, up), (c, across) = (
                    _taps(count, s, step, end)
                    for count, s, step, end in zip((height, width), shift, stride, (rows, columns), strict=True)
                )
                taken = x[:, ins, up, across]
                out[:, outs, r, c] += np.einsum("nirc,oi->norc", taken, kernel[:, :, i, j], optimize=True)
    return out + bias[:, None, None]


def _taps(count: int, shift: int, step: int, end: int) -> tuple[slice, slice]:
    """The positions r below `count` for which r * step + shift lies in [0, end), and those places."""
    first = max(0, -(shift // step))
    last = min(count, (end - 1 - shift) // step + 1)
    if last <= first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last), slice(first * step + shift, (last - 1) * step + shift + 1, step)
