"""The distribution of a row's missing entries, given the seen ones, under a latent class model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.exclusive import exclusive
from pyrovae.models.column_families import Codes
from pyrovae.models.seen import require_possible

if TYPE_CHECKING:
    from pyrovae.models.column_mixture import ColumnMixture

__all__ = ["ConditionalColumns"]


class ConditionalColumns(TorchDistribution):
    """p(x_missing | x_seen) of N rows under a latent class model, as a distribution over whole rows with x_seen fixed.

    `responsibilities`, (N, K), are p(class | x_seen); `log_seen`, (N,), is log p(x_seen). `mean` and `variance` hold
    the seen values, with variance 0 there; a missing entry of a categorical or ordinal column has none, and is NaN
    there: `probabilities(column)` is what it has. `log_prob(value)` scores the missing entries of `value` alone, in
    nats: where all was seen it is 0.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, mixture: ColumnMixture, x: Tensor) -> None:
        self.mixture, self.x = mixture, x
        self._joint = mixture.log_joint_table(x)
        self.log_seen = self._joint.logsumexp(-1).to(x)
        require_possible(self._joint, "probability 0 in every class", "fit with a pseudo_count above 0")
        self._share = self._joint.softmax(-1)
        self.responsibilities = self._share.to(x)
        super().__init__(x.shape[:1], x.shape[1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(self.mixture.support, 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ConditionalColumns:
        if torch.Size(batch_shape) != self.batch_shape:
            raise NotImplementedError("a conditional belongs to its items: ask for draws by sample((n,))")
        return self

    @property
    def mean(self) -> Tensor:
        mean = self._share @ self.mixture.components.moments()[0]
        return torch.where(self.x.isnan(), mean.to(self.x), self.x)

    @property
    def variance(self) -> Tensor:
        means, variances = self.mixture.components.moments()
        mean = self._share @ means
        spread = torch.stack([(one - mean).square() for one in means])  # (K, N, D)
        variance = self._share @ variances + (self._share.mT[..., None] * spread).sum(0)
        return torch.where(self.x.isnan(), variance.to(self.x), 0.0)

    @property
    def filled(self) -> Tensor:
        """The rows with the mean at each missing entry, and with the most probable code where the column has codes."""
        filled = self.mean
        for number, column in enumerate(self.mixture.columns):
            if column.categories is not None:
                filled[:, number] = self.probabilities(column.name).argmax(-1).to(self.x)
        return filled

    def probabilities(self, column: str) -> Tensor:
        """The probability of each category of a column of codes, (N, C): 1 for the one that was seen.

        Raises ValueError for a column without categories.
        """
        number = self.mixture.number_of(column)
        block, place = self.mixture.components.place_of(number)
        if not isinstance(block, Codes):
            kind = self.mixture.columns[number].kind
            raise ValueError(f"column {column!r} is {kind} and has no categories: take mean and variance, or draws")
        probabilities = self._share @ block.log_probabilities[:, place].exp()
        codes = torch.arange(block.num_codes, device=self.x.device)
        seen = self.x[:, number, None]
        return torch.where(seen.isnan(), probabilities.to(self.x), (seen == codes).to(self.x))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        sample_shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
        with torch.no_grad(), exclusive():
            k = dist.Categorical(self._share).sample((math.prod(sample_shape),))
            drawn = self.mixture.components.draw(k).to(self.x)
            completed = torch.where(self.x.isnan(), drawn, self.x)
        return completed.reshape(*sample_shape, *self.x.shape)

    def log_prob(self, value: Any) -> Tensor:
        given = checks.array(value, "value")
        value = torch.where(self.x.isnan(), given.to(self.x), self.x)
        flat = value.reshape(-1, *self.event_shape)
        checks.support(flat, self.mixture.support, "ColumnMixture", name="value")
        whole = self.mixture.log_joint_table(self.mixture._items(flat)).logsumexp(-1)
        whole = whole.reshape(value.shape[:-1])
        return (whole - self._joint.logsumexp(-1)).to(self.x)  # in float64: it is small beside both
