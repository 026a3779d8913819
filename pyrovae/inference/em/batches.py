"""EM by batches of the items: the parameters move after each batch, from sums in which the batch's are replaced."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.inference.em.items import EMItems
from pyrovae.models import sufficient
from pyrovae.models.blocks import Blocks
from pyrovae.models.frame import Frame
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.seen import Expected

__all__ = ["Batches"]


class Batches:
    """Incremental EM (Neal and Hinton 1998): the sums of moments of each batch are kept, and replaced in turn.

    A sweep takes an M-step from the sums of all batches, and one more after each batch whose responsibilities are
    taken anew. Each step raises the free energy, whose fixed points are those of EM. It goes on while a sweep gains
    more than `tol` nats per item, and while products about the items' mean keep their digits; plain EM follows.
    """

    def __init__(self, mixture: GaussianMixture, items: EMItems, batch_size: int, tol: float) -> None:
        self.mixture, self.frame, self.tol = mixture, items.frame, tol
        self.is_on, self.is_plain = True, False
        self.sums: list[Expected] = []
        checks.affordable(
            f"batch_size={batch_size:,} of {len(items):,} items, of each of whose batches sums are kept,",
            8 * -(-len(items) // batch_size) * sum(p.numel() for p in mixture.parameters()),
            "take larger batches",
        )
        blocks, processes = items.frame.blocks, items.together.processes
        count = -(-len(items) // batch_size)
        ends = [len(items) * i // count for i in range(count + 1)]
        self.frames = []
        for first, last in pairwise(ends):
            share = processes.share(last - first)  # the batches are the same, whatever the number of processes is
            part = Blocks(
                items.x,
                items.weight,
                missing=False,
                device=items.device,
                share=slice(first + share.start, first + share.stop),
                reduce=blocks.reduce,
                largest=blocks.largest,
            )
            frame = Frame(part)
            frame.origin = items.frame.origin
            self.frames.append(frame)

    def e_step(self) -> tuple[Expected, float]:
        """The sums of all items, and log p(x) per item in nats; the first time with the sums of each batch."""
        parts, log_weights = self.mixture.components, _log_weights(self.mixture)
        if self.is_on and not self.sums:
            found = [sufficient.expected_sums(parts, log_weights, frame) for frame in self.frames]
            self.sums = [sums for sums, _ in found]
            self.is_on = all(map(self._is_about_origin, self.sums))
            if self.is_on:
                return _total(self.sums), sum(value for _, value in found)
        if self.is_on:
            return _total(self.sums), sufficient.log_likelihood(parts, log_weights, self.frame)
        return sufficient.expected_sums(parts, log_weights, self.frame)

    def m_step(self, total: Expected) -> Tensor:
        """One sweep; returned are the components whose variance the floor held up in its last step."""
        at_floor = self.mixture.take(total)
        # the step to a start comes before there are sums of batches
        for number, frame in enumerate(self.frames if self.is_on and self.sums else []):
            sums, _ = sufficient.expected_sums(self.mixture.components, _log_weights(self.mixture), frame)
            self.is_on = self._is_about_origin(sums)
            if not self.is_on:
                break
            for whole, new, old in zip(total.tensors, sums.tensors, self.sums[number].tensors, strict=True):
                whole += new - old
            self.sums[number] = sums
            at_floor = self.mixture.take(total)
        return at_floor

    def sharpened(self, _: float, gain: float) -> bool:
        """Whether plain EM follows from now on, which alone says when it has converged."""
        ends = not self.is_plain and (not self.is_on or gain <= self.tol)
        if ends:
            self.is_plain, self.is_on = True, False
        return ends

    def _is_about_origin(self, sums: Expected) -> bool:
        return torch.equal(sums.loc, self.frame.origin.expand_as(sums.loc))


def _log_weights(mixture: GaussianMixture) -> Tensor:
    return mixture.logits.double().log_softmax(-1)


def _total(sums: list[Expected]) -> Expected:
    """The sums over all batches."""
    whole = [torch.stack(each).sum(0) for each in zip(*(one.tensors for one in sums), strict=True)]
    return replace(sums[0], total=whole[0], first=whole[1], second=whole[2], mass=whole[3] if len(whole) > 3 else None)
