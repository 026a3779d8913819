"""Python numbers among the arguments of a step, followed through a capture so that a graph takes their later values."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrovae.compile.libraries import is_library_code

__all__ = ["FixedNumber", "Followed", "Numbers", "is_number"]

ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
SIGNS = ("neg", "pos", "abs")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
READS = (
    "float",
    "int",
    "index",
    "complex",
    "hash",
    "str",
    "repr",
    "trunc",
    "round",
    "floor",
    "ceil",
    "divmod",
    "reduce_ex",
)
ASKS = {"isinstance", "issubclass", "__class__", "type"}
DTYPES = (torch.float32, torch.float64, torch.int64)  # in which a tensor's entry rounds a number as a kernel does


def is_number(x: Any) -> bool:
    """Whether an argument is a Python number that may change from step to step: a float or an int, and no flag."""
    return type(x) in (float, int)


class FixedNumber(Exception):  # noqa: N818  (a course of the capture, not a fault)
    """The model reads the value of a number: a size, an exponent, a key. The graph is right for that value alone."""


class Numbers:
    """The numbers of one capture, what Python computes from them, and the scalar tensors in which a graph reads them.

    Arithmetic of Python is repeated by Python in each step, in float64 as in eager mode. Where a number meets a tensor
    it becomes a scalar tensor of the dtype that the result has in eager mode. Comparisons are noted with their outcome.

    Args:
        values: the numbers, by their places among the arguments.

    Attributes:
        places: where they are among the arguments.
        stand_ins: what the model gets in their places while it is captured.
        fixed: the places of those whose values were read, so that a graph would keep them.
    """

    def __init__(self, values: Mapping[int, float]) -> None:
        self.places, self.fixed = frozenset(values), set[int]()
        self._arguments = list(values)
        self._values: list[Any] = list(values.values())
        self._origins: list[set[int]] = [{place} for place in values]
        self._steps: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._guards: list[tuple[Callable[..., Any], tuple[Any, ...], bool]] = []
        self._tensors: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}
        self.stand_ins = {place: Followed(self, at) for at, place in enumerate(values)}

    @property
    def are_read(self) -> bool:
        """Whether the graph reads any of them."""
        return bool(self._tensors)

    def meeting(self) -> AbstractContextManager[Any]:
        """A body in which the stand-ins may meet tensors."""
        return _Meeting() if self.places else nullcontext()

    def hold(self, arguments: Sequence[Any]) -> bool:
        """Whether Python would take the same course with these arguments."""
        if not self._guards and not self._steps:
            return True
        try:
            row = self._row(arguments)
            return all(bool(of(*_filled(operands, row))) is outcome for of, operands, outcome in self._guards)
        except ArithmeticError:  # which eager mode is to raise
            return False

    def set(self, arguments: Sequence[Any]) -> None:
        """Write what the graph reads, for these arguments, to the tensors in which it reads it."""
        if not self._tensors:
            return
        row = self._row(arguments)
        with torch.no_grad():
            for (at, *_), tensor in self._tensors.items():
                if row[at] is not self._values[at]:
                    tensor.fill_(row[at])
        self._values = row

    def _row(self, arguments: Sequence[Any]) -> list[Any]:
        row = [arguments[place] for place in self._arguments]
        for of, operands in self._steps:
            row.append(of(*_filled(operands, row)))
        return row

    def computed(self, of: Callable[..., Any], *operands: Any) -> Any:
        """What Python computes from numbers, one of them followed."""
        places = tuple(_Place(x.at) if type(x) is Followed else x for x in operands)
        value = of(*_filled(places, self._values))
        if type(value) not in (float, int):
            self.fix(*operands)
        self._steps.append((of, places))
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

    def value(self, x: Followed) -> Any:
        """The present value."""
        return self._values[x.at]

    def tensor(self, x: Followed, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The scalar tensor in which a graph reads a number."""
        if dtype not in DTYPES:
            self.fix(x)
        key = x.at, dtype, device
        if key not in self._tensors:
            with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
                self._tensors[key] = torch.full((), self._values[x.at], dtype=dtype, device=device)
        return self._tensors[key]


class _Place(NamedTuple):
    """The place of a followed number in a row of values."""

    at: int


def _filled(operands: tuple[Any, ...], row: Sequence[Any]) -> list[Any]:
    return [row[x.at] if type(x) is _Place else x for x in operands]


class Followed:
    """A number while a step is captured: what is computed from it is noted, and what else reads it ends the capture."""

    __slots__ = ("at", "numbers")

    def __init__(self, numbers: Numbers, at: int) -> None:
        self.numbers, self.at = numbers, at

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Its type, for a library's questions; a user's code may ask whether it is a float, and go by the answer."""
        code = sys._getframe(1).f_code
        if ASKS & set(code.co_names) and not is_library_code(code.co_filename):
            self.numbers.fix(self)
        return Followed

    def __bool__(self) -> bool:
        return self.numbers.compared(operator.truth, self)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise FixedNumber(f"{func.__name__} meets a number within torch")  # by which torch lets the mode below have it

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # a protocol that a number has not either
            raise AttributeError(name)
        self.numbers.fix(self)


def _arithmetic(name: str) -> None:
    of = getattr(operator, name)

    def forward(self: Followed, other: Any) -> Any:
        known = type(other) in (float, int, bool, Followed)
        return self.numbers.computed(of, self, other) if known else NotImplemented

    def backward(self: Followed, other: Any) -> Any:
        known = type(other) in (float, int, bool, Followed)
        return self.numbers.computed(of, other, self) if known else NotImplemented

    setattr(Followed, f"__{name}__", forward)
    setattr(Followed, f"__r{name}__", backward)


def _sign(name: str) -> None:
    of = getattr(operator, name)
    setattr(Followed, f"__{name}__", lambda self: self.numbers.computed(of, self))


def _comparison(name: str) -> None:
    of = getattr(operator, name)

    def compare(self: Followed, other: Any) -> Any:
        if other is None or isinstance(other, str):
            return NotImplemented
        known = type(other) in (float, int, bool, Followed)
        return self.numbers.compared(of, self, other) if known else NotImplemented

    setattr(Followed, f"__{name}__", compare)


def _read(name: str) -> None:
    def read(self: Followed, *_: Any) -> NoReturn:
        self.numbers.fix(self)

    setattr(Followed, f"__{name}__", read)


for _name in ARITHMETIC:
    _arithmetic(_name)
for _name in SIGNS:
    _sign(_name)
for _name in COMPARISONS:
    _comparison(_name)
for _name in READS:
    _read(_name)


# where numbers meet tensors -------------------------------------------------------------------------

BINARY: tuple[str, ...] = ("add", "sub", "mul", "div", "true_divide", "multiply", "subtract", "divide", *COMPARISONS)
BINARY += tuple(f"{name}_" for name in ("add", "sub", "mul", "div"))
BINARY += tuple(f"__{kind}{name}__" for name in ("add", "sub", "mul", "truediv", "div") for kind in ("", "r", "i"))
BINARY += tuple(f"__{name}__" for name in COMPARISONS)
WITH_TENSORS = {getattr(home, name) for home in (Tensor, torch) for name in (*BINARY, "rsub") if hasattr(home, name)}
MADE = (torch.tensor, torch.as_tensor, torch.scalar_tensor)


class _Meeting(TorchFunctionMode):
    """Put a scalar tensor in the place of a followed number where torch computes with it and a tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        met = [x for x in _parts((args, kwargs)) if type(x) is Followed]
        if not met:
            return func(*args, **kwargs)
        numbers = met[0].numbers
        if func in WITH_TENSORS and len(args) == 2 and not kwargs and len(met) == 1:
            (tensor,) = (x for x in args if type(x) is not Followed)
            if isinstance(tensor, Tensor):
                dtype = torch.result_type(tensor, numbers.value(met[0]))
                scalar = numbers.tensor(met[0], dtype, tensor.device)
                return func(*(scalar if x is met[0] else x for x in args))
        if func in MADE and len(args) == 1 and not kwargs.keys() - {"dtype", "device"} and type(args[0]) is Followed:
            of_value = torch.int64 if type(numbers.value(met[0])) is int else torch.get_default_dtype()
            device = torch.empty(0).device if kwargs.get("device") is None else torch.device(kwargs["device"])
            return numbers.tensor(met[0], kwargs.get("dtype") or of_value, device).clone()
        if func is torch.broadcast_tensors and not kwargs:  # by a distribution, whose numbers are as its first tensor
            like = next((x for x in args if isinstance(x, Tensor)), torch.empty(0))
            values = [numbers.tensor(x, like.dtype, like.device) if type(x) is Followed else x for x in args]
            return func(*values)
        numbers.fix(*met)


def _parts(values: Any) -> list[Any]:
    """The values in nested lists, tuples and dicts."""
    if isinstance(values, dict):
        values = list(values.values())
    if not isinstance(values, list | tuple):
        return [values]
    return [part for value in values for part in _parts(value)]
