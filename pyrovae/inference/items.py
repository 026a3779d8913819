"""The items of a fit, checked, in batches."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cached_property
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.data import MappedArray, batches
from pyrovae.data.batches import ahead
from pyrovae.models.items import checked_items
from pyrovae.models.pair import Pair, dtype_and_device, entries_of
from pyrovae.rounding import spread

__all__ = ["EVALUATION_BATCH", "Items"]

EVALUATION_BATCH = 1024
FINGERPRINT_BYTES = 2**28  # of a memory map, a quarter of a GiB: smaller ones are compared whole
FINGERPRINT_ROWS = 2**16
SHARE = 0.25  # of an accelerator's free memory, that items may take, and those of the validation as much of the rest


class Items:
    """Checked items in batches; a memory-mapped view is looked at once from end to end, and read as it is used.

    `beside` are others from the same source, which tell how wide it is where these are a few that lie close together.
    """

    def __init__(self, pair: Pair, x: Any, name: str, binarize: bool, beside: Items | None = None) -> None:
        self.dtype = dtype_and_device(pair)[0]
        self.x: Tensor | MappedArray
        self.y: Tensor | None = None  # the labels' numbers
        least, most = math.inf, -math.inf
        support = constraints.unit_interval if binarize else None
        wide = None if beside is None or isinstance(beside.x, MappedArray) else beside.x
        least_scale = None if wide is None else lambda _: spread(wide)
        x, _ = checks.parts_of(x, name)
        if isinstance(x, MappedArray) and len(x):
            # a pair in float64 reads what is there, not what float32 makes of it
            self.x = x.reading(torch.float64 if self.dtype == torch.float64 else torch.float32)
            step = EVALUATION_BATCH
        else:
            self.x = checked_items(pair, x, name=name, support=support, least=least_scale).detach()
            step = len(self.x)
        for first in range(0, len(self.x), step):
            if isinstance(x, MappedArray):
                given = x.exactly(slice(first, first + step))
                part = checked_items(pair, given, name=name, support=support, first=first)
            else:
                part = self.x[first : first + step]
            least, most = min(least, float(part.min())), max(most, float(part.max()))
        if isinstance(x, MappedArray):
            known = None if wide is None else lambda: spread(wide)
            checks.require_held(x.exactly, x.shape, self.dtype, max(-least, most), name=name, least=known)
        if getattr(entries_of(pair), "link", None) == "sigmoid" and (least < 0 or most > 1):
            checks.warn(
                f"{name} reaches from {least:g} to {most:g}, and the likelihood's mean stays in [0, 1] "
                "(link='sigmoid'): scale it, or take Normal(link='identity')"
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

    @property
    def fingerprint(self) -> str:
        """A hash that other items or labels would not have; of a large memory map, by rows spread over it."""
        digest = self._digest_of_items.copy()
        digest.update(b"" if self.y is None else self.y.cpu().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _digest_of_items(self) -> Any:
        """A SHA-256 of shape and entries, to which the labels, which are set later, are added."""
        digest = hashlib.sha256(repr((len(self), tuple(self.x.shape))).encode())
        for part in self._looked_at():
            digest.update(part.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return digest

    def _looked_at(self) -> Iterator[Tensor]:
        """All items, or so many of a memory map, the first and the last among them, as can be read in a moment."""
        x, count = self.x, len(self)
        size = math.prod(x.shape[1:]) * x.dtype.itemsize
        if isinstance(x, Tensor) or count * size <= FINGERPRINT_BYTES:
            yield from (x[first : first + EVALUATION_BATCH] for first in range(0, count, EVALUATION_BATCH))
            return
        rows = max(2, min(FINGERPRINT_ROWS, FINGERPRINT_BYTES // size))
        for index in torch.linspace(0, count - 1, rows, dtype=torch.float64).round().long().split(EVALUATION_BATCH):
            yield x[index]

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
