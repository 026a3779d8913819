"""The posterior with all of its mass on one point, as for the code of an autoencoder."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyrovae import checks

__all__ = ["PointMass"]


class PointMass(nn.Module):
    """A q(z | x) with all of its mass on one point, the code of an autoencoder. Its log-density counts as 0.

    >>> import torch
    >>> from torch import nn
    >>> from pyrovae import PointMass
    >>> q = PointMass(nn.Identity(), 3, 2)(torch.zeros(4, 3))
    >>> q.sample().shape, q.log_prob(q.sample())
    (torch.Size([4, 2]), tensor([0., 0., 0., 0.]...))
    """

    def __init__(self, network: nn.Module, features: int, latent_dim: int) -> None:
        super().__init__()
        self.network = network
        features = checks.whole("features", features)
        self.loc = nn.Linear(features, checks.whole("latent_dim", latent_dim, bytes_each=4 * features))

    def forward(self, x: Tensor) -> TorchDistribution:
        return dist.Delta(self.loc(self.network(x)), event_dim=1)
