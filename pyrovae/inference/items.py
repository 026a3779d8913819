"""The items of a fit: checked once, and given out in batches."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cached_property, partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.data import MappedArray, batches
from pyrovae.data.batches import ahead
from pyrovae.models.batch import Batch
from pyrovae.models.items import checked_beside, checked_items, require_exposures_alike
from pyrovae.models.missing import require_missing_taken
from pyrovae.models.pair import Pair, dtype_and_device, likelihood_of
from pyrovae.rounding import spread, spread_as_in

__all__ = ["EVALUATION_BATCH", "Items", "Tally"]

EVALUATION_BATCH = 1024
FINGERPRINT_BYTES = 2**28  # of a memory map, a quarter of a GiB: smaller ones are compared whole
FINGERPRINT_ROWS = 2**16
SHARE = 0.25  # of an accelerator's free memory, that items may take, and those of the validation as much of the rest


class Items:
    """The checked items of a fit, in batches; a memory-mapped view is checked in one pass, and read as it is used.

    `reference` are more items from the same source, such as those of training. Where these items are few and lie close
    together, the reference tells how widely the source spreads.
    """

    def __init__(self, pair: Pair, x: Any, name: str, binarize: bool, reference: Items | None = None) -> None:
        self.dtype = dtype_and_device(pair)[0]
        self.x: Tensor | MappedArray
        self.y: Tensor | None = None  # the index of each item's class
        smallest, largest = math.inf, -math.inf
        support = constraints.unit_interval if binarize else None
        reference_x = None if reference is None or isinstance(reference.x, MappedArray) else reference.x
        least_scale = None if reference_x is None else spread_as_in(reference_x)
        given = checks.split_of(x, name=name, takes=("weight", "missing"))
        some = given.missing is not None
        x = checks.with_missing(given.x, given.missing, name)
        if isinstance(x, MappedArray) and len(x):
            # a pair in float64 reads what is there, not what float32 makes of it
            self.x = x.reading(torch.float64 if self.dtype == torch.float64 else torch.float32)
            step = EVALUATION_BATCH
        else:
            self.x = checked_items(pair, x, name=name, support=support, least_scale=least_scale, missing=some).detach()
            step = len(self.x)
        tally = Tally(self.x) if some else None
        for start in range(0, len(self.x), step):
            if isinstance(x, MappedArray):
                as_given = x.exactly(slice(start, start + step))
                part = checked_items(pair, as_given, name=name, support=support, index_offset=start, missing=some)
            else:
                part = self.x[start : start + step]
            if tally is not None:
                tally.add(part)
                part = part[~part.isnan()]
                if not part.numel():
                    continue
            smallest = min(smallest, float(part.min()))
            largest = max(largest, float(part.max()))
        if isinstance(x, MappedArray):
            scale = None if reference_x is None else partial(spread, reference_x)
            most = max(-smallest, largest)
            checks.require_held(x.exactly, x.shape, self.dtype, most, name=name, least_scale=scale)
        link = getattr(getattr(likelihood_of(pair), "family", None), "link", None)
        if link == "sigmoid" and (smallest < 0 or largest > 1):
            checks.warn(
                f"{name} reaches from {smallest:g} to {largest:g}, and the likelihood's mean stays in [0, 1] "
                "(link='sigmoid'): scale it, or take link='identity'"
            )

        beside = checked_beside(pair, given.covariates, given.exposure, len(self.x), name=name)
        self.beside = {each: value.detach().cpu() for each, value in beside.items()}  # covariates, exposure, weight
        self.mean_weight = 1.0
        if given.weight is not None:
            weight = checks.weights(given.weight, len(self.x), name=name)
            self.mean_weight = float(weight.mean())
            self.beside["weight"] = weight.to(self.dtype)
        self.missing_entries = 0 if tally is None else tally.missing
        self.missing = self.missing_entries > 0
        if self.missing and tally is not None:
            require_missing_taken(pair, what=name)
            tally.tell(name)
        if reference is not None:
            require_exposures_alike("x", "exposure" in reference.beside, name, "exposure" in self.beside)

    def __len__(self) -> int:
        return len(self.x)

    def described(self) -> dict[str, Any]:
        """What a history says of weights and missing entries, where there are any."""
        total = {"sum_of_weights": self.mean_weight * len(self)} if "weight" in self.beside else {}
        return {**total, "missing_entries": self.missing_entries} if self.missing else total

    def move(self, device: torch.device) -> None:
        """Move items and labels to an accelerator that has room for them, where batches are then drawn by index."""
        if not isinstance(self.x, Tensor) or self.x.device == device:
            return
        if self.x.nbytes + (0 if self.y is None else self.y.nbytes) <= SHARE * _room(device):
            self.x = self.x.to(device)
            self.beside = {name: value.to(device) for name, value in self.beside.items()}
            self.y = None if self.y is None else self.y.to(device)

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of the items and labels; of a large memory map, of rows spread over it."""
        digest = self._digest_of_items.copy()
        for name, value in self.beside.items():
            digest.update(name.encode() + value.cpu().numpy().tobytes())
        digest.update(b"" if self.y is None else self.y.cpu().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _digest_of_items(self) -> Any:
        """A SHA-256 of the shape and the entries; labels are set later, and are not in it."""
        digest = hashlib.sha256(repr((len(self), tuple(self.x.shape))).encode())
        for part in self._parts_to_hash():
            digest.update(part.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return digest

    def _parts_to_hash(self) -> Iterator[Tensor]:
        """All items; of a large memory map only as many rows as can be read in a moment, from the first to the last."""
        x, count = self.x, len(self)
        size = math.prod(x.shape[1:]) * x.dtype.itemsize
        if isinstance(x, Tensor) or count * size <= FINGERPRINT_BYTES:
            yield from (x[start : start + EVALUATION_BATCH] for start in range(0, count, EVALUATION_BATCH))
            return
        rows = max(2, min(FINGERPRINT_ROWS, FINGERPRINT_BYTES // size))
        for index in torch.linspace(0, count - 1, rows, dtype=torch.float64).round().long().split(EVALUATION_BATCH):
            yield x[index]

    def batches(
        self, size: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = True, share: Any = None, start: int = 0
    ) -> Iterator[tuple[Any, Tensor | None]]:
        """The batches of one epoch from batch `start` on, each with its labels, or with None where there are none.

        A batch is a tensor, or a `Batch` where something lies beside the items, drawn by the same index.
        """
        options: dict[str, Any] = {"seed": seed, "epoch": epoch, "shuffle": shuffle, "share": share, "start": start}
        labels = repeat(None) if self.y is None else batches(self.y, size, **options)
        items: Iterator[Tensor] = (batch.to(self.dtype) for batch in batches(self.x, size, **options))
        if isinstance(self.x, MappedArray):  # which a thread reads while a step computes
            items = ahead(items)
        if not self.beside:
            for batch, label in zip(items, labels, strict=False):
                yield Batch.of(batch, missing=self.missing), label
            return
        rows = zip(*(batches(value, size, **options) for value in self.beside.values()), strict=True)
        for batch, values, label in zip(items, rows, labels, strict=False):
            each = zip(self.beside, values, strict=True)
            beside = {name: value.to(batch.device) for name, value in each}
            yield Batch(batch, **beside, missing=self.missing), label


class Tally:
    """Which items and which columns have an entry that was seen, counted over parts of the items."""

    def __init__(self, x: Any) -> None:
        self.seen_of_column = torch.zeros(tuple(x.shape[1:]), dtype=torch.long)
        self.count, self.empty, self.first, self.missing = 0, 0, -1, 0

    def add(self, part: Tensor) -> None:
        """Count a part of the items, which follows those before."""
        seen = (~part.isnan()).cpu()
        self.missing += int((~seen).sum())
        self.seen_of_column += seen.sum(0)
        empty = ~seen.flatten(1).any(1)
        if self.first < 0 and bool(empty.any()):
            self.first = self.count + int(empty.nonzero()[0])
        self.count, self.empty = self.count + len(part), self.empty + int(empty.sum())

    def tell(self, name: str) -> None:
        """Refuse training items of which a column was never seen, and warn of items without a seen entry."""
        never = (self.seen_of_column == 0).nonzero()
        if len(never) and name == "x":
            place = ", ".join(map(str, never[0].tolist()))
            more = f", and {len(never) - 1} more are so" if len(never) > 1 else ""
            raise ValueError(
                f"no entry of {name}[:, {place}] was seen{more}: nothing can be learnt of it; leave such columns out"
            )
        if self.empty:
            checks.warn(
                f"{self.empty} of {self.count} items of {name} have no entry that was seen, the first of them item "
                f"{self.first}: they say nothing of the parameters; leave them out"
            )


def _room(device: torch.device) -> int:
    """The free bytes of an accelerator; 0 on the host, where the items are already."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0
