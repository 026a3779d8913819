"""Covariates beside a code or an item: how a part takes them in, and an encoder that sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae import checks

__all__ = ["GivenCovariates", "SplitTrunk", "beside"]


def beside(z: Tensor, covariates: Tensor | None, covariate_dim: int, name: str) -> Tensor:
    """Codes with their covariates in one row: (..., d) and (..., D) to (..., d + D), broadcast over leading dimensions.

    With `covariate_dim` 0 it is `z` itself. Raises ValueError for covariates that are missing, of another size, or of
    other items, and for those of a part that takes none.
    """
    if covariates is None:
        if covariate_dim:
            raise ValueError(
                f"covariates are needed: {name} takes {covariate_dim} of them for each item, and none came. Give "
                f"covariates=c of shape (N, {covariate_dim}), or a Split that carries them"
            )
        return z
    if not covariate_dim:
        raise ValueError(f"covariates came, and {name} takes none: leave them out, or build it with covariate_dim=")
    if covariates.shape[-1:] != (covariate_dim,):
        raise ValueError(
            f"covariates must have shape (N, {covariate_dim}), as the pair's covariate_dim says, got "
            f"{tuple(covariates.shape)}"
        )
    try:
        leading = torch.broadcast_shapes(z.shape[:-1], covariates.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"covariates must have a row for each item: those of shape {tuple(covariates.shape)} fit no codes of shape "
            f"{tuple(z.shape)}"
        ) from None
    return torch.cat([z.expand(*leading, -1), covariates.to(z).expand(*leading, -1)], -1)


class SplitTrunk(nn.Module):
    """The trunk of an encoder that sees rows of an item and its covariates, (N, prod(event_shape) + D).

    `of_item` sees the item in its own shape; what it gives, flat, and the covariates go to `of_both` in one row.
    """

    def __init__(self, of_item: nn.Module | None, of_both: nn.Module | None, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.of_item = nn.Identity() if of_item is None else of_item
        self.of_both = nn.Identity() if of_both is None else of_both
        self.event_shape = tuple(event_shape)

    def forward(self, row: Tensor) -> Any:
        leading, size = row.shape[:-1], math.prod(self.event_shape)
        features = self.of_item(row[..., :size].reshape(*leading, *self.event_shape))
        width = math.prod(features.shape[len(leading) :])
        return self.of_both(torch.cat([features.reshape(*leading, width), row[..., size:]], -1))


class GivenCovariates(nn.Module):
    """q(z | x, c): a posterior whose network takes an item and its covariates in one row.

    `posterior` is any posterior of such rows, (N, prod(event_shape) + covariate_dim); `q(x, covariates=c)` makes them
    of x (N, *event_shape) and c (N, covariate_dim). Raises ValueError for covariates that are missing or misshapen.

    >>> import torch
    >>> from pyrovae import LinearNormal
    >>> from pyrovae.models.parts.covariates import GivenCovariates
    >>> q = GivenCovariates(LinearNormal(5 + 3, 2), event_shape=(5,), covariate_dim=3, latent_dim=2)
    >>> q(torch.zeros(4, 5), covariates=torch.zeros(4, 3)).batch_shape
    torch.Size([4])
    """

    def __init__(
        self, posterior: nn.Module, event_shape: Sequence[int], covariate_dim: int, latent_dim: int | None = None
    ) -> None:
        super().__init__()
        self.posterior, self.event_shape = posterior, tuple(event_shape)
        self.covariate_dim = checks.whole("covariate_dim", covariate_dim)
        self.latent_dim = latent_dim

    def forward(self, x: Tensor, *, covariates: Tensor | None = None) -> Any:
        row = x.reshape(*x.shape[: x.ndim - len(self.event_shape)], math.prod(self.event_shape))
        return self.posterior(beside(row, covariates, self.covariate_dim, "the posterior"))
