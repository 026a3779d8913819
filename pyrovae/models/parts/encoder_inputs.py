"""What an encoder sees in place of the items, where their own values are hard for a network: layers without weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.models.parts.standardizer import Standardized, standardizer_of

__all__ = ["Log", "Log1p", "OneHot", "SeenInput", "Unit", "after_input", "encoder_input_of"]


class Log(nn.Module):
    """log x of positive values: those of unlike sizes are seen alike, and the largest send no exp() to infinity."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=torch.finfo(x.dtype).tiny).log()


class Log1p(nn.Module):
    """log(1 + x) of counts: an encoder that sees counts of some tens sends exp() to infinity in the first steps."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log1p()


class Unit(nn.Module):
    """Whole numbers 0..levels - 1 on [0, 1]."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return x / (self.levels - 1)

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        return f"levels={self.levels}"


class OneHot(nn.Module):
    """Codes 0..C - 1 as C columns of zeros and a one, (..., A, *rest) -> (..., A C, *rest).

    An item has `event_dim` axes, of which the first, A, is that of its columns or channels.

    >>> import torch
    >>> from pyrovae.models.parts.encoder_inputs import OneHot
    >>> OneHot(3, 1)(torch.tensor([[0.0, 2.0]]))
    tensor([[1., 0., 0., 0., 0., 1.]])
    """

    def __init__(self, num_classes: int, event_dim: int) -> None:
        super().__init__()
        self.num_classes, self.event_dim = num_classes, event_dim

    def forward(self, x: Tensor) -> Tensor:
        axis = x.ndim - self.event_dim
        classes = torch.arange(self.num_classes, dtype=x.dtype, device=x.device)
        columns = (x.unsqueeze(axis) == classes.reshape(-1, *[1] * self.event_dim)).to(x.dtype)
        return columns.transpose(axis, axis + 1).reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        return f"num_classes={self.num_classes}, event_dim={self.event_dim}"


class SeenInput(nn.Module):
    """Items of which entries are missing, NaN, as zeros there, with a mask beside them that is 1 where one was seen.

    `layer` is what the family wants before the network, which sees the seen entries alone. An item has `event_dim`
    axes, along the first of which the mask is put: (..., A, *rest) -> (..., A' + A, *rest).

    >>> import torch
    >>> from pyrovae.models.parts.encoder_inputs import SeenInput
    >>> SeenInput(None, 1)(torch.tensor([[2.0, torch.nan]]))
    tensor([[2., 0., 1., 0.]])
    """

    takes_missing = True

    def __init__(self, layer: nn.Module | None, event_dim: int) -> None:
        super().__init__()
        self.layer, self.event_dim = layer, event_dim

    def forward(self, x: Tensor) -> Tensor:
        seen = ~x.isnan()
        inside = torch.where(seen, x, 1.0)  # a code, a count, a positive number: whatever the layer takes
        given = inside if self.layer is None else self.layer(inside)
        axis = x.ndim - self.event_dim
        each = seen.repeat_interleave(given.shape[axis] // x.shape[axis], axis)
        return torch.cat([torch.where(each, given, 0.0), seen.to(given.dtype)], axis)

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        return f"event_dim={self.event_dim}"


def encoder_input_of(
    family: Any, event_shape: tuple[int, ...], *, missing: bool = False
) -> tuple[nn.Module | None, tuple[int, ...]]:
    """The layer that a family wants before a network that sees its items, None for none; the shape that it gives.

    A family says so by its method `encoder_input(event_shape)`, whose layer may state the shape that it gives as
    `out_shape`; one that goes by the scale of its columns wants them standardised. With `missing` the layer takes items
    with NaN where an entry is missing; one that does so itself states `takes_missing`.
    """
    standardizer, wanted = standardizer_of(family), getattr(family, "encoder_input", None)
    layer: nn.Module | None = None
    if standardizer is not None:
        layer = Standardized(standardizer)
    elif wanted is not None:
        layer = wanted(event_shape)
    shape = event_shape
    if isinstance(layer, OneHot):
        shape = (layer.num_classes * event_shape[0], *event_shape[1:])
    shape = tuple(getattr(layer, "out_shape", shape))
    if missing and not getattr(layer, "takes_missing", False):
        return SeenInput(layer, len(event_shape)), (shape[0] + event_shape[0], *shape[1:])
    return layer, shape


def after_input(layer: nn.Module | None, network: nn.Module) -> nn.Module:
    """The network behind such a layer."""
    return network if layer is None else nn.Sequential(layer, network)
