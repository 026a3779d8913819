"""A function of tensors on a CUDA device, recorded once as a CUDA graph and replayed by one launch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from pyrovae.compile.aliases import same_values
from pyrovae.compile.errors import summary
from pyrovae.seeding import generators, put_back

__all__ = ["Replayed", "pool_of", "replayed", "replays"]

log = logging.getLogger(__name__)

WARM_UP = 3  # calls before the recording, in which kernels are tuned and libraries take their workspaces
COMPARED = 2  # calls that are held against as many replays
CLOSE = 1e-3  # relative, of what they return: kernels that add in any order
MOVED_ALIKE = 0.5  # of how far a tensor moves: where it goes the next loss shows, and a gradient may be rounding alone

cuda: Any = torch.cuda


def replays(device: torch.device) -> bool:
    """Whether functions on this device can be recorded."""
    return device.type == "cuda"


def pool_of(device: torch.device) -> Any:
    """The memory that several recordings on a device share; None where it has no recordings."""
    return cuda.graph_pool_handle() if replays(device) else None


def replayed(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    changed: Sequence[Tensor],
    read: Sequence[Tensor] = (),
    pool: Any = None,
) -> Replayed | None:
    """`function` recorded, where its tensors are on a CUDA device; None elsewhere, or with a line in the log why not.

    `function(*inputs)` gives a tensor and writes `changed` where they lie, and `read` it reads there. Those, and the
    generators, are as before when this returns. Functions that are never replayed at once may share a `pool` of memory.
    """
    if not changed or not replays(changed[0].device):
        return None
    try:
        return Replayed(function, inputs, changed, read, pool)
    except Exception as error:  # a kernel that may not be recorded, memory: it runs as it did
        log.warning("runs without a CUDA graph (%s)", summary(error))
        return None


class Replayed:
    """A recorded function: its inputs are copied to where it reads them, and each call draws new noise by torch.

    Before it is used, some replays are held against as many calls from the same state: what they return, and how far
    they move each of `changed`. Raises RuntimeError where they differ, as where the recording is empty, and where it
    writes to what a replay would leave; ValueError for an argument on another device.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        changed: Sequence[Tensor],
        read: Sequence[Tensor] = (),
        pool: Any = None,
    ) -> None:
        device = changed[0].device
        if any(t.device != device for t in (*inputs, *changed)):
            raise ValueError(f"an argument is not on {device}: what lies elsewhere would be read once for all")
        self._inputs = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device) for x in inputs]
        self._device = device
        # what lies on the host goes into the recording as it is
        elsewhere = [t for t in read if t.device != device and not t.is_inference()]
        self._constants = [(t, t._version) for t in elsewhere]
        with cuda.device(device), torch.no_grad():
            before, kept = [t.clone() for t in changed], [t.clone() for t in elsewhere]
            drawn = generators()

            def start_anew() -> None:
                for t, value in zip(changed, before, strict=True):
                    t.copy_(value)
                put_back(drawn)

            try:
                self._fill(inputs)
                self._warm_up(function)
                if not self.holds():
                    raise RuntimeError("it writes to a tensor that lies on the host")
                if any(not same_values(kept, x) for kept, x in zip(self._inputs, inputs, strict=True)):
                    raise RuntimeError("it writes to an argument")
                start_anew()
                called = _followed(lambda: function(*self._inputs), changed)
                start_anew()
                self._graph = cuda.CUDAGraph()
                with _recording(self._graph, pool, device):
                    self._output = function(*self._inputs)
                start_anew()
                self._output.fill_(torch.nan)
                _require_alike(before, called, _followed(self._replay, changed))
            finally:
                start_anew()
                for (t, version), value in zip(self._constants, kept, strict=True):
                    if t._version != version:
                        t.copy_(value)

    def __call__(self, *inputs: Tensor) -> Tensor:
        with cuda.device(self._device), torch.no_grad():
            self._fill(inputs)
            return self._replay()

    def holds(self) -> bool:
        """Whether everything that went into the recording is as it was."""
        return all(t._version == version for t, version in self._constants)

    def _fill(self, inputs: Sequence[Tensor]) -> None:
        for kept, x in zip(self._inputs, inputs, strict=True):
            kept.copy_(x)

    def _replay(self) -> Tensor:
        self._graph.replay()
        return self._output.clone()  # which the next replay writes over

    def _warm_up(self, function: Callable[..., Tensor]) -> None:
        """Run the function on a stream of its own, as a recording does."""
        here, side = cuda.current_stream(), cuda.Stream()
        side.wait_stream(here)
        with cuda.stream(side):
            for _ in range(WARM_UP):
                function(*self._inputs)
        here.wait_stream(side)


@contextmanager
def _recording(graph: Any, pool: Any, device: torch.device) -> Iterator[None]:
    """Record the body; where that fails, make stream, generator and allocator of the device usable again.

    A recording that breaks off leaves its stream as the current one, the generator as if it were still recorded, so
    that the next draw raises, and the allocator at the pool, which no other recording may take then. A recording that
    ends puts the generator right: a small one is made. What is raised is the body's own error, if that has one: torch's
    at the end of the recording says only that there was an earlier one, and would take the place of an interrupt.
    """
    here = cuda.current_stream(device)
    of_body: BaseException | None = None

    def record(graph: Any, pool: Any) -> Any:
        # a stream of its own: torch's is of the device that recorded first
        return cuda.graph(graph, pool=pool, stream=cuda.Stream(device), capture_error_mode="thread_local")

    try:
        with record(graph, pool):
            try:
                yield
            except BaseException as error:
                of_body = error
                raise
    except BaseException:
        cuda.set_stream(here)
        if pool is not None:
            with suppress(RuntimeError):  # where the recording did end, the allocator has left the pool
                _leave(pool, device)
        with suppress(RuntimeError), record(cuda.CUDAGraph(), None):
            torch.zeros(1, device=device)
        cuda.set_stream(here)
        if of_body is not None:
            raise of_body from None
        raise


def _leave(pool: Any, device: torch.device) -> None:
    """End the allocator's part of a recording, as torch does where a recording ends."""
    torch._C._cuda_endAllocateToPool(device.index, pool)
    torch._C._cuda_releasePool(device.index, pool)


def _followed(call: Callable[[], Tensor], changed: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The results of some calls, and the values that they leave in `changed`."""
    return [call().clone() for _ in range(COMPARED)], [t.clone() for t in changed]


def _require_alike(
    before: Sequence[Tensor], called: tuple[list[Tensor], list[Tensor]], again: tuple[list[Tensor], list[Tensor]]
) -> None:
    for one, other in zip(called[0], again[0], strict=True):
        if not one.isfinite().all():
            raise RuntimeError(f"a call gives {one.tolist()}, by which no replay can be judged")
        if not torch.allclose(one, other, rtol=CLOSE, atol=0.0):
            raise RuntimeError(f"a replay gives {other.tolist()} where a call gives {one.tolist()}")
    for start, one, other in zip(before, called[1], again[1], strict=True):
        start, one, other = (t.double().nan_to_num() for t in (start, one, other))
        called_distance = (one - start).abs().sum()
        replayed_distance = (other - start).abs().sum()
        if (replayed_distance - called_distance).abs() > MOVED_ALIKE * called_distance:
            raise RuntimeError("a replay moves a tensor otherwise than a call does")
