"""The arguments of a step: tensors become inputs of a graph, and everything else a constant of it."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["flat", "kind_of", "nested"]

VALUES = (type(None), bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, torch.Size)
FLAT = {Tensor, nn.Parameter, type(None), bool, int, float, str}


def flat(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
    """The flat list of tensors and values in the arguments, and their nesting."""
    if not kwargs and all(type(x) in FLAT for x in args):
        return list(args), None
    return pytree.tree_flatten((args, kwargs))


def nested(leaves: list[Any], structure: Any) -> tuple[Any, dict[str, Any]]:
    """The arguments that `flat` took apart, put together again."""
    if structure is None:
        return leaves, {}
    args, kwargs = pytree.tree_unflatten(leaves, structure)
    return args, kwargs


def kind_of(x: Any) -> Hashable:
    """What a graph depends on in an argument: the shape, strides, dtype and device of a tensor, or the value.

    A number (0.0 is another than -0.0 or NumPy's 0.0, and NaN is like itself), a word, or a function or module, by its
    identity; else TypeError.
    """
    if isinstance(x, Tensor):
        return tuple(x.shape), x.stride() if x.layout == torch.strided else x.layout, x.dtype, x.device
    kind = type(x)
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, float):
        return kind, float.hex(x)
    if isinstance(x, complex):
        return kind, complex.__repr__(x)
    if isinstance(x, VALUES) or callable(x):
        return kind, x
    raise TypeError(
        f"an argument of type {type(x).__name__} cannot be told from a changed one: hand in its tensors and numbers, "
        "in tuples, lists and dicts"
    )
