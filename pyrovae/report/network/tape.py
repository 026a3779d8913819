"""What a function does to a tensor, call by call, as torch itself does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Call", "Tape", "taped"]

# their results have the shape of the argument and nothing of its values
OF_A_SHAPE = ("ones_like", "zeros_like", "full_like", "empty_like", "new_ones", "new_zeros", "new_full", "new_empty")


class Call(NamedTuple):
    """One call: torch's name of the operation, as "addmm", its arguments, and the tensors it gave."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Tensor]


class Tape(TorchDispatchMode):
    """A mode that notes the calls that depend on `start`, and runs all calls as they are.

    Whatever does not depend on it, such as a weight that is computed from other weights, is a constant by the time a
    noted call uses it.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._alive: dict[int, Tensor] = {id(start): start}  # kept alive, so that no other tensor gets its id

    def depends(self, value: Any) -> bool:
        """Whether a value is a tensor that was computed from the start."""
        return isinstance(value, Tensor) and id(value) in self._alive

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        depends = any(self.depends(leaf) for leaf in tree_leaves((args, kwargs)))
        result = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if depends and name not in OF_A_SHAPE:
            outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            if outputs:
                self.calls.append(Call(name, tuple(args), kwargs, outputs))
            self._alive.update((id(each), each) for each in outputs)
        return result


def taped(function: Callable[[Tensor], Tensor], start: Tensor) -> tuple[list[Call], Tensor]:
    """The calls of `function(start)` that depend on `start`, in their order, and its result.

    >>> import torch
    >>> from pyrovae.report.network.tape import taped
    >>> calls, result = taped(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()), torch.zeros(5, 2))
    >>> [call.name for call in calls], result.shape
    (['addmm', 'relu'], torch.Size([5, 3]))
    """
    with torch.no_grad(), Tape(start) as tape:
        result = function(start)
    return tape.calls, result
