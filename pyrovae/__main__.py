"""`pyrovae`, `python -m pyrovae`, and `torchrun -m pyrovae`."""

import os
import signal
import sys
from types import FrameType

__all__ = ["main"]


def main() -> int:
    """Run the command line, and return its exit status.

    Ctrl-C and SIGTERM end it at any time with one line and status 130 or 143: while it is imported too, and when the
    command is done and Python itself ends.
    """
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    for number in numbers:
        signal.signal(number, _leave)
    from pyrovae.cli import main as run

    status = run()
    if sys.stdout is not None:  # a program without a terminal may have none
        sys.stdout.flush()
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    return status


def _leave(number: int, _: FrameType | None) -> None:
    said = b"interrupted" if number == signal.SIGINT else b"ended by a signal"
    os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, b"pyrovae: " + said + b"\n")
    os._exit(128 + number)  # nothing has begun, or all is done: there is nothing to be put in order


if __name__ == "__main__":
    raise SystemExit(main())
