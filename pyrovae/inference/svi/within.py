"""How far an epoch has come: its place among the batches, its losses, and all from which its rest is drawn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrovae.compile.aliases import same_values
from pyrovae.inference.checkpoint import CheckpointError
from pyrovae.inference.svi.problem import binary_draws
from pyrovae.seeding import Noise, stream

if TYPE_CHECKING:
    from pyrovae.inference.svi.loop import Loop

__all__ = ["Within", "require_whole", "room_for"]

PREFIX = "within."  # of the names of its tensors in a checkpoint
MOST_STATE = 2**16  # bytes of a generator's state: torch's is 5,056 bytes long, and that of a CUDA device 16


class Within:
    """One epoch as far as it has come; `batch` of its batches are done.

    The order of the items is a function of the seed and the epoch, so that `epoch` and `batch` are the place in it.

    Attributes:
        noise: this process's noise of the steps.
        draws: what draws binary items, or None.
    """

    def __init__(self, loop: Loop, epoch: int) -> None:
        self.epoch, self.batch = epoch, 0
        self.noise, self.draws = Noise(loop.noise(epoch), loop.device), binary_draws(loop.plan, epoch, loop.device)
        self._done: Tensor | None = None
        self._since = list[Tensor]()
        self._began, self._before = time.perf_counter(), 0.0

    def begin(self) -> None:
        """Its time goes on from now."""
        self._began = time.perf_counter()

    def note(self, loss: Tensor) -> None:
        """Be told of the loss of the next batch, without waiting for it."""
        self._since.append(loss)
        self.batch += 1

    @property
    def losses(self) -> Tensor:
        """The losses so far, (batch,) or (batch, terms)."""
        if self._since:
            parts = [] if self._done is None else [self._done]
            self._done, self._since = torch.cat([*parts, torch.stack(self._since)]), []
        assert self._done is not None
        return self._done

    @property
    def seconds(self) -> float:
        """The time of its batches and steps."""
        return self._before + time.perf_counter() - self._began

    def leave_out(self, seconds: float) -> None:
        """Take time for something else, as a checkpoint, out of its own."""
        self._before -= seconds

    def copy(self, loop: Loop) -> Within:
        """The same place, to go on from another time."""
        other = Within(loop, self.epoch)
        other.batch, other._before = self.batch, self.seconds
        other._done = self.losses if self.batch else None
        other.noise.go_on(self.noise.states)
        if self.draws is not None and other.draws is not None:
            other.draws.set_state(self.draws.get_state())
        return other

    # in a checkpoint --------------------------------------------------------------------------------

    def in_words(self) -> dict[str, Any]:
        """What a checkpoint's metadata say of it."""
        return {"batch": self.batch, "seconds": self.seconds}

    def tensors(self, loop: Loop) -> dict[str, Tensor]:
        """What a checkpoint has of it beside the state between two epochs, of each process; all of them call it."""
        if not self.batch:
            return {}
        found = {f"{PREFIX}losses": self.losses}
        if self.draws is not None:  # the same in each process
            found[f"{PREFIX}draws"] = self.draws.get_state()
        for rank, states in enumerate(loop.ranks.gathered(self.noise.states)):
            found |= {f"{PREFIX}{rank}.noise.{i}": state for i, state in enumerate(states)}
        if loop.ranks.size > 1:  # which are the first one's after an epoch, and each one's own within it
            own = {name: b.detach().cpu() for name, b in loop.module.named_buffers()}
            for rank, buffers in enumerate(loop.ranks.gathered(own)):
                found |= {f"{PREFIX}{rank}.buffer.{name}": b for name, b in buffers.items()}
        return found

    @classmethod
    def of(cls, loop: Loop, epoch: int, words: dict[str, Any], tensors: dict[str, Tensor]) -> Within:
        """Where the epoch of a checkpoint was, in this process, whose own buffers it restores."""
        within = cls(loop, epoch)
        within.batch, within._before = int(words.get("batch", 0)), float(words.get("seconds", 0.0))
        if not within.batch:
            return within
        within._done = tensors[f"{PREFIX}losses"].to(loop.device)
        own = f"{PREFIX}{loop.ranks.rank}."
        by_name = sorted(tensors.items(), key=lambda item: item[0])
        saved = [value for name, value in by_name if name.startswith(f"{own}noise.")]
        if len(saved) == 1 + (loop.device.type == "cuda"):
            within.noise.go_on(saved)
        else:  # another device, which is told of as one that rounds otherwise
            within.noise = Noise(stream(loop.noise(epoch), within.batch), loop.device)
        if within.draws is not None:
            try:
                within.draws.set_state(tensors[f"{PREFIX}draws"])
            except (RuntimeError, TypeError):  # of another device
                within.draws.manual_seed(stream(loop.plan.seed, "binarize", epoch, within.batch))
        for name, b in loop.module.named_buffers():
            saved_buffer = tensors.get(f"{own}buffer.{name}")
            if saved_buffer is not None and not same_values(b, saved_buffer.to(b.device)):
                b.detach().copy_(saved_buffer)
        return within


def require_whole(loop: Loop, words: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """CheckpointError where a checkpoint's place within an epoch does not fit the run, or lacks something."""
    batch = words.get("batch", 0)
    if type(batch) is not int or not 0 <= batch <= loop.steps_per_epoch:
        raise CheckpointError(
            f"the checkpoint was written after batch {batch!r}, and an epoch of this run has {loop.steps_per_epoch:,}"
        )
    if not batch:
        return
    losses = tensors.get(f"{PREFIX}losses")
    if losses is None or losses.ndim == 0 or len(losses) != batch:
        there = "absent" if losses is None else f"of shape {tuple(losses.shape)}"
        raise CheckpointError(f"the checkpoint's losses are {there}, and it was written after {batch:,} batches")
    expected = [f"{PREFIX}{loop.ranks.rank}.noise.0", *([f"{PREFIX}draws"] if loop.plan.binarize else [])]
    for name in expected:
        state = tensors.get(name)
        if state is None or state.dtype != torch.uint8:
            raise CheckpointError(f"the checkpoint's {name!r} is no state of a generator")


def room_for(loop: Loop) -> dict[str, Tensor]:
    """As many and as large tensors as a checkpoint may have of its epoch, without memory: what is read is bounded."""
    sizes = {f"{PREFIX}losses": 8 * loop.steps_per_epoch, f"{PREFIX}draws": MOST_STATE}
    for rank in range(loop.ranks.size):
        sizes |= {f"{PREFIX}{rank}.noise.{i}": MOST_STATE for i in range(2)}
        if loop.ranks.size > 1:
            sizes |= {f"{PREFIX}{rank}.buffer.{name}": b.numel() for name, b in loop.module.named_buffers()}
    # a buffer may have up to as many axes as torch's tensors have
    return {name: torch.empty(size, device="meta").reshape((1,) * 15 + (-1,)) for name, size in sizes.items()}
