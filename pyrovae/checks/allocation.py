"""Checks of memory before it is allocated, and an error in words where it ran out."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from pyrovae import memory
from pyrovae.checks.flags import flags_of, require_flags

__all__ = ["CHEAP", "NotEnoughMemoryError", "affordable", "allocating"]

P = ParamSpec("P")

T = TypeVar("T")

CHEAP = 64 * 2**20  # bytes that any machine has: nothing is looked up for less


def affordable(what: str, needed: int, instead: str, *, device: torch.device | None = None) -> None:
    """Refuse a count, before anything is allocated, that takes more bytes than `device` or main memory has left.

    `what`: the argument and its value; `instead`: what to do. Nothing is refused on the device "meta", which holds
    shapes alone.

    >>> from pyrovae.checks import affordable
    >>> affordable("num_particles=1e+16", 8 * 10**16, "take fewer")
    Traceback (most recent call last):
        ...
    ValueError: num_particles=1e+16 would take at least 80 PB of memory, and ... is free here: take fewer
    """
    if needed <= CHEAP or torch.get_default_device().type == "meta":
        return
    free = memory.available(device)
    if needed > free:
        raise ValueError(
            f"{what} would take at least {memory.in_words(needed)} of memory, and {memory.in_words(free)} is free "
            f"{'here' if device is None or device.type == 'cpu' else f'on {device}'}: {instead}"
        )


class NotEnoughMemoryError(MemoryError):
    """A computation has asked for more memory than there is; its message says which, and what to do."""


def allocating(function: Callable[P, T]) -> Callable[P, T]:
    """Raise an error that names the function, and what it asked for, where an allocator in it runs out of memory.

    A keyword that it does not have is refused with the nearest that it has, and arguments that are True or False are
    looked at, as by `flags`.
    """
    signature = inspect.signature(function)
    known, own = frozenset(signature.parameters), flags_of(signature)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if not known.issuperset(kwargs):
            from pyrovae.checks.arguments import keywords  # which needs this file

            keywords(function, kwargs, function.__name__)
        require_flags(own, args, kwargs)
        try:
            return function(*args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, NotEnoughMemoryError) or not _is_of_memory(error):
                raise
            asked = re.search(r"allocate (\d+ bytes|[\d.]+ \w+)", str(error))
            raise NotEnoughMemoryError(
                f"{function.__name__} needs more memory than there is"
                f"{f' (it asked for {asked[1]} at once)' if asked else ''}: give fewer items, or smaller counts, sizes "
                "or batches"
            ) from error

    return call


def _is_of_memory(error: Exception) -> bool:
    words = ("can't allocate memory", "Storage size calculation overflowed", "out of memory")
    return isinstance(error, MemoryError) or any(one in str(error) for one in words)
