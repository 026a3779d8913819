"""The posterior whose entries are independent normals, both moments from a network."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.registry import register

__all__ = ["DiagonalNormal", "bounded_scale"]

# log-scales stay within (-10, 10), scales within (4.5e-5, 2.2e4): log_prob is finite in float32
LOG_SCALE_BOUND = 10.0


@register("diagonal", kind="posterior")
class DiagonalNormal(nn.Module):
    """q(z | x) = N(loc(x), diag scale(x)^2): a network from item to features, and a linear head for each of the two.

    The log-scale is bounded smoothly, 10 tanh(raw / 10), so no output of the network overflows.

    >>> import torch
    >>> from torch import nn
    >>> from pyrovae import DiagonalNormal
    >>> DiagonalNormal(nn.Identity(), 3, 2)(torch.zeros(4, 3)).mean.shape
    torch.Size([4, 2])
    """

    def __init__(self, network: nn.Module, features: int, latent_dim: int) -> None:
        super().__init__()
        features = checks.whole("features", features)
        checks.whole("latent_dim", latent_dim, bytes_each=8 * features)
        self.network = network
        self.loc = nn.Linear(features, latent_dim)  # before the scale: an AE of the same seed starts from the same head
        self.raw_log_scale = nn.Linear(features, latent_dim)

    def forward(self, x: Tensor) -> TorchDistribution:
        features = self.network(x)
        return dist.Normal(self.loc(features), bounded_scale(self.raw_log_scale(features))).to_event(1)


def bounded_scale(raw: Tensor) -> Tensor:
    """The scale of an unbounded number, exp(10 tanh(raw / 10)): an encoder's output cannot make it 0 or infinite."""
    return torch.exp(LOG_SCALE_BOUND * torch.tanh(raw / LOG_SCALE_BOUND))
