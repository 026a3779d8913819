"""The score of held-out items after an epoch, and the active units of the code after the last epoch."""

from __future__ import annotations

import logging
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrovae.inference.items import EVALUATION_BATCH, Items
from pyrovae.inference.objective import weighted
from pyrovae.inference.svi.problem import drawn_binary
from pyrovae.interruption import deliver
from pyrovae.models import activity
from pyrovae.models.batch import Batch, called_on, items_of, weight_of
from pyrovae.models.particles import particles
from pyrovae.seeding import stream

if TYPE_CHECKING:
    from pyrovae.inference.svi.loop import Loop

__all__ = ["active_units", "validated"]

log = logging.getLogger(__name__)


def validated(loop: Loop, source: Items) -> dict[str, float]:
    """The ELBO of the validation items at beta = 1, or their log-loss, with the same noise in each epoch.

    Epochs differ by their weights alone. Each process takes some of the batches, and all of them get the same sum.
    """
    size, own_sums = loop.ranks.size, dict[int, float]()
    turns = slice(loop.ranks.rank, None, size)
    read = source.batches(EVALUATION_BATCH, shuffle=False, turns=turns)
    for number, (batch, label) in zip(count(loop.ranks.rank, size), read, strict=False):
        key = stream(loop.plan.seed, "validation", number)
        with loop.workspace(key, training=False, checks=False).turn():
            own_sums[number] = log_score(loop, batch.to(loop.device), label)
        if size == 1:  # alone, for others would wait for it
            deliver()
    sums = {number: total for part in loop.ranks.gathered(own_sums) for number, total in part.items()}
    mean = sum(sums[number] for number in sorted(sums)) / (len(source) * source.mean_weight)
    return {"validation_elbo": mean} if source.y is None else {"validation_log_loss": -mean}


def log_score(loop: Loop, x: Tensor | Batch, label: Tensor | None) -> float:
    """The sum of some items' ELBO from one draw each, or of their labels' log-probabilities."""
    if loop.plan.binarize:
        drawn = drawn_binary(items_of(x))
        x = x.with_items(drawn) if isinstance(x, Batch) else drawn
    if label is None:
        value = particles(loop.pair, x, 1).log_weight[0]
    else:
        table: Any = loop.pair
        value = table.predict_log_proba(items_of(x)).gather(1, label.to(loop.device)[:, None])[:, 0]
    weight = weight_of(x)
    return float(value.sum() if weight is None else weighted(value, weight).sum())


def active_units(loop: Loop, source: Items) -> int | None:
    """The number of dimensions of the posterior mean that vary over the items; None for a point code."""
    encode = getattr(loop.pair, "encode", None)
    if encode is None or not loop.pair.is_normalized or len(source) < 2:
        return None
    space, parts, weights = loop.workspace(None, training=False), [], []
    try:
        for batch, _ in islice(source.batches(EVALUATION_BATCH, shuffle=False), 10):
            with space.turn():
                parts.append(called_on(encode, batch.to(loop.device)))
            weights.append(weight_of(batch))
    except Exception as error:  # the training is done: what is said of it afterwards must not lose it
        log.warning("active_units is None: encode raised %s: %s", type(error).__name__, error)
        return None
    if not all(isinstance(part, Tensor) for part in parts):  # a pair's own encode may mean something else
        return None
    codes, counts = torch.cat(parts), [each for each in weights if each is not None]
    weight = torch.cat(counts).double().cpu().numpy() if counts else None
    if weight is not None and weight.sum() <= 1:  # of one item there is no variance
        return None
    return activity.active_units(codes.detach().double().cpu().numpy(), weight=weight)[0]
