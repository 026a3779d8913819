"""Likelihoods of counts with more zeros than their distribution has, and the mixture with a zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyrovae.models.parts.encoder_inputs import Log1p
from pyrovae.models.parts.negative_binomial import NegativeBinomial
from pyrovae.models.parts.poisson import Poisson
from pyrovae.models.registry import register

__all__ = ["ZeroInflated", "ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson"]


@register("zero_inflated_poisson", kind="likelihood")
class ZeroInflatedPoisson(nn.Module):
    """Counts that are 0 with probability s(g) and Poisson otherwise, independent given log-rates and gates g: a mass.

    The network gives two numbers an entry, the log-rate and g. An exposure multiplies the rate and leaves the gate as
    it is. (Lambert 1992, section 2.)

    >>> import torch
    >>> from pyrovae import ZeroInflatedPoisson
    >>> p = ZeroInflatedPoisson()(torch.tensor(2.0).log(), torch.tensor(0.0))
    >>> p.mean, p.log_prob(torch.tensor([0.0, 1.0])).exp()
    (tensor(1.), tensor([0.5677, 0.1353]))
    """

    support = constraints.nonnegative_integer
    base_measure = "mass"
    takes_exposure = True
    num_parameters = 2

    def __init__(self) -> None:
        super().__init__()
        self.counts = Poisson()

    def forward(self, log_rate: Tensor, gate_logits: Tensor, *, exposure: Tensor | None = None) -> ZeroInflated:
        return ZeroInflated(self.counts(log_rate, exposure=exposure), gate_logits)

    def encoder_input(self, event_shape: tuple[int, ...]) -> Log1p:
        """What a builder's encoder sees of the counts."""
        return Log1p()


@register("zero_inflated_negative_binomial", kind="likelihood")
class ZeroInflatedNegativeBinomial(nn.Module):
    """Counts that are 0 with probability s(g) and negative binomial otherwise, given log-means and gates g: a mass.

    The network gives two numbers an entry, the log-mean and g, and with `dispersion="item"` a third. `dispersion` and
    `initial_dispersion` as in `NegativeBinomial`. An exposure multiplies the mean of the negative binomial and leaves
    the gate as it is. (Greene 1994, section 3.)

    >>> import torch
    >>> from pyrovae import ZeroInflatedNegativeBinomial
    >>> p = ZeroInflatedNegativeBinomial()(torch.tensor(2.0).log(), torch.tensor(0.0))
    >>> p.mean.detach(), p.log_prob(torch.tensor([0.0, 1.0])).exp().detach()
    (tensor(1.), tensor([0.6667, 0.1111]))
    """

    support = constraints.nonnegative_integer
    base_measure = "mass"
    takes_exposure = True

    def __init__(
        self, dispersion: Literal["shared", "column", "item"] = "shared", *, initial_dispersion: float = 1.0
    ) -> None:
        super().__init__()
        self.counts = NegativeBinomial(dispersion, initial_dispersion=initial_dispersion)

    @property
    def num_parameters(self) -> int:
        """The number of parameters of an entry that the network gives."""
        return 1 + self.counts.num_parameters

    def bind(self, event_shape: tuple[int, ...]) -> None:
        """Make the dispersion of each entry of an item, where there is one for each."""
        self.counts.bind(event_shape)

    def forward(
        self,
        log_mean: Tensor,
        gate_logits: Tensor,
        raw_log_size: Tensor | None = None,
        *,
        exposure: Tensor | None = None,
    ) -> ZeroInflated:
        return ZeroInflated(self.counts(log_mean, raw_log_size, exposure=exposure), gate_logits)

    def encoder_input(self, event_shape: tuple[int, ...]) -> Log1p:
        """What a builder's encoder sees of the counts."""
        return Log1p()


class ZeroInflated(TorchDistribution):
    r"""A mixture of 0, with probability s(g), and a distribution of counts: p(x) = s(g) [x = 0] + s(-g) p_counts(x).

    >>> import torch
    >>> from pyrovae.models.parts.poisson import LogRatePoisson
    >>> from pyrovae.models.parts.zero_inflated import ZeroInflated
    >>> ZeroInflated(LogRatePoisson(torch.zeros(3)), torch.zeros(3)).log_prob(torch.arange(3.0)).exp()
    tensor([0.6839, 0.1839, 0.0920])
    """

    arg_constraints = {"gate_logits": constraints.real}  # noqa: RUF012
    support = constraints.nonnegative_integer

    def __init__(self, counts: TorchDistribution, gate_logits: Tensor, validate_args: bool | None = None) -> None:
        shape = torch.broadcast_shapes(counts.batch_shape, gate_logits.shape)
        self.counts, self.gate_logits = counts.expand(shape), gate_logits.expand(shape)
        super().__init__(shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> ZeroInflated:
        shape = torch.Size(batch_shape)
        return ZeroInflated(self.counts.expand(shape), self.gate_logits.expand(shape), validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(x)
        counted = logsigmoid(-self.gate_logits) + self.counts.log_prob(x)
        return torch.where(x == 0, torch.logaddexp(logsigmoid(self.gate_logits), counted), counted)

    @property
    def mean(self) -> Tensor:
        """The mean, s(-g) times that of the counts."""
        return torch.sigmoid(-self.gate_logits) * self.counts.mean

    @property
    def variance(self) -> Tensor:
        """The variance, s(-g) (v + s(g) m^2) with mean m and variance v of the counts."""
        share = torch.sigmoid(-self.gate_logits)
        return share * (self.counts.variance + torch.sigmoid(self.gate_logits) * self.counts.mean.square())

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            counts = self.counts.sample(torch.Size(sample_shape))
            is_counted = torch.rand_like(counts) < torch.sigmoid(-self.gate_logits)
            return torch.where(is_counted, counts, 0.0)
