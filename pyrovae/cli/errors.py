"""Which errors are sentences for the user, and which are faults of the package."""

from __future__ import annotations

import dis
import importlib.metadata
import os
from pathlib import Path
from types import TracebackType

import click

__all__ = ["Terminated", "as_sentence", "where_to_report"]

PACKAGE = os.path.join(str(Path(__file__).parents[1]), "")
RAISE = dis.opmap["RAISE_VARARGS"]


class Terminated(KeyboardInterrupt):
    """The process was told to end by SIGTERM."""


def as_sentence(error: BaseException) -> str | None:
    """What is wrong with the input, in one sentence; None for a fault of the package.

    Errors of the operating system are the input's: a file that is missing, a disk that is full. So is what the package
    raises by a `raise` of its own. Any other error, as of an operation that failed, is a fault.
    """
    if isinstance(error, OSError) and error.errno is not None:
        reason = error.strerror or os.strerror(error.errno)
        reason = reason[:1].lower() + reason[1:]
        if error.filename is None and _is_of_output(error.__traceback__):
            return f"the standard output could not be written: {reason}"
        return reason if error.filename is None else f"{error.filename}: {reason}"
    if isinstance(error, MemoryError):
        return str(error) or "not enough memory: take fewer items, a smaller model or a smaller --batch-size"
    if isinstance(error, OSError) or _is_raised_on_purpose(error.__traceback__):
        return _in_one_line(str(error)) or type(error).__name__
    return None


def _in_one_line(text: str) -> str:
    """A message of several lines as one; of two architectures, the arguments in which they differ."""
    lines = [line.strip() for line in text.splitlines()]
    if lines and lines[0].endswith("holds another architecture:"):
        arguments = [line.removeprefix("recipe.") for line in lines[1:] if line.startswith("recipe.")]
        differing = arguments or [line for line in lines[1:] if ": saved " in line]
        return f"{lines[0]} {'; '.join(differing)}"
    return " ".join(text.split())


def where_to_report() -> str:
    """What to do about a fault of the package."""
    place = "the project's issue tracker"
    try:
        links = importlib.metadata.metadata("pyrovae").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        links = []
    for link in links:
        label, _, address = str(link).partition(", ")
        if label.lower() in ("issues", "tracker", "bug tracker"):
            place = address
    return (
        f"this is a fault of pyrovae, and not of what you gave it. Please report it to {place}: the command, the lines "
        "above, and what `pyrovae --version` says"
    )


def _is_of_output(trace: TracebackType | None) -> bool:
    """Whether the innermost frame is that in which the commands write their output."""
    innermost = _innermost(trace)
    return innermost is not None and innermost.tb_frame.f_code is click.echo.__code__


def _innermost(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def _is_raised_on_purpose(trace: TracebackType | None) -> bool:
    """Whether the innermost frame is the package's own, and its instruction is a `raise`."""
    trace = _innermost(trace)
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    return code.co_filename.startswith(PACKAGE) and code.co_code[trace.tb_lasti] == RAISE
