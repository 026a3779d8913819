"""Random streams from a seed, drawn without touching the caller's generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["forked", "stream"]


def stream(seed: int, *keys: int) -> int:
    """A 63-bit seed that depends on `seed` and `keys` alone; different keys give independent streams.

    >>> stream(0, 1) == stream(0, 1), stream(0, 1) == stream(0, 2)
    (True, False)
    """
    return int(np.random.SeedSequence((seed, *keys)).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def forked(seed: int | None, device: torch.device | None = None) -> Iterator[None]:
    """Run the body under torch's global generator seeded with `seed`, and put the caller's generators back.

    Pyro draws from torch's global generator, so that is the one to seed. With `seed=None` the body goes on from the
    caller's generators.
    """
    if seed is None:
        yield
        return
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
