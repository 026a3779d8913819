"""Items in blocks of rows, from a tensor or from a source that is read as it is used, with their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Blocks"]

FIRST = 64  # rows that say about where items lie
TOGETHER = 2**18  # numbers that are read of a source together: some parts of so many are in memory at once

Reduce = Callable[[Sequence[Tensor]], None]


class Blocks:
    """Items (N, *event), flattened to (N, D), in blocks of rows; NaN is a missing entry.

    `x` is a tensor, or has `shape`, `dtype` and rows by slices. `weight`, (N,) in float64, is how often each item
    counts, and `missing` whether any entry is missing, where that is known. `share` is the slice of the items that this
    process sums over; `reduce` adds tensors up over all processes, in place, and `largest` takes their maximum. `ahead`
    may read the parts of a source while one of them is used.
    """

    def __init__(
        self,
        x: Any,
        weight: Tensor | None = None,
        *,
        missing: bool | None = None,
        device: torch.device | None = None,
        share: slice | None = None,
        reduce: Reduce | None = None,
        largest: Reduce | None = None,
        ahead: Callable[[Iterator[Tensor]], Iterator[Tensor]] | None = None,
    ) -> None:
        self.x, self.weight = x, weight
        self._missing = missing
        self.reduce, self.largest = reduce or _alone, largest or _alone
        self.features = math.prod(x.shape[1:])
        self.dtype: torch.dtype = x.dtype
        self.device = device or (x.device if isinstance(x, Tensor) else torch.device("cpu"))
        self._share, self._ahead = share or slice(0, len(x)), ahead or iter

    def __len__(self) -> int:
        return len(self.x)

    @property
    def head(self) -> Tensor:
        """The first rows, (n, D), which are the same in all processes."""
        rows: Tensor = self.x[: min(FIRST, len(self))]
        return rows.detach().to(self.device).flatten(1)

    @property
    def is_in_memory(self) -> bool:
        """Whether the items are a tensor, of whose rows a block is a view."""
        return isinstance(self.x, Tensor)

    def each(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        """The blocks of this process's share, of up to `size` rows each: which rows, and the rows, (n, D)."""
        first, last = self._share.start, self._share.stop
        step = size * max(1, TOGETHER // max(1, size * self.features))
        starts = range(first, last, last - first if self.is_in_memory else step) if last > first else range(0)

        def parts() -> Iterator[Tensor]:
            for start in starts:
                part = self.x[start : min(last, start + starts.step)]
                yield part.detach().to(self.device).flatten(1)

        read = parts() if self.is_in_memory else self._ahead(parts())
        for start, part in zip(starts, read, strict=True):
            for offset in range(0, len(part), size):
                rows = part[offset : offset + size]
                yield slice(start + offset, start + offset + len(rows)), rows

    @property
    def has_missing(self) -> bool:
        """Whether any entry is missing, in the share of any process."""
        if self._missing is None:
            some = torch.zeros((), dtype=torch.float64, device=self.device)
            for _, rows in self.each(2**12):
                some += rows.isnan().any()
            self.reduce([some])
            self._missing = bool(some)
        return self._missing

    def weight_of(self, rows: slice) -> Tensor | None:
        """The weights of some of the rows; None where each item counts once."""
        return None if self.weight is None else self.weight[rows]

    @property
    def count(self) -> float:
        """The number of items that these stand for: the sum of the weights."""
        return len(self) if self.weight is None else float(self.weight.sum())


def _alone(_: Sequence[Tensor]) -> None:
    """What one process has to do with others."""
