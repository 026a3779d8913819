"""Batches in memory (or memory-mapped) whose order depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.data.sources import MappedArray

__all__ = ["batches", "order"]


def batches(
    x: Tensor | MappedArray, batch_size: int, *, seed: int, epoch: int, shuffle: bool = True
) -> Iterator[Tensor]:
    """One epoch of `x` in batches of `batch_size` items, the last of them smaller where N is no multiple of it.

    Every item comes exactly once, in the order `order(len(x), seed=seed, epoch=epoch)`; with `shuffle=False` in the
    order of `x`, as slices of it (of a tensor: views). `x` has shape (N, *event) and a batch (n, *event), on the
    device of `x`. Global generators are neither read nor moved.

    Raises ValueError for an empty `x` and a `batch_size` below 1, TypeError for what is neither tensor nor view.

    >>> import torch
    >>> [batch.tolist() for batch in batches(torch.arange(5.0), 2, seed=0, epoch=0, shuffle=False)]
    [[0.0, 1.0], [2.0, 3.0], [4.0]]
    >>> [len(batch) for batch in batches(torch.zeros(10, 1, 8, 8), 4, seed=0, epoch=3)]
    [4, 4, 2]
    """
    if not isinstance(x, Tensor | MappedArray):
        raise TypeError(f"x must be a tensor or a MappedArray, got {type(x).__name__}; torch.as_tensor(x) makes one")
    if len(x.shape) == 0 or len(x) == 0:
        raise ValueError(f"x must have shape (N, *event) with N of at least 1, got {tuple(x.shape)}")
    size = checks.whole("batch_size", batch_size)
    index = order(len(x), seed=seed, epoch=epoch) if shuffle else None
    if index is not None and isinstance(x, Tensor):
        index = index.to(x.device)
    # a generator of its own, so that the checks above speak at the call and not at the first batch
    return _parts(x, index, size)


def order(n: int, *, seed: int, epoch: int) -> Tensor:
    """The permutation of 0..n-1 in which an epoch goes through n items, an int64 tensor of shape (n,).

    It is a function of `n`, `seed` and `epoch` alone, so an epoch can be repeated without those before it. Raises
    ValueError for `n` below 1 and a negative `seed` or `epoch`.

    >>> sorted(order(5, seed=0, epoch=1).tolist())
    [0, 1, 2, 3, 4]
    >>> bool((order(100, seed=0, epoch=1) == order(100, seed=0, epoch=2)).all())
    False
    """
    n = checks.whole("n", n)
    entropy = [checks.whole("seed", seed, least=0), checks.whole("epoch", epoch, least=0)]
    return torch.from_numpy(np.random.default_rng(np.random.SeedSequence(entropy)).permutation(n))


def _parts(x: Tensor | MappedArray, index: Tensor | None, size: int) -> Iterator[Tensor]:
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        if index is None:
            yield x[part]
        elif isinstance(x, Tensor):  # a third of the time that x[index] takes
            yield x.flatten(1).index_select(0, index[part]).unflatten(1, x.shape[1:]) if x.ndim > 2 else x[index[part]]
        else:
            yield x[index[part]]
