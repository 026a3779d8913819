"""The items of a fit, checked, in batches."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator
from functools import cached_property
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data import MappedArray, batches
from pyrovae.data.batches import ahead
from pyrovae.models.pair import Pair, checked_items, dtype_and_device

__all__ = ["EVALUATION_BATCH", "Items"]

EVALUATION_BATCH = 1024
SHARE = 0.25  # of an accelerator's free memory, that items may take, and those of the validation as much of the rest


class Items:
    """Checked items in batches; a memory-mapped view is looked at once from end to end, and read as it is used."""

    def __init__(self, pair: Pair, x: Any, name: str, binarize: bool) -> None:
        self.dtype = dtype_and_device(pair)[0]
        self.x: Tensor | MappedArray
        self.y: Tensor | None = None  # the labels' numbers
        least, most = math.inf, -math.inf
        support = constraints.unit_interval if binarize else None
        if isinstance(x, MappedArray) and len(x):
            self.x, step = x, EVALUATION_BATCH
        else:
            self.x = checked_items(pair, x, name=name, support=support).detach()
            step = len(self.x)
        for first in range(0, len(self.x), step):
            part = self.x[first : first + step]
            if isinstance(x, MappedArray):
                part = checked_items(pair, part, name=name, support=support, first=first)
            least, most = min(least, float(part.min())), max(most, float(part.max()))
        family = getattr(getattr(pair, "likelihood", None), "family", None)
        if getattr(family, "link", None) == "sigmoid" and (least < 0 or most > 1):
            warnings.warn(
                f"{name} reaches from {least:g} to {most:g}, and the likelihood's mean stays in [0, 1] "
                "(link='sigmoid'): scale it, or take Normal(link='identity')",
                stacklevel=4,
            )

    def __len__(self) -> int:
        return len(self.x)

    def move(self, device: torch.device) -> None:
        """Keep items and labels on an accelerator that has room for them: batches are drawn there, by index."""
        if not isinstance(self.x, Tensor) or self.x.device == device:
            return
        if self.x.nbytes + (0 if self.y is None else self.y.nbytes) <= SHARE * _room(device):
            self.x = self.x.to(device)
            self.y = None if self.y is None else self.y.to(device)

    @cached_property
    def fingerprint(self) -> str:
        """A hash that other items or labels would not have; of a memory map, by its size and ends alone."""
        digest, x = hashlib.sha256(repr((len(self), tuple(self.x.shape))).encode()), self.x
        ends = [x[0:1], x[len(x) - 1 : len(x)]]
        for part in ends if isinstance(x, MappedArray) else x.split(EVALUATION_BATCH):
            digest.update(part.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        digest.update(b"" if self.y is None else self.y.cpu().numpy().tobytes())
        return digest.hexdigest()

    def batches(
        self, size: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = True, share: Any = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        how: dict[str, Any] = {"seed": seed, "epoch": epoch, "shuffle": shuffle, "share": share}
        labels = repeat(None) if self.y is None else batches(self.y, size, **how)
        read = (batch.to(self.dtype) for batch in batches(self.x, size, **how))
        # a memory map is read by a thread while a step computes
        yield from zip(ahead(read) if isinstance(self.x, MappedArray) else read, labels, strict=False)


def _room(device: torch.device) -> int:
    """Free bytes of an accelerator; none on the host, where items are already."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0
