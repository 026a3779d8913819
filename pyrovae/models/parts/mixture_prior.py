"""The prior that is a mixture of normals with learned weights, locations and scales."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyrovae import checks
from pyrovae.models.finite_mixture import FiniteMixture
from pyrovae.models.parts.diagonal_normal import bounded_scale
from pyrovae.models.registry import register

__all__ = ["MixturePrior"]


@register("mixture", kind="prior")
class MixturePrior(nn.Module):
    """p(z) = sum_k w_k N(z; m_k, diag s_k^2): a mixture of `num_components` normals, trained with the pair.

    At the start the weights are equal, the scales 1, and the locations draws of N(0, I). Scales are bounded as in
    `DiagonalNormal`. Log-densities are in nats. For a mixture that is fitted to codes once, see `as_density`.

    >>> import torch
    >>> from pyrovae import MixturePrior
    >>> MixturePrior(2, num_components=1)().stddev.detach()
    tensor([1., 1.])
    """

    def __init__(self, latent_dim: int, num_components: int = 10) -> None:
        super().__init__()
        self.latent_dim = checks.whole("latent_dim", latent_dim, bytes_each=8)
        checks.whole("num_components", num_components, bytes_each=8 * latent_dim)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.randn(num_components, latent_dim))
        self.raw_log_scale = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self) -> TorchDistribution:
        components = dist.Normal(self.loc, bounded_scale(self.raw_log_scale)).to_event(1)
        return FiniteMixture(self.logits.log_softmax(0), components)
