"""Items with the same seen entries under normal components: densities, and moments and draws of what is missing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pyrovae.models.components import GaussianComponents

__all__ = ["Pattern"]


@dataclass
class Pattern:
    """Items with the same seen entries: the mask `seen` (features,) and the values `x` (n, number seen), in float64."""

    components: GaussianComponents
    seen: Tensor
    x: Tensor
    covariance: Tensor | None  # (K or 1, features, features); None where it is diagonal

    def __post_init__(self) -> None:
        components = self.components
        self.loc = components.loc.double()
        self.dense = self.covariance is not None
        if self.covariance is None:
            self.scale = components.diagonal.expand(components.num_components, components.features)
            self.solved = ((self.x - self.loc[:, None, self.seen]) / self.scale[:, None, self.seen]).mT
            self.log_scale = self.scale[:, self.seen].log().sum(-1)
            return
        covariance = self.covariance
        self.factor = torch.linalg.cholesky(covariance[:, self.seen][:, :, self.seen])
        self.across = covariance[:, ~self.seen][:, :, self.seen]  # missing by seen
        self.within = covariance.diagonal(dim1=-2, dim2=-1)[:, ~self.seen]
        self.solved = self._solve(self.x - self.loc[:, None, self.seen])
        self.log_scale = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def _solve(self, away: Tensor) -> Tensor:
        """L^-1 (x - loc) for the seen entries: (K, n, s) to (K, s, n)."""
        return torch.linalg.solve_triangular(self.factor, away.mT, upper=False)

    def log_prob(self) -> Tensor:
        """log N(x_seen; loc_k, C_k), the marginal density of the seen entries, shape (n, K)."""
        constant = self.log_scale + 0.5 * self.x.shape[1] * math.log(2 * math.pi)
        return (-0.5 * self.solved.square().sum(1) - constant[:, None]).mT

    def moments(self) -> tuple[Tensor, Tensor]:
        """The conditional mean (K, n, m) and variance (K, 1, m) of the missing entries given the seen entries."""
        loc = self.loc[:, None, ~self.seen]
        if not self.dense:
            count = self.x.shape[0]
            return loc.expand(-1, count, -1), self.scale[:, None, ~self.seen].square()
        gain = torch.linalg.solve_triangular(self.factor, self.across.mT, upper=False)  # (K or 1, s, m)
        return loc + self.solved.mT @ gain, (self.within - gain.square().sum(1))[:, None].clamp(min=0.0)

    def completed(self, drawn: Tensor, component: Tensor) -> Tensor:
        """Conditional draws of the missing entries, (S, n, m), made from joint draws (S, n, D) of `component`.

        For a joint draw (x_m, x_s), x_m + C_ms C_ss^-1 (x_seen - x_s) has the conditional distribution, and no factor
        of the conditional covariance is needed.
        """
        missing = drawn[..., ~self.seen].clone()
        if not self.dense:
            return missing
        for k in component.unique():
            row = 0 if len(self.factor) == 1 else k
            short = (self.x - drawn[..., self.seen]).flatten(0, -2)
            moved = torch.cholesky_solve(short.mT, self.factor[row])
            of_component = component == k
            missing[of_component] += (self.across[row] @ moved).mT.unflatten(0, component.shape)[of_component]
        return missing
