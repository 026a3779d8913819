"""A folder of .npy files of one shape and dtype, as the rows of one array that stays on the disk."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Shards", "shard_files"]


def shard_files(folder: Path) -> list[Path]:
    """The .npy files of a folder in the order of their names; the numbers in these count as numbers."""
    files = [path for path in folder.iterdir() if path.suffix.lower() == ".npy" and not path.name.startswith(".")]
    return sorted(files, key=lambda path: [int(part) if part.isdigit() else part for part in _split(path.name)])


def _split(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


class Shards:
    """Arrays of one shape and dtype below each other, as the rows of one array: memory maps stay on the disk."""

    def __init__(self, arrays: Sequence[np.ndarray], names: Sequence[str]) -> None:
        first = arrays[0]
        for array, name in zip(arrays, names, strict=True):
            if array.shape[1:] != first.shape[1:] or array.dtype != first.dtype:
                raise ValueError(
                    f"all shards must have one shape and dtype: {names[0]} has items of shape {first.shape[1:]}, "
                    f"{first.dtype}, and {name} {array.shape[1:]}, {array.dtype}"
                )
        self.arrays, self.names, self.dtype = list(arrays), list(names), first.dtype
        self.ends = np.cumsum([len(array) for array in arrays])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *event)."""
        return (len(self), *self.arrays[0].shape[1:])

    @property
    def ndim(self) -> int:
        """The number of axes, the first of which is that of the items."""
        return self.arrays[0].ndim

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    def each(self, change: Callable[[np.ndarray], np.ndarray]) -> Shards:
        """The same rows with every array changed, as one with another order of its axes."""
        return Shards([change(array) for array in self.arrays], self.names)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, int | np.integer):
            row: np.ndarray = self[np.array([index])][0]
            return row
        rows = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.arange(len(self))[index]
        shard = np.searchsorted(self.ends, rows, side="right")
        result = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for number in np.unique(shard):
            here = shard == number
            start = 0 if number == 0 else self.ends[number - 1]
            result[here] = self.arrays[number][rows[here] - start]
        return result
