"""Handlers that refuse what a graph cannot repeat: values that Python reads, and draws that are not torch's."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["no_foreign_draws", "no_seeds_set", "no_values_read"]

READS = ("item", "tolist", "numpy", "__array__", "__float__", "__int__", "__bool__", "__index__", "__complex__")


@contextmanager
def no_values_read(refusal: Callable[[], Exception]) -> Iterator[None]:
    """Raise `refusal()` where the body hands the value of a tensor to Python: a graph would keep it for ever."""
    with _Reading(refusal), _Depending(refusal):
        yield


@contextmanager
def no_foreign_draws(refusal: Callable[[], Exception]) -> Iterator[None]:
    """Raise `refusal()` where the body draws from Python's or NumPy's generator: a graph would draw once for all."""
    python, before = random.getstate(), cast(Any, np.random.get_state())
    yield
    after = cast(Any, np.random.get_state())
    if random.getstate() != python or before[2:] != after[2:] or not np.array_equal(before[1], after[1]):
        random.setstate(python)
        np.random.set_state(before)
        raise refusal()


@contextmanager
def no_seeds_set(refusal: Callable[[], Exception]) -> Iterator[None]:
    """Raise `refusal()` where the body sets torch's generator, by a seed or to where it was: a graph would not."""
    with _Drawing() as drawing:
        yield
    drawing.look()
    if drawing.is_set:
        raise refusal()


class _Reading(TorchFunctionMode):
    """Refuse values of tensors that Python reads."""

    def __init__(self, refusal: Callable[[], Exception]) -> None:
        super().__init__()
        self.refusal = refusal

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "__bool__" and _is_argument_check(sys._getframe(1)):
            return True  # the eager evaluation before has made this check already
        made = func in (torch.tensor, torch.as_tensor) and isinstance(args[0] if args else None, list | tuple)
        if getattr(func, "__name__", "") in READS or (made and _holds_tensor(args[0])):
            raise self.refusal()
        return func(*args, **(kwargs or {}))


def _is_argument_check(frame: Any) -> bool:
    """Whether the read is a distribution's check of its arguments, or of a value, against their support.

    A distribution made with validate_args=True, or before checks were turned off, makes these checks whatever the
    default is now; its flag is left as it is, because other code may use the distribution.
    """
    while isinstance(frame.f_locals.get("self"), Constraint):
        frame = frame.f_back
    if frame.f_code is Distribution.__init__.__code__:
        return True
    return frame.f_code.co_name == "_validate_sample" and isinstance(frame.f_locals.get("self"), Distribution)


class _Depending(TorchDispatchMode):
    """Refuse values that torch itself reads: a size, a fill or a comparison."""

    def __init__(self, refusal: Callable[[], Exception]) -> None:
        super().__init__()
        self.refusal = refusal

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in func.tags:
            raise self.refusal()
        return func(*args, **(kwargs or {}))


class _Drawing(TorchDispatchMode):
    """Note whether torch's generator is set between two operations; draws of other threads only move it on."""

    def __init__(self) -> None:
        super().__init__()
        self.seed = torch.initial_seed()
        begun = torch.Generator("cpu").manual_seed(self.seed).get_state()
        self.states, self.is_set = [begun, torch.get_rng_state()], False

    def look(self) -> None:
        """Compare the generator's state with what the last operation left."""
        now = torch.get_rng_state()
        if not torch.equal(now, self.states[-1]):
            self.is_set |= torch.initial_seed() != self.seed or any(torch.equal(now, state) for state in self.states)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.look()
        found = func(*args, **(kwargs or {}))
        now = torch.get_rng_state()
        if not torch.equal(now, self.states[-1]):
            self.states.append(now)
        return found


def _holds_tensor(values: Any) -> bool:
    return isinstance(values, Tensor) or (isinstance(values, list | tuple) and any(map(_holds_tensor, values)))
