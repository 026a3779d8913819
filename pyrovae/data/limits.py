"""What a file may say of its own size, looked at before any of it is read; and what a library says of a damaged one.

A file is untrusted: a header of a few bytes may state terabytes, and some megabytes may unpack to gigabytes. Sizes are
therefore taken from headers first, and held against the file itself and against the limits that stand here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyrovae import checks, memory

__all__ = ["AXES", "PIXELS", "RATIO", "UNPACKED", "bytes_of", "decoded", "require_unpacked"]

AXES = 32  # of an array in a file
PIXELS = 2**24  # of an image, as 4,096 x 4,096
UNPACKED = 2**28  # bytes (256 MiB) that any packed file may unpack to
RATIO = 200  # what a larger one may unpack to, in multiples of its own size; deflate itself ends at about 1,030


def bytes_of(shape: Sequence[int], itemsize: int, what: str) -> int:
    """The bytes of an array that a header states; ValueError for one that no machine can address.

    >>> from pyrovae.data.limits import bytes_of
    >>> bytes_of((2, 3), 8, "x.npy")
    48
    >>> bytes_of((0, 2**40, 2**40), 8, "x.npy")
    Traceback (most recent call last):
        ...
    ValueError: x.npy states an array of shape (0, 1099511627776, 1099511627776), which no machine can hold
    """
    if len(shape) > AXES:
        raise ValueError(f"{what} states an array of {len(shape)} axes, and at most {AXES} are read")
    # NumPy counts the steps of an empty array too
    if math.prod(size for size in shape if size) * itemsize > checks.MOST:
        raise ValueError(f"{what} states an array of shape {tuple(shape)}, which no machine can hold")
    return math.prod(shape) * itemsize


def require_unpacked(what: str, packed: int, unpacked: int, instead: str) -> None:
    """Refuse to unpack what would become very much larger than the file, or larger than the memory that is free.

    >>> from pyrovae.data.limits import require_unpacked
    >>> require_unpacked("x.npz", 2_000_000, 2_000_000_000, "save it unpacked")
    Traceback (most recent call last):
        ...
    ValueError: x.npz has 2 MB and would unpack to 2 GB: over 268 MB, at most 200 times a file's own size is
    unpacked. If that is right, save it unpacked
    """
    if unpacked > max(UNPACKED, RATIO * packed):
        raise ValueError(
            f"{what} has {memory.in_words(packed)} and would unpack to {memory.in_words(unpacked)}: over "
            f"{memory.in_words(UNPACKED)}, at most {RATIO} times a file's own size is unpacked. If that is right, "
            f"{instead}"
        )
    checks.affordable(what, unpacked, instead)


@contextmanager
def decoded(said: str, instead: str = "") -> Iterator[None]:
    """Whatever a library raises while it reads a file, as a ValueError that begins with `said`, the file's name in it.

    Decoders of damaged bytes raise errors of every class. Those of the operating system that name the file stay.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{said}: {_reason(error)}{instead}") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).partition(" <")[0].split())  # without the object that was read
    short = text if len(text) <= 200 else f"{text[:200]}..."
    return short or type(error).__name__
