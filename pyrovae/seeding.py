"""Random streams from a seed, drawn without touching the caller's generators."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyro
import torch

from pyrovae.exclusive import entered

__all__ = ["Noise", "forked", "generators", "put_back", "stream"]


def stream(seed: int, *keys: int | str) -> int:
    """A 63-bit seed of the random numbers that `keys` are for: another use or epoch draws others from the same seed.

    Two uses that shared a stream would share their noise: an ELBO whose draws are those that made the data is wrong.

    >>> from pyrovae.seeding import stream
    >>> stream(0, "noise", 1) == stream(0, "noise", 1), stream(0, "noise", 1) == stream(0, "noise", 2)
    (True, False)
    """
    digest = hashlib.sha256(repr((int(seed), *keys)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Noise:
    """Random numbers from a seed that go on from one use to the next, whatever others draw in between."""

    def __init__(self, seed: int | None, device: torch.device | None = None) -> None:
        self._seed = seed
        self._cuda = device if device is not None and device.type == "cuda" else None
        self._states: list[torch.Tensor] | None = None

    def drawn(self) -> AbstractContextManager[None]:
        """Torch's global generator, from which Pyro draws, and a CUDA device's are at this noise's place in the body.

        They are the caller's again after it. Without a seed the body goes on from the caller's generators. Threads that
        draw in such a body take turns; what another draws outside of one, by plain torch, is not kept out.
        """
        return entered(self)

    @property
    def states(self) -> list[torch.Tensor]:
        """Where it has come to, the state of each generator: of torch's, and of a CUDA device's; [] before its use."""
        return [] if self._states is None else self._states

    def go_on(self, states: list[torch.Tensor]) -> None:
        """Be where another noise of the same devices had come to; [] leaves this one as it is."""
        if states:
            self._states = states

    def found(self) -> list[torch.Tensor]:
        """Where the generators are, for `leave`; nothing where there is no seed."""
        return [] if self._seed is None else self._now()

    def enter(self) -> None:
        """Put the generators at this noise's place."""
        if self._seed is None:
            return
        if self._states is not None:
            self._put(self._states)
            return
        # torch.manual_seed would seed every CUDA device, and only one is put back
        torch.default_generator.manual_seed(self._seed)
        if self._cuda is not None:
            with torch.cuda.device(self._cuda):
                torch.cuda.manual_seed(self._seed)

    def leave(self, before: list[torch.Tensor]) -> None:
        """Note where the generators have come to, and put them back."""
        if before:
            self._states = self._now()
            self._put(before)

    def _now(self) -> list[torch.Tensor]:
        cuda = [] if self._cuda is None else [torch.cuda.get_rng_state(self._cuda)]
        return [torch.default_generator.get_state(), *cuda]

    def _put(self, states: list[torch.Tensor]) -> None:
        torch.default_generator.set_state(states[0])
        if self._cuda is not None:
            torch.cuda.set_rng_state(states[1], self._cuda)


@contextmanager
def forked(seed: int | None, device: torch.device | None = None) -> Iterator[None]:
    """Run the body under torch's global generator seeded with `seed`, and put the caller's generators back.

    Pyro draws from torch's global generator, so that is the one to seed; a CUDA `device`'s own too. With `seed=None`
    the body goes on from the caller's generators.
    """
    with Noise(seed, device).drawn():
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
