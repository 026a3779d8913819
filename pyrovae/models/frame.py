"""Items as differences from one origin, their mean: what columns are over all items, and over shares of them.

The coordinates that log-densities and moments are products of come from here, block by block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyrovae.models.block_sums import Coordinates
from pyrovae.models.blocks import Blocks
from pyrovae.models.covariance import EMPTY, EPS, FAR

__all__ = ["Frame", "Shares", "column_moments", "rows_of_block", "within_variance"]

Shares = Callable[[slice, Tensor], Tensor]  # (which rows, the rows (n, D)) -> how much of each a component has, (K, n)

BYTES = 2**21  # of the largest buffer of a block: it stays near a core, and calls take little beside what they compute
ON_ACCELERATOR = 2**26
KEPT = 2**26  # of coordinates that are kept from pass to pass


class Frame:
    """What differences of items are taken from: their mean, the origin, (D,), with their extremes and their scatter.

    NaN is a missing entry. Where `keeps`, the coordinates of items in memory that take no more than `KEPT` bytes are
    kept from pass to pass.
    """

    def __init__(self, blocks: Blocks, *, keeps: bool = False) -> None:
        self.blocks = blocks
        self.keeps = keeps and blocks.is_in_memory
        self._kept: tuple[Any, dict[int, Tensor]] = None, {}

    @cached_property
    def origin(self) -> Tensor:
        """The mean of each column, to float32's digits where the items are in float32: (D,) in float64."""
        provisional, mass, first, _, _, _ = self._columns
        origin = provisional + first / mass.clamp(min=EMPTY)
        return origin if self.blocks.dtype == torch.float64 else origin.float().double()

    @cached_property
    def rounding_scale(self) -> Tensor:
        """The largest standard deviation that rounding alone can give a constant column, (D,); inf of a constant."""
        *_, least, most = self._columns
        eps = torch.finfo(self.blocks.dtype).eps
        size = torch.maximum(least.abs(), most.abs())
        return torch.where(most > least, max(4 * eps, 4 * EPS * math.sqrt(len(self.blocks))) * size, math.inf)

    @cached_property
    def variance(self) -> Tensor:
        """The variance of each column over all items, (D,)."""
        _, mass, first, second, _, _ = self._columns
        within = second - first.square() / mass.clamp(min=EMPTY)
        if bool((second > FAR * within).any()):
            mass, _, within = (each[0] for each in column_moments(self, None))
        return within / mass.clamp(min=EMPTY)

    @cached_property
    def reach(self) -> float:
        """How far an entry lies from the origin at the most."""
        *_, least, most = self._columns
        return float(torch.maximum(most - self.origin, self.origin - least).max())

    @cached_property
    def _columns(self) -> list[Tensor]:
        """A first origin, and in one pass the mass, sums and squares about it, the least and the largest entries."""
        head = self.blocks.head.double()
        origin = head.nan_to_num(0.0).sum(0) / (~head.isnan()).sum(0).clamp(min=1)
        mass, first, second = torch.zeros_like(origin.expand(3, -1)).unbind()
        least, most = torch.full_like(origin, math.inf), torch.full_like(origin, -math.inf)
        for place, rows in self.blocks.each(rows_of_block(1 + len(origin), self.blocks)):
            away, weight = rows.double() - origin, self.blocks.weight_of(place)
            every = away.new_ones(len(rows)) if weight is None else weight
            if self.blocks.has_missing:
                unseen = rows.isnan()
                least = torch.minimum(least, rows.masked_fill(unseen, math.inf).amin(0))
                most = torch.maximum(most, rows.masked_fill(unseen, -math.inf).amax(0))
                mass += every @ (~unseen).double()
                away = away.nan_to_num_(0.0, math.inf, -math.inf)
            else:
                least, most = torch.minimum(least, rows.amin(0)), torch.maximum(most, rows.amax(0))
                mass += every.sum()
            first += every @ away
            second += every @ away.square_()
        self.blocks.reduce([mass, first, second])
        self.blocks.largest([most, least.neg_()])
        return [origin, mass, first, second, -least, most]

    @cached_property
    def scatter(self) -> Tensor:
        """sum_n w_n (1, x_n - c)(1, x_n - c)' over all items, (1 + D, 1 + D): the same in every iteration."""
        width, size = 1 + self.blocks.features, rows_of_block(1 + 2 * self.blocks.features, self.blocks)
        total = torch.zeros(width, width, dtype=torch.float64, device=self.blocks.device)
        made = Coordinates("tied", self.origin, size, torch.float64)
        for place, rows in self.blocks.each(size):
            columns, weight = made.of(rows), self.blocks.weight_of(place)
            total.addmm_(columns if weight is None else columns * weight, columns.mT)
        self.blocks.reduce([total])
        return total

    @property
    def squares(self) -> Tensor:
        """The diagonal of the scatter without that of the ones, (D,)."""
        return self.scatter.diagonal()[1:]

    def columns(self, covariance: str, size: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """The blocks: which rows, the rows (n, D), and as columns their coordinates."""
        made = Coordinates(covariance, self.origin, size, dtype)
        keeps = self.keeps and made.kept_rows * len(self.blocks) * dtype.itemsize <= KEPT
        kind = made.kept_rows, size, dtype
        kept = self._kept[1] if self._kept[0] == kind else {}
        if keeps:
            self._kept = kind, kept
        for place, rows in self.blocks.each(size):
            if place.start in kept:
                columns = made.again(kept[place.start])
            else:
                columns = made.of(rows)
                if keeps:
                    of_kept = columns[: made.kept_rows]
                    kept[place.start] = of_kept.clone(memory_format=torch.contiguous_format)
            yield place, rows, columns


def column_moments(frame: Frame, shares: Shares | None) -> tuple[Tensor, Tensor, Tensor]:
    """The mass, the means and the sums of squares about them that each column has under shares; (K, D) each.

    Without shares all items are one group. NaN is missing: sums are over the seen entries, and a mean of none is that
    of all items.
    """
    blocks, origin = frame.blocks, frame.origin
    size = rows_of_block(1 + 2 * blocks.features, blocks)

    def each() -> Iterator[tuple[Tensor, Tensor]]:
        for place, rows in blocks.each(size):
            weight = blocks.weight_of(place)
            share = origin.new_ones(1, len(rows)) if shares is None else shares(place, rows).double()
            yield rows, share if weight is None else share * weight

    mass = first = second = torch.zeros((), dtype=torch.float64, device=blocks.device)
    for rows, share in each():
        away = rows.double() - origin
        if blocks.has_missing:
            mass = mass + share @ (~rows.isnan()).double()
            away = away.nan_to_num_(0.0, math.inf, -math.inf)
        else:
            mass = mass + share.sum(1, keepdim=True).expand(-1, blocks.features)
        first = first + share @ away
        second = second + share @ away.square_()
    blocks.reduce([mass, first, second])
    moved = first / mass.clamp(min=EMPTY)
    within = second - mass * moved.square()
    lost = (second > FAR * within).any(0).nonzero()[:, 0]
    if len(lost):
        exact = torch.zeros_like(within[:, lost])
        loc = (origin + moved)[:, lost]
        for rows, share in each():
            for k, one in enumerate(loc):
                exact[k] += share[k] @ (rows[:, lost].double() - one).square_().nan_to_num_(0.0, math.inf)
        blocks.reduce([exact])
        within[:, lost] = exact
    return mass, origin + moved, within


def within_variance(frame: Frame, shares: Shares) -> Tensor:
    """The variance of each column about the means of groups, whose shares of the items are given; (D,)."""
    mass, _, squares = column_moments(frame, shares)
    return squares.sum(0) / mass.sum(0).clamp(min=EMPTY)


def rows_of_block(numbers: int, blocks: Blocks, dtype: torch.dtype = torch.float64) -> int:
    """How many rows a block has whose largest buffer has so many numbers for a row."""
    budget = BYTES if blocks.device.type == "cpu" else ON_ACCELERATOR
    # odd multiples of 32: at a distance of a power of two the entries of a column would share few places of a cache
    return max(64, min(2**16, budget // (numbers * dtype.itemsize)) // 64 * 64 - 32)
