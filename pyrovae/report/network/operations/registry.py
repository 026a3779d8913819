"""Which operations there are, found by their files; what a step is made of."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Constant", "Untranslatable", "Value", "Writer", "reader_of", "reads", "translates", "translator_of"]

LARGEST = float(np.finfo(np.float32).max)
Translator = Callable[..., Any]
Reader = Callable[..., np.ndarray]
_TRANSLATORS: dict[str, Translator] = {}
_READERS: dict[str, Reader] = {}


class Untranslatable(Exception):  # noqa: N818
    """A decoder does something that the page cannot; the message says what, in words that follow "it has"."""


@dataclass(frozen=True)
class Value:
    """An array that depends on the code: its place among a program's values, and its shape for one code."""

    index: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Constant:
    """An array that is the same for all codes; `half` says that it is kept in float16."""

    array: np.ndarray
    half: bool = False


class Writer:
    """Writes steps; `batch` is the number of codes that torch's own calls were noted with."""

    def __init__(self, batch: int, latent_dim: int) -> None:
        self.batch = batch
        self.code = Value(0, (latent_dim,))
        self.count = 1
        self.steps: list[tuple[str, tuple[Value | Constant, ...], dict[str, Any], Value]] = []

    def step(self, name: str, inputs: Sequence[Value | Constant], shape: Sequence[int], **attributes: Any) -> Value:
        """Write a step down; the array that it makes."""
        value = Value(self.count, tuple(shape))
        self.count += 1
        self.steps.append((name, tuple(inputs), attributes, value))
        return value

    def shape_of(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape for one code of a tensor of all of them."""
        if tensor.ndim == 0 or tensor.shape[0] != self.batch:
            raise Untranslatable("an operation across codes")
        return tuple(tensor.shape[1:])

    def constant(self, value: Any, rank: int | None = None, *, half: bool = False) -> Constant:
        """A number or a tensor as an array of at most `rank` axes, without an axis of the codes."""
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        if array.dtype.kind not in "fbiu":
            raise Untranslatable(f"numbers of type {array.dtype}")
        with np.errstate(over="ignore"):  # whoever writes a constant down refuses what is not finite
            array = array.astype(np.float32)
        if rank is not None and array.ndim > rank:
            one = array[:1]
            is_one = np.array_equal(array, np.broadcast_to(one, array.shape), equal_nan=True)
            if array.ndim > rank + 1 or array.shape[0] not in (1, self.batch) or not is_one:
                raise Untranslatable("an operation across codes")
            array = array[0]
        return Constant(array, half)


def translates(*names: str) -> Callable[[Translator], Translator]:
    """A decorator: the function writes calls of these operations of torch.

    It is called with the writer, the tensors that torch gave, and the call's arguments, in which `Value` stands for
    what depends on the code; it gives a `Value` for each tensor that torch gave, or for the first of them alone.
    """

    def note(function: Translator) -> Translator:
        _TRANSLATORS.update(dict.fromkeys(names, function))
        return function

    return note


def reads(name: str) -> Callable[[Reader], Reader]:
    """A decorator: the function runs steps of this name, from their attributes and arrays (codes, *shape)."""

    def note(function: Reader) -> Reader:
        _READERS[name] = function
        return function

    return note


def translator_of(name: str) -> Translator:
    """What writes calls of an operation of torch; raises `Untranslatable` where nothing does."""
    _find()
    try:
        return _TRANSLATORS[name]
    except KeyError:
        raise Untranslatable(f"the operation {name!r}") from None


def reader_of(name: str) -> Reader:
    """What runs steps of a name."""
    _find()
    return _READERS[name]


@cache
def _find() -> None:
    package = importlib.import_module("pyrovae.report.network.operations")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def as_numbers(*values: Any) -> list[float]:
    """Arguments of a call that must be Python numbers, an infinite one as the largest that float32 holds."""
    if any(isinstance(value, Tensor | Value) or math.isnan(value) for value in values):
        raise Untranslatable("an option that is no number")
    return [min(max(float(value), -LARGEST), LARGEST) for value in values]


def is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
