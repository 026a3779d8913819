"""The items of a fit with how often each counts: means and sums in which an item of weight w stands for w items."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.inference.items import Tally
from pyrovae.models.seen import SeenItems

__all__ = ["Weighed", "weighed"]


@dataclass(frozen=True)
class Weighed:
    """Items without those of weight zero, the weights of the others, and whether NaN is a missing entry.

    Attributes:
        x: items (N, *event_shape).
        weight: (N,), in float64, above 0; None where each item counts once.
        missing: whether NaN may stand for an entry that was not seen.
        kept: the indices, among all items that came, of those of `x`; None where they are all of them.
        given: the number of all items that came.
    """

    x: Tensor
    weight: Tensor | None = None
    missing: bool = False
    kept: Tensor | None = None
    given: int = 0

    @cached_property
    def has_missing(self) -> bool:
        """Whether any entry is missing."""
        return self.missing and bool(self.x.isnan().any())

    @cached_property
    def seen(self) -> SeenItems:
        """The items as groups by what was seen of them."""
        return SeenItems(self.x.flatten(1))

    @property
    def each(self) -> Tensor:
        """How often each item counts, (N,), in float64."""
        return (
            torch.ones(len(self.x), dtype=torch.float64, device=self.x.device) if self.weight is None else self.weight
        )

    @property
    def count(self) -> float:
        """The number of items that these stand for: the sum of the weights."""
        return len(self.x) if self.weight is None else float(self.weight.sum())

    @property
    def config(self) -> dict[str, Any]:
        """What the `config` of a history says of them: nothing where all entries were seen and count once."""
        weight = {} if self.weight is None else {"sum_of_weights": self.count}
        return weight | ({"missing_entries": int(self.x.isnan().sum())} if self.has_missing else {})

    def with_items(self, x: Tensor) -> Weighed:
        """Checked items in the place of these, row by row."""
        return replace(self, x=x, weight=self.weight_on(x.device))

    def weight_on(self, device: torch.device) -> Tensor | None:
        """The weights on a device; None where there are none."""
        return None if self.weight is None else self.weight.to(device)

    def times(self, table: Tensor, rows: Tensor | None = None) -> Tensor:
        """A table with a row for each item, or for those of `rows`, times the weights."""
        if self.weight is None:
            return table
        return table * (self.weight if rows is None else self.weight[rows])[:, None]

    def mean(self, values: Tensor) -> float:
        """The mean of values (N,) over the items that these stand for."""
        if self.weight is None:
            return float(values.mean())
        return float((self.weight * values).sum() / self.weight.sum())


def weighed(x: Any, name: str = "x", *, missing: bool = False) -> Weighed:
    """The items of an array or of a split, as they came, with their weights; those of weight zero are left out.

    With `missing` NaN is an entry that was not seen, also where the split does not say so. Raises ValueError for
    training items, `name` "x", of which a column was never seen, and warns of items of which nothing was.
    """
    given = checks.split_of(x, takes=("weight", "missing"), name=name)
    items = checks.array(checks.with_missing(given.x, given.missing, name), name)
    result, weight = Weighed(items, None, missing or given.missing is not None), None
    if given.weight is not None:
        weight = checks.weights(given.weight, len(items), name=name)
        kept = (weight > 0).nonzero()[:, 0]
        result = replace(result, weight=weight)
        if len(kept) < len(weight):
            result = Weighed(items[kept.to(items.device)], weight[kept], result.missing, kept, len(items))
    if result.has_missing:
        tally = Tally(items)
        tally.add(items, weight)  # all of them, so that a warning has the number that an item came with
        tally.tell(name, given.columns)
    return result
