"""Expectation maximisation for Gaussian mixtures: restarts, a tolerance in nats, and warnings of the variance floor."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from tqdm import tqdm

from pyrovae import checks
from pyrovae.exclusive import exclusive
from pyrovae.inference.environment import environment
from pyrovae.inference.history import History
from pyrovae.inference.method import Method, Task, register_methods
from pyrovae.inference.svi.options import SVI
from pyrovae.models.components import GaussianComponents
from pyrovae.models.covariance import rounding_scale, share_at_floor
from pyrovae.models.items import checked_items
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.scopes import copied
from pyrovae.progress import progress_bar
from pyrovae.rounding import spread_as_in
from pyrovae.seeding import stream
from pyrovae.warned import hushed

__all__ = ["EM", "Climb", "VarianceFloorWarning", "climbed", "warn_not_converged", "warn_of_floor"]

LOST = 1e-3  # nats per item that rounding the parameters may cost without a word
TIE = 1e-12  # of a log-likelihood, by which sums in another order differ
SHOWN = 5  # columns and components that a warning names


class VarianceFloorWarning(UserWarning):
    """The variance floor acts: on columns that do not vary, or on components of too few distinct items."""


@dataclass(frozen=True)
class EM(Method):
    """Expectation maximisation (EM) for a Gaussian mixture.

    It starts from k-means++ on standardised columns, `num_restarts` times, and also from the present parameters where
    they were set by a fit or by you. From each start it iterates until an iteration raises the log-likelihood by no
    more than `tol`. The parameters with the highest log-likelihood are kept.

    Args:
        tol: the least gain of an iteration, in nats per item, after which another one follows.
        max_iterations: the largest number of iterations from each start.
        num_restarts: the number of starts from k-means++; with 0 EM goes on from the present parameters alone.

    Raises ValueError for an option that is out of its range.

    >>> from pyrovae.methods import EM
    >>> EM(num_restarts=3)
    EM(tol=1e-06, max_iterations=1000, num_restarts=3)
    """

    name: ClassVar[str] = "em"
    title: ClassVar[str] = "EM"
    belongs_to: ClassVar[str] = "GaussianMixture"

    tol: float = 1e-6
    max_iterations: int = 1000
    num_restarts: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "tol", checks.positive("tol", self.tol, zero=True))
        object.__setattr__(self, "max_iterations", checks.whole("max_iterations", self.max_iterations))
        object.__setattr__(self, "num_restarts", checks.whole("num_restarts", self.num_restarts, least=0))

    def run(self, task: Task) -> History:
        """Fit the mixture in place, to a maximum of the likelihood."""
        return climbed(task.pair, task.x, task.validation, self, task.seed, task.device, task.progress)


def climbed(
    pair: GaussianMixture,
    x: Any,
    validation: Any,
    options: EM,
    seed: int,
    target: torch.device,
    progress: bool,
) -> History:
    """Fit the mixture to the items of `x` in place by EM, and return the history of the best start."""
    x_given = checks.array(x, "x")
    checked = checked_items(pair, x_given).to(target)
    items = checked.double()
    held_out = None
    if validation is not None:
        # a few of them may lie close together: what they are drawn from is as wide as the items
        held_out = checked_items(pair, validation, name="validation", least_scale=spread_as_in(items))
        held_out = held_out.to(target).double()
    if len(items) < pair.num_components:
        raise ValueError(
            f"x has {len(items)} items for {pair.num_components} components: give more items, or fewer components"
        )
    with torch.no_grad(), progress_bar(show=progress, unit="iteration") as bar:
        # copies in float64; the caller's parameters change once, so that an interrupt leaves them as they were
        start = copied(pair).to(target).double()
        labels = [_labels(start, checked, stream(seed, "k-means++", number)) for number in range(options.num_restarts)]
        goes_on = not (labels and pair.is_fresh)  # parameters that nobody has set are no start
        if start.components.floor is None:
            present = [] if labels else [start.log_joint_table(items).softmax(-1)]
            shares = chain(present, (one_hot(labels_of_start, pair.num_components) for labels_of_start in labels))
            start.components.measure(checked.flatten(1), shares, go_on=goes_on)
        starts, climbs = [], []
        for labels_of_start in [None] * goes_on + labels:
            mixture = copy.deepcopy(start)
            climb = _climb(mixture, items, held_out, bar)
            if labels_of_start is not None:
                cluster = one_hot(labels_of_start, pair.num_components)
                if not bool(cluster.any(0).all()):  # a cluster of no items begins as all of them
                    climb.m_step(torch.full_like(cluster, 1 / pair.num_components, dtype=items.dtype))
                climb.m_step(cluster)
            climb.go_on(options.tol, options.max_iterations)
            starts.append(mixture)
            climbs.append(climb)
        values = [climb.value if math.isfinite(climb.value) else -math.inf for climb in climbs]
        # of starts that end at one point, their components in another order, the first: rounding does not choose
        best = next(n for n, value in enumerate(values) if value >= max(values) - TIE * max(1.0, abs(max(values))))
        winner = climbs[best]
        winner.require_finite()
        nearest = starts[best].log_joint_table(items).argmax(1)
        names = [f"component {k}" for k in range(pair.num_components)]
        width = starts[best].components.scale_tril.square().sum(-1).sqrt()  # of some, the floor's and not their items'
        checks.require_held_in_groups(x_given, nearest, names, pair.logits.dtype, least_scale=width)
        checks.warn_of_rounding(x_given, checked, nearest, names, lambda: starts[best].components.conditional_scale)
        pair.load_state_dict(starts[best].state_dict())
        kept = float(pair.log_joint_table(items.to(pair.logits.device)).logsumexp(-1).mean())
    if winner.value - kept > LOST:
        checks.warn(
            f"in {pair.logits.dtype} the parameters lose {winner.value - kept:.2g} nats per item: standardise x, or "
            "fit mixture.double()"
        )
    if not winner.converged:
        warn_not_converged(len(winner.rows), options.tol)
    warn_of_floor(starts[best].components, winner.at_floor, items, names)
    config = {
        "method": "em",
        **asdict(options),
        "seed": seed,
        "items": len(items),
        "validation_items": 0 if held_out is None else len(held_out),
        "device": str(target),
        # nats per item: of the climb from the present parameters, where these are a start, then of each restart's
        "log_likelihoods": [climb.value for climb in climbs],
        "start": "present parameters" if best < goes_on else f"restart {best - goes_on}",
        "iterations": [len(climb.rows) for climb in climbs],
        "converged": winner.converged,
        "floored_components": winner.at_floor.nonzero().flatten().tolist(),
        **environment(target),
    }
    return History.from_rows(winner.rows, config)


@dataclass
class Climb:
    """The iterations of EM from one start, whatever the model is.

    `e_step` returns each item's responsibilities and the objective in nats per item. `m_step` takes the
    responsibilities and returns which components, or classes, are at the variance floor. `judged` returns the scores of
    held-out items.
    """

    e_step: Callable[[], tuple[Tensor, float]]
    m_step: Callable[[Tensor], Tensor]
    judged: Callable[[], dict[str, float]]
    bar: tqdm[Any]
    value: float = -math.inf
    converged: bool = False
    rows: list[dict[str, float]] = field(default_factory=list)
    at_floor: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.bool))

    def go_on(self, tol: float, max_iterations: int) -> None:
        """Iterate until one iteration gains no more than `tol` nats per item, or there were `max_iterations`."""
        self.converged = False
        share, self.value = self.e_step()
        while len(self.rows) < max_iterations and not self.converged and math.isfinite(self.value):
            start, before = time.perf_counter(), self.value
            self.at_floor = self.m_step(share)
            share, self.value = self.e_step()
            self.converged = self.value - before <= tol
            row = {"loss": -self.value, **self.judged()}
            self.rows.append({**row, "seconds": time.perf_counter() - start})
            self.bar.update()
            self.bar.set_postfix(loss=f"{-self.value:.4f}")

    def require_finite(self) -> None:
        if not math.isfinite(self.value):
            raise FloatingPointError(f"the log-likelihood became {self.value}: scale x, or raise the floor")


def _climb(mixture: GaussianMixture, x: Tensor, held_out: Tensor | None, bar: tqdm[Any]) -> Climb:
    def e_step() -> tuple[Tensor, float]:
        joint = mixture.log_joint_table(x)
        total = joint.logsumexp(-1)
        return (joint - total[:, None]).exp(), float(total.mean())

    def judged() -> dict[str, float]:
        if held_out is None:
            return {}
        return {"validation_elbo": float(mixture.log_joint_table(held_out).logsumexp(-1).mean())}

    return Climb(e_step, lambda share: mixture.maximize(x, share), judged, bar)


def _labels(mixture: GaussianMixture, x: Tensor, seed: int) -> Tensor:
    """The clusters of one run of k-means from a k-means++ start, on standardised columns.

    The columns of a spherical mixture keep their relative scale: where it turns with the items, so do the clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    flat = x.flatten(1).double()
    flat = flat - flat.mean(0)
    flat = flat - flat.mean(0)  # what rounding left of a mean that is far from 0
    scale = flat.square().mean(0).sqrt()
    scale = torch.where(scale > rounding_scale(x.flatten(1)), scale, 0.0)
    if mixture.components.floor is not None:  # a column that varies by less than its floor weighs as little there
        scale = torch.where(scale > 0, (scale.square() + mixture.components.floor).sqrt(), 0.0)
    if mixture.components.covariance == "spherical":
        scale = scale.square().mean().sqrt().expand_as(scale)
    flat = flat / torch.where(scale > 0, scale, math.inf)
    # alone, for scikit-learn limits BLAS to one thread and puts back what it found, which may be another's limit
    with exclusive(), hushed(ConvergenceWarning):  # fewer distinct items than clusters: one stays empty
        clusters = KMeans(mixture.num_components, n_init=1, random_state=seed % 2**32).fit(flat.cpu().numpy())
    return torch.from_numpy(clusters.labels_).long().to(x.device)


def warn_not_converged(iterations: int, tol: float) -> None:
    checks.warn(
        f"EM has not converged: the last of {iterations} iterations gained more than tol = {tol:g} nats per item: "
        "raise max_iterations"
    )


def warn_of_floor(parts: GaussianComponents, at_floor: Tensor, x: Tensor, names: Sequence[str]) -> None:
    """Warn of columns that vary by less than the variance floor, and of components at the floor for another reason."""
    variance = x.double().flatten(1).var(0, correction=0)
    floors = parts.floors.expand_as(variance)
    still = variance < floors
    if still.any():
        checks.warn(
            f"x varies by less than the variance floor {float(floors[still].max()):g} in "
            f"{_columns(still.nonzero()[:, 0], x)} (by {float(variance[still].max()):.2g} at most): the floor "
            "stands for their variance, and log p(x) depends on it; leave them out, scale x, or set the floor",
            VarianceFloorWarning,
        )
    words = []
    for k, load, low in _loads(parts, at_floor.nonzero().flatten().tolist()):
        if low > int(still.sum()):
            name = "the tied covariance" if parts.covariance == "tied" else names[k]
            worst = load.masked_fill(still, 0.0).argmax()
            words.append(f"{name} (most of all in {_columns(worst[None], x)})")
    if words:
        more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
        least = f"{parts.relative:g} of a column's variance" if parts.floor is None else f"{parts.floor:g}"
        checks.warn(
            f"the variance floor {least} holds up {', '.join(words[:SHOWN])}{more}: columns that depend on one "
            "another, too few distinct items, or a floor over what x varies by; another covariance needs fewer items",
            VarianceFloorWarning,
        )


def _loads(parts: GaussianComponents, which: list[int]) -> Iterator[tuple[int, Tensor, int]]:
    """For each component in `which`: its index, each column's load on the directions at the floor, and their number."""
    if not which:
        return
    if parts.lower is None:
        variance = parts.diagonal.square().expand(parts.num_components, parts.features)
        for k in which:
            low = variance[k] < 1.01 * parts.floors
            yield k, low.double(), int(low.sum())
        return
    factor = parts.scale_tril
    for k in which:
        share, vector = share_at_floor(factor[k] @ factor[k].mT, parts.floors)
        low = share > 1 / 2.01  # of eigenvalues under 1.01 floors
        yield k, vector[:, low].square().sum(1), int(low.sum())


def _columns(which: Tensor, x: Tensor) -> str:
    """The columns in the words of an index, such as x[:, 0, 3]."""
    places = np.stack(np.unravel_index(which.cpu().numpy(), tuple(x.shape[1:])), 1)
    names = ", ".join(f"x[:, {', '.join(map(str, place))}]" for place in places[:SHOWN].tolist())
    return names + (f" and {len(places) - SHOWN} more columns" if len(places) > SHOWN else "")


register_methods(GaussianMixture, EM(), SVI())
