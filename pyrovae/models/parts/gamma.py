"""The likelihood of positive entries whose standard deviation is proportional to their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.models.parts.counts import bounded_log, stirling_error
from pyrovae.models.parts.encoder_inputs import Log
from pyrovae.models.parts.scaled import unbound
from pyrovae.models.parts.standardizer import Standardizable
from pyrovae.models.registry import register

__all__ = ["Gamma", "StableGamma"]


@register("gamma", kind="likelihood")
class Gamma(Standardizable):
    """Positive values with mean m(z) and shape a: p(x) = (a / m)^a x^(a - 1) exp(-a x / m) / Gamma(a).

    Their standard deviation is m / sqrt(a): the same share of the mean everywhere. The network gives the logarithm of
    the mean, which grows as log does beyond (-20, 20), so that none overflows. `shape` is fixed, or learned from
    `initial_shape` where it is None, one for all entries or `per_entry`; a learned one is below 1 / floor^2, so that
    the likelihood is bounded: 1 / sqrt(a) = floor + exp(log_spread) is the coefficient of variation. Shape 1 is the
    exponential distribution.

    >>> import torch
    >>> from pyrovae import Gamma
    >>> p = Gamma(shape=4.0)(torch.zeros(1))
    >>> p.mean, p.stddev, p.log_prob(torch.ones(1))
    (tensor([1.]), tensor([0.5000]), tensor([-0.2466]))
    """

    support = constraints.positive
    base_measure = "density"
    sees = "log"
    fixed_shape: Tensor
    log_spread: nn.Parameter | None

    def __init__(
        self,
        shape: float | None = None,
        *,
        initial_shape: float = 1.0,
        floor: float = 1e-3,
        per_entry: bool = False,
    ) -> None:
        super().__init__()
        self.floor = checks.positive("floor", floor)
        self._per_entry = bool(per_entry)
        self.initial_shape = checks.positive("initial_shape", initial_shape)
        self._shape = None if shape is None else checks.positive("shape", shape)
        if shape is not None:
            if self._per_entry:
                raise ValueError("per_entry learns a shape for each entry, and shape fixes one for all: leave out one")
            if not 1e-10 < checks.positive("shape", shape) < 1e10:
                raise ValueError(f"shape must lie between 1e-10 and 1e10, got {shape!r}")
            self.register_buffer("fixed_shape", torch.tensor(shape, dtype=torch.float64))
            return
        if self.initial_shape**-0.5 <= floor:
            raise ValueError(f"initial_shape must be less than 1 / floor^2 ({floor**-2:g}), got {initial_shape!r}")
        self.log_spread = None if self._per_entry else nn.Parameter(torch.tensor(self._start))

    @property
    def _start(self) -> float:
        return math.log(self.initial_shape**-0.5 - self.floor)

    def bind(self, event_shape: Sequence[int]) -> None:
        """Make a shape parameter for each entry of items of this shape, where each is to have one of its own."""
        if not self._per_entry:
            return
        if self.log_spread is None:
            self.log_spread = nn.Parameter(torch.full(tuple(event_shape), self._start))
        elif tuple(self.log_spread.shape) != tuple(event_shape):
            raise ValueError(
                f"Gamma has a shape for each entry of items of shape {tuple(self.log_spread.shape)}, and these items "
                f"have shape {tuple(event_shape)}: make another one"
            )

    @property
    def shape(self) -> Tensor:
        """The shape a of an entry: a number, or with `per_entry` one for each, (*event_shape)."""
        if self._shape is not None:
            return self.fixed_shape
        if self.log_spread is None:
            raise unbound(self)
        return (self.floor + self.log_spread.exp()).pow(-2)

    def forward(self, log_mean: Tensor) -> TorchDistribution:
        shape = self.shape.to(log_mean)
        return StableGamma(shape, shape * torch.exp(-bounded_log(log_mean)))

    def encoder_input(self, event_shape: tuple[int, ...]) -> Log:
        """What a builder's encoder sees of the values: their logarithms."""
        return Log()

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        own = f"shape={self._shape!r}, initial_shape={self.initial_shape!r}, floor={self.floor!r}"
        return f"{own}, per_entry=True" if self._per_entry else own


class StableGamma(dist.Gamma):
    """The Gamma distribution with a log-density of terms that are small where it is: a (r - 1 - log r), r = x / m."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a = self.concentration
        ratio = value * (self.rate / a)
        surprise = a * (ratio - 1 - ratio.log())
        return 0.5 * (a / (2 * math.pi)).log() - stirling_error(a) - value.log() - surprise
