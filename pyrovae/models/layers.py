"""The outputs of the layers of a pair: the memory that decoding takes, and which parts are plain networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyrovae.models.batch import Batch
from pyrovae.models.missing import takes_missing, whole
from pyrovae.models.pair import Pair, as_module
from pyrovae.models.particles import particles
from pyrovae.models.scopes import Workspace
from pyrovae.seeding import Noise

__all__ = ["LAYERS_ALIVE", "Seen", "layer_sizes", "least_bytes", "rows_within", "seen"]

LAYERS_ALIVE = 6  # copies of the widest layer counted for one code


def layer_sizes(pair: Pair, x: Tensor | Batch) -> list[int]:
    """The number of elements that each layer of the decoder puts out for one more code of an item."""
    module, sizes = as_module(pair), []
    some = x[:1] if takes_missing(pair) else whole(pair, x[:1])
    with Workspace(module, noise=Noise(0, x.device)).turn():
        for count in (1, 2):  # what grows with the number of codes
            with seen(module) as watched:
                particles(pair, some, count)
            sizes.append(watched.sizes)
    return [two - one for one, two in zip(*sizes, strict=False)]


def rows_within(pair: Pair, x: Tensor | Batch, max_bytes: int) -> int:
    """The number of codes, at least 1, whose layers take about `max_bytes` when they are decoded together."""
    widest = max([x[0].numel(), *layer_sizes(pair, x)])
    return max(1, max_bytes // (LAYERS_ALIVE * widest * x.element_size()))


def least_bytes(count: int, rows: int, max_bytes: int) -> int:
    """The bytes that decoding `count` codes together takes at least: two copies of the widest layer."""
    return 2 * count * max_bytes // (LAYERS_ALIVE * rows)


class _Sampling(Messenger):
    """A handler that notes which parts are at work when a site is drawn: these are no plain networks."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[nn.Module] = []
        self.parts_that_draw: set[nn.Module] = set()

    def _pyro_sample(self, msg: Any) -> None:
        self.parts_that_draw.update(self.active)


@dataclass
class Seen:
    """The outermost parts of a module that turn tensors into a tensor, and how many elements each one gave."""

    networks: list[nn.Module]
    sizes: list[int]


@contextmanager
def seen(module: nn.Module) -> Iterator[Seen]:
    """Watch the parts of a module as the body calls them; the result is complete after the body."""
    sampling, answer = _Sampling(), Seen([], [])
    called: dict[nn.Module, None] = {}

    def enter(part: nn.Module, _: Any) -> None:
        sampling.active.append(part)

    def leave(part: nn.Module, _: Any, output: Any) -> None:
        sampling.active.pop()
        if isinstance(output, Tensor):
            called[part] = None
            answer.sizes.append(output.numel())

    parts = [part for part in module.modules() if part is not module and not isinstance(part, torch.jit.ScriptModule)]
    hooks = [part.register_forward_pre_hook(enter) for part in parts]
    hooks += [part.register_forward_hook(leave, always_call=True) for part in parts]
    try:
        with sampling:
            yield answer
    finally:
        for hook in hooks:
            hook.remove()
    plain = [part for part in called if part not in sampling.parts_that_draw]
    inner = {part for whole in plain for part in whole.modules() if part is not whole}
    answer.networks = [part for part in plain if part not in inner]
