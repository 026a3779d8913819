"""What every run by steps is asked: the options that the loop reads, whichever method they are of."""

from __future__ import annotations

from typing import Any, Protocol

from pyrovae.inference.method import Task
from pyrovae.inference.svi.optimizer import OptimizerChoice
from pyrovae.inference.svi.schedule import in_words as schedule_in_words

__all__ = ["StepPlan", "options_in_words", "require_score"]


class StepPlan(Protocol):
    """The options of one run of a `Loop`, filled in for its pair and its items; `SVI` says what each of them is.

    It is a dataclass that can be made without arguments: an option that an earlier version did not write into a
    checkpoint had its default.
    """

    @property
    def epochs(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def optimizer(self) -> OptimizerChoice: ...
    @property
    def clip_norm(self) -> float | None: ...
    @property
    def schedule(self) -> Any: ...
    @property
    def callbacks(self) -> Any: ...
    @property
    def binarize(self) -> bool: ...
    @property
    def warmup(self) -> int: ...
    @property
    def patience(self) -> int | None: ...
    @property
    def compile(self) -> Any: ...
    @property
    def precision(self) -> str: ...
    @property
    def seed(self) -> int: ...

    def in_words(self) -> dict[str, Any]: ...


def options_in_words(plan: Any) -> dict[str, Any]:
    """The options by name, with objects in words, as histories and checkpoints have them."""
    return {
        **vars(plan),
        "optimizer": str(plan.optimizer),
        "schedule": schedule_in_words(plan.schedule),
        "callbacks": [type(callback).__name__ for callback in plan.callbacks],
    }


def require_score(patience: int | None, task: Task) -> None:
    """ValueError where a run is to stop early, and nothing says when it is best."""
    if patience is not None and task.validation is None:
        raise ValueError(
            "patience stops on the validation ELBO, or a classifier's log-loss: give validation=items, or leave "
            "patience out"
        )
