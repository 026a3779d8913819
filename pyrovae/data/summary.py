"""What one pass over the items of a data set's part finds: range, missing entries, kind of values, and a digest."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch

from pyrovae.data.dataset import Split

__all__ = ["Summary", "summarize"]

ENTRIES = 2**22  # that are looked at together


@dataclass(frozen=True)
class Summary:
    """What the items of a part are.

    Attributes:
        count: the number of items.
        event_shape: the shape of an item.
        dtype: in which the items are read.
        minimum: the smallest entry that is not NaN; NaN where there is none.
        maximum: the largest.
        missing: the number of NaN.
        infinite: the number of infinite entries.
        is_binary: whether every entry that is not NaN is 0 or 1.
        is_whole: whether every entry that is not NaN is a whole number.
        classes: the number of different labels; None without labels.
        sha256: of shape, dtype and values of the items, and of the labels, as they are read.
        items_sha256: of the items alone.
    """

    count: int
    event_shape: tuple[int, ...]
    dtype: str
    minimum: float
    maximum: float
    missing: int
    infinite: int
    is_binary: bool
    is_whole: bool
    classes: int | None
    sha256: str
    items_sha256: str

    @property
    def is_in_unit(self) -> bool:
        """Whether every entry lies in [0, 1]."""
        return self.minimum >= 0 and self.maximum <= 1

    @property
    def is_nonnegative_whole(self) -> bool:
        """Whether every entry is one of 0, 1, 2, ..., as counts are."""
        return self.is_whole and self.minimum >= 0


def summarize(split: Split) -> Summary:
    """Read all items of a part once, some at a time, and say what they are.

    >>> import torch
    >>> from pyrovae.data import Split
    >>> from pyrovae.data.summary import summarize
    >>> summary = summarize(Split(torch.tensor([[0.0, 1.0], [1.0, torch.nan]])))
    >>> summary.is_binary, summary.missing, summary.event_shape
    (True, 1, (2,))
    """
    x: Any = split.x
    event_shape = tuple(map(int, x.shape[1:]))
    digest = hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode())
    smallest, largest = math.inf, -math.inf
    missing = infinite = 0
    is_binary = is_whole = True
    rows = max(1, ENTRIES // max(1, math.prod(event_shape)))
    for start in range(0, len(x), rows):
        part = x[start : start + rows].contiguous()
        digest.update(part.numpy().tobytes())
        absent = torch.isnan(part)
        present = part[~absent] if bool(absent.any()) else part.flatten()
        missing += int(absent.sum())
        if not present.numel():
            continue
        low, high = (float(end) for end in torch.aminmax(present))
        smallest, largest = min(smallest, low), max(largest, high)
        if math.isinf(low) or math.isinf(high):
            infinite += int(torch.isinf(present).sum())
        is_whole = is_whole and bool((present == present.floor()).all())
        is_binary = is_binary and is_whole and low >= 0 and high <= 1
    items_sha256 = digest.hexdigest()
    classes = None
    if split.y is not None:
        classes = len(split.y.unique())
        digest.update(f"labels {split.y.dtype}".encode())
        digest.update(split.y.contiguous().numpy().tobytes())
    nothing = smallest > largest
    return Summary(
        count=len(x),
        event_shape=event_shape,
        dtype=str(x.dtype).removeprefix("torch."),
        minimum=math.nan if nothing else smallest,
        maximum=math.nan if nothing else largest,
        missing=missing,
        infinite=infinite,
        is_binary=is_binary,
        is_whole=is_whole,
        classes=classes,
        sha256=digest.hexdigest(),
        items_sha256=items_sha256,
    )
