"""The items of a fit by EM: checked once, in memory or read as they are used, shared among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyrovae import checks, ranks, rounding
from pyrovae.data import MappedArray
from pyrovae.data.batches import ahead
from pyrovae.inference.em.together import Together
from pyrovae.inference.items import Tally
from pyrovae.inference.weighed import weighed
from pyrovae.models.blocks import Blocks
from pyrovae.models.frame import Frame
from pyrovae.models.items import checked_items
from pyrovae.models.pair import dtype_and_device
from pyrovae.models.seen import SeenItems

__all__ = ["EMItems"]

ROWS = 2**14  # of a memory map, that are checked, and grouped by what was seen of them, together


@dataclass(frozen=True)
class EMItems:
    """Items without those of weight zero, with their weights, in blocks.

    Attributes:
        as_given: the items (N, *event_shape) in the dtype that they came in, a tensor or a view of a memory map.
        x: the same in the pair's dtype.
        weight: (N,), in float64, above 0; None where each item counts once.
        missing_entries: how many entries are missing.
        device: where to compute.
    """

    as_given: Any
    x: Any
    weight: Tensor | None
    missing_entries: int
    device: torch.device

    @classmethod
    def of(
        cls, pair: Any, source: Any, device: torch.device, name: str = "x", reference: EMItems | None = None
    ) -> EMItems:
        """The items of an array, a view of a memory map, or a split, checked against the pair.

        `reference` are more items from the same source: where these are few and lie close together, it says how widely
        that source spreads.
        """
        least_scale = None if reference is None else lambda _: reference.frame.variance.sqrt().cpu()
        given = checks.split_of(source, takes=("weight", "missing"), name=name)
        if isinstance(given.x, MappedArray) and len(given.x) and not isinstance(given.missing, Tensor):
            return cls._of_map(pair, given, device, name, least_scale)
        items = weighed(source, name)
        x = checked_items(pair, items.x, name=name, missing=items.missing, least_scale=least_scale).to(device)
        missing = int(x.isnan().sum()) if items.has_missing else 0
        return cls(items.x, x, items.weight_on(device), missing, device)

    @classmethod
    def _of_map(
        cls,
        pair: Any,
        given: checks.Gathered,
        device: torch.device,
        name: str,
        least_scale: Callable[[Tensor], Tensor] | None,
    ) -> EMItems:
        x, weight, dtype = given.x, None, dtype_and_device(pair)[0]
        if given.weight is not None:
            weight = checks.weights(given.weight, len(x), name=name)
            if not bool(weight.all()):
                x, weight = x.select(weight > 0), weight[weight > 0]
        some, (stored, place) = given.missing is not None, x.ascending()
        try:
            tally, most = _looked_through(pair, stored, name, some)
        except (ValueError, TypeError):
            _looked_through(pair, x, name, some)  # which names an item by the number that it came with
            raise
        scale = None if least_scale is None else lambda: least_scale(torch.empty(0))
        checks.require_held(stored.exactly, stored.shape, dtype, most, name=name, least_scale=scale)
        if tally.missing:
            tally.tell(name, given.columns)
        if weight is not None:
            weight = (weight if place is None else weight[torch.from_numpy(place)]).to(device)
        reading = stored.reading(torch.float64 if dtype == torch.float64 else torch.float32)
        return cls(stored, reading, weight, tally.missing, device)

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def together(self) -> Together:
        """The processes that have a share of the items each; where there are fewer items, each has all of them."""
        processes = ranks.current()
        return Together(processes if len(self) >= processes.size else ranks.Ranks())

    @cached_property
    def frame(self) -> Frame:
        """The items in blocks, of which this process has a share."""
        together = self.together
        blocks = Blocks(
            self.x,
            self.weight,
            missing=self.has_missing,
            device=self.device,
            share=together.processes.share(len(self)),
            reduce=together.sum,
            largest=together.largest,
            ahead=ahead,
        )
        return Frame(blocks, keeps=True)

    @property
    def has_missing(self) -> bool:
        """Whether any entry is missing."""
        return self.missing_entries > 0

    @property
    def config(self) -> dict[str, Any]:
        """What the `config` of a history says of them: nothing where all entries were seen and count once."""
        weight = {} if self.weight is None else {"sum_of_weights": self.frame.blocks.count}
        return weight | ({"missing_entries": self.missing_entries} if self.has_missing else {})

    def seen(self) -> Iterator[tuple[slice, SeenItems]]:
        """The items of this process's share as groups by what was seen of them, part by part."""
        if self._seen is not None:
            yield self._seen
            return
        for place, rows in self.frame.blocks.each(ROWS):
            yield place, SeenItems(rows)

    @cached_property
    def _seen(self) -> tuple[slice, SeenItems] | None:
        """Those of items in memory, which are grouped once."""
        if not self.frame.blocks.is_in_memory:
            return None
        ((place, rows),) = self.frame.blocks.each(len(self))
        return place, SeenItems(rows)


def _looked_through(pair: Any, x: MappedArray, name: str, some_missing: bool) -> tuple[Tally, float]:
    """Check all rows of a view, part by part: what was seen of them, and the largest value."""
    if tuple(x.shape[1:]) != tuple(pair.event_shape):  # said of all of them
        checked_items(pair, torch.zeros(()).expand(x.shape), name=name)
    tally, most = Tally(x), 0.0
    for start in range(0, len(x), ROWS):
        part = x.exactly(slice(start, start + ROWS))
        part = checked_items(pair, part, name=name, index_offset=start, missing=some_missing)
        most = max(most, rounding.largest(part))
        if some_missing:
            tally.add(part)
    return tally, most
