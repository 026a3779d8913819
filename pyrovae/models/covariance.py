"""Sums of squares and covariance matrices, computed so that few digits are lost, and their variance floor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "EMPTY",
    "EPS",
    "FAR",
    "NEAR",
    "ROWS",
    "column_variance",
    "factor_above_floor",
    "raised_to_floor",
    "rounding_scale",
    "scaled_squares",
    "seen_squares",
    "share_at_floor",
    "triangular_inverse",
    "weighted_means",
    "weighted_squares",
]

ROWS = 4096  # rows taken at once: their differences from one location fit in a core's cache
NEAR = 1e5  # squared distance, in standard deviations, up to which a difference of products keeps eleven digits
FAR = 1e4  # ratio of total to within-component scatter above which differences are taken directly
EPS = torch.finfo(torch.float64).eps
EMPTY = 10 * EPS  # total weight below which a component has no moments


def column_variance(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """The variance of each column of items (N, D), NaN apart, each item counted `weight` times; (D,)."""
    if weight is None and not bool(x.isnan().any()):
        return x.var(0, correction=0)
    each = x.new_ones(len(x), 1) if weight is None else weight.to(x)[:, None]
    middle, mass = weighted_means(x, each)
    return weighted_squares(x, each, middle, middle[0])[0] / mass[0].clamp(min=EMPTY)


def weighted_means(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted means of the columns of `x` (N, D) under each column of `weight` (N, K), and the weights' sums.

    Both have shape (K, D). NaN is missing: a sum is over the seen entries, and a mean of none of them is 0.
    """
    seen = ~x.isnan()
    if bool(seen.all()):
        mass = weight.sum(0)[:, None].expand(-1, x.shape[1])
        return weight.mT @ x / mass.clamp(min=EMPTY), mass
    mass = weight.mT @ seen.to(weight)
    return weight.mT @ torch.where(seen, x, 0.0) / mass.clamp(min=EMPTY), mass


def weighted_squares(x: Tensor, weight: Tensor, loc: Tensor, middle: Tensor) -> Tensor:
    """Weighted sums of squares sum_n w_nk (x_nd - loc_kd)^2, shape (K, D), where `loc` are the weighted means.

    They are computed about one common centre, `middle`, except in columns where the subtraction would lose digits. NaN
    is missing, and adds nothing.
    """
    if bool(x.isnan().any()):
        terms = [weight[:, k] @ (x - one).square().nan_to_num(0.0, torch.inf) for k, one in enumerate(loc)]
        return torch.stack(terms)
    second = torch.zeros_like(loc)
    for rows, part in zip(x.split(ROWS), weight.split(ROWS), strict=True):
        second += part.mT @ (rows - middle).square()
    within = second - weight.sum(0)[:, None] * (loc - middle).square()
    lost = (second > FAR * within).any(0)  # columns
    if bool(lost.any()):
        within[:, lost] = torch.stack([weight[:, k] @ (x[:, lost] - one[lost]).square() for k, one in enumerate(loc)])
    return within


def rounding_scale(x: Tensor) -> Tensor:
    """The largest standard deviation that rounding alone can give a constant column, per column: (features,).

    NaN is missing. A column of which no entry was seen is a constant.
    """
    least, most = x.aminmax(dim=0)
    if bool(least.isnan().any()):
        unseen = x.isnan()
        least, most = x.masked_fill(unseen, torch.inf).amin(0), x.masked_fill(unseen, -torch.inf).amax(0)
    size = torch.maximum(least.abs(), most.abs()).double()
    eps = torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
    return torch.where(most > least, max(4 * eps, 4 * EPS * math.sqrt(len(x))) * size, math.inf)


def factor_above_floor(covariance: Tensor, floors: Tensor) -> Tensor:
    """The Cholesky factor of C once the eigenvalues of F^-1/2 C F^-1/2 are raised to 1; F = diag(floors).

    The factor comes from a QR decomposition of a square root of the raised matrix. A variance at the floor so keeps its
    digits, which the product of factors would lose.
    """
    root = floors.sqrt()
    value, vector = torch.linalg.eigh(_over_floors(covariance, floors))
    upper = torch.linalg.qr((vector * value.clamp(min=1.0).sqrt() * root[:, None]).mT).R
    return (upper * upper.diagonal().sign()[:, None]).mT


def _over_floors(covariance: Tensor, floors: Tensor) -> Tensor:
    """F^-1/2 C F^-1/2; F = diag(floors)."""
    root = floors.sqrt()
    unit = covariance / root[:, None] / root
    if not bool(unit.isfinite().all()):
        raise torch.linalg.LinAlgError("a covariance over its floor is not finite")
    return unit


def share_at_floor(covariance: Tensor, floors: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors of F^-1/2 C F^-1/2, and 1 / (1 + s) for its eigenvalues s in descending order; F = diag(floors).

    Small eigenvalues keep all their digits whatever the scales of the columns are: (C + F)^-1 comes from a Cholesky
    factor, whose error in each column is relative to that column, and only large eigenvalues are rounded.
    """
    unit = _over_floors(covariance, floors)
    eye = torch.eye(len(unit), dtype=unit.dtype, device=unit.device)
    jitter = 0.0
    while True:  # linearly dependent columns leave eigenvalues slightly below 0, relative to these columns
        factor, info = torch.linalg.cholesky_ex(unit + eye + (jitter * unit.diagonal()).diag())
        if not bool(info):
            break
        jitter = 10 * jitter or EPS * len(unit)
    inverse = triangular_inverse(factor)
    value, vector = torch.linalg.eigh(inverse.mT @ inverse)
    return value, vector


def raised_to_floor(covariance: Tensor, floors: Tensor) -> Tensor:
    """C with the eigenvalues of F^-1/2 C F^-1/2 raised to at least 1, F = diag(floors).

    The difference is added to C, so that rounding errors are relative to the difference alone.
    """
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
    """Scaled squared distances sum_d ((x_nd - loc_kd) inverse_kd)^2, shape (N, K).

    They are computed by matrix products where these keep eleven digits, and from the differences otherwise.
    """
    middle = loc.mean(0)
    away, centre, weight = x - middle, loc - middle, inverse.square()
    whole = away.square() @ weight.mT
    if not len(x) or float(whole.detach().max()) < NEAR:
        return (whole - 2 * away @ (centre * weight).mT + (centre.square() * weight).sum(-1)).clamp(min=0.0)
    # of x and loc themselves: what is away from the middle is rounded as widely as that is
    return torch.stack([((x - a) * b).square().sum(-1) for a, b in zip(loc, inverse, strict=True)], -1)


def seen_squares(x: Tensor, seen: Tensor, loc: Tensor, inverse: Tensor) -> Tensor:
    """As `scaled_squares`, over the entries that `seen`, (N, D) of 0 and 1, marks alone."""
    middle = loc.mean(0)
    away, centre, weight = (x - middle) * seen, loc - middle, inverse.square()
    whole = away.square() @ weight.mT
    if not len(x) or float(whole.detach().max()) < NEAR:
        return (whole - 2 * away @ (centre * weight).mT + seen @ (centre.square() * weight).mT).clamp(min=0.0)
    return torch.stack([((x - a) * b * seen).square().sum(-1) for a, b in zip(loc, inverse, strict=True)], -1)


def triangular_inverse(factor: Tensor) -> Tensor:
    """The inverses of K lower triangular matrices, shape (K, D, D)."""
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, eye, upper=False)
