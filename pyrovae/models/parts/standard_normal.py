"""The standard normal prior of a code."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyrovae import checks
from pyrovae.models.registry import register

__all__ = ["StandardNormal"]


@register("standard", kind="prior")
class StandardNormal(nn.Module):
    """The prior N(0, I) over a code of `latent_dim` dimensions.

    >>> import torch
    >>> from pyrovae import StandardNormal
    >>> StandardNormal(2)().log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = checks.whole("latent_dim", latent_dim, bytes_each=8)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        return dist.Normal(self.loc, self.scale).to_event(1)
