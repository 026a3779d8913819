"""What the rows of literature.py give, and the table of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Figure:
    """A published quantity beside ours, with the Monte Carlo error of ours and its error over items.

    `allowed` is the difference up to which the published one counts as reproduced; None where the two are only reported
    beside each other. An error is None where there is none, as of a closed form.
    """

    name: str
    published: float | None
    ours: float
    se: float | None = None
    se_items: float | None = None
    allowed: float | None = None

    def standing(self) -> str:
        if self.published is None or self.allowed is None:
            return "beside"
        return "reproduced" if abs(self.ours - self.published) <= self.allowed else "not reproduced"


@dataclass(frozen=True)
class Outcome:
    """What a row has given: its figures, how much of its protocol was done, and the seconds that training took."""

    figures: Sequence[Figure]
    done: str
    seconds: float


class Row(Protocol):
    """A published row: where it stands, what was done there, and where this package's run differs."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def differences(self) -> str: ...

    def measure(self, root: str | None, out: Path, passes: int | None = None, images: int | None = None) -> Outcome:
        """Train to so many passes, or go on to them, and compare on so many test images, where there are any."""
        ...


HEAD = ["row", "quantity", "published", "ours", "± Monte Carlo", "± over items", "done", "training", "standing"]


def table(outcomes: Mapping[str, Outcome]) -> str:
    """A table in Markdown, a line for each figure."""
    lines = [HEAD, ["---"] * len(HEAD)]
    for name, outcome in outcomes.items():
        for number, figure in enumerate(outcome.figures):
            of_row = ["", "", ""] if number else [name, outcome.done, f"{outcome.seconds / 60:.1f} min"]
            quantities = [number_in_words(v) for v in (figure.published, figure.ours)]
            errors = ["" if v is None else f"{v:.3f}" for v in (figure.se, figure.se_items)]
            lines.append([of_row[0], figure.name, *quantities, *errors, *of_row[1:], figure.standing()])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number_in_words(value: float | None) -> str:
    """A count without decimals, a log-likelihood with two, what is nearly nothing in powers of ten."""
    if value is None:
        return ""
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.1g}"


def descriptions(rows: Sequence[Row]) -> str:
    """What each row is, in sentences."""
    return "\n\n".join(
        f"{row.name}\n  source: {row.source}\n  protocol: {row.protocol}\n  here: {row.differences}" for row in rows
    )
