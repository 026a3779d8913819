"""Products of matrices, those of float32 that come again and again by the library that is fast at them."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["add_product", "keeps_float32", "product_into"]


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


def keeps_float32(device: torch.device) -> bool:
    """Whether products of matrices in float32 have its digits: torch may be set to round what goes into them."""
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision in ("none", "ieee") and not torch.is_autocast_enabled(device.type)


def _suits_one_dnn(left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN is there for these matrices; rows that are apart in memory take it a thousand times as long."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():  # it has no derivative
        return False
    on_cpu = left.device.type == right.device.type == "cpu" and left.dtype == right.dtype == torch.float32
    contiguous = left.is_contiguous() and right.is_contiguous()
    return on_cpu and contiguous and bool(torch.backends.mkldnn.enabled) and _linear() is not None


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
    """Torch's product by oneDNN, which has no public name; None where it is another or missing, or was not measured."""
    measured = platform.system() == "Linux" and platform.machine().lower() in ("x86_64", "amd64")
    if not (measured and torch.backends.mkldnn.is_available()):
        return None
    some = torch.arange(6, dtype=torch.float32, device="cpu").view(2, 3)
    try:
        linear: Callable[..., Any] = torch.ops.mkldnn._linear_pointwise
        product = linear(some, some, None, "none", [], "")
        return linear if torch.equal(product, some @ some.mT) else None
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return None
