"""The prior of a code given covariates: a normal whose moments are functions of them."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.networks import MLP
from pyrovae.models.parts.covariates import beside
from pyrovae.models.parts.diagonal_normal import bounded_scale
from pyrovae.models.registry import register

__all__ = ["ConditionalNormal"]


@register("conditional", kind="prior")
class ConditionalNormal(nn.Module):
    """The prior p(z | c) = N(loc(c), diag scale(c)^2), of a linear map of the covariates or of a small network.

    `prior(covariates=c)`, c of shape (N, covariate_dim), is one distribution for each item. It starts at N(0, I), for
    the weights of its last layer start at 0. `hidden_dims` are the widths of a network's hidden layers, softplus
    between them; () is a linear map (Sohn, Lee and Yan 2015, section 4.1). Raises ValueError without covariates.

    >>> import torch
    >>> from pyrovae import ConditionalNormal
    >>> ConditionalNormal(2, covariate_dim=3)(covariates=torch.ones(4, 3)).log_prob(torch.zeros(4, 2)).detach()
    tensor([-1.8379, -1.8379, -1.8379, -1.8379])
    """

    def __init__(self, latent_dim: int, covariate_dim: int = 0, hidden_dims: Sequence[int] = ()) -> None:
        super().__init__()
        self.latent_dim = checks.whole("latent_dim", latent_dim, bytes_each=8)
        covariate_dim = checks.whole("covariate_dim", covariate_dim, least=0)
        if not covariate_dim:
            raise ValueError(
                "prior 'conditional' is one given covariates: build the pair with covariate_dim=, the number of columns"
            )
        self.covariate_dim = covariate_dim
        self.network = MLP((covariate_dim,), (2, latent_dim), hidden_dims=hidden_dims)
        last: nn.Linear = self.network.layers[-1]  # type: ignore[assignment]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, *, covariates: Tensor | None = None) -> TorchDistribution:
        weight: Tensor = self.network.layers[-1].weight  # type: ignore[assignment]
        leading = () if covariates is None else covariates.shape[:-1]
        row = beside(weight.new_empty(*leading, 0), covariates, self.covariate_dim, "the prior")
        loc, raw = self.network(row).unbind(-2)
        return dist.Normal(loc, bounded_scale(raw)).to_event(1)
