"""What EM does of items with entries missing: densities, expected sums, and the parameters that these give."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae.models.covariance import EMPTY, seen_squares
from pyrovae.models.frame import Frame, Shares, column_moments
from pyrovae.models.seen import Expected, SeenItems, SeenNormals, ShareOf, dense_expected, diagonal_expected

if TYPE_CHECKING:
    from pyrovae.models.components import GaussianComponents

__all__ = ["begin", "expected", "log_prob_of_seen", "take"]


def log_prob_of_seen(components: GaussianComponents, items: SeenItems) -> Tensor:
    """log N(x_seen; loc_k, C_k), (N, K), in nats and float64; 0 for an item of which nothing was seen."""
    loc = components.loc.double()
    if components.lower is None:
        return _diagonal_log_prob(components, items.x, items.seen.double())
    covariance = components.scale_tril @ components.scale_tril.mT
    index, tables = [items.empty], [loc.new_zeros(len(items.empty), len(loc))]
    for group in items.groups:
        for part in group.parts(_floats_each(components, group.rows.shape[1])):
            index.append(part.index)
            tables.append(SeenNormals(loc, covariance, items, part).log_prob())
    return torch.cat(tables)[torch.cat(index).argsort()]


def _diagonal_log_prob(components: GaussianComponents, x: Tensor, seen: Tensor) -> Tensor:
    loc, diagonal = components.loc.double(), components.diagonal
    diagonal = diagonal.expand_as(loc)
    constant = seen @ (diagonal.log() + 0.5 * math.log(2 * math.pi)).mT
    return -0.5 * seen_squares(x, seen, loc, diagonal.reciprocal()) - constant


@torch.no_grad()
def expected(components: GaussianComponents, items: SeenItems, share_of: ShareOf) -> Expected:
    """The expected sums of an M-step at the present parameters; `share_of(rows, log_prob)` gives weights (R, K).

    Where covariances are diagonal the missing entries need no expectation: seen entries alone have a maximum.
    """
    loc = components.loc.double()
    if components.lower is None:
        return diagonal_expected(loc, lambda x, seen: _diagonal_log_prob(components, x, seen), items, share_of)
    return dense_expected(loc, components.scale_tril @ components.scale_tril.mT, items, share_of)


@torch.no_grad()
def take(components: GaussianComponents, sums: Expected) -> Tensor:
    """Set the parameters to the maximum of the expected log-likelihood subject to the variance floors.

    What has no weight keeps its parameters. Returned: at which components the floor was active, as `maximize` does.
    """
    if sums.mass is not None:
        return _take_diagonal(components, sums, sums.mass)
    has_weight = sums.total > EMPTY
    moved = sums.first / sums.total.clamp(min=EMPTY)[:, None]
    loc = torch.where(has_weight[:, None], sums.loc + moved, sums.loc)
    if components.covariance == "tied":
        second = sums.second[0] - moved.mT @ (moved * sums.total[:, None])
        return components.take_moments(loc, second / sums.total.sum().clamp(min=EMPTY), has_weight.any())
    second = sums.second / sums.total.clamp(min=EMPTY)[:, None, None]
    return components.take_moments(loc, second - moved[:, :, None] * moved[:, None, :], has_weight)


def _take_diagonal(components: GaussianComponents, sums: Expected, mass: Tensor) -> Tensor:
    has_weight = mass > EMPTY
    moved = sums.first / mass.clamp(min=EMPTY)
    loc = torch.where(has_weight, sums.loc + moved, sums.loc)
    between = mass * moved.square()
    if components.covariance == "spherical":  # whose sums of squares may be over the columns already
        total, within = mass.sum(1), (sums.second.sum(1) - between.sum(1)).clamp(min=0.0)
        return components.take_moments(loc, within / total.clamp(min=EMPTY), total > EMPTY)
    within = (sums.second - between).clamp(min=0.0)
    before = components.diagonal.square()
    variance = torch.where(has_weight, within / mass.clamp(min=EMPTY), before)
    return components.take_moments(loc, variance, has_weight.any(1))


@torch.no_grad()
def begin(components: GaussianComponents, frame: Frame, shares: Shares) -> None:
    """Set the parameters to what the seen entries say one by one, a start of EM from the shares of clusters.

    The locations are the clusters' means of each column, or that of all items where a cluster has seen none of it; the
    variances are those within clusters, for all components alike, and no column depends on another.
    """
    mass, loc, squares = column_moments(frame, shares)
    loc = torch.where(mass > EMPTY, loc, frame.origin)
    total = mass.sum(0)
    variance = torch.where(total > EMPTY, squares.sum(0) / total.clamp(min=EMPTY), 1.0)
    if components.covariance == "spherical":
        variance = variance.mean(0, keepdim=True)
    variance = torch.maximum(variance, components.floors)
    if components.covariance == "tied":
        components.assign(loc, variance.diag())
    elif components.covariance == "full":
        components.assign(loc, variance.diag().expand(len(loc), -1, -1))
    else:
        components.assign(
            loc, variance.expand_as(loc) if components.covariance == "diagonal" else variance.expand(len(loc))
        )


def _floats_each(components: GaussianComponents, count: int) -> int:
    """The numbers that a set of seen entries with `count` items takes in the largest tensor of its densities."""
    return components.num_components * components.features * (components.features + count)
