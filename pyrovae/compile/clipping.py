"""Clipping of gradients by their common norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["clip_factor", "global_norm"]

EPSILON = 1e-6  # as torch.nn.utils.clip_grad_norm_ has it


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The square root of the sum of all entries' squares, in float32 at least, a scalar."""
    widest = torch.float32
    for g in gradients:
        widest = torch.promote_types(widest, g.dtype)
    norms = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in gradients]
    return torch.linalg.vector_norm(torch.stack([norm.to(widest) for norm in norms]))


def clip_factor(norm: Tensor, clip_norm: float) -> Tensor:
    """The factor of all gradients: min(1, clip_norm / (norm + 1e-6)), as by `clip_grad_norm_`.

    >>> import torch
    >>> from pyrovae.compile.clipping import clip_factor, global_norm
    >>> gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    >>> norm = global_norm(gradients)
    >>> float(norm), round(float(clip_factor(norm, 1.0)), 5)
    (5.0, 0.2)
    """
    return (clip_norm / (norm + EPSILON)).clamp(max=1.0)
