"""Whitening: the affine map that gives training codes mean 0 and covariance I."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrovae import checks
from pyrovae.evaluation.code_space.arrays import as_codes

__all__ = ["Whitening"]


@dataclass(frozen=True, eq=False)
class Whitening:
    """The affine map that gives training codes mean 0 and covariance I: w = L^-1 (code - loc), L L' their covariance.

    L is the lower triangular Cholesky factor, so w is invariant when each dimension is shifted and
    rescaled. Under any other invertible affine map of the codes, w changes by a rotation, which
    leaves distances unchanged.

    >>> import torch
    >>> from pyrovae.evaluation.code_space.whitening import Whitening
    >>> codes = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 20.0], [2.0, 20.0]])
    >>> print(Whitening.fit(codes)(codes).round(3)[0])
    [-0.866 -0.866]
    """

    loc: np.ndarray
    scale_tril: np.ndarray

    @classmethod
    def fit(cls, codes: Any) -> Whitening:
        """The whitening of `codes`, shape (N, latent_dim), by their mean and their covariance with divisor N - 1.

        A dimension that is constant, or a linear function of earlier ones, is regularised, and a
        UserWarning names it. Raises ValueError for fewer than two codes.

        >>> from pyrovae.evaluation.code_space.whitening import Whitening
        >>> Whitening.fit([[0.0], [2.0], [4.0]]).scale_tril
        array([[2.]])
        """
        array = as_codes(codes, "codes")
        if len(array) < 2:
            raise ValueError(f"codes must hold at least 2 items to have a covariance, got {len(array)}")
        loc = array.mean(0)
        covariance = np.atleast_2d(np.cov(array, rowvar=False))
        scale = np.sqrt(np.diag(covariance))
        # rounding alone gives a constant column a scale of up to this
        constant = scale <= 1e-12 * np.abs(array).max(0)
        floor = 1e-3 * float(np.sqrt(np.mean(scale[~constant] ** 2))) if not constant.all() else 1.0
        correlation = covariance / np.outer(np.where(constant, 1.0, scale), np.where(constant, 1.0, scale))
        correlation[constant, :] = correlation[:, constant] = 0.0
        correlation[constant, constant] = 1.0
        dependent = _dependent(correlation)
        singular = {"constant": np.flatnonzero(constant), "linear functions of those before them": dependent}
        for what, dims in singular.items():
            if len(dims):
                named = ", ".join(map(str, dims[:5])) + (", ..." if len(dims) > 5 else "")
                checks.warn(
                    f"the covariance of codes is singular: dimensions {named} are {what}; regularised. "
                    "Leave them out of the codes to be rid of this"
                )
        if len(dependent):
            correlation += 1e-6 * np.eye(len(loc))
        return cls(loc, np.where(constant, floor, scale)[:, None] * np.linalg.cholesky(correlation))

    def __call__(self, codes: Any) -> np.ndarray:
        """Whitened `codes`, shape (N, latent_dim), float64.

        >>> from pyrovae.evaluation.code_space.whitening import Whitening
        >>> Whitening.fit([[0.0], [2.0], [4.0]])([[6.0]])
        array([[2.]])
        """
        array = as_codes(codes, "codes", len(self.loc))
        return np.linalg.solve(self.scale_tril, (array - self.loc).T).T


def _dependent(correlation: np.ndarray) -> np.ndarray:
    """The dimensions whose conditional variance, given the earlier ones, is no more than rounding."""
    residual, dependent = correlation.copy(), []
    for k in range(len(residual)):
        if residual[k, k] <= 1e-10:
            dependent.append(k)
            continue
        residual = residual - np.outer(residual[:, k], residual[k]) / residual[k, k]
    return np.array(dependent, dtype=int)
