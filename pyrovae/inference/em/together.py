"""The processes that share the items of an EM: one flat sum an iteration, in which they agree on signals too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyrovae import ranks
from pyrovae.interruption import SIGNALS, deliver, waiting

__all__ = ["Together"]


class Together:
    """What the processes of `pyrovae.distributed()` tell each other; one alone tells nothing.

    A signal that one of them was sent goes along with the next sum, so that all end after the same iteration.
    """

    def __init__(self, processes: ranks.Ranks) -> None:
        self.processes = processes
        self._told: set[int] = set()

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add tensors in float64 up over the processes, in place, all of them as one."""
        if self.processes.size == 1:
            return
        held_back = waiting()
        signals = tensors[0].new_tensor([number in held_back for number in SIGNALS])
        self._over(self.processes.sum_, [*tensors, signals])
        self._told.update(number for number, count in zip(SIGNALS, signals.tolist(), strict=True) if count)

    def largest(self, tensors: Sequence[Tensor]) -> None:
        """The same with the largest of each entry."""
        if self.processes.size > 1:
            self._over(self.processes.largest_, tensors)

    def deliver(self) -> None:
        """Deliver signals, in each process those that any of them was sent before the last sum."""
        if self.processes.size == 1:
            deliver()
        if not self._told:
            return
        told, error = tuple(self._told), None
        self._told.clear()
        try:
            deliver(told)
        except BaseException as raised:
            error = raised
        if any(self.processes.gathered(error is not None)):
            raise KeyboardInterrupt("another process of the fit was interrupted") if error is None else error

    @staticmethod
    def _over(together: Callable[[Tensor], Tensor], tensors: Sequence[Tensor]) -> None:
        whole = together(torch.cat([each.reshape(-1) for each in tensors]))
        for each, part in zip(tensors, whole.split([each.numel() for each in tensors]), strict=True):
            each.copy_(part.view_as(each))
