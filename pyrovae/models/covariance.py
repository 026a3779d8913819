"""Sums of squares and covariance matrices, computed so that few digits are lost, and their variance floor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "EPS",
    "FAR",
    "ROWS",
    "factor_above_floor",
    "raised_to_floor",
    "rounding_scale",
    "scaled_squares",
    "scatter",
    "share_at_floor",
    "triangular_inverse",
    "weighted_squares",
]

ROWS = 4096  # whose differences from one location stay in a core's cache
NEAR = 1e5  # squared standard deviations, of which a difference keeps eleven digits
FAR = 1e4  # total scatter over that within components
EPS = torch.finfo(torch.float64).eps


def scatter(x: Tensor, weight: Tensor, centre: Tensor) -> Tensor:
    """sum_n w_n (x_n - c)(x_n - c)', (D, D)."""
    total = x.new_zeros(x.shape[1], x.shape[1])
    for rows, part in zip(x.split(ROWS), weight.split(ROWS), strict=True):
        away = rows - centre
        total.addmm_(away.mT, away * part[:, None])
    return total


def weighted_squares(x: Tensor, weight: Tensor, loc: Tensor, middle: Tensor) -> Tensor:
    """sum_n w_nk (x_nd - loc_kd)^2, (K, D), loc the weighted means: about one centre as far as digits last."""
    second = torch.zeros_like(loc)
    for rows, part in zip(x.split(ROWS), weight.split(ROWS), strict=True):
        second += part.mT @ (rows - middle).square()
    within = second - weight.sum(0)[:, None] * (loc - middle).square()
    lost = (second > FAR * within).any(0)  # columns
    if bool(lost.any()):
        within[:, lost] = torch.stack([weight[:, k] @ (x[:, lost] - one[lost]).square() for k, one in enumerate(loc)])
    return within


def rounding_scale(x: Tensor) -> Tensor:
    """The standard deviation of each column that rounding alone may give a constant, (features,)."""
    least, most = x.aminmax(dim=0)
    size = torch.maximum(least.abs(), most.abs()).double()
    eps = torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
    return torch.where(most > least, max(4 * eps, 4 * EPS * math.sqrt(len(x))) * size, math.inf)


def factor_above_floor(covariance: Tensor, floors: Tensor) -> Tensor:
    """The Cholesky factor of C once the eigenvalues of F^-1/2 C F^-1/2 are raised to 1; F = diag(floors).

    By a QR decomposition of a root of it: a direction's variance at the floor keeps the digits that C itself has not.
    """
    root = floors.sqrt()
    unit = covariance / root[:, None] / root
    if not bool(unit.isfinite().all()):
        raise torch.linalg.LinAlgError("a covariance over its floor is not finite")
    value, vector = torch.linalg.eigh(unit)
    upper = torch.linalg.qr((vector * value.clamp(min=1.0).sqrt() * root[:, None]).mT).R
    return (upper * upper.diagonal().sign()[:, None]).mT


def share_at_floor(covariance: Tensor, floors: Tensor) -> tuple[Tensor, Tensor]:
    """1 / (1 + s), from the greatest s down, and the vectors of F^-1/2 C F^-1/2 with eigenvalues s; F = diag(floors).

    Those of small s keep all digits, whatever the columns' scales are: (C + F)^-1 comes from a Cholesky factor, whose
    error in each column is in units of that column, and large s are what is rounded away.
    """
    root = floors.sqrt()
    unit = covariance / root[:, None] / root
    if not bool(unit.isfinite().all()):
        raise torch.linalg.LinAlgError("a covariance over its floor is not finite")
    eye = torch.eye(len(unit), dtype=unit.dtype, device=unit.device)
    jitter = 0.0
    while True:  # columns that depend on one another leave eigenvalues a hair below 0, in units of these columns
        factor, info = torch.linalg.cholesky_ex(unit + eye + (jitter * unit.diagonal()).diag())
        if not bool(info):
            break
        jitter = 10 * jitter or EPS * len(unit)
    inverse = triangular_inverse(factor)
    value, vector = torch.linalg.eigh(inverse.mT @ inverse)
    return value, vector


def raised_to_floor(covariance: Tensor, floors: Tensor) -> Tensor:
    """C once the eigenvalues of F^-1/2 C F^-1/2 are raised to 1, F = diag(floors); only what is added is rounded."""
    value, vector = share_at_floor(covariance, floors)
    missing = (2 - 1 / value.clamp(min=0.5)).clamp(min=0.0)  # 1 - s where s < 1
    added = (vector * missing) @ vector.mT
    root = floors.sqrt()
    raised = covariance + added * root[:, None] * root
    raised = (raised + raised.mT) / 2
    jitter = EPS * len(raised)
    while bool(torch.linalg.cholesky_ex(raised).info):
        raised = raised + (jitter * raised.diagonal()).diag()
        jitter *= 10
    return raised


def scaled_squares(x: Tensor, loc: Tensor, inverse: Tensor) -> Tensor:
    """sum_d ((x_nd - loc_kd) inverse_kd)^2, (N, K): by matrix products where these keep eleven digits."""
    middle = loc.mean(0)
    x, loc, weight = x - middle, loc - middle, inverse.square()
    whole = x.square() @ weight.mT
    if not len(x) or float(whole.detach().max()) < NEAR:
        return (whole - 2 * x @ (loc * weight).mT + (loc.square() * weight).sum(-1)).clamp(min=0.0)
    return torch.stack([((x - a) * b).square().sum(-1) for a, b in zip(loc, inverse, strict=True)], -1)


def triangular_inverse(factor: Tensor) -> Tensor:
    """L^-1 of lower triangles (K, D, D)."""
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, eye, upper=False)
