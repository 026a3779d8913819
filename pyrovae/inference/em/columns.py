"""Expectation maximisation for latent class models of tables: missing entries are left out, items may be weighted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from tqdm import tqdm

from pyrovae import checks
from pyrovae.exclusive import exclusive
from pyrovae.inference.em.climb import Climb, ascended, number_of_starts, require_enough_items
from pyrovae.inference.em.floors import VarianceFloorWarning
from pyrovae.inference.environment import environment
from pyrovae.inference.history import History
from pyrovae.listed import listed
from pyrovae.models.column_mixture import ColumnMixture, ColumnSums
from pyrovae.models.covariance import ROWS
from pyrovae.models.items import checked_items
from pyrovae.models.missing import warn_of_rows_without_entries, without_columns
from pyrovae.models.scopes import copied
from pyrovae.progress import progress_bar
from pyrovae.rounding import spread_as_in
from pyrovae.seeding import stream
from pyrovae.warned import hushed

__all__ = ["ZeroProbabilityWarning", "climbed"]

SHARE = 0.9  # of an item that a start gives its cluster, so that no category begins as impossible in a class


class ZeroProbabilityWarning(UserWarning):
    """A value that a column may have, and that no item of some class had, has probability 0 there."""


def climbed(
    pair: ColumnMixture,
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
    """Fit a latent class model in place by EM, from several starts, and return the history of the best.

    Starts are k-means++ clusters of the rows, each column scaled to a variance of 1: with k-means after it in every
    other start, so that the starts differ.
    """
    as_given, items, weight = _checked(pair, x, "x", target)
    held_out = None
    if validation is not None:
        held_out = _checked(pair, validation, "validation", target, least_scale=spread_as_in(items))[1:]
    require_enough_items(len(items), pair.num_components)
    _require_seen_columns(pair, items)
    with torch.no_grad(), progress_bar(show=progress, unit="iteration") as bar:
        # copies in float64; the caller's parameters change once, so that an interrupt leaves them as they were
        start = copied(pair).to(target).double()
        goes_on = not pair.is_fresh  # parameters that nobody has set are no start
        if not goes_on and not num_restarts:
            raise ValueError(
                "num_restarts=0 goes on from the present parameters, and these are the initial ones, at which all "
                "classes are alike: give at least one restart"
            )
        encoded = start.components.encoded(items, weight)
        labels = [
            _labels(encoded, weight, pair.num_components, stream(seed, "k-means++", number), number % 2 == 0)
            for number in range(number_of_starts(num_restarts, pair.num_components))
        ]
        shares = _Tables(labels, pair.num_components)
        start.components.measure(items, weight, shares if labels else [start.log_joint_table(items).softmax(-1)])
        found = ascended(
            start,
            labels,
            lambda mixture: _climb(mixture, items, weight, held_out, bar),
            lambda mixture, _, of_start: _begin(mixture, items, weight, of_start),
            goes_on=goes_on,
            tol=tol,
            max_iterations=max_iterations,
        )
        winner, fitted = found.winner, found.model
        nearest = torch.cat([fitted.log_joint_table(rows).argmax(1) for rows in items.split(ROWS)])
        names = [f"component {k}" for k in range(pair.num_components)]
        width = fitted.components.moments()[1].sqrt().nan_to_num(math.inf)
        checks.require_held_in_groups(as_given, nearest, names, pair.logits.dtype, least_scale=width)
        pair.load_state_dict(fitted.state_dict())
        log_likelihood = _mean(fitted, items, weight)
        kept = _mean(pair, items.to(pair.logits.device), weight.to(pair.logits.device))
    found.warn(log_likelihood - kept, pair.logits.dtype, tol)
    _warn_of_floor(fitted, winner.at_floor, items)
    _warn_of_zeros(fitted)
    _warn_of_cells(fitted)
    config = {
        "method": "em",
        "tol": tol,
        "max_iterations": max_iterations,
        "num_restarts": num_restarts,
        "seed": seed,
        "items": len(items),
        "sum_of_weights": float(weight.sum()),
        "missing_entries": int(items.isnan().sum()),
        "validation_items": 0 if held_out is None else len(held_out[0]),
        "device": str(target),
        # nats per item, with what pseudo-items add: of the climb from the present parameters, where these are a start,
        # then of each restart's
        "objectives": [climb.value for climb in found.climbs],
        "log_likelihood": log_likelihood,
        **found.config,
        "floored_columns": _floored(fitted, winner.at_floor),
        **environment(target),
    }
    return found.history(config)


def _climb(
    mixture: ColumnMixture,
    x: Tensor,
    weight: Tensor,
    held_out: tuple[Tensor, Tensor] | None,
    bar: tqdm[Any],
) -> Climb:
    total = float(weight.sum())

    def e_step() -> tuple[ColumnSums, float]:
        sums, log_likelihood = mixture.expected_sums(x, weight)
        return sums, (log_likelihood + mixture.log_prior()) / total

    def judged() -> dict[str, float]:
        return {} if held_out is None else {"validation_elbo": _mean(mixture, *held_out)}

    return Climb(e_step, mixture.take, judged, bar)


def _begin(mixture: ColumnMixture, x: Tensor, weight: Tensor, labels: Tensor) -> None:
    """Take clusters, (N,), most of each item belonging to its own, as the classes that a climb starts from."""
    number = mixture.num_components

    def share_of(place: slice) -> Tensor:
        share = SHARE * one_hot(labels[place], number).double() + (1 - SHARE) / number
        return share * weight[place, None]

    mixture.take(mixture.sums_of_shares(x, share_of))


class _Tables:
    """The clusters of each start as a table (N, K) of 0 and 1, made when it is its turn."""

    def __init__(self, labels: list[Tensor], number: int) -> None:
        self.labels, self.number = labels, number

    def __iter__(self) -> Iterator[Tensor]:
        for each in self.labels:
            yield one_hot(each, self.number).double()


def _mean(mixture: ColumnMixture, x: Tensor, weight: Tensor) -> float:
    """The weighted mean of log p(x), in nats per item."""
    parts = zip(x.split(ROWS), weight.split(ROWS), strict=True)
    total = sum(part @ mixture.log_joint_table(rows).logsumexp(-1) for rows, part in parts)
    return float(total / weight.sum())


def _checked(
    pair: ColumnMixture, x: Any, name: str, target: torch.device, least_scale: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Items as they came, in float64 with NaN where an entry is missing, and their weights; none of weight 0."""
    given = checks.without_absent(checks.split_of(x, name=name, takes=("weight", "missing"), what="EM"), name)
    some = given.missing is not None
    as_given = checks.array(checks.with_missing(given.x, given.missing, name), name)
    # where there are none, those of the items themselves: what the present parameters say is of other items
    items = checked_items(pair, as_given, name=name, missing=some, least_scale=least_scale).to(target).double()
    weight = items.new_ones(len(items))
    if given.weight is not None:
        weight = checks.weights(given.weight, len(items), name=name).to(items)
    if some:
        warn_of_rows_without_entries(items, name, weight)
    if given.weight is not None:
        as_given, items, weight = as_given[(weight > 0).to(as_given.device)], items[weight > 0], weight[weight > 0]
    return as_given, items, weight


def _require_seen_columns(pair: ColumnMixture, x: Tensor) -> None:
    unseen = [column.name for column, none in zip(pair.columns, x.isnan().all(0).tolist(), strict=True) if none]
    if unseen:
        raise ValueError(
            f"no entry of column {', '.join(map(repr, unseen))} of x was seen: nothing can be learnt of it; "
            f"{without_columns('x', x.shape[1:], unseen)}"
        )


def _labels(encoded: Tensor, weight: Tensor, num_components: int, seed: int, refined: bool) -> Tensor:
    """The clusters of rows about k-means++ seeds, `refined` by k-means or not."""
    from sklearn.cluster import KMeans, kmeans_plusplus
    from sklearn.exceptions import ConvergenceWarning

    rows, weights = encoded.cpu().numpy(), weight.cpu().numpy()
    # alone, for scikit-learn limits BLAS to one thread and puts back what it found, which may be another's limit
    with exclusive(), hushed(ConvergenceWarning):  # fewer distinct rows than clusters: one stays empty
        if refined:
            fitted = KMeans(num_components, n_init=1, random_state=seed % 2**32).fit(rows, sample_weight=weights)
            labels = torch.from_numpy(fitted.labels_).long()
        else:
            centres, _ = kmeans_plusplus(rows, num_components, sample_weight=weights, random_state=seed % 2**32)
            labels = torch.cdist(encoded.cpu(), torch.from_numpy(centres)).argmin(1)
    return labels.to(encoded.device)


def _floored(mixture: ColumnMixture, at_bound: Tensor) -> dict[str, list[int]]:
    """The classes in which a column's variance is at its floor, by the column's name."""
    return {
        column.name: at_bound[:, j].nonzero().flatten().tolist()
        for j, column in enumerate(mixture.columns)
        if not column.is_discrete and bool(at_bound[:, j].any())
    }


def _warn_of_floor(mixture: ColumnMixture, at_bound: Tensor, x: Tensor) -> None:
    """Warn of columns that do not vary, and of others whose variance is at the floor in some class."""
    floored = _floored(mixture, at_bound)
    least, most = x.nan_to_num(math.inf).amin(0), x.nan_to_num(-math.inf).amax(0)
    constant = [name for name in floored if bool((least == most)[mixture.number_of(name)])]
    if constant:
        checks.warn(
            f"column {listed([repr(name) for name in constant])} has one value alone: the variance floor stands "
            "for its variance, and log p(x) depends on it; leave it out",
            VarianceFloorWarning,
        )
    others = [
        f"{name!r} (component {', '.join(map(str, classes))})"
        for name, classes in floored.items()
        if name not in constant
    ]
    if others:
        checks.warn(
            f"the variance floor, {mixture.relative_floor:g} of a column's variance, holds up column "
            f"{listed(others)}: values that repeat, or too few of them in a component; take fewer components, another "
            "kind for such a column, or a larger relative_floor",
            VarianceFloorWarning,
        )


def _warn_of_zeros(mixture: ColumnMixture) -> None:
    """Warn of columns that have an impossible value in some class."""
    names = []
    for block, places in mixture.components.each():
        names += [mixture.columns[places[i]].name for i in block.has_impossible.nonzero().flatten().tolist()]
    if names:
        checks.warn(
            f"column {listed([repr(name) for name in names])} has a value of probability 0 in some component, no item "
            "of which had that value: a new item with it may have log p = -inf; a pseudo_count above 0 keeps all "
            "probabilities above 0",
            ZeroProbabilityWarning,
        )


def _warn_of_cells(mixture: ColumnMixture) -> None:
    """Warn where there are fewer different rows of codes than parameters, so that many parameters give one p(x)."""
    if any(column.categories is None for column in mixture.columns):
        return
    cells = math.prod(column.num_categories for column in mixture.columns)
    if mixture.num_parameters > cells - 1:
        checks.warn(
            f"{mixture.num_components} components have {mixture.num_parameters} parameters, and a row of these columns "
            f"has {cells} values, whose probabilities are {cells - 1} free numbers: p(x) can be relied on, and the "
            "components cannot, for others give the same p(x); take fewer components, or more columns"
        )
