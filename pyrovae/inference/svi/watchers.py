"""The callbacks of one run, called in every process; an error or a stop in one process holds for all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyrovae import checks
from pyrovae.inference.callbacks import Run, is_stateful, saved_state
from pyrovae.ranks import Ranks

__all__ = ["Watchers"]

log = logging.getLogger(__name__)


class Watchers:
    """The callbacks of a run, and the `Run` that they are given."""

    def __init__(self, callbacks: Sequence[Any], run: Run, ranks: Ranks) -> None:
        self.callbacks, self.run, self.ranks = list(callbacks), run, ranks
        self._begun: list[Any] = []
        self._stateful = [callback for callback in self.callbacks if is_stateful(callback)]
        self._before: list[dict[str, Any]] | None = None  # their states before an epoch's call of them

    @contextmanager
    def running(self) -> Iterator[None]:
        """Call each `begin` before the body and each `end` after it, also where the body or a callback raises.

        What an `end` raises keeps no other from its call: it is a note on the error that broke the run, and a warning
        where the run is whole, since the history of a fit that is done must not be lost.
        """
        try:
            self._agreed(self._begin)
            self._stop_together()
            yield
        except BaseException as error:
            for message in self._end():
                error.add_note(message)
            raise
        for message in self._end():
            checks.warn(f"{message}. The fit is done, its weights and its history are whole")

    def _begin(self) -> None:
        self.states()  # rather before an epoch is trained than after
        for callback in self.callbacks:
            callback.begin(self.run)
            self._begun.append(callback)

    def _end(self) -> list[str]:
        """Call `end` of each callback that has begun; returned: what they raised, in words."""
        stopped, messages = self.run.stopped, list[str]()
        interrupt: BaseException | None = None
        for callback in self._begun:
            try:
                callback.end(self.run)
            except Exception as error:
                messages.append(f"{type(callback).__name__}.end raised {type(error).__name__}: {error}")
                log.warning("%s", messages[-1], exc_info=error)
            except BaseException as error:
                interrupt = error
        self.run.stopped = stopped  # nothing is left to stop
        if interrupt is not None:
            raise interrupt
        return messages

    def epoch(self, row: dict[str, float]) -> None:
        """Call `epoch` of each; a stop in one process stops the run in all.

        Where one raises, the states of all, and whether one has stopped the run, are for `states` those from before:
        a run that goes on from there calls them of this epoch again.
        """
        self._before, stopped = self.states(), self.run.stopped
        self.run.rows.append(dict(row))

        def tell() -> None:
            for callback in self.callbacks:
                callback.epoch(self.run, dict(row))

        try:
            self._agreed(tell)
            self._stop_together()
        except BaseException:
            self.run.stopped = stopped
            raise
        self._before = None

    def _stop_together(self) -> None:
        """Stop the run in all processes where a callback stops it in one."""
        if self.callbacks:
            self.run.stopped = next((why for why in self.ranks.gathered(self.run.stopped) if why is not None), None)

    def _agreed(self, call: Callable[[], None]) -> None:
        """End the run in all processes where a callback raises in one, since the others would wait for ever."""
        if not self.callbacks:
            return
        error: Exception | None = None
        try:
            call()
        except Exception as raised:
            error = raised
        messages = [message for message in self.ranks.gathered(error and f"{type(error).__name__}: {error}") if message]
        if error is not None:
            raise error
        if messages:
            raise RuntimeError(f"a callback of another process raised {messages[0]}")

    def states(self) -> list[dict[str, Any]]:
        """The class and the state of each stateful callback."""
        if self._before is not None:
            return self._before
        return [{"class": type(callback).__name__, "state": saved_state(callback)} for callback in self._stateful]

    def require_same(self, saved: Sequence[dict[str, Any]]) -> None:
        """Refuse stateful callbacks that are others than those whose states were saved."""
        before, now = [one["class"] for one in saved], [type(callback).__name__ for callback in self._stateful]
        if before != now:
            raise ValueError(
                f"the run's callbacks with a state were {before or 'none'}, and these are {now or 'none'}: resume with "
                "the same ones, in their order"
            )

    def go_on(self, saved: Sequence[dict[str, Any]], rows: Sequence[dict[str, float]], stopped: str | None) -> None:
        """Restore the callbacks to the end of an earlier run."""
        self.run.rows, self.run.stopped = [dict(row) for row in rows], stopped
        for callback, one in zip(self._stateful, saved, strict=True):
            callback.load_state_dict(one["state"])
