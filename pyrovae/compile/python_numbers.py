"""Python numbers among the arguments of a step, followed through a capture so that a graph takes their later values."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from pyrovae.compile.errors import EAGER, CaptureError
from pyrovae.compile.kept import exchange
from pyrovae.compile.stand_ins import FixedNumber, Followed

__all__ = ["Numbers", "is_number", "other_than"]

DTYPES = (torch.float32, torch.float64, torch.int64)  # in which a tensor's entry rounds a number as a kernel does
LARGEST = torch.finfo(torch.float32).max


def is_number(x: Any) -> bool:
    """Whether an argument is a Python number that may change from step to step: a float or an int, and no flag."""
    return type(x) in (float, int)


def other_than(x: float) -> float:
    """Another number of the same type and sign, near enough to be in most domains that the first is in."""
    if type(x) is int:
        return x + 1
    return 0.75 * x if x else 2.0**-6


class Numbers:
    """The numbers of one capture, what Python computes from them, and the scalar tensors in which a graph reads them.

    Arithmetic of Python is repeated by Python in each step, in float64 as in eager mode. Where a number meets a tensor
    it becomes a scalar tensor of the dtype that the result has in eager mode. Comparisons are noted with their outcome,
    and what is computed with its type.

    Args:
        values: the numbers, by their places among the arguments.

    Attributes:
        places: where they are among the arguments.
        stand_ins: what the model gets in their places while it is captured, until the `end`.
        fixed: the places of those whose values were read, so that a graph would keep them.
    """

    def __init__(self, values: Mapping[int, float]) -> None:
        self.places, self.fixed = frozenset(values), set[int]()
        self._arguments = list(values)
        self._values: list[Any] = list(values.values())
        self._origins: list[set[int]] = [{place} for place in values]
        self._steps: list[tuple[Callable[..., Any], tuple[Any, ...], type]] = []
        self._guards: list[tuple[Callable[..., Any], tuple[Any, ...], bool]] = []
        self._tensors: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}
        self._written: dict[tuple[int, torch.dtype, torch.device], Any] = {}  # the value that a tensor has
        self._integers: list[int] = []  # of these, the places of what is an int, which torch reads in 64 bits
        self._made: list[weakref.ref[Followed]] = []
        self.is_over = self._is_no_number = False
        self.stand_ins = {place: Followed(self, at) for at, place in enumerate(values)}

    def hold(self, arguments: Sequence[Any]) -> bool:
        """Whether Python would take the same course with these arguments, and a graph could read what it computes."""
        if not self._guards and not self._steps and not self._integers:
            return True
        try:
            row = self._row(arguments)
            if not all(bool(of(*_filled(operands, row))) is outcome for of, operands, outcome in self._guards):
                return False
        except (ArithmeticError, _OtherType):  # the first of which eager mode is to raise
            return False
        return all(-(2**63) <= row[at] < 2**63 for at in self._integers)

    def set(self, arguments: Sequence[Any]) -> None:
        """Write what the graph reads, for these arguments, to the tensors in which it reads it."""
        if not self._tensors:
            return
        row = self._row(arguments)
        for key, tensor in self._tensors.items():
            value = row[key[0]]
            if value is not self._written.get(key):
                _write(tensor, value)
                self._written[key] = value

    def _row(self, arguments: Sequence[Any]) -> list[Any]:
        row = [arguments[place] for place in self._arguments]
        for of, operands, kind in self._steps:
            value = of(*_filled(operands, row))
            if type(value) is not kind:  # as 2**n has for a negative n
                raise _OtherType
            row.append(value)
        return row

    def end(self, *, as_numbers: bool) -> None:
        """End the capture: what the model has kept of it is a number from now on, or an error where it is used.

        A list, dict or attribute gets the number itself. All whose values were kept count as `fixed`.
        """
        self.stand_ins, self.is_over, self._is_no_number = {}, True, not as_numbers
        if any(ref() is not None for ref in self._made):
            gc.collect()  # which Pyro's and torch's own cycles may still hold
        for ref in self._made:
            if (kept := ref()) is not None:
                self.fixed |= self._origins[kept.at]
                if as_numbers:
                    exchange(kept, self._values[kept.at])
        self._made.clear()

    def computed(self, of: Callable[..., Any], *operands: Any) -> Any:
        """What Python computes from numbers, one of them followed."""
        places = tuple(_Place(x.at) if type(x) is Followed else x for x in operands)
        value = of(*_filled(places, self._values))
        if type(value) not in (float, int):
            self.fix(*operands)
        self._steps.append((of, places, type(value)))
        self._values.append(value)
        self._origins.append(set().union(*(self._origins[x.at] for x in operands if type(x) is Followed)))
        return Followed(self, len(self._values) - 1)

    def compared(self, of: Callable[..., Any], *operands: Any) -> bool:
        """The outcome of a comparison, which later values must have too."""
        places = tuple(_Place(x.at) if type(x) is Followed else x for x in operands)
        outcome = bool(of(*_filled(places, self._values)))
        self._guards.append((of, places, outcome))
        return outcome

    def fix(self, *operands: Any) -> NoReturn:
        """Note that values were read, and end the capture."""
        for x in operands:
            if type(x) is Followed:
                self.fixed |= self._origins[x.at]
        raise FixedNumber("the value of a number is read")

    def made(self, x: Followed) -> None:
        """Note a stand-in, to see whether it outlives the capture."""
        self._made.append(weakref.ref(x))

    def value(self, x: Followed) -> Any:
        """The value at the capture. CaptureError for a stand-in that was kept and never was a number of a step."""
        if self._is_no_number:
            raise CaptureError(
                "the model keeps a number among its arguments, or what it computes from one, from one evaluation to "
                "another (in a list, a dict or an attribute), and so kept one of an evaluation that no step is taken "
                f"from: compute it anew in each, pass it as a tensor, {EAGER}"
            )
        return self._values[x.at]

    def tensor(self, x: Followed, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The scalar tensor in which a graph reads a number."""
        if dtype not in DTYPES:
            self.fix(x)
        key = x.at, dtype, device
        if key not in self._tensors:
            with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
                tensor = torch.empty((), dtype=dtype, device=device)
                _write(tensor, self._values[x.at])
                self._tensors[key], self._written[key] = tensor, self._values[x.at]
                if type(self._values[x.at]) is int:
                    self._integers.append(x.at)
        return self._tensors[key]


class _OtherType(Exception):  # noqa: N818  (a course of Python, not a fault)
    """What Python computes has another type than at the capture."""


def _write(tensor: Tensor, value: Any) -> None:
    """Write a number to a scalar tensor: one that is too large for float32 as infinity, as eager mode has it."""
    with torch.no_grad():
        if type(value) is float and tensor.dtype == torch.float32 and isfinite(value) and abs(value) > LARGEST:
            tensor.copy_(torch.tensor(value, dtype=torch.float64))
        else:
            tensor.fill_(value)


class _Place(NamedTuple):
    """The place of a followed number in a row of values."""

    at: int


def _filled(operands: tuple[Any, ...], row: Sequence[Any]) -> list[Any]:
    return [row[x.at] if type(x) is _Place else x for x in operands]
