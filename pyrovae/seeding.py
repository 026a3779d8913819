"""Random streams from a seed, drawn without touching the caller's generators."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch

__all__ = ["forked", "generators", "put_back", "stream"]


def stream(seed: int, *keys: int | str) -> int:
    """A 63-bit seed of the random numbers that `keys` are for: another use or epoch draws others from the same seed.

    Two uses that shared a stream would share their noise: an ELBO whose draws are those that made the data is wrong.

    >>> from pyrovae.seeding import stream
    >>> stream(0, "noise", 1) == stream(0, "noise", 1), stream(0, "noise", 1) == stream(0, "noise", 2)
    (True, False)
    """
    digest = hashlib.sha256(repr((int(seed), *keys)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def forked(seed: int | None, device: torch.device | None = None) -> Iterator[None]:
    """Run the body under torch's global generator seeded with `seed`, and put the caller's generators back.

    Pyro draws from torch's global generator, so that is the one to seed; a CUDA `device`'s own too. With `seed=None`
    the body goes on from the caller's generators.
    """
    if seed is None:
        yield
        return
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        # torch.manual_seed would seed every CUDA device, and only one is forked
        torch.default_generator.manual_seed(seed)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield


def generators() -> Any:
    """The state of every global generator."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return pyro.util.get_rng_state(), cuda


def put_back(state: Any) -> None:
    """Set the global generators to what `generators` gave."""
    pyro.util.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
