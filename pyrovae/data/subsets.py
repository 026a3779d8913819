"""A few items of each class, as where only these are given their labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks

__all__ = ["labelled_subset"]


def labelled_subset(y: Any, count: int, *, seed: int = 0) -> Tensor:
    """The indices of `count` items drawn at random with as many of each class, sorted, (count,) int64.

    Where the classes do not divide `count`, classes that come first in sorted order have one item more. Raises
    ValueError for fewer items than classes, and for a class that has too few.

    >>> import pyrovae
    >>> y = pyrovae.data.load("digits").train.y
    >>> few = pyrovae.data.labelled_subset(y, 50)
    >>> y[few].bincount().tolist()
    [5, 5, 5, 5, 5, 5, 5, 5, 5, 5]
    """
    labels = checks.labels(y, None)
    if not len(labels):
        raise ValueError("y is empty: there is no item to draw")
    names, number = np.unique(labels, return_inverse=True)
    count = checks.whole("count", count)
    if count < len(names):
        raise ValueError(f"count must be at least 1 for each of the {len(names)} classes, got {count}")
    generator = torch.Generator().manual_seed(checks.seed(seed))
    each, more = divmod(count, len(names))
    chosen = []
    for c, name in enumerate(names.tolist()):
        wanted, here = each + (c < more), torch.from_numpy(np.flatnonzero(number == c))
        if len(here) < wanted:
            raise ValueError(f"count={count} takes {wanted} items of class {name!r}, and y has {len(here)} of it")
        chosen.append(here[torch.randperm(len(here), generator=generator)[:wanted]])
    return torch.cat(chosen).sort().values
