"""The posterior that is a normal of any covariance, its mean and Cholesky factor from a network."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.parts.diagonal_normal import bounded_scale
from pyrovae.models.registry import register

__all__ = ["FullNormal"]

SLOPE_BOUND = 100.0  # of a coordinate on the ones before it: correlations up to 0.99995


@register("full", kind="posterior")
class FullNormal(nn.Module):
    """q(z | x) = N(loc(x), L(x) L(x)^T): dependent coordinates, with a linear head for each of loc, diagonal and rest.

    L = diag(s) (I + A) with A strictly lower triangular: s_j is the standard deviation of z_j given the coordinates
    before it, bounded as in `DiagonalNormal`, and an entry of A is bounded smoothly, 100 tanh(raw / 100). The family
    holds the posterior of every linear-Gaussian pair (Tipping and Bishop 1999, section 3.1). KL(q || N(0, I)) has a
    closed form. A head has latent_dim (latent_dim - 1) / 2 outputs, and a density costs latent_dim^2 operations.

    >>> import torch
    >>> from torch import nn
    >>> from pyrovae import FullNormal
    >>> FullNormal(nn.Identity(), 3, 2)(torch.zeros(4, 3)).covariance_matrix.shape
    torch.Size([4, 2, 2])
    """

    def __init__(self, network: nn.Module, features: int, latent_dim: int) -> None:
        super().__init__()
        features = checks.whole("features", features)
        checks.whole("latent_dim", latent_dim, bytes_each=8 * features)
        below = latent_dim * (latent_dim - 1) // 2
        self.network = network
        self.loc = nn.Linear(features, latent_dim)
        self.raw_log_scale = nn.Linear(features, latent_dim)
        self.raw_slopes = nn.Linear(features, below) if below else None
        self.latent_dim = latent_dim

    def forward(self, x: Tensor) -> TorchDistribution:
        features = self.network(x)
        loc, scale = self.loc(features), bounded_scale(self.raw_log_scale(features))
        factor = torch.diag_embed(scale)
        if self.raw_slopes is not None:
            slopes = SLOPE_BOUND * torch.tanh(self.raw_slopes(features) / SLOPE_BOUND)
            factor = factor + scale[..., None] * _strictly_lower(slopes, self.latent_dim)
        return dist.MultivariateNormal(loc, scale_tril=factor)


def _strictly_lower(entries: Tensor, size: int) -> Tensor:
    """The matrix, (..., size, size), whose rows below the diagonal are filled by `entries` one after the other."""
    rows, first = [entries.new_zeros(*entries.shape[:-1], size)], 0
    for length in range(1, size):
        filled = entries[..., first : first + length]
        rows.append(nn.functional.pad(filled, (0, size - length)))
        first += length
    return torch.stack(rows, -2)
