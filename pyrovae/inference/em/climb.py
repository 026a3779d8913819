"""The iterations of EM from one start, whatever the model is."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae import checks
from pyrovae.inference.em.drift import Drift
from pyrovae.inference.history import History
from pyrovae.inference.interrupted import Stop
from pyrovae.interruption import deliver

__all__ = [
    "Ascent",
    "Climb",
    "ascended",
    "best_of",
    "number_of_starts",
    "require_enough_items",
    "warn_not_converged",
    "warn_of_rounded",
]

M = TypeVar("M")
S = TypeVar("S")

LOST = 1e-3  # nats per item that rounding the parameters may cost without a word
TIE = 1e-12  # of a log-likelihood, by which sums in another order differ


@dataclass
class Climb:
    """The iterations of EM from one start, whatever the model is.

    `e_step` returns what the M-step needs, such as each item's responsibilities, and the objective in nats per item.
    `m_step` takes that and returns which components, or classes, are at the variance floor. `judged` returns the scores
    of held-out items, and `drift` takes notice of the covariances where there is one. `sharpened(value, gain)` says
    whether sums are more precise from now on than those that gave this value; an iteration is then judged by the next.
    `between` delivers signals between two iterations.
    """

    e_step: Callable[[], tuple[Any, float]]
    m_step: Callable[[Any], Tensor]
    judged: Callable[[], dict[str, float]]
    bar: tqdm[Any]
    drift: Drift | None = None
    sharpened: Callable[[float, float], bool] = lambda value, gain: False
    between: Callable[[], None] = deliver
    value: float = -math.inf
    converged: bool = False
    rows: list[dict[str, float]] = field(default_factory=list)
    at_floor: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.bool))

    def go_on(self, tol: float, max_iterations: int) -> None:
        """Iterate until one iteration gains no more than `tol` nats per item, or there were `max_iterations`.

        Signals that are held back are delivered after an iteration, when the parameters and `value` belong together.
        """
        self.converged = False
        expected, self.value = self.e_step()
        while len(self.rows) < max_iterations and not self.converged and math.isfinite(self.value):
            start, before = time.perf_counter(), self.value
            if self.drift is not None:
                self.drift.note()
            self.at_floor = self.m_step(expected)
            expected, self.value = self.e_step()
            if self.sharpened(self.value, self.value - before):
                expected, self.value = self.e_step()
            else:
                self.converged = self.value - before <= tol
            row = {"loss": -self.value, **self.judged()}
            self.rows.append({**row, "seconds": time.perf_counter() - start})
            self.bar.update()
            self.bar.set_postfix(loss=f"{-self.value:.4f}")
            self.between()

    def require_finite(self) -> None:
        if not math.isfinite(self.value):
            raise FloatingPointError(f"the log-likelihood became {self.value}: scale x, or raise the floor")


def best_of(climbs: Sequence[Climb]) -> int:
    """The number of the climb that ended highest.

    Of several that end at one point, their components in another order, the first: rounding does not choose.
    """
    values = [climb.value if math.isfinite(climb.value) else -math.inf for climb in climbs]
    return next(n for n, value in enumerate(values) if value >= max(values) - TIE * max(1.0, abs(max(values))))


@dataclass(frozen=True)
class Ascent(Generic[M]):
    """The climbs from every start, and the model that the highest of them, number `best`, has ended at.

    The first of them goes on from the present parameters where `goes_on`. `stop` says whether a signal has broken them
    off.
    """

    model: M
    climbs: list[Climb]
    best: int
    goes_on: bool
    stop: Stop

    @property
    def winner(self) -> Climb:
        """The highest climb."""
        return self.climbs[self.best]

    @property
    def config(self) -> dict[str, Any]:
        """What a history says of the starts."""
        return {
            "start": "present parameters" if self.best < self.goes_on else f"restart {self.best - self.goes_on}",
            "iterations": [len(climb.rows) for climb in self.climbs],
            "converged": self.winner.converged,
            **self.stop.config,
        }

    def warn(self, lost: float, dtype: torch.dtype, tol: float) -> None:
        """Warn where parameters in `dtype` lose so many nats per item, and where the highest climb was cut short."""
        warn_of_rounded(lost, dtype, "mixture.double()")
        if not self.winner.converged and self.stop.error is None:
            warn_not_converged(len(self.winner.rows), tol)

    def history(self, config: dict[str, Any]) -> History:
        """The history of the highest climb; what a signal raises is raised with it."""
        history = History.from_rows(self.winner.rows, config)
        self.stop.again(history)
        return history


def ascended(
    start: M,
    clusters: Sequence[S],
    climb_of: Callable[[M], Climb],
    begin: Callable[[M, Climb, S], Any],
    *,
    goes_on: bool,
    tol: float,
    max_iterations: int,
) -> Ascent[M]:
    """Climb from each of the clusters, at which `begin` places a copy of `start`, and where `goes_on` from itself.

    After a signal the best of the climbs that had begun by then is kept, and what the signal raises is for
    `Ascent.stop` to raise again.
    """
    models, climbs = [], []
    with Stop() as stop, covariances_factored():
        for of_start in [*([None] * goes_on), *clusters]:
            models.append(copy.deepcopy(start))
            climbs.append(climb_of(models[-1]))
            if of_start is not None:
                begin(models[-1], climbs[-1], of_start)
            climbs[-1].go_on(tol, max_iterations)
    best = best_of(climbs)
    climbs[best].require_finite()
    return Ascent(models[best], climbs, best, goes_on, stop)


@contextmanager
def covariances_factored() -> Iterator[None]:
    """Raise FloatingPointError, with what to do, where a covariance has no Cholesky factor in the body."""
    try:
        yield
    except torch.linalg.LinAlgError as error:
        raise FloatingPointError(f"a covariance could not be factored: scale x, or raise the floor ({error})") from None


def number_of_starts(num_restarts: int, num_components: int) -> int:
    """How many starts from clusters differ: one where there is one component, whose cluster is all items each time."""
    return min(num_restarts, 1) if num_components == 1 else num_restarts


def require_enough_items(count: int, num_components: int) -> None:
    """Refuse fewer items than components."""
    if count < num_components:
        raise ValueError(f"x has {count} items for {num_components} components: give more items, or fewer components")


def warn_of_rounded(lost: float, dtype: torch.dtype, advice: str) -> None:
    """Warn where parameters in their own dtype have a lower log-likelihood than in float64, by `lost` nats per item."""
    if lost > LOST:
        checks.warn(f"in {dtype} the parameters lose {lost:.2g} nats per item: standardise x, or fit {advice}")


def warn_not_converged(iterations: int, tol: float) -> None:
    checks.warn(
        f"EM has not converged: the last of {iterations} iterations gained more than tol = {tol:g} nats per item: "
        "raise max_iterations"
    )
