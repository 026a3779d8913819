"""A finite mixture over one code, for priors: its components are the batch of a distribution of codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrovae.models.means import is_diagonal_normal

__all__ = ["FiniteMixture"]

TOGETHER = 2**23  # entries of codes times components that are computed together where no gradient is taken


class FiniteMixture(TorchDistribution):
    """p(z) = sum_k w_k p_k(z), over one code: `log_weights`, (K,), normalised, and `components` of batch shape (K,).

    Where no gradient is taken the codes are scored a part at a time: memory does not grow with codes times components.
    Draws carry no gradients.

    >>> import torch
    >>> import pyro.distributions as dist
    >>> from pyrovae.models.finite_mixture import FiniteMixture
    >>> halves = torch.tensor([0.5, 0.5]).log()
    >>> FiniteMixture(halves, dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)).log_prob(torch.zeros(4, 3)).shape
    torch.Size([4])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, log_weights: Tensor, components: Any, batch_shape: Sequence[int] = ()) -> None:
        self.log_weights, self.components = log_weights, components
        super().__init__(torch.Size(batch_shape), components.event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> FiniteMixture:
        return FiniteMixture(self.log_weights, self.components, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        leading = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        if torch.is_grad_enabled() and (value.requires_grad or self.log_weights.requires_grad):
            log_density = self._scored(value)
        else:
            rows = max(1, TOGETHER // (self.log_weights.numel() * value.shape[-1]))
            parts = [self._scored(part) for part in value.reshape(-1, value.shape[-1]).split(rows)]
            log_density = torch.cat(parts).reshape(value.shape[:-1])
        return log_density.expand(leading)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            which = torch.multinomial(self.log_weights.exp(), shape[:-1].numel(), replacement=True)
            rows = max(1, TOGETHER // (self.log_weights.numel() * shape[-1]))
            return torch.cat([self._drawn(part) for part in which.split(rows)]).reshape(shape)

    @property
    def mean(self) -> Tensor:
        mean = self.log_weights.exp() @ self.components.mean
        return mean.expand(*self.batch_shape, -1)

    @property
    def variance(self) -> Tensor:
        weights, loc = self.log_weights.exp(), self.components.mean
        within = self.components.variance
        variance = weights @ (within + (loc - weights @ loc).square())
        return variance.expand(*self.batch_shape, -1)

    def _scored(self, z: Tensor) -> Tensor:
        return (self.log_weights + self.components.log_prob(z[..., None, :])).logsumexp(-1)

    def _drawn(self, which: Tensor) -> Tensor:
        """A draw of the component that each entry of `which` names."""
        if is_diagonal_normal(self.components):
            loc, scale = self.components.mean[which], self.components.stddev[which]
            return loc + scale * torch.randn_like(loc)
        all_of_them: Tensor = self.components.sample((len(which),))  # (n, K, D)
        return all_of_them[torch.arange(len(which), device=which.device), which]
