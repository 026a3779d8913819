"""How a fit ends that a signal breaks off: what was trained so far is kept, and its history goes with the exception."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, ParamSpec

from pyrovae.inference.history import History
from pyrovae.interruption import deliver, delivered, held

__all__ = ["Stop", "holding_signals", "noted"]

P = ParamSpec("P")


def holding_signals(fit: Callable[P, History]) -> Callable[P, History]:
    """Hold signals in a fit, but where the fit itself delivers them; what they raise has `.history`.

    A method that delivers none runs to its end, and its whole history is that of the exception.
    """

    def whole(*args: P.args, **kwargs: P.kwargs) -> History:
        try:
            history = fit(*args, **kwargs)
        except BaseException as error:
            ended_by = delivered() or _told() or error  # whatever else has failed
            if _is_interrupt(ended_by) and not hasattr(ended_by, "history"):  # one by which nothing was trained
                _with_history(ended_by, History.from_rows([], {"stopped": _in_words(ended_by)}))
            if ended_by is not error:
                raise ended_by from error
            raise
        try:
            deliver()
        except BaseException as error:
            _with_history(error, history)
            raise
        return history

    @functools.wraps(fit)
    def call(*args: P.args, **kwargs: P.kwargs) -> History:
        history: History | None = None
        try:
            with held(ends=True):
                history = whole(*args, **kwargs)
        except BaseException as error:
            if not hasattr(error, "history"):  # of a signal that came on the way out
                found = getattr(error.__context__, "history", history)
                if isinstance(found, History):
                    _with_history(error, found)
            raise
        return history

    return call


@contextmanager
def noted(history: Callable[[], tuple[list[dict[str, float]], dict[str, Any]]]) -> Iterator[None]:
    """Give what a signal raises in the body the rows and the config that `history` makes, as `.history`."""
    try:
        yield
    except BaseException as error:
        if _is_interrupt(error):
            rows, config = history()
            at = f" {config['stopped']}" if config.get("stopped") else ""
            _with_history(error, History.from_rows(rows, config | {"stopped": _in_words(error) + at}))
        raise


class Stop:
    """Whether a signal has ended the body, which is then left without an exception: it is raised again by `again`.

    `with Stop() as stop:` stands around a loop that delivers signals where what it changes is whole. What follows makes
    something of it, and a history, and calls `stop.again(history)` last.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> Stop:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> bool:
        if error is None or error is not delivered():
            return False
        self.error = error
        return True

    @property
    def history(self) -> History:
        """The history that a fit within the body has given the exception."""
        found: History = getattr(self.error, "history", History.from_rows([], self.config))
        return found

    @property
    def config(self) -> dict[str, Any]:
        """What the `config` of a history says of it."""
        return {} if self.error is None else {"stopped": _in_words(self.error)}

    def again(self, history: History) -> None:
        """Raise what has ended the body, with the history, which says so."""
        if self.error is not None:
            _with_history(self.error, replace(history, config={**self.config, **history.config}))
            raise self.error


def _told() -> BaseException | None:
    """What the signals that are still held back raise."""
    try:
        deliver()
    except BaseException as error:
        return error
    return None


def _is_interrupt(error: BaseException) -> bool:
    """Whether this is no error of the fit: it comes from a signal, or ends the program."""
    return error is delivered() or isinstance(error, KeyboardInterrupt | SystemExit)


def _with_history(error: BaseException, history: History) -> None:
    error.history = history  # type: ignore[attr-defined]


def _in_words(error: BaseException) -> str:
    """What has ended a fit, as its history says it."""
    return f"interrupted by {type(error).__name__}"
