"""Linear-Gaussian models of vectors, x = W z + mu + e, in float64: codes and log-densities given what was seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyrovae.models.covariance import ROWS

__all__ = ["LinearGaussian", "SeenCodes", "seen_kinds", "seen_log_prob"]


@dataclass(frozen=True)
class LinearGaussian:
    """x = W z + mu + e with z ~ N(0, I) and e ~ N(0, diag variance): probabilistic PCA and factor analysis.

    `weight` (D, Q), `offset` (D,), `variance` (D,). (Tipping and Bishop 1999, section 3.1.)
    """

    weight: Tensor
    offset: Tensor
    variance: Tensor

    def codes(self, x: Tensor, seen: Tensor, kinds: Tensor, which: Tensor) -> SeenCodes:
        """What the seen entries say of the codes of items (N, D), `seen` being 1 where an entry was and else 0.

        `x` is any number where an entry is missing. The rows of `kinds` (P, D) are the different rows of `seen`, and
        `which` (N,) says which of them is an item's: a covariance is computed once for each.
        """
        per_variance = self.weight / self.variance[:, None]
        outer = (self.weight[:, :, None] * per_variance[:, None, :]).flatten(1)
        size = self.weight.shape[1]
        eye = torch.eye(size, dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky(eye + (kinds @ outer).reshape(-1, size, size))
        covariance = torch.cholesky_inverse(factor)
        away = (x - self.offset) * seen
        loc = (covariance[which] @ (away @ per_variance)[:, :, None])[:, :, 0]
        residual = (away - (loc @ self.weight.mT) * seen).square() @ (1 / self.variance)
        constant = seen @ (2 * math.pi * self.variance).log()
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)[which]
        # at the mean of the code, where no large terms cancel
        log_prob = -0.5 * (constant + log_det + residual + loc.square().sum(-1))
        return SeenCodes(loc, covariance, log_prob)


@dataclass(frozen=True)
class SeenCodes:
    """p(z | x_seen) = N(loc, covariance) of N items, (N, Q) and of each kind (P, Q, Q), and log p(x_seen), (N,)."""

    loc: Tensor
    covariance: Tensor
    log_prob: Tensor


def seen_kinds(seen: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows of a boolean mask (N, D), as numbers (P, D) in float64, and which of them each row is."""
    mask = seen.cpu().numpy()
    packed = np.ascontiguousarray(np.packbits(mask, axis=1))
    rows = packed.view(np.dtype((np.void, packed.shape[1])))[:, 0]
    _, first, which = np.unique(rows, return_index=True, return_inverse=True)
    kinds = torch.from_numpy(mask[first].astype(np.float64))
    return kinds.to(seen.device), torch.from_numpy(which).to(seen.device)


@torch.no_grad()
def seen_log_prob(model: LinearGaussian, x: Tensor) -> Tensor:
    """log p of the entries of `x` (N, D) that are not NaN, (N,), in nats and float64; 0 where none was seen.

    >>> import torch
    >>> from pyrovae.models.linear_gaussian import LinearGaussian, seen_log_prob
    >>> model = LinearGaussian(torch.ones(2, 1).double(), torch.zeros(2).double(), torch.ones(2).double())
    >>> seen_log_prob(model, torch.tensor([[0.0, torch.nan]]).double())  # N(0; 0, 2)
    tensor([-1.2655], dtype=torch.float64)
    """
    parts = []
    for rows in x.double().split(ROWS):
        seen = ~rows.isnan()
        kinds, which = seen_kinds(seen)
        parts.append(model.codes(torch.where(seen, rows, 0.0), seen.double(), kinds, which).log_prob)
    return torch.cat(parts)
