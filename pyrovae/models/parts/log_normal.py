"""The likelihood of positive entries whose logarithms are normal."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrovae.models.parts.encoder_inputs import Log
from pyrovae.models.parts.scaled import Scaled
from pyrovae.models.registry import register

__all__ = ["LogNormal"]


@register("log_normal", kind="likelihood")
class LogNormal(Scaled):
    """Positive values of which the logarithm is normal: log x ~ N(loc(z), scale^2), a density in the units of x.

    The network gives the location of log x: exp(loc) is the median, and `decode` gives the mean, exp(loc + s^2 / 2).
    The scale s is fixed, or learned as floor + exp(log_scale) from `initial_scale` where it is None, one for all
    entries or `per_entry`.

    >>> import torch
    >>> from pyrovae import LogNormal
    >>> p = LogNormal(scale=0.5)(torch.zeros(1))
    >>> p.log_prob(torch.ones(1)), p.mean
    (tensor([-0.2258]), tensor([1.1331]))
    """

    support = constraints.positive
    base_measure = "density"
    sees = "log"

    def __init__(
        self,
        scale: float | None = None,
        *,
        initial_scale: float = 1.0,
        floor: float = 1e-3,
        per_entry: bool = False,
    ) -> None:
        super().__init__(scale, initial_scale=initial_scale, floor=floor, per_entry=per_entry)

    def forward(self, loc: Tensor) -> TorchDistribution:
        return dist.LogNormal(loc, self.scale_in(loc))

    def encoder_input(self, event_shape: tuple[int, ...]) -> Log:
        """What a builder's encoder sees of the values: their logarithms."""
        return Log()
