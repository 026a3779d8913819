"""Batches of in-memory or memory-mapped data, whose order depends on the seed and the epoch alone."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.checks.arrays import plain
from pyrovae.data.mapped import MappedArray

__all__ = ["ahead", "batches", "order"]

T = TypeVar("T")
EACH = slice(None)  # of the batches


@checks.flags
def batches(
    x: Tensor | MappedArray,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    share: Callable[[int], slice] | None = None,
    turns: slice = EACH,
) -> Iterator[Tensor]:
    """One epoch of `x` in batches of `batch_size` items, the last of them smaller where N is no multiple of it.

    Every item occurs exactly once, in the order `order(len(x), seed=seed, epoch=epoch)`. With `shuffle=False` the order
    is that of `x`, and batches are slices of it, so that those of a tensor are views. `x` has shape (N, *event) and a
    batch (n, *event), on the device of `x`. If several processes divide the batches, `share(n)` is the slice of a batch
    of n items that this process reads; `turns` is a slice of the batches' numbers, and the others are not read. Global
    random generators are not used.

    Raises ValueError for an empty `x` and for a `batch_size` below 1; TypeError for an `x` that is neither a tensor nor
    a MappedArray.

    >>> import torch
    >>> from pyrovae.data import batches
    >>> [batch.tolist() for batch in batches(torch.arange(5.0), 2, seed=0, epoch=0, shuffle=False)]
    [[0.0, 1.0], [2.0, 3.0], [4.0]]
    >>> [len(batch) for batch in batches(torch.zeros(10, 1, 8, 8), 4, seed=0, epoch=3)]
    [4, 4, 2]
    >>> [len(batch) for batch in batches(torch.zeros(10, 3), 4, seed=0, epoch=3, turns=slice(1, None))]
    [4, 2]
    """
    if not isinstance(x, Tensor | MappedArray):
        raise TypeError(f"x must be a tensor or a MappedArray, got {type(x).__name__}; torch.as_tensor(x) makes one")
    if isinstance(x, Tensor) and x.device.type != "meta":  # of whose shapes alone batches can be made
        x = plain(x, "x")
    if len(x.shape) == 0 or len(x) == 0:
        raise ValueError(f"x must have shape (N, *event) with N of at least 1, got {tuple(x.shape)}")
    size = checks.whole("batch_size", batch_size)
    if share is not None:
        checks.function("share", share, "a function from a number of items to a slice of them, or None")
    index = order(len(x), seed=seed, epoch=epoch) if shuffle else None
    if index is not None and isinstance(x, Tensor):
        index = index.to(x.device)
    # a separate generator, so that the checks above run at the call and not at the first batch
    return _parts(x, index, size, share, turns)


def order(n: int, *, seed: int, epoch: int) -> Tensor:
    """The order of n items in an epoch: a permutation of 0..n-1, as an int64 tensor of shape (n,).

    It depends on `n`, `seed` and `epoch` alone, so that an epoch can be repeated without the earlier ones. Raises
    ValueError for `n` below 1 and for a negative `seed` or `epoch`.

    >>> from pyrovae.data.batches import order
    >>> sorted(order(5, seed=0, epoch=1).tolist())
    [0, 1, 2, 3, 4]
    >>> bool((order(100, seed=0, epoch=1) == order(100, seed=0, epoch=2)).all())
    False
    """
    n = checks.whole("n", n, bytes_each=8)
    entropy = [checks.seed(seed), checks.whole("epoch", epoch, least=0)]
    return torch.from_numpy(np.random.default_rng(np.random.SeedSequence(entropy)).permutation(n))


def ahead(source: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The values of `source`, computed up to `depth` ahead by a thread; its errors are raised in the caller.

    It uses a thread because a process that is forked after torch has started threads can hang.

    >>> from pyrovae.data.batches import ahead
    >>> list(ahead(iter([1, 2, 3])))
    [1, 2, 3]
    """
    made: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: tuple[bool, Any]) -> bool:
        while not stopped.is_set():
            try:
                made.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for value in source:
                if not put((True, value)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            more, value = made.get()
            if more:
                yield value
            elif value is None:
                return
            else:
                raise value
    finally:
        stopped.set()
        thread.join()


def _parts(
    x: Tensor | MappedArray, index: Tensor | None, size: int, share: Callable[[int], slice] | None, turns: slice
) -> Iterator[Tensor]:
    for start in range(0, len(x), size)[turns]:
        part = slice(start, min(start + size, len(x)))
        if share is not None:
            try:
                mine = share(part.stop - part.start)
            except Exception as error:
                raise TypeError(f"share must take a number of rows and return a slice of them: {error}") from error
            if not isinstance(mine, slice):
                raise TypeError(f"share must return a slice of the rows of a batch, got {mine!r:.80}")
            part = slice(start + mine.start, start + mine.stop)
        if index is None:
            yield x[part]
        elif isinstance(x, Tensor) and x.ndim > 2 and x.is_contiguous():  # three times as fast as x[index]
            yield x.flatten(1).index_select(0, index[part]).unflatten(1, x.shape[1:])
        else:
            yield x[index[part]]
