"""What families of one scale share: it is fixed or learned, for all entries together or for each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.parts.standardizer import Standardizable

__all__ = ["FLOOR", "Scaled", "linked", "unbound", "with_floor"]

FLOOR = 1e-3  # of a learned scale, by default: a share of the column's where it is standardised

Link = Literal["identity", "sigmoid"]


class Scaled(Standardizable):
    """A family of entries with one scale for all of them, or with `per_entry` one for each, the same for every item.

    It is fixed at `scale`, or learned as floor + exp(log_scale) from `initial_scale` where that is None, so that the
    likelihood is bounded however well the items are fitted. `bind(event_shape)` makes a scale for each entry.

    In a pair that standardises its columns, exp(log_scale) and `initial_scale` are in standard deviations of the
    column, and so is the floor at its default, 1e-3; another floor, and a fixed `scale`, are in the items' units.
    """

    fixed_scale: Tensor
    log_scale: nn.Parameter | None

    def __init__(
        self,
        scale: float | None = None,
        *,
        initial_scale: float = 1.0,
        floor: float = FLOOR,
        link: Link = "identity",
        per_entry: bool = False,
    ) -> None:
        super().__init__()
        self.link = checks.choice("link", link, ("identity", "sigmoid"))
        self.floor = checks.positive("floor", floor)
        self._per_entry = bool(per_entry)
        self._scale = None if scale is None else checks.positive("scale", scale)
        self._initial_scale = checks.positive("initial_scale", initial_scale)
        self.learned = scale is None
        if scale is not None:
            if self._per_entry:
                raise ValueError("per_entry learns a scale for each entry, and scale fixes one for all: leave out one")
            if not 1e-30 < checks.positive("scale", scale) < 1e30:
                raise ValueError(f"scale must lie between 1e-30 and 1e30, got {scale!r}")
            self.register_buffer("fixed_scale", torch.tensor(scale, dtype=torch.float64))  # no figure is lost
            return
        start = checks.positive("initial_scale", initial_scale)
        if start <= floor:
            raise ValueError(f"initial_scale must be greater than floor ({floor:g}), got {initial_scale!r}")
        self.log_scale = None if self._per_entry else nn.Parameter(torch.tensor(math.log(start - floor)))

    def bind(self, event_shape: Sequence[int]) -> None:
        """Make a scale for each entry of items of this shape, where each is to have one of its own."""
        if not self._per_entry:
            return
        if self.log_scale is None:
            start = math.log(self._initial_scale - self.floor)
            self.log_scale = nn.Parameter(torch.full(tuple(event_shape), start))
        elif tuple(self.log_scale.shape) != tuple(event_shape):
            raise ValueError(
                f"{type(self).__name__} has a scale for each entry of items of shape {tuple(self.log_scale.shape)}, "
                f"and these items have shape {tuple(event_shape)}: make another one"
            )

    @property
    def scale(self) -> Tensor:
        """The scale of an entry: a number, or with `per_entry` shape (*event_shape)."""
        if not self.learned:
            return self.fixed_scale
        if self.log_scale is None:
            raise unbound(self)
        return with_floor(self.log_scale.exp(), self.floor, self.unit)

    def scale_in(self, like: Tensor) -> Tensor:
        """The scale in the dtype and on the device of a location; ValueError where that dtype loses its square."""
        name, stated = ("initial_scale", self._initial_scale) if self._scale is None else ("scale", self._scale)
        checks.scale_in(f"{name} of {type(self).__name__}", stated, like.dtype)
        return self.scale.to(like)

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        own = f"scale={self._scale!r}, initial_scale={self._initial_scale!r}, floor={self.floor!r}, link={self.link!r}"
        return f"{own}, per_entry=True" if self._per_entry else own


def linked(raw: Tensor, link: str) -> Tensor:
    """The location of an entry from the network's output."""
    return raw.sigmoid() if link == "sigmoid" else raw


def with_floor(free: Tensor, floor: float, unit: Tensor | None) -> Tensor:
    """A learned scale above its floor: `free`, in standard deviations `unit` of the columns where these are known."""
    if unit is None:
        return floor + free
    unit = unit.to(free)
    return unit * (floor + free) if floor == FLOOR else floor + unit * free


def unbound(family: nn.Module) -> ValueError:
    """The error of a family whose parameters of each entry have no shape yet."""
    return ValueError(
        f"{type(family).__name__}(per_entry=True) does not know the shape of an item yet: Likelihood(network, family, "
        "event_shape) and the builders tell it, as does bind(event_shape)"
    )
