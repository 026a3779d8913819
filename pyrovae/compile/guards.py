"""The state of modules and memory that a captured step relies on, and checks of whether it has changed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module

from pyrovae.compile.aliases import overlap, overlapping
from pyrovae.compile.errors import CaptureError

__all__ = ["ModuleState", "WrittenMemory", "in_words"]


HOOKS_OF_ALL: list[Any] = [module._global_forward_hooks, module._global_forward_pre_hooks]
HOOKS_OF_ALL += [module._global_backward_hooks, module._global_backward_pre_hooks]


class ModuleState:
    """The modules and tensors that a capture saw; they are kept, so that no other object gets their addresses.

    `early`: views from before their base required a gradient, with their versions.
    """

    def __init__(self, modules: list[nn.Module], tensors: Sequence[Tensor], early: list[tuple[Tensor, int]]) -> None:
        self._modules, self._modes, self._early = modules, [m.training for m in modules], early
        tables: list[Any] = []
        for m in modules:
            tables += (m._parameters, m._buffers, m._modules, m._forward_hooks, m._forward_pre_hooks)
            tables += (m._backward_hooks, m._backward_pre_hooks)
        tables += HOOKS_OF_ALL
        self._empty = [table for table in tables if not table]
        self._full = [table for table in tables if table]
        self._names = [name for table in self._full for name, _ in table.items()]
        self._parts = [part for table in self._full for _, part in table.items()]
        every = {id(p): p for p in (*tensors, *(p for m in modules for p in m.parameters(recurse=False)))}
        self._addresses = [(p, _address(p)) for p in every.values()]

    def is_as_it_was(self) -> bool:
        """Whether modes, parts and hooks of the modules are the very same, and the tensors as and where they were."""
        if any(t._version != version for t, version in self._early):
            return False
        if any(self._empty) or [m.training for m in self._modules] != self._modes:
            return False
        every = chain.from_iterable
        return (
            [*every([table.keys() for table in self._full])] == self._names
            and all(map(is_, every([table.values() for table in self._full]), self._parts))
            and all(_address(p) == address for p, address in self._addresses)
        )

    def may_return(self) -> bool:
        """Whether the tensors are still where they were: a flag or a hook that differs may be set back."""
        return all(_address(p)[:-2] == address[:-2] for p, address in self._addresses)


def _address(p: Tensor) -> tuple[Any, ...]:
    hooks = (*(p._backward_hooks or ()), *(p._post_accumulate_grad_hooks or ()))
    return p.data_ptr(), p.dtype, p.device, p.shape, p.stride(), p.requires_grad, hooks


class WrittenMemory:
    """The memory that a step writes to, in which no argument may lie: the graph takes the two for separate.

    `written` are the tensors that it writes to, `lasting` those that keep their addresses, `arguments` the rest.
    """

    def __init__(
        self, written: list[Tensor], lasting: list[Tensor], arguments: list[Tensor], named: dict[str, Tensor]
    ) -> None:
        of_arguments = set(map(id, arguments))
        self._named = named
        self._writes_arguments = any(id(t) in of_arguments for t in written)
        self._memory = lasting if self._writes_arguments else [t for t in written if id(t) not in of_arguments]
        self._storages = {t.untyped_storage().data_ptr() for t in self._memory if t.layout == torch.strided}

    def require_apart(self, arguments: Sequence[Tensor]) -> None:
        """Raise CaptureError for an argument in memory that a step writes, or for two in one where it writes those."""
        if self._writes_arguments:
            every = [*arguments, *self._memory]
            for group in overlapping(every):
                if group[0] < len(arguments):
                    self._refuse(arguments[group[0]], [every[i] for i in group[1:]])
        for x in arguments:
            if x.layout == torch.strided and x.untyped_storage().data_ptr() in self._storages:
                others = [t for t in self._memory if overlap(x, [t])]
                if others:
                    self._refuse(x, others)

    def _refuse(self, x: Tensor, others: list[Tensor]) -> None:
        what = in_words(others, {name: p for name, p in self._named.items() if overlap(p, others)})
        raise CaptureError(
            f"an argument of shape {tuple(x.shape)} shares memory, which a step writes to, with {what}: hand in a clone"
        )


def in_words(memory: Sequence[Tensor], named: dict[str, Tensor]) -> str:
    """The parameters, and the other tensors, that lie in this memory, for an error."""
    names = [f"parameter {name!r}" for name, p in named.items() if overlap(p, memory)]
    parameters = [p for p in named.values() if overlap(p, memory)]
    places = {(p.data_ptr(), p.shape) for p in parameters}
    others = [t for t in memory if (t.data_ptr(), t.shape) not in places]
    names += [f"a tensor of shape {tuple(t.shape)} that model or guide reads" for t in others]
    return " and ".join(names)
