"""The likelihood of counts whose variance is their mean, and its distribution written in the log-rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.models.parts.counts import (
    HALF_LOG_TWO_PI,
    bounded_log,
    expm1_excess,
    log_of_ratio,
    poisson_counts,
    stirling_error,
)
from pyrovae.models.parts.encoder_inputs import Log1p
from pyrovae.models.registry import register

__all__ = ["LogRatePoisson", "Poisson"]


@register("poisson", kind="likelihood")
class Poisson(nn.Module):
    """Counts, independent given the logarithms l of their rates: log p(x) = x l - exp(l) - log x!, a mass.

    With an exposure e the rate is e exp(l). The log-rate is what the network gives within (-20, 20), and grows as the
    logarithm beyond, so that no output of the network overflows. (McCullagh and Nelder 1989, section 6.2.)

    >>> import torch
    >>> from pyrovae import Poisson
    >>> p = Poisson()(torch.zeros(3), exposure=torch.tensor(2.0))
    >>> p.mean, p.log_prob(torch.tensor([0.0, 1.0, 2.0]))
    (tensor([2., 2., 2.]), tensor([-2.0000, -1.3069, -1.3069]))
    """

    support = constraints.nonnegative_integer
    base_measure = "mass"
    takes_exposure = True

    def forward(self, log_rate: Tensor, *, exposure: Tensor | None = None) -> LogRatePoisson:
        log_rate = bounded_log(log_rate)
        return LogRatePoisson(log_rate if exposure is None else log_rate + exposure.to(log_rate).log())

    def encoder_input(self, event_shape: tuple[int, ...]) -> Log1p:
        """What a builder's encoder sees of the counts."""
        return Log1p()

    def natural_parameter(self, p: LogRatePoisson) -> Tensor:
        """The natural parameter l of a mass proportional to exp(x l) / x!."""
        return p.log_rate

    def log_base(self, p: LogRatePoisson, x: Tensor) -> Tensor:
        """The rest log p(x) - log p(0) - x l, which does not depend on l."""
        return -torch.lgamma(x + 1)

    def log_zero(self, p: LogRatePoisson, exposure: Tensor) -> Tensor:
        """log p(0) of an item at each code (M, *event_shape) and exposure (N,), shape (M, N)."""
        return -p.mean.flatten(1).sum(-1)[:, None] * exposure


class LogRatePoisson(TorchDistribution):
    r"""The Poisson distribution written in its log-rate l: log p(x) = x l - exp(l) - log x!, in nats.

    For x above 0 it is computed as -x (exp(v) - 1 - v) - log(2 pi x) / 2 - S(x) with v = l - log x and S the error of
    Stirling's formula, so that large terms do not cancel. (Loader 2000, section 3.) The error that is left is that of
    the dtype's own numbers: at a rate m some m^(1/2) times the rounding error of float32, 2e-3 nats at 10^9 and 2 at
    10^15, where neighbouring float32 numbers lie further apart than the counts do. There take `pair.double()`.

    >>> import torch
    >>> from pyrovae.models.parts.poisson import LogRatePoisson
    >>> LogRatePoisson(torch.tensor(1e6).log()).log_prob(torch.tensor(1e6))
    tensor(-7.8267)
    """

    arg_constraints = {"log_rate": constraints.real}  # noqa: RUF012
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> LogRatePoisson:
        return LogRatePoisson(self.log_rate.expand(batch_shape), validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(x)
        x = x.to(self.log_rate.dtype)
        count = torch.where(x > 0, x, 1.0)
        v = log_of_ratio((self.log_rate.exp() - count) / count, self.log_rate - count.log())
        deviance = count * expm1_excess(v)
        above = -deviance - stirling_error(count) - HALF_LOG_TWO_PI - 0.5 * count.log()
        return torch.where(x > 0, above, -self.log_rate.exp())

    @property
    def mean(self) -> Tensor:
        """The mean, exp(log_rate)."""
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        """The variance, which is the mean."""
        return self.log_rate.exp()

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            return poisson_counts(self.log_rate.exp().expand(shape))
