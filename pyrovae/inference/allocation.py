"""A limit on the memory that new tensors of a body may take together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pyrovae.memory import in_words

__all__ = ["AtMost"]


class AtMost(TorchDispatchMode):
    """Refuse a tensor before it is allocated where those that the body has made so far would take over `most` bytes.

    Each operation is run on the meta device first, which says how much it needs and allocates nothing. What is freed
    again is not counted off. Raises ValueError.

    >>> import torch
    >>> from pyrovae.inference.allocation import AtMost
    >>> with AtMost(1_000):
    ...     _ = torch.nn.Linear(2, 3)
    ...     _ = torch.nn.Linear(10**6, 10**6)
    Traceback (most recent call last):
        ...
    ValueError: it takes more than 1 kB: a tensor of shape (1000000, 1000000) alone takes 4 TB
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most, self._taken = most, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        meta_args, meta_kwargs = tree_map(_on_meta, (args, kwargs))
        if "device" in meta_kwargs:
            meta_kwargs["device"] = torch.device("meta")
        try:
            result = func(*meta_args, **meta_kwargs)
        except (RuntimeError, NotImplementedError, TypeError):  # an operation that asks for values
            result = None
        self._count(result, tree_leaves((meta_args, meta_kwargs)))
        return func(*args, **kwargs)

    def _count(self, result: Any, inputs: Iterable[Any]) -> None:
        seen = {t.untyped_storage()._cdata for t in inputs if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor) or tensor.untyped_storage()._cdata in seen:
                continue  # a view, or what is changed in place
            size = tensor.untyped_storage().nbytes()
            self._taken += size
            if self._taken > self._most:
                raise ValueError(
                    f"it takes more than {in_words(self._most)}: a tensor of shape {tuple(tensor.shape)} alone takes "
                    f"{in_words(size)}"
                )


def _on_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value
