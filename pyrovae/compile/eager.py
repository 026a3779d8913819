"""Loss and gradients of a step by eager mode, beside those of a capture, and what its evaluations begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyrovae.compile.aliases import is_writable
from pyrovae.seeding import put_back

__all__ = ["Beginning", "Evaluated", "leading", "without_new_parameters"]


def leading(loss: Tensor) -> Tensor:
    """What a step lowers: a scalar, or of a vector the first number, the others being noted beside it."""
    return loss[0] if loss.ndim else loss


class Evaluated(NamedTuple):
    """A loss and its gradients, None where it does not depend on a parameter."""

    loss: Tensor
    gradients: list[Tensor | None]

    @classmethod
    def of(cls, loss: Tensor, trained: Sequence[Tensor]) -> Evaluated:
        """The gradients of a loss that was just computed."""
        gradients: list[Tensor | None] = list(torch.autograd.grad(leading(loss), trained, allow_unused=True))
        return cls(loss.detach(), gradients)

    def is_like(self, other: Evaluated) -> bool:
        """Whether two are the same but for rounding."""
        pairs = zip(self.gradients, other.gradients, strict=True)
        return _alike(self.loss, other.loss) and all(_alike(a, b) for a, b in pairs)


def _alike(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    finite = b[b.isfinite()]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6 + 1e-5 * size, equal_nan=True)


class Beginning:
    """The state of the generators, and the values of the arguments, with which each evaluation of a step begins."""

    def __init__(self, generators: Any, arguments: Sequence[Tensor]) -> None:
        self.generators = generators
        self._arguments = [(t, t._version, t.clone()) for t in arguments if is_writable(t)]

    def put_back(self) -> None:
        """Begin anew: only a step may write to an argument."""
        put_back(self.generators)
        with torch.no_grad():
            for place, (t, version, value) in enumerate(self._arguments):
                if t._version != version:
                    t.copy_(value)
                    self._arguments[place] = t, t._version, value


@contextmanager
def without_new_parameters() -> Iterator[None]:
    """Take parameters that the body makes out of Pyro's store."""
    names = set(pyro.get_param_store().keys())
    try:
        yield
    finally:
        for name in set(pyro.get_param_store().keys()) - names:
            del pyro.get_param_store()[name]
