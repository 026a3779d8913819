"""Responsibilities of a block of items in place, by matrix products of its coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrovae.models.block_sums import Coordinates, parts_of_triangle
from pyrovae.models.covariance import triangular_inverse
from pyrovae.models.products import product_into

if TYPE_CHECKING:
    from pyrovae.models.components import GaussianComponents

__all__ = ["Posterior"]


class Posterior:
    """Responsibilities of a block, (K, n), times the items' weights; `value` is the sum of log p(x) so far.

    The components `apart` are taken by differences from their own locations.
    """

    def __init__(
        self,
        parts: GaussianComponents,
        log_weights: Tensor,
        origin: Tensor,
        size: int,
        dtype: torch.dtype,
        apart: Sequence[int] = (),
    ) -> None:
        self.value = torch.zeros((), dtype=torch.float64, device=origin.device)
        kind = _Dense if parts.covariance == "full" else _Linear
        self.number = parts.num_components
        self.joint = kind(parts, log_weights, origin, size, dtype)
        self.buffers = origin.new_empty(2, self.number * size, dtype=dtype)
        self.own = [(k, _Own(parts, log_weights, k)) for k in apart]

    def of(self, rows: Tensor, columns: Tensor, weight: Tensor | None) -> Tensor:
        table, share = (each[: self.number * len(rows)].view(self.number, len(rows)) for each in self.buffers)
        if len(self.own) < self.number:
            self.joint.into(table, columns)
        for k, own in self.own:
            table[k] = own(rows)
        log_prob = table.amax(0)
        torch.softmax(table, 0, out=share)
        # the largest responsibility is exp(largest - log p)
        log_prob = log_prob.sub_(share.amax(0).log_()).double()
        if weight is not None:
            log_prob.mul_(weight)
            share.mul_(weight)
        self.value += log_prob.sum()
        return share


class _Linear:
    """Log joint densities that are linear in a block's coordinates and their squares, after whitening where tied."""

    def __init__(
        self, parts: GaussianComponents, log_weights: Tensor, origin: Tensor, size: int, dtype: torch.dtype
    ) -> None:
        loc, inverse = parts.loc.double() - origin, parts.diagonal.reciprocal()
        self.whiten: Tensor | None = None
        if parts.lower is not None:
            whiten = triangular_inverse(parts.scale_tril)[0]
            loc, inverse = loc @ whiten.mT, inverse.new_ones(1, 1)
            self.whiten = whiten.to(dtype)
            self.white = Coordinates("spherical", torch.zeros_like(origin), size, dtype)
        precision = inverse.square().expand(len(loc), -1)
        constant = _constants(parts) + log_weights - 0.5 * (loc.square() * precision).sum(1)
        self.coefficients = torch.cat([constant[:, None], loc * precision, -0.5 * precision], 1).to(dtype)

    def into(self, table: Tensor, columns: Tensor) -> None:
        if self.whiten is not None:
            white = self.white.table[:, : columns.shape[1]]
            torch.mm(self.whiten, columns[1:], out=white[1 : 1 + len(self.whiten)])
            columns = self.white.squared(white)
        torch.mm(self.coefficients, columns, out=table)


class _Dense:
    """Log joint densities under a triangular factor each, by products with the lower parts of its inverse alone."""

    def __init__(
        self, parts: GaussianComponents, log_weights: Tensor, origin: Tensor, size: int, dtype: torch.dtype
    ) -> None:
        inverse = triangular_inverse(parts.scale_tril)
        moved = inverse @ (parts.loc.double() - origin)[:, :, None]
        inverse = torch.cat([-moved, inverse], -1).to(dtype).movedim(1, 0)  # of homogeneous coordinates, (D, K, 1 + D)
        self.parts = [
            (last, inverse[first:last, :, : 1 + last].flatten(0, 1))
            for first, last in parts_of_triangle(parts.features)
        ]
        self.constant = (_constants(parts) + log_weights).to(dtype)[:, None]
        self.buffer = inverse.new_empty(max(len(one) for _, one in self.parts) * size)
        self.spare = inverse.new_empty(parts.num_components * size)

    def into(self, table: Tensor, columns: Tensor) -> None:
        count = columns.shape[1]
        spare = self.spare[: len(table) * count].view_as(table)
        for number, (last, one) in enumerate(self.parts):
            white = self.buffer[: len(one) * count].view(len(one), count)
            white = product_into(white, one, columns[: 1 + last])
            squares = white.square_().view(-1, *table.shape)
            if number:
                table.add_(torch.sum(squares, 0, out=spare))
            else:
                torch.sum(squares, 0, out=table)
        torch.add(self.constant, table, alpha=-0.5, out=table)


class _Own:
    """The log joint density under one component, by differences from its own location."""

    def __init__(self, parts: GaussianComponents, log_weights: Tensor, k: int) -> None:
        self.loc = parts.loc[k].double()[:, None]
        self.constant = (_constants(parts) + log_weights)[k]
        number = k if len(parts.log_diagonal) > 1 else 0
        self.inverse = parts.diagonal[number].reciprocal()[:, None]
        self.whiten = None if parts.lower is None else triangular_inverse(parts.scale_tril[number])

    def __call__(self, rows: Tensor) -> Tensor:
        away = rows.mT.double() - self.loc
        away = away.mul_(self.inverse) if self.whiten is None else self.whiten @ away
        return self.constant - 0.5 * away.square_().sum(0)


def _constants(parts: GaussianComponents) -> Tensor:
    """What a log-density has beside its squared distance, (K,)."""
    log_scale = parts.diagonal.log().expand(parts.num_components, parts.features).sum(-1)
    return -log_scale - 0.5 * parts.features * math.log(2 * math.pi)
