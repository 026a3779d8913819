"""The likelihood of whole numbers 0..levels - 1, such as bytes, by a logistic distribution in bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyrovae import checks
from pyrovae.models.parts.diagonal_normal import bounded_scale
from pyrovae.models.parts.encoder_inputs import Unit
from pyrovae.models.parts.ordinal import log_logistic_mass
from pyrovae.models.registry import register

__all__ = ["BinnedLogistic", "DiscretizedLogistic"]

BINS_TOGETHER = 16  # of the sums over all levels


@register("discretized_logistic", kind="likelihood")
class DiscretizedLogistic(nn.Module):
    """Whole numbers 0..levels - 1, as bytes: the masses of a logistic distribution between their half-way points.

    p(x) = s((x + 1/2 - a) / b) - s((x - 1/2 - a) / b); the first and the last bin are open, so that the masses sum to
    1. The network gives l and r of each entry: the location is a = (levels - 1) (1/2 + l), and the scale
    b = (levels - 1) / 8 exp(10 tanh(r / 10)). So zeros are the middle of the range. (Kingma et al. 2016, section 5.1.)
    `data.load(file, scale=False)` keeps bytes as they are; a builder's encoder sees x / (levels - 1).

    >>> import torch
    >>> from pyrovae import DiscretizedLogistic
    >>> p = DiscretizedLogistic()(torch.zeros(()), torch.zeros(()))
    >>> p.log_prob(torch.tensor([0.0, 127.0, 255.0])), p.mean
    (tensor([-4.0027, -4.8482, -4.0027]), tensor(127.5000))
    """

    base_measure = "mass"
    num_parameters = 2

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels = checks.whole("levels", levels, least=2)

    @property
    def support(self) -> constraints.Constraint:
        """The whole numbers 0..levels - 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def forward(self, loc: Tensor, raw_log_scale: Tensor) -> BinnedLogistic:
        largest = self.levels - 1
        return BinnedLogistic(largest * (0.5 + loc), largest / 8 * bounded_scale(raw_log_scale), self.levels)

    def encoder_input(self, event_shape: tuple[int, ...]) -> Unit:
        """What a builder's encoder sees of the whole numbers."""
        return Unit(self.levels)

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        return f"levels={self.levels}"


class BinnedLogistic(TorchDistribution):
    r"""A logistic distribution rounded to the whole numbers 0..levels - 1, what lies beyond them to the ends.

    log p(x) = log s(u) + log s(-w) + log(1 - exp(-1 / b)) of the bin (w, u), in nats, finite at any location.

    >>> import torch
    >>> from pyrovae.models.parts.discretized_logistic import BinnedLogistic
    >>> BinnedLogistic(torch.tensor(1.0), torch.tensor(0.5), levels=4).log_prob(torch.arange(4.0)).exp().sum()
    tensor(1.)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    has_enumerate_support = True

    def __init__(self, loc: Tensor, scale: Tensor, levels: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The whole numbers 0..levels - 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> BinnedLogistic:
        expanded = (self.loc.expand(batch_shape), self.scale.expand(batch_shape))
        return BinnedLogistic(*expanded, self.levels, validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(x)
        x = x.to(self.loc.dtype)
        width = self.scale.reciprocal()
        upper, lower = (x + 0.5 - self.loc) * width, (x - 0.5 - self.loc) * width
        value = log_logistic_mass(lower, upper, width)
        value = torch.where(x >= self.levels - 1, logsigmoid(-lower), value)
        return torch.where(x <= 0, logsigmoid(upper), value)

    @property
    def mean(self) -> Tensor:
        """The mean, sum_j p(x >= j)."""
        return self._sum_over_levels(0)

    @property
    def variance(self) -> Tensor:
        """The variance, sum_j (2 j - 1) p(x >= j) less the mean squared."""
        return self._sum_over_levels(1) - self.mean.square()

    def _sum_over_levels(self, power: int) -> Tensor:
        total = torch.zeros_like(self.loc)
        levels = torch.arange(1, self.levels, dtype=self.loc.dtype, device=self.loc.device)
        for some in levels.split(BINS_TOGETHER):
            some = some.reshape(-1, *[1] * self.loc.ndim)
            above = torch.sigmoid((self.loc - some + 0.5) / self.scale)
            total = total + ((2 * some - 1) ** power * above).sum(0)
        return total

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            u = u.clamp(min=torch.finfo(u.dtype).tiny)
            drawn = self.loc + self.scale * (u.log() - torch.log1p(-u))
            return drawn.round().clamp(0, self.levels - 1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All whole numbers of the support, in a new first axis."""
        values = torch.arange(self.levels, dtype=self.loc.dtype, device=self.loc.device)
        values = values.reshape(-1, *[1] * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values
