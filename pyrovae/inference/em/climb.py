"""The iterations of EM from one start, whatever the model is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae import checks
from pyrovae.interruption import deliver

__all__ = ["Climb", "best_of", "warn_not_converged", "warn_of_rounded"]

LOST = 1e-3  # nats per item that rounding the parameters may cost without a word
TIE = 1e-12  # of a log-likelihood, by which sums in another order differ


@dataclass
class Climb:
    """The iterations of EM from one start, whatever the model is.

    `e_step` returns what the M-step needs, such as each item's responsibilities, and the objective in nats per item.
    `m_step` takes that and returns which components, or classes, are at the variance floor. `judged` returns the scores
    of held-out items.
    """

    e_step: Callable[[], tuple[Any, float]]
    m_step: Callable[[Any], Tensor]
    judged: Callable[[], dict[str, float]]
    bar: tqdm[Any]
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
            self.at_floor = self.m_step(expected)
            expected, self.value = self.e_step()
            self.converged = self.value - before <= tol
            row = {"loss": -self.value, **self.judged()}
            self.rows.append({**row, "seconds": time.perf_counter() - start})
            self.bar.update()
            self.bar.set_postfix(loss=f"{-self.value:.4f}")
            deliver()

    def require_finite(self) -> None:
        if not math.isfinite(self.value):
            raise FloatingPointError(f"the log-likelihood became {self.value}: scale x, or raise the floor")


def best_of(climbs: Sequence[Climb]) -> int:
    """The number of the climb that ended highest.

    Of several that end at one point, their components in another order, the first: rounding does not choose.
    """
    values = [climb.value if math.isfinite(climb.value) else -math.inf for climb in climbs]
    return next(n for n, value in enumerate(values) if value >= max(values) - TIE * max(1.0, abs(max(values))))


def warn_of_rounded(lost: float, dtype: torch.dtype, advice: str) -> None:
    """Warn where parameters in their own dtype have a lower log-likelihood than in float64, by `lost` nats per item."""
    if lost > LOST:
        checks.warn(f"in {dtype} the parameters lose {lost:.2g} nats per item: standardise x, or fit {advice}")


def warn_not_converged(iterations: int, tol: float) -> None:
    checks.warn(
        f"EM has not converged: the last of {iterations} iterations gained more than tol = {tol:g} nats per item: "
        "raise max_iterations"
    )
