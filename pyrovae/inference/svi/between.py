"""What is done between two batches of a run: looked at, written, stopped. There is no other place for it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from pyrovae.inference.svi import pace
from pyrovae.inference.svi.diagnosis import refuse_broken_step, refuse_broken_weights
from pyrovae.inference.svi.pace import Pace
from pyrovae.interruption import deliver, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyrovae.inference.svi.loop import Loop

__all__ = ["Between"]

LOOKED = 10.0  # s, after which a loss that is not finite is seen: to ask the device waits for all that it has to do
MET = 1.0  # s, about, between two agreements of several processes, each of which costs a message


class _Told(NamedTuple):
    """What the processes have agreed on at a step."""

    writes: bool
    looks: bool
    steps: int  # to the next agreement
    signals: tuple[int, ...]  # that one of them was sent


class Between:
    """The place between two batches of one run, where `Loop` calls `between_batches()`: no state is written elsewhere.

    The contract: it is called after each turn of steps, which is a batch or 5 ms of them, whichever is longer, the last
    of an epoch included, and after an epoch's validation and callbacks. Then the thread is in no turn, so that the
    generators, Pyro's handlers and store, flags and modes are the caller's; weights, optimiser, noise and losses are
    those after `loop.taken` whole batches; and each process under `distributed()` is called at the same steps as far
    as it is to agree with the others. `is_whole` is True then, and False inside a turn and while an epoch is closed.

    A signal that `fit` holds back is delivered here alone, and between two batches of a validation: the state is then
    written, where the run has a folder, and what the signal's handler raises ends the callbacks as any other error.
    Whatever else ends the run where the state is whole, an error of a source of items say, leaves the state of the last
    batch too.

    Under several processes the first one's clock decides, and about once a second all of them agree at a batch on what
    it has decided and on the signals that any of them was sent: all have their handlers called, and end alike.
    """

    def __init__(self, loop: Loop, every: int | None) -> None:
        self.loop, self.every = loop, every
        self.is_whole = True
        self.writes = self.looks = False  # after the next batch
        self.place: tuple[int, int] | None = None  # which was written last
        kept = sum(t.numel() * t.element_size() for t in loop.kept)  # a sparse one has no nbytes
        small = 0.0 if loop.resume is None else loop.resume.snapshots.seconds  # what a small state takes, about
        # the weights, Adam's two moments and those before the last step, at 500 MB/s
        self.pace = Pace(guess=max(0.03, 2 * small) + 5 * kept / 5e8)
        self.looked = self.met = pace.clock()
        self.meeting = loop.taken + 1  # the step of the next agreement
        self.gap = 1

    # what the loop calls ----------------------------------------------------------------------------

    def room(self) -> int:
        """How many steps the next turn may take."""
        if self.every is not None:
            left = self.every - self.loop.taken % self.every
            if left == 1:
                self.writes = self.looks = True
        if self.is_planned:
            return 1
        rooms = [self.loop.steps_per_epoch]
        if self.every is not None:
            rooms.append(left - 1)
        if self.loop.ranks.size > 1:
            rooms.append(max(1, self.meeting - self.loop.taken))
        return min(rooms)

    @property
    def is_planned(self) -> bool:
        """Whether something is to be done after the next batch: the weights before it are then kept."""
        return self.writes or self.looks

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A body in which the state is not whole, unless it ends."""
        self.is_whole = False
        yield
        self.is_whole = True

    def between_batches(self) -> None:
        """Do what is due between two batches of an epoch."""
        is_over = self.loop.within.batch == self.loop.steps_per_epoch  # what is due then waits for the validation
        if self.is_planned and not is_over:
            self.act()
        told = self.agreed()
        if told is not None:
            self.writes, self.looks = self.writes or told.writes, self.looks or told.looks
            if told.signals:
                self.stop(told.signals)

    def after_epoch(self) -> None:
        """Do what is due between two epochs; the loop has looked at the losses."""
        self.looks, self.looked = False, pace.clock()
        told = self.agreed()
        is_forced = self.every is not None and self.loop.taken % self.every == 0
        if self.writes or is_forced or (told is not None and told.writes):
            self.write()
        if told is not None and told.signals:
            self.stop(told.signals)

    def after_run(self) -> None:
        """Write the end of the run."""
        self.write()

    def broken_off(self, error: BaseException) -> None:
        """Leave the state of the last batch of a run that ends by an error, where it is whole and of this one alone."""
        if not self.is_whole or self.loop.ranks.size > 1:
            return
        try:
            self.write()
        except Exception as raised:
            error.add_note(f"the state of the last batch could not be written: {raised}")

    # ------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """Look at the losses so far, and write where that is due."""
        writes, self.writes, self.looks = self.writes, False, False
        self.look()
        if writes:
            self.write()

    def look(self) -> None:
        """Raise FloatingPointError where a loss, a gradient or a weight has not been finite since the last look."""
        loop = self.loop
        if not loop.take.all_finite:
            refuse_broken_step(loop)
        refuse_broken_weights(loop)
        loop.saved = loop.moment()
        self.looked = pace.clock()

    def write(self) -> None:
        """Write the state after the batches so far, unless it is there."""
        loop, self.writes = self.loop, False
        place = len(loop.rows), loop.within.batch
        if loop.resume is None or place in (self.place, (0, 0)):
            return
        self.is_whole = False  # where this fails, it is not tried again
        with self.pace.writing():
            loop.resume.write(place)
        if loop.within.batch:  # before the first one its time has not begun
            loop.within.leave_out(self.pace.cost)
        self.place, self.is_whole = place, True

    def stop(self, signals: tuple[int, ...]) -> None:
        """Write, and deliver the signals, in each process; the run goes on where their handlers return."""
        self.look()
        self.write()
        error: BaseException | None = None
        try:
            deliver(signals)
        except BaseException as raised:
            error = raised
        if any(self.loop.ranks.gathered(error is not None)):
            raise KeyboardInterrupt("another process of the run was interrupted") if error is None else error

    def agreed(self) -> _Told | None:
        """What is due by now; None where it is not the time to ask, or nothing is."""
        loop = self.loop
        if loop.ranks.size == 1:
            told = self.decided()
            return told if told.writes or told.looks or told.signals else None
        if loop.taken < self.meeting:
            return None
        everyone: list[_Told] = loop.ranks.gathered(self.decided())
        first = everyone[0]._replace(signals=tuple({number for each in everyone for number in each.signals}))
        self.meeting, self.gap, self.met = loop.taken + first.steps, first.steps, pace.clock()
        return first

    def decided(self) -> _Told:
        """What this process finds due."""
        now = pace.clock()
        writes = self.loop.resume is not None and self.pace.is_due()
        rate = self.gap * MET / max(now - self.met, 1e-9)  # steps in as long as there is to be between two agreements
        steps = int(min(max(rate, 1.0), 2.0 * self.gap))
        return _Told(writes, now - self.looked >= LOOKED, steps, waiting())
