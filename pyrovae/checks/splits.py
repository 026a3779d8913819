"""The one place where the items of a call and what lies beside them are put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyrovae.checks.arrays import parts_of

__all__ = ["BESIDE", "Gathered", "split_of"]

BESIDE = ("covariates", "exposure", "weight", "missing")  # what a split may carry beside items and labels
NOT_YET = ("weight", "missing")


@dataclass(frozen=True, eq=False)
class Gathered:
    """Items with what was given beside them, as it came; it is read as a `data.Split` is."""

    x: Any
    y: Any = None
    covariates: Any = None
    exposure: Any = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def beside(self) -> dict[str, Any]:
        """What was given beside the items, by name."""
        both = {"covariates": self.covariates, "exposure": self.exposure}
        return {name: value for name, value in both.items() if value is not None}


def split_of(x: Any, *, covariates: Any = None, exposure: Any = None, name: str = "x") -> Gathered:
    """The items of an array or of a split, with the covariates and the exposure of the split or of the keywords.

    Raises ValueError where a split and a keyword both give one of them, and for a split with a weight or a mask, which
    no method and no estimator reads yet.
    """
    items, labels = parts_of(x, name)
    own = {} if items is x else {each: getattr(x, each, None) for each in BESIDE}
    for each in NOT_YET:
        if own.get(each) is not None:
            raise ValueError(
                f"{name} is a split with {each!r}, which is not supported yet: leave it out, as in "
                "Split(x, y, covariates=..., exposure=...)"
            )
    given = {"covariates": covariates, "exposure": exposure}
    for each, value in given.items():
        if value is not None and own.get(each) is not None:
            raise ValueError(f"{name} is a split with {each} of its own: leave {each}= out, or give {name}.x")
        given[each] = own.get(each) if value is None else value
    return Gathered(items, labels, **given)
