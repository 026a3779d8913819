"""When a run writes its state: as often as costs little, and often enough that little is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Pace"]

SHARE = 0.01  # of the time of a run, which its checkpoints take at most
LONGEST = 300.0  # s of work that a crash may cost, whatever a checkpoint costs

clock: Callable[[], float] = time.monotonic  # s; another one may take its place, as in a test


class Pace:
    """Whether a state is due, by what those before cost.

    One is due once it and another one, for the end of the run, fit into 1 % of the time since the run began, together
    with all that were written before; and in any case after five minutes. `guess` is the cost of the first one in
    seconds, before any has been measured.
    """

    def __init__(self, guess: float) -> None:
        self.began = self.last = clock()
        self.cost, self.spent = guess, 0.0

    def is_due(self) -> bool:
        """Whether a state is to be written now."""
        now = clock()
        return self.spent + 2 * self.cost <= SHARE * (now - self.began) or now - self.last >= LONGEST

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Measure what a state costs, in the body."""
        start = clock()
        yield
        self.last = clock()
        self.cost = self.last - start
        self.spent += self.cost
