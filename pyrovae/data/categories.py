"""Categories as columns of zeros and ones, for covariates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks

__all__ = ["one_hot"]


def one_hot(y: Any, categories: int | Sequence[Any] | None = None) -> Tensor:
    """Categories as covariates: a column for each category, with a 1 in that of the item, (N,) to (N, C), float32.

    `categories` are the categories in the order of the columns, or a number C for those from 0 to C - 1; None takes
    those that occur in `y`, sorted. State them where one part of the data may lack a category that another has: the
    columns of both must be the same. Raises ValueError for a category that is none of them, and for one that is
    missing.

    >>> from pyrovae.data import one_hot
    >>> one_hot(["b", "a", "b"])
    tensor([[0., 1.],
            [1., 0.],
            [0., 1.]])
    >>> one_hot([2, 0], 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    values = checks.labels(y, None)
    array = np.asarray(values)
    if categories is None:
        columns = np.unique(array)
    elif isinstance(categories, int):
        columns = np.arange(checks.whole("categories", categories))
    else:
        columns = np.asarray(list(checks.sequence("categories", categories)))
    if len(set(columns.tolist())) < len(columns) or not len(columns):
        raise ValueError(f"categories must be distinct, and one at least, got {columns.tolist()}")
    place = {each: number for number, each in enumerate(columns.tolist())}
    unknown = [each for each in array.tolist() if each not in place]
    if unknown:
        raise ValueError(
            f"y has the category {unknown[0]!r}, which is none of the {len(columns)} categories "
            f"{columns.tolist()[:8]}: state all of them"
        )
    index = torch.tensor([place[each] for each in array.tolist()], dtype=torch.long)
    return torch.nn.functional.one_hot(index, len(columns)).float()
