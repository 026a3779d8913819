"""A pair of items given covariates, seen as the density of items at one value of these."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.items import checked_beside
from pyrovae.models.pair import as_module

__all__ = ["Given"]


class Given(nn.Module):
    """p(x | c) at one c, as a pair without covariates: every estimator takes it, and so does `GenerativeClassifier`.

    `covariates` has shape (covariate_dim,). The pair is shared and not copied, so that ten classes are ten views of one
    network: fit the pair itself, and not a view of it. Raises ValueError for covariates that do not fit the pair.

    >>> import torch
    >>> import pyrovae
    >>> vae = pyrovae.mlp_vae((3,), covariate_dim=2)
    >>> classes = {name: pyrovae.Given(vae, c) for name, c in zip("ab", torch.eye(2))}
    >>> classifier = pyrovae.GenerativeClassifier(classes, [0.5, 0.5], evidence=pyrovae.iwae)
    >>> classifier.log_joint(torch.zeros(4, 3)).shape
    torch.Size([4, 2])
    """

    covariates: Tensor

    def __init__(self, pair: Any, covariates: Any) -> None:
        super().__init__()
        row = checks.array(covariates, "covariates")
        if row.ndim != 1:
            raise ValueError(f"covariates must be those of one item, shape (covariate_dim,), got {tuple(row.shape)}")
        self.pair = as_module(pair)
        self.register_buffer("covariates", checked_beside(pair, row[None], None, 1)["covariates"][0])
        self.event_shape: tuple[int, ...] = tuple(pair.event_shape)
        self.latent_dim: int = pair.latent_dim
        self.is_normalized: bool = bool(pair.is_normalized)

    @property
    def viewed(self) -> nn.Module:
        """The pair that it is a view of, by whose likelihood items are checked."""
        return self.pair

    def model(self, x: Tensor | None = None, *, size: int = 1) -> Any:
        """p(x, z | c)."""
        pair: Any = self.pair
        return pair.model(x, size=size, covariates=self._rows(x, size))

    def guide(self, x: Tensor | None = None, *, size: int = 1) -> Any:
        """q(z | x, c)."""
        pair: Any = self.pair
        return pair.guide(x, size=size, covariates=self._rows(x, size))

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """`n` draws from p(x | c), shape (n, *event_shape)."""
        pair: Any = self.pair
        draws: Tensor = pair.sample(n, seed=seed, covariates=self.covariates)
        return draws

    def _rows(self, x: Tensor | None, size: int) -> Tensor:
        return self.covariates.expand(size if x is None else len(x), -1)
