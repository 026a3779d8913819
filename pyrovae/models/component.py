"""The distribution of an item given the number of its component or class."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrovae.models.missing import OrMissing

__all__ = ["Component", "Densities"]


class Densities(Protocol):
    """One density per component or class, over flattened items."""

    def log_prob(self, x: Tensor) -> Tensor: ...  # (N, features) to (N, K), in float64
    def draw(self, component: Tensor) -> Tensor: ...  # (...) to (..., features)


class Component(TorchDistribution):
    """The distribution of an item given the number of its component."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, components: Densities, component: Tensor, event_shape: tuple[int, ...]) -> None:
        self.components, self.component = components, component
        super().__init__(component.shape, event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        of_entry = getattr(self.components, "support", constraints.real)
        return OrMissing(of_entry, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Component:
        return Component(self.components, self.component.expand(batch_shape), tuple(self.event_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            drawn = self.components.draw(self.component.expand(*sample_shape, *self.component.shape))
        return drawn.unflatten(-1, self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        flat = value.flatten(value.ndim - len(self.event_shape))
        table = self.components.log_prob(flat.reshape(-1, flat.shape[-1])).to(value.dtype)
        table = table.reshape(*flat.shape[:-1], -1)
        shape = torch.broadcast_shapes(self.component.shape, flat.shape[:-1])
        index = self.component.expand(shape)[..., None].long()
        return table.expand(*shape, -1).gather(-1, index)[..., 0]
