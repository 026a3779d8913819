"""Records of the modules that run while a step is captured, and of the last sample site."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyrovae.compile.aliases import is_writable
from pyrovae.compile.errors import EAGER, CaptureError

__all__ = ["LastSite", "watched"]


@contextmanager
def watched(*functions: Any) -> Iterator[list[nn.Module]]:
    """Record the modules that the body calls, and those that the functions are or belong to; restore their buffers."""
    buffers: dict[nn.Module, dict[str, tuple[Tensor | None, Tensor | None]]] = {}
    here = threading.get_ident()

    def note(module: nn.Module, _: Any = None) -> None:
        if threading.get_ident() != here:  # another thread's modules pass the hook too, and keep what they compute
            return
        # a scripted one calls its parts without a hook
        for one in module.modules() if isinstance(module, torch.jit.ScriptModule) else (module,):
            if one not in buffers:
                buffers[one] = {name: (b, _copy(b)) for name, b in one._buffers.items()}

    for function in functions:
        for owner in (function, getattr(function, "__self__", None)):
            for module in owner.modules() if isinstance(owner, nn.Module) else ():
                note(module)
    modules: list[nn.Module] = []
    rebound: list[str] = []
    hook = register_module_forward_pre_hook(note)
    try:
        yield modules
    finally:
        hook.remove()
        modules += buffers
        with torch.no_grad():
            for module, before in buffers.items():
                now = dict(module._buffers.items())
                for name, (b, value) in before.items():
                    if now.get(name) is not b:
                        module._buffers[name] = b
                        rebound.append(f"{type(module).__name__}.{name}")
                    # whatever its version says, which a batch norm leaves as it was; nor does `data` tell it
                    if b is not None and value is not None:
                        b.data.copy_(value)
    if rebound:
        raise CaptureError(f"buffer {rebound[0]} is assigned anew in each step: change it in place, {EAGER}")


def _copy(b: Tensor | None) -> Tensor | None:
    """A copy of a buffer, where it can change and be put back."""
    return b.detach().clone() if b is not None and is_writable(b) else None


class LastSite(Messenger):
    """The sample site that was reached last."""

    name = ""

    def _pyro_sample(self, msg: Any) -> None:
        self.name = msg["name"]

    def depends_on_value(self) -> CaptureError:
        """The error of a model whose control flow depends on a value at this site."""
        where = f"at or after site {self.name!r}" if self.name else "before the first site"
        return CaptureError(
            f"{where} the course of model or guide depends on a value (`if`, `.item()`, "
            f"`float()`, NumPy of a tensor): write it with torch.where, {EAGER}"
        )
