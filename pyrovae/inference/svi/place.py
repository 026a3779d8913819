"""Where a run by steps takes place: the pair and its items on a device, and the pair at home again after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pyrovae.compile.aliases import overlapping
from pyrovae.inference.items import Items
from pyrovae.models.pair import Pair, as_module, dtype_and_device

__all__ = ["placed", "require_finite", "require_ties_last"]


@contextmanager
def placed(pair: Pair, target: torch.device, *parts: Items | None) -> Iterator[None]:
    """Run the body with the pair on a device, and with its items there that it has room for.

    Afterwards the pair is on its own device again, and no parameter has a gradient.
    """
    module, home = as_module(pair), dtype_and_device(pair)[1]
    try:
        module.to(target)
        for items in parts:
            if items is not None:
                items.move(target)
        yield
    finally:
        for parameter in module.parameters():
            parameter.grad = None
            parameter.__dict__.pop("unconstrained", None)  # Pyro's weak reference, which does not pickle
        module.to(home)


def require_finite(module: nn.Module) -> None:
    """ValueError for a parameter from which no step can start."""
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(f"parameter {name!r} of the pair is not finite: build it anew or load a good state")


def require_ties_last(module: nn.Module, home: torch.device, target: torch.device) -> None:
    """Refuse a move to another device that would separate parameters or buffers that share memory."""
    present_device, target_device = (torch.empty(0, device=device).device for device in (home, target))
    if (present_device.type, present_device.index or 0) == (target_device.type, target_device.index or 0):
        return
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    names = list(tensors)
    for group in overlapping(list(tensors.values())):
        tied = " and ".join(repr(names[i]) for i in group)
        raise ValueError(
            f"{tied} share memory on {home}, and a move to {target} would end that: give device={str(home)!r}, or move "
            f"the pair to {target} yourself and let them share memory there"
        )
