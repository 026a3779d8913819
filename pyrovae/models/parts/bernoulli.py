"""The likelihood of entries that are 0 or 1."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.models.elementary import BernoulliEntries
from pyrovae.models.registry import register

__all__ = ["Bernoulli"]


@register("bernoulli", kind="likelihood")
class Bernoulli(nn.Module):
    """Entries that are 0 or 1, independent given their logits: log p(x) = x log s(l) + (1 - x) log(1 - s(l)), a mass.

    >>> import torch
    >>> from pyrovae import Bernoulli
    >>> Bernoulli()(torch.zeros(2)).log_prob(torch.tensor([0.0, 1.0]))
    tensor([-0.6931, -0.6931])
    """

    support = constraints.boolean
    base_measure = "mass"

    def forward(self, logits: Tensor) -> TorchDistribution:
        return BernoulliEntries(logits=logits)

    def natural_parameter(self, p: TorchDistribution) -> Tensor:
        """The natural parameter l of a density proportional to exp(x l)."""
        return p.logits

    def log_base(self, p: TorchDistribution, x: Tensor) -> Tensor:
        """The rest log p(x) - log p(0) - x l, which does not depend on l."""
        return torch.zeros_like(x)
