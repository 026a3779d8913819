"""What one block of items adds to the sums of an M-step: its coordinates, and their moments.

Rows are taken as columns of differences from one origin below a row of ones: homogeneous coordinates, of which
log-densities and moments are matrix products.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from pyrovae.models.products import add_product
from pyrovae.models.seen import Expected

__all__ = ["Coordinates", "Moments", "parts_of_triangle"]

WIDE = 12  # columns, about, in a part of a triangular product, of which only the lower parts are computed
ALIGNED = 4  # rows: narrow matrices of a multiple of them have faster products
NEGLIGIBLE = 1e-30  # a responsibility that adds to no digit of a sum, nor to those of a component that has weight
SPARSE = 0.35  # of a block's responsibilities: where no more of them count, the others are left out
PARTS = 8  # parts at the most


class Coordinates:
    """A block's rows as columns [1, x - c], and below where the covariances are diagonal their squares."""

    def __init__(self, covariance: str, origin: Tensor, size: int, dtype: torch.dtype) -> None:
        self.features = len(origin)
        self.origin = origin.to(dtype)[:, None]
        self.squares = {"diagonal": self.features, "spherical": 1}.get(covariance, 0)
        self.table = origin.new_empty(1 + self.features + self.squares, size, dtype=dtype)
        self.table[0] = 1
        self.spare = self.table.new_empty(self.features if covariance == "spherical" else 0, size)

    def of(self, rows: Tensor) -> Tensor:
        """The coordinates of rows (n, D); they last until the next block's."""
        table = self.table[:, : len(rows)]
        table[1 : 1 + self.features].copy_(rows.mT).sub_(self.origin)
        return self.squared(table)

    @property
    def kept_rows(self) -> int:
        """How many of the rows are worth keeping: squares of all columns take longer to read than to compute."""
        return len(self.table) if self.squares < self.features else 1 + self.features

    def again(self, kept: Tensor) -> Tensor:
        """The coordinates, given those that were kept of them."""
        if len(kept) == len(self.table):
            return kept
        table = self.table[:, : kept.shape[1]]
        table[1 : len(kept)].copy_(kept[1:])
        return self.squared(table)

    def squared(self, table: Tensor) -> Tensor:
        """The coordinates with their squares, where these are needed."""
        away = table[1 : 1 + self.features]
        if self.squares == self.features:
            torch.mul(away, away, out=table[1 + self.features :])
        elif self.squares:
            torch.sum(torch.mul(away, away, out=self.spare[:, : table.shape[1]]), 0, out=table[-1])
        return table


class Moments:
    """Weighted sums of coordinates and of their products: about one origin, and of some components about `centres`.

    `scatter`, (1 + D, 1 + D), is that of all items' coordinates about the origin, where the shares of each item sum to
    its weight. Tied covariances need no other; it is added up where it is None. Of full ones the component `rest` takes
    what the others leave of it, so that no products are of its own.
    """

    def __init__(
        self,
        covariance: str,
        number: int,
        origin: Tensor,
        size: int,
        dtype: torch.dtype,
        centres: dict[int, Tensor],
        scatter: Tensor | None = None,
        rest: int | None = None,
    ) -> None:
        self.covariance, self.origin, self.centres, self.number = covariance, origin, centres, number
        self.features = features = len(origin)
        self.dense = covariance in ("full", "tied")
        zeros = torch.zeros(0, dtype=torch.float64, device=origin.device).new_zeros
        width = {"diagonal": features, "spherical": 1}.get(covariance, 0)
        self.total = zeros(number, 1 + features + width)
        self.cuts = parts_of_triangle(features) if covariance == "full" else []
        self.rest, self.others = rest, torch.tensor([k for k in range(number) if k != rest], device=origin.device)
        # (coordinate, component and column), for a product is faster with the fewer rows on its left
        self.lower = [zeros(1 + last, len(self.others) * (last - first)) for first, last in self.cuts]
        self.adds_scatter = covariance == "tied" and scatter is None
        self.scatter = zeros(1 + features, 1 + features) if scatter is None else scatter
        square = (features, features) if self.dense else (features,)
        self.own = {k: (zeros(1 + features), zeros(*square)) for k in centres}
        longest = max((one.shape[1] for one in self.lower), default=0)
        self.buffer = origin.new_empty(longest * size, dtype=dtype)

    @property
    def sums(self) -> list[Tensor]:
        """All that is added up, block by block."""
        own = [one for pair in self.own.values() for one in pair]
        return [self.total, *self.lower, *own, *([self.scatter] if self.adds_scatter else [])]

    def add(self, rows: Tensor, columns: Tensor, share: Tensor) -> None:
        """Add a block: its rows (n, D), their coordinates, and how much of each a component has, (K, n)."""
        for k, (first, second) in self.own.items():
            away = rows.mT.double() - self.centres[k][:, None]
            first[0] += share[k].sum()
            first[1:] += away @ share[k]
            if self.dense:
                second.addmm_(away * share[k], away.mT)
            else:
                second += away.square_() @ share[k]
        if len(self.own) == self.number:
            return
        if self.covariance != "full":
            add_product(self.total, share, columns)
            if self.adds_scatter:
                add_product(self.scatter, columns * share.sum(0), columns)
            return
        self.total[:, 0] += share.sum(1)
        if self.rest is not None:
            share = share.index_select(0, self.others)
        if int((share > NEGLIGIBLE).count_nonzero()) <= SPARSE * share.numel():
            self._add_few(columns, share)
            return
        for (begin, end), lower in zip(self.cuts, self.lower, strict=True):
            weighted = self.buffer[: lower.shape[1] * len(rows)].view(len(share), end - begin, len(rows))
            torch.mul(columns[None, 1 + begin : 1 + end], share[:, None], out=weighted)
            add_product(lower, columns[: 1 + end], weighted.flatten(0, 1), recurs=True)

    def _add_few(self, columns: Tensor, share: Tensor) -> None:
        """Add to each component's sums the items alone of which it has a share."""
        for k, one in enumerate(share):
            index = (one > NEGLIGIBLE).nonzero()[:, 0]
            if len(index):
                some = columns.index_select(1, index)
                weighted = some[1:] * one[index]
                for (begin, end), lower in zip(self.cuts, self.lower, strict=True):
                    part = lower.view(1 + end, len(share), end - begin)[:, k]
                    add_product(part, some[: 1 + end], weighted[begin:end])

    def expected(self) -> Expected:
        """The sums as an M-step takes them."""
        features = self.features
        total, first, second = (part.clone() for part in self.total.tensor_split((1, 1 + features), 1))
        total = total[:, 0]
        if self.covariance == "full":
            second = total.new_zeros(self.number, features, features)
            for (begin, end), lower in zip(self.cuts, self.lower, strict=True):
                part = lower.view(1 + end, len(self.others), end - begin).permute(1, 2, 0)
                first[self.others, begin:end] = part[:, :, 0]
                second[self.others, begin:end, :end] = part[:, :, 1:]
            second = second.tril() + second.tril(-1).mT
            if self.rest is not None:
                first[self.rest] = self.scatter[0, 1:] - first[self.others].sum(0)
                second[self.rest] = self.scatter[1:, 1:] - second[self.others].sum(0)
        loc = self.origin.expand(self.number, -1).clone()
        for k, (own_first, own_second) in self.own.items():
            loc[k], total[k], first[k] = self.centres[k], own_first[0], own_first[1:]
            if self.covariance == "spherical":
                second[k] = own_second.sum()
            elif self.covariance != "tied":
                second[k] = own_second
        if self.covariance == "tied":
            second = torch.stack([one for _, one in self.own.values()]).sum(0) if self.own else self.scatter[1:, 1:]
            second = second[None]
        return Expected(loc, total, first, second, None if self.dense else total[:, None].expand_as(first))


def parts_of_triangle(features: int) -> list[tuple[int, int]]:
    """Parts of the columns, of about `WIDE` or more each, by which triangles are taken: the first column and the end.

    With the row of ones the rows up to an end are a multiple of `ALIGNED`, but for the last.
    """
    count = max(1, min(PARTS, features // WIDE))
    ends = [(1 + features) * i // (count * ALIGNED) * ALIGNED - 1 for i in range(1, count)]
    return list(pairwise([0, *ends, features]))
