"""SIGINT and SIGTERM held back until a piece of work that must not be cut in two has ended."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # whose functions `signal` wraps, and slows down twentyfold
import _thread
import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

__all__ = ["deliver", "delivered", "held", "postponed", "waiting", "waits"]

PACKAGE = os.path.join(os.path.dirname(__file__), "")
SIGNALS = (signal.SIGTERM, signal.SIGINT)  # in the order in which they are delivered
TERMINATED = 143  # exit status of a process that SIGTERM has ended, as shells have it
ONE = 0.1  # s, in which signals are one Ctrl-C: a shell and a launcher may both hand it on
PAUSE, LONGEST = 0.01, 5.0  # s, after which one is tried again, and after which it cuts what it finds
EDGES = ("__enter__", "__exit__", "__del__")  # in which global state changes hands, or an exception is lost

_callers: dict[int, Any] = {}  # handlers that were there before
_held = set[int]()
_waiting = set[int]()
_first: float | None = None  # when Ctrl-C came in this piece of work
_delivered: BaseException | None = None
_delivered_by: int | None = None
_is_delivering = False
_again: dict[int, float] = {}  # signals that are sent again, since when
_sending = _thread.allocate_lock()


class held:  # noqa: N801  # a context manager, read like a function
    """Hold SIGINT and SIGTERM back in the body; their own handlers are called at its end.

    In the main thread the body runs to its end, or to a `deliver()` in it, whatever signals come; then the handlers
    that were there before are put back and called: Python's own raises KeyboardInterrupt, and one that returns lets the
    program go on. An exception of the body does not lose a signal, and becomes the context of what its handler raises.
    A second Ctrl-C, a tenth of a second or more after the first, calls the handler at once: it leaves a body that takes
    too long, or never ends. It cuts no import and no entering or leaving of a context, for up to 5 s, since torch and
    Pyro cannot be used after that; so whatever global state the body has changed by `with` is given back.

    Held is what a handler written in Python would raise out of the body. A signal that is ignored, or that ends the
    process by the system's default, is left alone, except with `ends`: SIGTERM then waits too, and raises
    `SystemExit(143)`, so that a body that can save its work may. Bodies may be nested, and only the outermost one
    delivers. In another thread than the main one, which Python's handlers never interrupt, it does nothing. A process
    that is forked in the body has the handlers from before.

    >>> from pyrovae.interruption import held
    >>> import signal
    >>> done = []
    >>> try:
    ...     with held():
    ...         signal.raise_signal(signal.SIGINT)
    ...         done.append("the whole body")
    ... except KeyboardInterrupt:
    ...     done.append("and then the interrupt")
    >>> done
    ['the whole body', 'and then the interrupt']
    """

    __slots__ = ("_ends", "_own")

    def __init__(self, *, ends: bool = False) -> None:
        self._ends, self._own = ends, list[int]()

    def __enter__(self) -> None:
        if len(_held) == len(SIGNALS) or not _is_main():
            return
        if not _held:  # one that a second signal has cut off from being delivered is told no more
            _waiting.clear()
        try:
            for number in SIGNALS:
                if number in _held:
                    continue
                handler = _signal.getsignal(number)
                # None is a handler that was not set by Python, and cannot be put back by it
                waits_too = self._ends and number == signal.SIGTERM and handler == signal.SIG_DFL
                if callable(handler) or waits_too:
                    self._own.append(number)
                    if handler is not _note:
                        _callers[number] = handler
                    _held.add(number)
                    _signal.signal(number, _note)
        except BaseException:
            _give_back(self._own)
            raise

    def __exit__(self, _: object = None, error: BaseException | None = None, __: object = None) -> None:
        if not self._own:
            return
        is_told, by = error is not None and error is _delivered, _delivered_by
        _give_back(self._own)
        if is_told:  # the same on the way out says nothing new, nor does a Ctrl-C after SIGTERM
            _waiting.difference_update((signal.SIGINT, by))
        if _waiting:
            deliver()


def deliver(also: Iterable[int] = ()) -> None:
    """Call the handlers of the signals that are held back, at a place where the work may end.

    `also` are signals that another process of the same work was sent, which have their handlers called here too. The
    work goes on where they return. Nothing is done in another thread than the main one.
    """
    global _first, _delivered, _delivered_by, _is_delivering
    if also and _is_main():
        _waiting.update(_held.intersection(also))
    if not waits():
        return
    number = None
    try:
        for number in SIGNALS:
            if number in _waiting:
                _waiting.discard(number)
                _is_delivering = True
                _call(number, None)
                _is_delivering = False
    except BaseException as error:
        _delivered, _delivered_by = (error, number) if _held else (None, None)
        _waiting.clear()
        raise
    finally:
        _is_delivering = False
    _first = None


def waits() -> bool:
    """Whether a signal is held back, and this is the thread that it will be told to."""
    return bool(_waiting) and _is_main()


def waiting() -> tuple[int, ...]:
    """The signals that are held back, for this thread."""
    return tuple(sorted(_waiting)) if waits() else ()


def delivered() -> BaseException | None:
    """What a handler has raised by `deliver()` in the present body, where the work was whole."""
    return _delivered if _is_main() else None


def postponed(number: int, frame: FrameType | None) -> bool:
    """Whether a signal has come in an import, or where a context is entered or left; it is then sent again soon.

    For handlers that raise: what is cut there is broken until the process ends, or loses the exception.
    """
    now = time.monotonic()
    if _is_delivering or _may_be_cut(frame) or now - _again.setdefault(number, now) > LONGEST:
        _again.pop(number, None)
        return False
    _thread.start_new_thread(_send, (number,))  # threading's own locks may be what was interrupted
    return True


def _note(number: int, frame: FrameType | None) -> None:
    """The handler of a signal that is held back."""
    global _first
    if number not in _held:  # code in the body has taken this for the caller's handler
        _call(number, frame)
        return
    if number == signal.SIGINT:
        now = time.monotonic()
        if _first is None:
            _first = now
        elif number in _again or now - _first > ONE:
            if not postponed(number, frame):
                _waiting.discard(number)
                _call(number, frame)
            return
        else:
            return
    _waiting.add(number)


def _call(number: int, frame: FrameType | None) -> None:
    handler = _callers.get(number)
    if callable(handler):
        handler(number, frame)
    elif number == signal.SIGTERM:
        raise SystemExit(TERMINATED)


def _give_back(numbers: list[int]) -> None:
    """Put the handlers from before back."""
    global _first, _delivered, _delivered_by
    with _sending:
        for number in numbers:
            if _again.pop(number, None) is not None:
                _waiting.add(number)
    try:
        _restore(numbers)
    finally:  # where a handler of the caller's has raised in between
        _restore(numbers)
        _first = _delivered = _delivered_by = None


def _restore(numbers: list[int]) -> None:
    for number in numbers:
        if _signal.getsignal(number) is _note:  # and no handler that was set in the body
            _signal.signal(number, _callers[number])
        _held.discard(number)


def _may_be_cut(frame: FrameType | None) -> bool:
    """Whether code may be left here and its process go on."""
    is_import_ours = True  # and not one that this package was called in, as of the user's own module
    while frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if name in EDGES or (is_import_ours and file.startswith("<frozen importlib")):
            return False
        if file.startswith(PACKAGE) and name != "<module>":
            is_import_ours = False
        frame = frame.f_back
    return True


def _send(number: int) -> None:
    """Send a signal to the main thread, after a pause, unless it has been told by then."""
    time.sleep(PAUSE)
    with _sending:
        if number in _again:
            if hasattr(signal, "pthread_kill"):  # which ends what it waits for, as a sleep
                signal.pthread_kill(threading.main_thread().ident or 0, number)
            else:
                _thread.interrupt_main(signal.Signals(number))


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _forget() -> None:
    """In a process that was forked: nothing of the parent's work is its own."""
    global _first, _sending
    _sending = _thread.allocate_lock()
    with suppress(ValueError):
        _restore(list(_held))
    _held.clear()
    _waiting.clear()
    _again.clear()
    _first = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
