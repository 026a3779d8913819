"""The posterior whose mean is linear in the item, as in probabilistic PCA."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.parts.diagonal_normal import bounded_scale

__all__ = ["LinearNormal"]


class LinearNormal(nn.Module):
    """q(z | x) = N(A x + b, diag s^2), one s for all items: the family that holds probabilistic PCA's posterior.

    With a `network` without weights, such as a logarithm of counts, it is linear in what that gives, of `features`
    columns. (Lucas, Tucker, Grosse and Norouzi 2019: at the maximum the posterior covariance is diagonal.)

    >>> import torch
    >>> from pyrovae import LinearNormal
    >>> LinearNormal(5, 2)(torch.zeros(3, 5)).stddev.detach()
    tensor([[1., 1.],
            [1., 1.],
            [1., 1.]])
    """

    def __init__(self, features: int, latent_dim: int, *, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network
        features = checks.whole("features", features)
        self.loc = nn.Linear(features, checks.whole("latent_dim", latent_dim, bytes_each=4 * features))
        self.raw_log_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, x: Tensor) -> TorchDistribution:
        loc = self.loc(x if self.network is None else self.network(x))
        return dist.Normal(loc, bounded_scale(self.raw_log_scale).expand_as(loc)).to_event(1)
