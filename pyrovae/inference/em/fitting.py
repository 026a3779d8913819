"""A Gaussian mixture fitted by EM from several starts, of which the best is kept."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from tqdm import tqdm

from pyrovae import checks
from pyrovae.inference.em.climb import (
    Climb,
    ascended,
    number_of_starts,
    require_enough_items,
    warn_not_converged,
    warn_of_rounded,
)
from pyrovae.inference.em.clusters import clusters
from pyrovae.inference.em.drift import Drift
from pyrovae.inference.em.floors import warn_of_floor
from pyrovae.inference.environment import environment
from pyrovae.inference.history import History
from pyrovae.inference.weighed import Weighed, weighed
from pyrovae.models.items import checked_items
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.scopes import copied
from pyrovae.progress import progress_bar
from pyrovae.rounding import spread_as_in
from pyrovae.seeding import stream

__all__ = ["climb_of", "climbed", "start_from"]


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
) -> History:
    """Fit the mixture to the items of `x` in place by EM, and return the history of the best start."""
    given = weighed(x, "x")
    checked = checked_items(pair, given.x, missing=given.missing).to(target)
    items, weight = checked.double(), given.weight_on(target)
    held_out = None
    if validation is not None:
        # a few of them may lie close together: what they are drawn from is as wide as the items
        other = weighed(validation, "validation")
        scale = spread_as_in(items)
        other_items = checked_items(pair, other.x, name="validation", missing=other.missing, least_scale=scale)
        held_out = other.with_items(other_items.to(target).double())
    require_enough_items(len(items), pair.num_components)
    of_fit = given.with_items(items)
    with torch.no_grad(), progress_bar(show=progress, unit="iteration") as bar:
        # copies in float64; the caller's parameters change once, so that an interrupt leaves them as they were
        start = copied(pair).to(target).double()
        numbers = range(number_of_starts(num_restarts, pair.num_components))
        seeds = [stream(seed, "k-means++", number) for number in numbers]
        labels = [clusters(start, checked, each, weight) for each in seeds]
        goes_on = not (labels and pair.is_fresh)  # parameters that nobody has set are no start
        if start.components.floor is None:
            present = [] if labels else [of_fit.times(start.log_joint_table(items).softmax(-1))]
            shares = (of_fit.times(one_hot(of_start, pair.num_components)) for of_start in labels)
            flat = checked.flatten(1)
            start.components.measure(flat, chain(present, shares), whole_weight=weight, go_on=goes_on)
        found = ascended(
            start,
            labels,
            lambda mixture: climb_of(mixture, of_fit, held_out, bar),
            lambda mixture, climb, of_start: start_from(mixture, climb, of_fit, of_start),
            goes_on=goes_on,
            tol=tol,
            max_iterations=max_iterations,
        )
        fitted, winner = found.model, found.winner
        nearest = fitted.log_joint_table(items).argmax(1)
        names = [f"component {k}" for k in range(pair.num_components)]
        width = fitted.components.scale_tril.square().sum(-1).sqrt()  # of some, the floor's and not their items'
        checks.require_held_in_groups(given.x, nearest, names, pair.logits.dtype, least_scale=width)
        checks.warn_of_rounding(given.x, checked, nearest, names, lambda: fitted.components.conditional_scale)
        pair.load_state_dict(fitted.state_dict())
        kept = of_fit.mean(pair.log_joint_table(items.to(pair.logits.device)).logsumexp(-1).to(target))
    warn_of_rounded(winner.value - kept, pair.logits.dtype, "mixture.double()")
    if not winner.converged and found.stop.error is None:
        warn_not_converged(len(winner.rows), tol)
    warn_of_floor(fitted.components, winner.at_floor, items, names, weight)
    drifting = []
    if winner.drift is not None:
        drifting = winner.drift.warn(names, items)
    config = {
        "method": "em",
        "tol": tol,
        "max_iterations": max_iterations,
        "num_restarts": num_restarts,
        "seed": seed,
        "items": len(items),
        **of_fit.config,
        "validation_items": 0 if held_out is None else len(held_out.x),
        "device": str(target),
        # nats per item: of the climb from the present parameters, where these are a start, then of each restart's
        "log_likelihoods": [climb.value for climb in found.climbs],
        **found.config,
        "floored_components": winner.at_floor.nonzero().flatten().tolist(),
        **({} if winner.drift is None else {"drifting_components": drifting}),
        **environment(target),
    }
    history = History.from_rows(winner.rows, config)
    found.stop.again(history)
    return history


def climb_of(mixture: GaussianMixture, items: Weighed, held_out: Weighed | None, bar: tqdm[Any]) -> Climb:
    """The steps of EM for a mixture: by responsibilities, or where entries are missing by expected sums."""

    def judged() -> dict[str, float]:
        if held_out is None:
            return {}
        return {"validation_elbo": held_out.mean(mixture.log_joint_table(held_out.x).logsumexp(-1))}

    def e_step() -> tuple[Tensor, float]:
        joint = mixture.log_joint_table(items.x)
        total = joint.logsumexp(-1)
        return items.times((joint - total[:, None]).exp()), items.mean(total)

    if not items.has_missing:
        return Climb(e_step, lambda share: mixture.maximize(items.x, share), judged, bar)

    def e_step_of_seen() -> tuple[Any, float]:
        log_prob = torch.zeros(len(items.x), dtype=torch.float64, device=items.x.device)
        log_weights = mixture.logits.double().log_softmax(-1)

        def share_of(rows: Tensor, table: Tensor) -> Tensor:
            joint = table + log_weights
            log_prob[rows] = total = joint.logsumexp(-1)
            return items.times((joint - total[:, None]).exp(), rows)

        return mixture.expected(items.seen, share_of), items.mean(log_prob)

    drift = None if mixture.components.lower is None else Drift(mixture.components)
    return Climb(e_step_of_seen, mixture.take, judged, bar, drift)


def start_from(mixture: GaussianMixture, climb: Climb, items: Weighed, labels: Tensor) -> None:
    """Take the clusters of `labels`, (N,), as the components that a climb starts from."""
    member = one_hot(labels, mixture.num_components)
    if items.has_missing:
        table = items.times(member.double())
        mixture.components.begin(items.x.flatten(1), table)
        climb.m_step(mixture.expected(items.seen, lambda rows, _: table[rows]))
        return
    if not bool(member.any(0).all()):  # a cluster of no items begins as all of them
        climb.m_step(items.times(torch.full_like(member, 1 / mixture.num_components, dtype=items.x.dtype)))
    climb.m_step(items.times(member))
