"""Learning rates over a run: a factor for each step, by name, by a plateau of the score, or by a function."""

from __future__ import annotations

import hashlib
import math
import struct
from array import array
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pyrovae import checks

if TYPE_CHECKING:
    from pyrovae.inference.svi.plan import StepPlan

__all__ = ["Cosine", "Function", "Plateau", "Schedule", "checked_schedule", "in_words", "schedule_of"]

LOOKED_AT = 1_000_000  # steps, at most, whose factors are looked at before a run
SCORES = {"validation_elbo": -1.0, "validation_log_loss": 1.0, "loss": 1.0}  # what a plateau is of, as a loss


class Schedule:
    """The factor of the learning rate in each step; 1 where nothing else is said."""

    def factor(self, step: int) -> float:
        """That of step 0, 1, 2, ..."""
        return 1.0

    def note(self, row: Mapping[str, float]) -> None:
        """Be told of an epoch that is over."""

    def state(self) -> dict[str, Any]:
        """What a run that goes on must be told, in JSON."""
        return {}

    def go_on(self, state: Mapping[str, Any], taken: int) -> None:
        """Be where a run with this state was after so many steps; ValueError where this is another schedule."""

    def fingerprint(self) -> str:
        """Equal for processes that have the same schedule."""
        return type(self).__name__


class Cosine(Schedule):
    """From 1 to 0 over the whole run: (1 + cos(pi step / steps)) / 2 (Loshchilov and Hutter 2017, eq. 5)."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def factor(self, step: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / self.steps))


class Plateau(Schedule):
    """A tenth of the rate after more than 10 epochs without a score that is better by over 1e-4 nats per item.

    The rule of torch's ReduceLROnPlateau(factor=0.1, patience=10, threshold=1e-4, threshold_mode="abs", eps=0) on the
    negative validation ELBO, a classifier's validation log-loss, or the training loss where there is no validation,
    from the end of the warm-up on. The threshold is absolute: torch's relative one takes a loss that stays at -100, as
    of a density, for a better one in each epoch.
    """

    reduction, patience, threshold = 0.1, 10, 1e-4

    def __init__(self, steps_per_epoch: int, warmup: int = 0) -> None:
        self.steps_per_epoch, self.warmup = steps_per_epoch, warmup
        self.factors = [1.0]  # of each epoch
        self.best, self.waited = math.inf, 0

    def factor(self, step: int) -> float:
        return self.factors[step // self.steps_per_epoch]

    def note(self, row: Mapping[str, float]) -> None:
        if len(self.factors) < self.warmup:  # the loss changes with its weights
            self.factors.append(self.factors[-1])
            return
        name = next(name for name in SCORES if name in row)
        score = SCORES[name] * row[name]
        if score < self.best - self.threshold:
            self.best, self.waited = score, 0
        else:
            self.waited += 1
        is_over = self.waited > self.patience
        self.factors.append(self.factors[-1] * (self.reduction if is_over else 1.0))
        if is_over:
            self.waited = 0

    def state(self) -> dict[str, Any]:
        return {"factors": self.factors, "best": self.best, "waited": self.waited}

    def go_on(self, state: Mapping[str, Any], taken: int) -> None:
        self.factors, self.best, self.waited = list(state["factors"]), state["best"], state["waited"]


class Function(Schedule):
    """`function(step, steps)`, a finite number above 0."""

    def __init__(self, function: Callable[[int, int], float], steps: int) -> None:
        self.function, self.steps = function, steps
        self._digest, self._digested = hashlib.sha256(), 0  # of the factors of steps 0, 1, ... that were taken
        looked_at = [*range(0, steps, -(-steps // LOOKED_AT)), steps - 1]
        values = array("d", (self._value(step) for step in looked_at))
        self._fingerprint = hashlib.sha256(values).hexdigest()

    def factor(self, step: int) -> float:
        value = self._value(step)
        if step == self._digested:
            self._note(value)
        return value

    def _value(self, step: int) -> float:
        value = self.function(step, self.steps)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0.0 < number < math.inf:
            raise ValueError(
                f"schedule({step}, {self.steps}) is {value!r}: it must be the factor of the learning rate in that "
                "step, a finite number above 0"
            )
        return number

    def _note(self, value: float) -> None:
        self._digest.update(struct.pack("<d", value))
        self._digested += 1

    def state(self) -> dict[str, Any]:
        return {"sha256": self._digest.hexdigest()}

    def fingerprint(self) -> str:
        return self._fingerprint

    def go_on(self, state: Mapping[str, Any], taken: int) -> None:
        for step in range(taken):
            self.factor(step)
        if self._digest.hexdigest() != state.get("sha256"):
            raise ValueError(
                "schedule is a function that gives other factors than those of the run's steps so far: resume with the "
                "same one; one that looks at `steps` gives others where epochs differ"
            )


def checked_schedule(schedule: Any) -> Any:
    """The schedule, where it is a name or may be a function of two numbers."""
    if isinstance(schedule, type):
        raise TypeError(
            f"schedule={schedule.__name__} is a class: give a function schedule(step, steps) of the factor in that "
            "step, which torch's schedulers are not, or a name"
        )
    if callable(schedule):
        return schedule
    return checks.choice("schedule", schedule, ("constant", "cosine", "plateau"))


def in_words(schedule: Any) -> str:
    """What a history and a checkpoint call it."""
    return "a function" if callable(schedule) else str(schedule)


def schedule_of(plan: StepPlan, steps_per_epoch: int) -> Schedule:
    """The schedule of a run; ValueError for a function that gives no factors."""
    steps = plan.epochs * steps_per_epoch
    if callable(plan.schedule):
        return Function(plan.schedule, steps)
    if plan.schedule == "cosine":
        return Cosine(steps)
    return Plateau(steps_per_epoch, plan.warmup) if plan.schedule == "plateau" else Schedule()
