"""The likelihood of grey entries in [0, 1], and its distribution written in the logit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.models.registry import register

__all__ = ["ContinuousBernoulli", "TruncatedExponential"]


@register("continuous_bernoulli", kind="likelihood")
class ContinuousBernoulli(nn.Module):
    """Grey pixels in [0, 1], density proportional to s(l)^x (1 - s(l))^(1 - x) (Loaiza-Ganem and Cunningham 2019).

    >>> import torch
    >>> from pyrovae import ContinuousBernoulli
    >>> ContinuousBernoulli()(torch.zeros(1)).log_prob(torch.tensor([0.3])).abs()
    tensor([0.])
    """

    support = constraints.unit_interval
    base_measure = "density"

    def forward(self, logits: Tensor) -> TorchDistribution:
        return TruncatedExponential(logits)

    def natural_parameter(self, p: TorchDistribution) -> Tensor:
        """The natural parameter l of a density proportional to exp(x l)."""
        return p.logits

    def log_base(self, p: TorchDistribution, x: Tensor) -> Tensor:
        """The rest log p(x) - log p(0) - x l, which does not depend on l."""
        return torch.zeros_like(x)


class TruncatedExponential(TorchDistribution):
    r"""The continuous Bernoulli written in its logit: p(x) = l e^(l x) / (e^l - 1) on [0, 1].

    log p(x) = log|l| - |l| d - log(1 - e^-|l|), in nats, with d the distance of x from the end where the density is
    high; where |l| < 0.3, l (x - 1/2) less the series of log(sinh(l/2) / (l/2)). So it keeps its figures for every
    logit: a form through s = sigmoid(l) loses them in float32 once |l| is over 16.

    >>> import torch
    >>> from pyrovae.models.parts.continuous_bernoulli import TruncatedExponential
    >>> TruncatedExponential(torch.tensor(2.0)).log_prob(torch.tensor([0.0, 1.0]))
    tensor([-1.1614,  0.8386])
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> TruncatedExponential:
        return TruncatedExponential(self.logits.expand(batch_shape), validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(x)
        small, safe = _split(self.logits)
        size = safe.abs()
        # counted from the heavy end: no two large terms of the same size are taken from each other
        distance = torch.where(safe > 0, 1 - x, x)
        value = torch.log(size) - size * distance - torch.log1p(-torch.exp(-size))
        return torch.where(small, self.logits * (x - 0.5) - _log_sinhc_series(self.logits**2), value)

    @property
    def mean(self) -> Tensor:
        """The mean, 1/2 + coth(l/2)/2 - 1/l."""
        small, safe = _split(self.logits)
        series = 0.5 + self.logits * _polynomial(
            self.logits**2, (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160)
        )
        return torch.where(small, series, 0.5 + 0.5 / torch.tanh(safe / 2) - 1 / safe)

    @property
    def variance(self) -> Tensor:
        """The variance, 1/l^2 - 1/(4 sinh^2(l/2))."""
        small, safe = _split(self.logits)
        tail = torch.exp(-safe.abs())
        series = _polynomial(self.logits**2, (1 / 12, -1 / 240, 1 / 6048, -1 / 172800, 1 / 5322240))
        return torch.where(small, series, 1 / safe**2 - tail / (1 - tail) ** 2)

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile log(1 + u (e^l - 1)) / l, counted from the heavy end so that nothing overflows."""
        small, safe = _split(self.logits, below=1e-4)
        size = safe.abs()
        heavy = torch.where(safe > 0, 1 - u, u)
        distance = -torch.log1p(heavy * torch.expm1(-size)) / size
        value = torch.where(safe > 0, 1 - distance, distance)
        return torch.where(small, u + self.logits * u * (1 - u) / 2, value).clamp(0, 1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))


def _split(logits: Tensor, below: float = 0.3) -> tuple[Tensor, Tensor]:
    # the branch a where() drops still carries gradients: keep it away from 0 / 0
    small = logits.abs() < below
    return small, torch.where(small, torch.ones_like(logits), logits)


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    value = torch.zeros_like(x)
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return value


def _log_sinhc_series(square: Tensor) -> Tensor:
    """log(sinh(l/2) / (l/2)) from l^2, near 0; its derivative is the mean's series."""
    return square * _polynomial(square, (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600))
