"""The likelihood of real entries with exponential tails, whose fit is one of absolute errors."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrovae.models.parts.scaled import Scaled, linked
from pyrovae.models.registry import register

__all__ = ["Laplace"]


@register("laplace", kind="likelihood")
class Laplace(Scaled):
    """Real values with exponential tails: log p(x) = -|x - loc| / scale - log(2 scale), an absolute error.

    `scale` is fixed, or learned as floor + exp(log_scale) from `initial_scale` where it is None, one for all entries or
    `per_entry`. The standard deviation is sqrt(2) scale. `link` "sigmoid" keeps the location in [0, 1].

    >>> import torch
    >>> from pyrovae import Laplace
    >>> Laplace(scale=0.5)(torch.zeros(2)).log_prob(torch.tensor([0.5, 1.0]))
    tensor([-1., -2.])
    """

    support = constraints.real
    base_measure = "density"
    image_arguments: ClassVar[dict[str, Any]] = {"link": "sigmoid"}

    def forward(self, loc: Tensor) -> TorchDistribution:
        return dist.Laplace(linked(loc, self.link), self.scale_in(loc))
