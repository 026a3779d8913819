"""A Gaussian mixture fitted by EM from several starts, of which the best is kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae import checks, rounding
from pyrovae.data.batches import ahead
from pyrovae.inference.em.batches import Batches
from pyrovae.inference.em.climb import Climb, ascended, number_of_starts, require_enough_items
from pyrovae.inference.em.clusters import start_of
from pyrovae.inference.em.drift import Drift
from pyrovae.inference.em.floors import warn_of_floor
from pyrovae.inference.em.items import ROWS, EMItems
from pyrovae.inference.environment import environment
from pyrovae.inference.history import History
from pyrovae.models import expectation, sufficient
from pyrovae.models.blocks import Blocks
from pyrovae.models.covariance import EMPTY
from pyrovae.models.frame import Shares, within_variance
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.scopes import copied
from pyrovae.models.seen import Expected
from pyrovae.progress import progress_bar
from pyrovae.seeding import stream

__all__ = ["climb_of", "climbed", "log_likelihood", "start_from"]

MANY = 2**20  # entries, from which on products in float32 save time that is worth while
NOISE = 1e-8  # of log p(x), a gain that products in float32 do not tell


def climbed(
    pair: GaussianMixture,
    x: Any,
    validation: Any,
    *,
    tol: float,
    max_iterations: int,
    num_restarts: int,
    seed: int,
    target: torch.device,
    progress: bool,
    batch_size: int | None = None,
) -> History:
    """Fit the mixture to the items of `x` in place by EM, and return the history of the best start."""
    items = EMItems.of(pair, x, target)
    # a few of the held-out ones may lie close together: what they are drawn from is as wide as the items
    held_out = None if validation is None else EMItems.of(pair, validation, target, "validation", items)
    require_enough_items(len(items), pair.num_components)
    if batch_size is not None and items.has_missing:
        raise ValueError("batch_size is for whole items, and x has missing entries: leave it out")
    with torch.no_grad(), progress_bar(show=progress, unit="iteration") as bar:
        # copies in float64; the caller's parameters change once, so that an interrupt leaves them as they were
        start = copied(pair).to(target).double()
        numbers = range(number_of_starts(num_restarts, pair.num_components))
        starts = [start_of(start, items, stream(seed, "k-means++", number)) for number in numbers]
        goes_on = not (starts and pair.is_fresh)  # parameters that nobody has set are no start
        if start.components.floor is None:
            within = [within_variance(items.frame, shares) for shares in starts]
            start.components.measure(items.frame, within or [_within_present(start, items)], go_on=goes_on)
        found = ascended(
            start,
            starts,
            lambda mixture: climb_of(mixture, items, held_out, bar, batch_size, tol),
            lambda mixture, climb, shares: start_from(mixture, climb, items, shares),
            goes_on=goes_on,
            tol=tol,
            max_iterations=max_iterations,
        )
        fitted, winner = found.model, found.winner
        names = [f"component {k}" for k in range(pair.num_components)]
        _check_rounding(fitted, items, names, pair.logits.dtype)
        pair.load_state_dict(fitted.state_dict())
        rounds = pair.logits.dtype != torch.float64
        kept = log_likelihood(copied(pair).to(target), items, single=rounds) if rounds else winner.value
    found.warn(winner.value - kept, pair.logits.dtype, tol)
    warn_of_floor(fitted.components, winner.at_floor, items.frame.variance.unflatten(0, pair.event_shape), names)
    drifting = []
    if winner.drift is not None:
        drifting = winner.drift.warn(names, pair.event_shape)
    config = {
        "method": "em",
        "tol": tol,
        "max_iterations": max_iterations,
        "num_restarts": num_restarts,
        "seed": seed,
        "items": len(items),
        **({} if batch_size is None else {"batch_size": batch_size}),
        **items.config,
        "validation_items": 0 if held_out is None else len(held_out),
        "device": str(target),
        # nats per item: of the climb from the present parameters, where these are a start, then of each restart's
        "log_likelihoods": [climb.value for climb in found.climbs],
        **found.config,
        "floored_components": winner.at_floor.nonzero().flatten().tolist(),
        **({} if winner.drift is None else {"drifting_components": drifting}),
        **environment(target),
    }
    return found.history(config)


def climb_of(
    mixture: GaussianMixture,
    items: EMItems,
    held_out: EMItems | None,
    bar: tqdm[Any],
    batch_size: int | None = None,
    tol: float = 0.0,
) -> Climb:
    """The steps of EM for a mixture: by sums of moments, or where entries are missing of expected ones.

    With a `batch_size` parameters move after each batch, until a sweep of all gains no more than `tol`.
    """

    def judged() -> dict[str, float]:
        return {} if held_out is None else {"validation_elbo": log_likelihood(mixture, held_out)}

    between = items.together.deliver
    if items.has_missing:
        drift = None if mixture.components.lower is None else Drift(mixture.components)
        return Climb(lambda: _expected_of_seen(mixture, items), mixture.take, judged, bar, drift, between=between)
    if batch_size is not None and batch_size < len(items):
        steps = Batches(mixture, items, batch_size, tol)
        return Climb(steps.e_step, steps.m_step, judged, bar, sharpened=steps.sharpened, between=between)
    sums = _Sums(mixture, items)
    return Climb(sums, mixture.take, judged, bar, sharpened=sums.sharpened, between=between)


def log_likelihood(mixture: GaussianMixture, items: EMItems, *, single: bool = False) -> float:
    """The weighted mean of log p(x), or of what was seen of x, in nats per item; `single` to float32's digits alone."""
    parts = mixture.components
    if not items.has_missing:
        single = single and _are_many(items) and sufficient.are_single_enough(parts, items.frame)
        return sufficient.log_likelihood(parts, _log_weights(mixture), items.frame, single=single)
    total = torch.zeros((), dtype=torch.float64, device=items.device)
    for place, seen in items.seen():
        log_prob = (expectation.log_prob_of_seen(mixture.components, seen) + _log_weights(mixture)).logsumexp(-1)
        total += _weighed(log_prob, items.frame.blocks.weight_of(place)).sum()
    items.frame.blocks.reduce([total])
    return float(total) / items.frame.blocks.count


class _Sums:
    """The E-step of whole items: in float32 at first where items are in it and many, and then in float64.

    Products in float32 take half the time. They serve for as long as an iteration gains more than their rounding.
    """

    def __init__(self, mixture: GaussianMixture, items: EMItems) -> None:
        self.mixture, self.frame = mixture, items.frame
        self.single = _are_many(items)

    def __call__(self) -> tuple[Expected, float]:
        parts = self.mixture.components
        self.single = self.single and sufficient.are_single_enough(parts, self.frame)
        return sufficient.expected_sums(parts, _log_weights(self.mixture), self.frame, single=self.single)

    def sharpened(self, value: float, gain: float) -> bool:
        """Whether sums are in float64 from now on, because float32 does not tell such a gain."""
        was_single = self.single
        self.single = was_single and gain > NOISE * max(1.0, abs(value))
        return was_single and not self.single


def _expected_of_seen(mixture: GaussianMixture, items: EMItems) -> tuple[Expected, float]:
    """The expected sums of an M-step, and log p of what was seen in nats per item."""
    blocks, log_weights = items.frame.blocks, _log_weights(mixture)
    value = torch.zeros((), dtype=torch.float64, device=items.device)
    every: Expected | None = None
    for place, seen in items.seen():
        log_prob = torch.zeros(len(seen), dtype=torch.float64, device=items.device)
        weight = blocks.weight_of(place)
        sums = mixture.expected(seen, partial(_share_of, log_weights, weight, log_prob))
        every = sums if every is None else every.plus(sums)
        value += _weighed(log_prob, weight).sum()
    assert every is not None
    blocks.reduce([value, *every.tensors])
    return every, float(value) / blocks.count


def _share_of(log_weights: Tensor, weight: Tensor | None, log_prob: Tensor, rows: Tensor, table: Tensor) -> Tensor:
    """Weighted responsibilities of some rows, given their log-densities, (R, K); log p is written to `log_prob`."""
    joint = table + log_weights
    log_prob[rows] = total = joint.logsumexp(-1)
    share = (joint - total[:, None]).exp()
    return share if weight is None else share * weight[rows][:, None]


def _weighed(values: Tensor, weight: Tensor | None) -> Tensor:
    return values if weight is None else values * weight


def _rows_of(table: Tensor, rows: Tensor, _: Tensor) -> Tensor:
    return table[rows]


def start_from(mixture: GaussianMixture, climb: Climb, items: EMItems, shares: Shares) -> None:
    """Take the clusters that `shares` give as the components that a climb starts from."""
    parts, blocks = mixture.components, items.frame.blocks
    if items.has_missing:
        parts.begin(items.frame, shares)
        every: Expected | None = None
        for place, seen in items.seen():
            table = _weighed(shares(place, torch.where(seen.seen, seen.x, torch.nan)), blocks.weight_of(place)).mT
            sums = mixture.expected(seen, partial(_rows_of, table))
            every = sums if every is None else every.plus(sums)
        assert every is not None
        blocks.reduce(every.tensors)
        climb.m_step(every)
        return
    sums = sufficient.sums_of_shares(parts, items.frame, shares)
    if bool((sums.total <= EMPTY).any()):  # a cluster of no items begins as all of them
        alike = torch.full((mixture.num_components, 1), 1 / mixture.num_components, dtype=torch.float64)
        every = sufficient.sums_of_shares(
            parts, items.frame, lambda _, rows: alike.to(rows.device).expand(-1, len(rows))
        )
        climb.m_step(every)
    climb.m_step(sums)


def _within_present(mixture: GaussianMixture, items: EMItems) -> Tensor:
    """The variance of each column within the components, by responsibilities at the present parameters; (D,)."""
    if not items.has_missing:
        sums, _ = _Sums(mixture, items)()
        return sufficient.within_variance_of(sums)

    def shares(_: slice, rows: Tensor) -> Tensor:
        return mixture.log_joint_table(rows.unflatten(1, mixture.event_shape)).softmax(-1).mT

    return within_variance(items.frame, shares)


def _are_many(items: EMItems) -> bool:
    """Whether items are in float32, and so many that products in it save time."""
    blocks = items.frame.blocks
    return blocks.dtype == torch.float32 and len(blocks) * blocks.features >= MANY


def _log_weights(mixture: GaussianMixture) -> Tensor:
    return mixture.logits.double().log_softmax(-1)


def _check_rounding(fitted: GaussianMixture, items: EMItems, names: Sequence[str], dtype: torch.dtype) -> None:
    """Refuse items that `dtype` rounds too much for a component's spread, and warn where that may matter."""
    first = items.as_given[:1] if isinstance(items.as_given, Tensor) else items.as_given.exactly(slice(0, 1))
    if not rounding.is_wider(first.dtype, dtype):
        return
    parts = fitted.components
    nearest = torch.empty(len(items), dtype=torch.int16, device=items.device)
    for place, rows in Blocks(items.x, device=items.device, ahead=ahead).each(ROWS):  # all, whatever the share is
        nearest[place] = fitted.log_joint_table(rows.unflatten(1, fitted.event_shape)).argmax(1).short()
    width = parts.scale_tril.square().sum(-1).sqrt()  # of some, the floor's and not their items'
    checks.require_held_in_groups(items.as_given, nearest, names, dtype, least_scale=width)
    checks.warn_of_rounding(items.as_given, items.x, nearest, names, lambda: parts.conditional_scale)
