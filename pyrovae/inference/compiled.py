"""A function of a vector and its gradient as one compiled graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["with_gradient"]

log = logging.getLogger(__name__)


class _Known(torch.autograd.Function):
    """A number whose gradient comes with it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, both: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        value, gradient = both(z)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return outer[0] * gradient, None


def with_gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Callable[[Tensor], Tensor], bool]:
    """A differentiable function of (P,) to a scalar, its value and gradient compiled together, and whether they are.

    `function` must have no control flow on values and no randomness. It is captured at `at`, whose shape, dtype and
    device every later argument has. Without a compiler that works the function itself comes back, with a line in the
    log. No second derivatives.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            value = function(leaf)
            (gradient,) = torch.autograd.grad(value, leaf)
        return value.detach(), gradient

    def run(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            value, gradient = graph(z)
        return value, gradient

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, of itself
            graph: Any = torch.compile(make_fx(both)(at.detach()), fullgraph=True, dynamic=False)
            run(at.detach())
    except Exception as error:  # of whatever kind: a compiler that is missing, a folder that cannot be written
        log.warning("runs without a compiled graph (%s: %s)", type(error).__name__, str(error).strip().split("\n")[0])
        return function, False
    return lambda z: _Known.apply(z, run), True
