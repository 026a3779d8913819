"""The Bayesian information criterion of a mixture, whatever its components are."""

from __future__ import annotations

import math
from typing import Any

import torch

from pyrovae import checks
from pyrovae.models.items import require_columns

__all__ = ["bic_of"]


def bic_of(mixture: Any, x: Any, *, weight: Any, missing: bool) -> float:
    """P log N - 2 log p(x), in nats over all items, N being the sum of the weights where there are any.

    `mixture` has `num_parameters`, `log_joint_table` and `_items`; `x` is an array, or a split with weights or a mask.
    """
    missing = checks.flag("missing", missing)
    given = checks.split_of(x, weight=weight, missing=missing or None, takes=("weight", "missing"), what="bic")
    given = checks.without_absent(given)
    require_columns(mixture, given.columns)
    with torch.no_grad():
        items = mixture._items(checks.with_missing(given.x, given.missing), missing=given.missing is not None)
        value = mixture.log_joint_table(items).logsumexp(-1)
    each = torch.ones_like(value) if given.weight is None else checks.weights(given.weight, len(value)).to(value)
    total = float(torch.where(each > 0, each * value, 0.0).sum())
    criterion: float = mixture.num_parameters * math.log(float(each.sum())) - 2 * total
    return criterion
