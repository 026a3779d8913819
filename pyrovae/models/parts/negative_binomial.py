"""The likelihood of counts whose variance exceeds their mean, and its distribution by mean and dispersion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.models.parts.counts import (
    HALF_LOG_TWO_PI,
    bounded_log,
    expm1_excess,
    log_of_ratio,
    log_ratio_excess,
    poisson_counts,
    stirling_error,
)
from pyrovae.models.parts.encoder_inputs import Log1p
from pyrovae.models.registry import register

__all__ = ["MeanNegativeBinomial", "NegativeBinomial", "StableNegativeBinomial"]

DISPERSIONS = ("shared", "column", "item")


@register("negative_binomial", kind="likelihood")
class NegativeBinomial(nn.Module):
    """Counts of mean m and variance m + d m^2, independent given log m, with a learned dispersion d: a mass.

    log p(x) = log Gamma(x + r) - log Gamma(r) - log x! + r log(r / (r + m)) + x log(m / (r + m)), with r = 1 / d.
    `dispersion` is "shared" for one d of all entries, "column" for one of each entry of an item, such as a column or a
    pixel, and "item" for a d of each item's entry, the network's second output. It starts at `initial_dispersion`. An
    exposure multiplies m. At d -> 0 it is the Poisson distribution, in value and gradient. (Lawless 1987, section 2.)

    >>> import torch
    >>> from pyrovae import NegativeBinomial
    >>> p = NegativeBinomial(initial_dispersion=0.5)(torch.tensor(3.0).log())
    >>> p.mean.detach(), p.variance.detach()
    (tensor(3.), tensor(7.5000))
    """

    support = constraints.nonnegative_integer
    base_measure = "mass"
    takes_exposure = True

    def __init__(
        self, dispersion: Literal["shared", "column", "item"] = "shared", *, initial_dispersion: float = 1.0
    ) -> None:
        super().__init__()
        self.dispersion = checks.choice("dispersion", dispersion, DISPERSIONS)
        self.initial_dispersion = checks.positive("initial_dispersion", initial_dispersion)
        # from `_start`, which is a Python number: a pair that is made double loses no figure of its dispersion
        self.log_size_change: nn.Parameter | None
        self.register_parameter("log_size_change", None)
        if dispersion == "shared":
            self.log_size_change = nn.Parameter(torch.zeros(()))

    @property
    def _start(self) -> float:
        return -math.log(self.initial_dispersion)

    @property
    def num_parameters(self) -> int:
        """The number of parameters of an entry that the network gives."""
        return 2 if self.dispersion == "item" else 1

    def bind(self, event_shape: tuple[int, ...]) -> None:
        """Make the dispersion of each entry of an item, where there is one for each."""
        if self.dispersion != "column":
            return
        if self.log_size_change is not None and self.log_size_change.shape != torch.Size(event_shape):
            raise ValueError(
                f"{type(self).__name__} has a dispersion for each entry of items of shape "
                f"{tuple(self.log_size_change.shape)}, and is asked for {tuple(event_shape)}: make a new one"
            )
        if self.log_size_change is None:
            self.log_size_change = nn.Parameter(torch.zeros(event_shape))

    def log_size(self, raw: Tensor | None = None) -> Tensor:
        """log r, the logarithm of the inverse dispersion; `raw` is the network's output where it gives one."""
        if raw is not None:
            return bounded_log(raw + self._start)
        if self.log_size_change is None:
            raise ValueError(
                f"{type(self).__name__}(dispersion='column') has no dispersions yet, because it does not know the "
                "shape of an item: call bind(event_shape), as Likelihood does"
            )
        return bounded_log(self.log_size_change + self._start)

    def forward(
        self, log_mean: Tensor, raw_log_size: Tensor | None = None, *, exposure: Tensor | None = None
    ) -> MeanNegativeBinomial:
        log_mean = bounded_log(log_mean)
        if exposure is not None:
            log_mean = log_mean + exposure.to(log_mean).log()
        return MeanNegativeBinomial(log_mean, self.log_size(raw_log_size).to(log_mean))

    def encoder_input(self, event_shape: tuple[int, ...]) -> Log1p:
        """What a builder's encoder sees of the counts."""
        return Log1p()

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        return f"dispersion={self.dispersion!r}, initial_dispersion={self.initial_dispersion!r}"


class MeanNegativeBinomial(TorchDistribution):
    r"""The negative binomial distribution by log m and log r, of mean m and variance m + m^2 / r.

    For x above 0, log p(x) = -D - S(x) - S(r) + S(x + r) - log(1 + x / r) / 2 - log(2 pi x) / 2, with S the error of
    Stirling's formula and D = x (exp(v) - 1 - v) + r (s - log(1 + s)) the deviance, s = (x - m) / (r + m) and
    v = log(1 + (m - x) r / (x (r + m))). No two large terms are taken from each other, and at large r each tends to
    that of the Poisson distribution. (Loader 2000, Fast and accurate computation of binomial probabilities, section 3.)

    >>> import torch
    >>> from pyrovae.models.parts.negative_binomial import MeanNegativeBinomial
    >>> MeanNegativeBinomial(torch.tensor(0.0), torch.tensor(25.0)).log_prob(torch.arange(3.0))
    tensor([-1.0000, -1.0000, -1.6931])
    """

    arg_constraints = {"log_mean": constraints.real, "log_size": constraints.real}  # noqa: RUF012
    support = constraints.nonnegative_integer

    def __init__(self, log_mean: Tensor, log_size: Tensor, validate_args: bool | None = None) -> None:
        self.log_mean, self.log_size = torch.broadcast_tensors(log_mean, log_size)
        super().__init__(self.log_mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> MeanNegativeBinomial:
        expanded = (self.log_mean.expand(batch_shape), self.log_size.expand(batch_shape))
        return MeanNegativeBinomial(*expanded, validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(x)
        x = x.to(self.log_mean.dtype)
        mean, size = self.log_mean.exp(), self.log_size.exp()
        count = torch.where(x > 0, x, 1.0)
        s = (count - mean) / (size + mean)
        is_near = s.abs() < 0.5
        log_ratio = torch.where(  # log((x + r) / (m + r))
            is_near, torch.log1p(torch.where(is_near, s, 0.0)), (count + size).log() - (mean + size).log()
        )
        excess = (mean - count) / count * torch.sigmoid(self.log_size - self.log_mean)
        v = log_of_ratio(excess, self.log_mean - count.log() + log_ratio)
        deviance = count * expm1_excess(v) + size * log_ratio_excess(s, log_ratio)
        stirling = stirling_error(count + size) - stirling_error(size) - stirling_error(count)
        above = stirling - deviance - 0.5 * torch.log1p(count / size) - HALF_LOG_TWO_PI - 0.5 * count.log()
        # r log(1 + m / r) by its logarithm where m / r is large
        ratio = self.log_mean - self.log_size
        at_zero = -size * torch.nn.functional.softplus(ratio)
        is_small = ratio < -1  # there softplus loses no figure, and the product keeps those of m
        at_zero = torch.where(is_small, -mean * _log1p_over(torch.where(is_small, ratio, -1.0).exp()), at_zero)
        return torch.where(x > 0, above, at_zero)

    @property
    def mean(self) -> Tensor:
        """The mean, exp(log_mean)."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """The variance, m + m^2 / r."""
        return self.log_mean.exp() + (2 * self.log_mean - self.log_size).exp()

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            size = self.log_size.exp().expand(shape)
            # a Poisson count whose rate is a gamma variable of mean m and shape r
            relative = torch._standard_gamma(size) / size
            return poisson_counts(relative * self.log_mean.exp().expand(shape))


class StableNegativeBinomial(dist.NegativeBinomial):
    """torch's negative binomial distribution, scored and drawn by its mean n exp(logits) and its r = n."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._by_mean().log_prob(value)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._by_mean().sample(sample_shape)

    def _by_mean(self) -> MeanNegativeBinomial:
        log_count = self.total_count.log()
        return MeanNegativeBinomial(log_count + self.logits, log_count, validate_args=False)


def _log1p_over(ratio: Tensor) -> Tensor:
    """log(1 + a) / a for a > 0, also where a underflows."""
    safe = ratio.clamp(min=torch.finfo(ratio.dtype).tiny)
    return torch.log1p(safe) / safe
