"""Stand-ins of Python numbers while a step is captured: they note what is computed from them."""

from __future__ import annotations

import abc
import dis
import operator
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.compile.libraries import is_library_code, is_of_torch

if TYPE_CHECKING:
    from pyrovae.compile.python_numbers import Numbers

__all__ = ["COMPARISONS", "FixedNumber", "Followed", "plain"]

ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
SIGNS = ("neg", "pos", "abs")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
READS: tuple[str, ...] = ("float", "int", "index", "complex", "hash", "str", "repr", "format", "reduce_ex")
READS += ("trunc", "round", "floor", "ceil", "divmod", "rdivmod", "matmul", "rmatmul", "invert")
READS += tuple(f"{kind}{name}" for name in ("and", "or", "xor", "lshift", "rshift") for kind in ("", "r"))
ASKS = {"isinstance", "issubclass", "__class__", "type"}
ASKING = (isinstance, issubclass, type)
ABSTRACT = {abc.__file__, "<frozen abc>"}  # where `isinstance` goes for an abstract class
OUTCOMES = [getattr(operator, name) for name in COMPARISONS]


class FixedNumber(Exception):  # noqa: N818  (a course of the capture, not a fault)
    """The model reads the value of a number: a size, an exponent, a key. The graph is right for that value alone."""


class Followed:
    """A number while a step is captured: what is computed from it is noted, and what else reads it ends the capture.

    After the capture it is a number.
    """

    __slots__ = ("__weakref__", "at", "numbers")

    def __init__(self, numbers: Numbers, at: int) -> None:
        self.numbers, self.at = numbers, at
        numbers.made(self)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Its type, for torch and Pyro; other code may ask whether it is a float, and go by the answer."""
        if self.numbers.is_over:
            return type(self.numbers.value(self))
        if _asks(sys._getframe(1)):
            self.numbers.fix(self)
        return Followed

    def __bool__(self) -> bool:
        if self.numbers.is_over:
            return bool(self.numbers.value(self))
        return self.numbers.compared(operator.truth, self)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, named = pytree.tree_map(plain, (args, kwargs or {}))
        if any(type(x) is Followed for x in pytree.tree_leaves((given, named))):
            raise FixedNumber(f"{func.__name__} meets a number within torch")  # so torch lets the mode below have it
        return func(*given, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a protocol that a number has not either
            raise AttributeError(name)
        if self.numbers.is_over:
            return getattr(self.numbers.value(self), name)
        self.numbers.fix(self)


def plain(x: Any) -> Any:
    """A number in place of a stand-in whose capture is over."""
    return x.numbers.value(x) if type(x) is Followed and x.numbers.is_over else x


def _asks(frame: FrameType | None) -> bool:
    """Whether code asks for a type of its own accord, and not torch or Pyro, or torch's compiled code within it."""
    while frame is not None and frame.f_code.co_filename in ABSTRACT:  # on behalf of another
        frame = frame.f_back
    if frame is None:
        return False
    code = frame.f_code
    if is_library_code(code.co_filename):
        return not is_of_torch(code.co_filename)
    if ASKS & set(code.co_names) or code.co_code[frame.f_lasti] == dis.opmap["MATCH_CLASS"]:
        return True
    values = [*frame.f_locals.values(), *(frame.f_globals.get(name) for name in code.co_names)]
    return any(value is asking for value in values for asking in ASKING)


def _with(of: Callable[..., Any], self: Followed, operands: tuple[Any, ...]) -> Any:
    """What arithmetic or a comparison gives for operands, of which `self` is one; NotImplemented beside a tensor."""
    operands = tuple(map(plain, operands))
    if self.numbers.is_over:
        live = next((x for x in operands if type(x) is Followed), None)
        return (pow if len(operands) > 2 else of)(*operands) if live is None else _with(of, live, operands)
    if any(isinstance(x, Tensor) for x in operands):
        return NotImplemented
    if not all(type(x) in (float, int, bool, Followed) for x in operands) or len(operands) > 2:
        self.numbers.fix(*operands)
    return (self.numbers.compared if of in OUTCOMES else self.numbers.computed)(of, *operands)


def _arithmetic(name: str) -> None:
    of = getattr(operator, name)
    setattr(Followed, f"__{name}__", lambda self, other, *rest: _with(of, self, (self, other, *rest)))
    setattr(Followed, f"__r{name}__", lambda self, other, *rest: _with(of, self, (other, self, *rest)))


def _sign(name: str) -> None:
    of = getattr(operator, name)
    setattr(Followed, f"__{name}__", lambda self: _with(of, self, (self,)))


def _comparison(name: str) -> None:
    of = getattr(operator, name)

    def compare(self: Followed, other: Any) -> Any:
        return NotImplemented if other is None or isinstance(other, str) else _with(of, self, (self, other))

    setattr(Followed, f"__{name}__", compare)


def _read(name: str) -> None:
    def read(self: Followed, *rest: Any) -> Any:
        if not self.numbers.is_over:
            self.numbers.fix(self)
        value = self.numbers.value(self)
        return getattr(value, f"__{name}__")(*map(plain, rest))

    setattr(Followed, f"__{name}__", read)


for _name in ARITHMETIC:
    _arithmetic(_name)
for _name in SIGNS:
    _sign(_name)
for _name in COMPARISONS:
    _comparison(_name)
for _name in READS:
    _read(_name)
