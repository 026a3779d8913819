"""Products of matrices, those of float32 that come again and again by the library that is fast at them."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["add_product", "product_into"]


def product_into(out: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """left @ right, of shapes that recur: in `out`, or where oneDNN serves in another tensor."""
    if _suits_one_dnn(left, right):
        return _by_one_dnn(left, right.mT)
    return torch.mm(left, right, out=out)


def add_product(total: Tensor, left: Tensor, right: Tensor, *, recurs: bool = False) -> None:
    """Add left @ right' to a total in float64, where `recurs` says that products of these shapes come often.

    Where both are in float32 the product is too, whose error over n columns is about n^1/2 float32 roundings at most.
    """
    if left.dtype == right.dtype == total.dtype:
        total.addmm_(left, right.mT)
    elif recurs and _suits_one_dnn(left, right):
        total.add_(_by_one_dnn(left, right))
    else:
        total.add_(left @ right.mT)


def _suits_one_dnn(left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN is there for these matrices; rows that are apart in memory take it a thousand times as long."""
    on_cpu = left.device.type == right.device.type == "cpu" and left.dtype == right.dtype == torch.float32
    return on_cpu and left.is_contiguous() and right.is_contiguous() and _linear() is not None


def _by_one_dnn(left: Tensor, right: Tensor) -> Tensor:
    """left @ right'."""
    # MKL's products in float32 do without AVX-512 on AMD's processors, where oneDNN takes half the time; it makes a
    # kernel for each shape, which pays where the shape recurs
    linear = _linear()
    assert linear is not None
    product: Tensor = linear(left, right, None, "none", [], "")
    return product


@cache
def _linear() -> Callable[..., Any] | None:
    """Torch's product by oneDNN, which has no public name; None where it is missing, or has not been measured."""
    here = platform.system() == "Linux" and platform.machine().lower() in ("x86_64", "amd64")
    return (
        getattr(torch.ops.mkldnn, "_linear_pointwise", None) if here and torch.backends.mkldnn.is_available() else None
    )
