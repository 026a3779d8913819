"""One thread at a time where state is shared by the whole process: Pyro's handlers, torch's generators, modes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from pyrovae.interruption import held

__all__ = ["compiling", "entered", "exclusive"]

PATIENCE = 5e-3  # s, as of Python's own lock; a thread that is woken for each body takes longer than the body
LONGEST = 10.0  # s, that a fork waits: the other thread may be waiting for this one

_lock: Any = threading.RLock()
_queue = threading.Lock()  # of those who wait for it
_fork = threading.local()
_inside = nullcontext()


def exclusive() -> AbstractContextManager[None]:
    """Keep other threads out of any such body until this one has ended; a thread may nest its own.

    Pyro keeps handlers and parameters in one list and one store per process, torch its generators and the flag by which
    distributions check their arguments, and a module its training mode: two threads that work there at once change each
    other's numbers without a word. A body is to be short, a batch or a step, and never waits for another thread. The
    lock goes to whoever has waited for 5 ms, so that a loop of bodies cannot keep another thread out. Signals wait for
    the body's end, as by `pyrovae.interruption.held`.
    """
    return _inside if _lock._is_owned() else _alone()


@contextmanager
def compiling() -> Iterator[None]:
    """A body of `exclusive` in which no other thread compiles by `torch.compile` either.

    Both put state of the whole process in place, as for the modules whose calls are traced, for as long as they last.
    """
    from torch._dynamo.convert_frame import compile_lock

    with exclusive(), compile_lock:
        yield


class _Body:
    """A state, and what it found."""

    def __init__(self, state: Any) -> None:
        self.state, self.before = state, state.found()


_bodies = list[_Body]()  # that the thread with the lock is in, the innermost last


@contextmanager
def entered(state: Any) -> Iterator[None]:
    """A body in what `state.enter()` sets for the whole process; `state.leave` puts back what `state.found()` was.

    A second Ctrl-C may come anywhere. `leave` is called again where it is cut short, so it must be one that may be. A
    body that was cut off before it could leave, and is taken down once Python frees it, is left with the one around it.
    """
    with exclusive():
        mine = _Body(state)
        try:
            _bodies.append(mine)
            state.enter()
            yield
        finally:
            try:
                while mine in _bodies:
                    _bodies[-1].state.leave(_bodies[-1].before)
                    del _bodies[-1]
            except BaseException:
                while mine in _bodies:
                    _bodies[-1].state.leave(_bodies[-1].before)
                    del _bodies[-1]
                raise
            finally:
                if mine in _bodies:
                    del _bodies[_bodies.index(mine) :]


@contextmanager
def _alone() -> Iterator[None]:
    lock, queue, signals = _lock, _queue, held()
    try:
        # a plain lock is mostly taken again by the thread that has just let it go: who has waited in vain stands in
        # the queue, and nobody passes it
        if queue.locked() or not lock.acquire(timeout=PATIENCE):
            with queue:
                lock.acquire()
        signals.__enter__()  # not before: who waits for another thread's turn may be interrupted
    except BaseException:  # an interrupt may come between taking it and knowing of it
        if lock._is_owned():
            lock.release()
        raise
    try:
        yield
    finally:
        lock.release()
        signals.__exit__()


def _wait_for_turn() -> None:
    """Before a fork: the other thread's turn ends first, for the child would find what it has changed."""
    owned, queue = _lock._is_owned(), _queue
    _fork.lock = None
    if owned or queue.acquire(timeout=LONGEST):
        try:
            _fork.lock = _lock if _lock.acquire(timeout=LONGEST) else None
        finally:
            if not owned:
                queue.release()


def _go_on() -> None:
    """After it, in the parent."""
    if _fork.lock is not None:
        _fork.lock.release()


def _renew() -> None:
    """After it, in the child: the thread that held the lock may not be there to release it."""
    global _lock, _queue
    _lock, _queue = threading.RLock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_turn, after_in_parent=_go_on, after_in_child=_renew)
