"""The processes that share a run under torchrun: which rows are whose, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["Ranks", "current", "distributed"]


@dataclass(frozen=True)
class Ranks:
    """This process among `size` that run the same program on the same data."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one speaks for all: writes, prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of `count` rows are this one's: together the ranks have each row once, no share over one row larger.

        >>> from pyrovae.ranks import Ranks
        >>> [list(range(5))[Ranks(rank, 2).share(5)] for rank in (0, 1)]
        [[0, 1, 2], [3, 4]]
        """
        each, more = divmod(count, self.size)
        first = self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))

    def sum_(self, x: Tensor) -> Tensor:
        """The sum over ranks in place, the same bits on each."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def largest_(self, x: Tensor) -> Tensor:
        """The largest over ranks in place, entry by entry."""
        if self.size > 1:
            dist.all_reduce(x, dist.ReduceOp.MAX)
        return x

    def gathered(self, value: Any) -> list[Any]:
        """What each rank has, in their order."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """The first one's values in these tensors on every rank."""
        if self.size > 1:
            for x in tensors:
                first = x.detach().clone(memory_format=torch.contiguous_format)  # broadcast knows nothing of strides
                dist.broadcast(first, 0)
                if not torch.equal(first, x):
                    x.detach().copy_(first)


ALONE = Ranks()
_ranks: ContextVar[Ranks | None] = ContextVar("ranks", default=None)


def current() -> Ranks:
    """Those of the `distributed()` that this code runs in; one alone outside of it."""
    return _ranks.get() or ALONE


@contextmanager
def distributed() -> Iterator[Ranks]:
    """Share the fits and evaluations of the body among the processes that torchrun has started; alone, change nothing.

    `torchrun --nproc-per-node 2 script.py` runs the script twice; each has the same data and the same pair. In the body
    `fit` takes a rank's rows of each batch and sums the gradients over ranks, so that parameters, losses and `History`
    are the same on all; `elbo` and `iwae` divide the items; `save` writes once. Print where `is_first`. A BatchNorm
    sees a rank's share alone, and its buffers are the first rank's after each epoch. NCCL where
    each process has a CUDA device of its own, which becomes torch's current one, and else gloo.

    >>> from pyrovae import distributed
    >>> with distributed() as ranks:
    ...     ranks.is_first, ranks.size
    (True, 1)
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or current().size > 1:
        yield current()
        return
    local = int(os.environ.get("LOCAL_RANK", 0))
    on_cuda = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if on_cuda:
        torch.cuda.set_device(local)
    starts_group = not dist.is_initialized()
    if starts_group:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
    token = _ranks.set(Ranks(dist.get_rank(), dist.get_world_size()))
    try:
        yield current()
        dist.barrier()  # none leaves while another may still speak to it
    finally:
        _ranks.reset(token)
        if starts_group:
            dist.destroy_process_group()
