"""Where Python numbers that are followed meet tensors: each becomes a scalar tensor, an input of the graph."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pyrovae.compile.python_numbers import Numbers
from pyrovae.compile.stand_ins import COMPARISONS, Followed, plain

__all__ = ["meeting"]

BINARY: tuple[str, ...] = ("add", "sub", "mul", "div", "true_divide", "multiply", "subtract", "divide", *COMPARISONS)
BINARY += tuple(f"{name}_" for name in ("add", "sub", "mul", "div"))
BINARY += tuple(f"__{kind}{name}__" for name in ("add", "sub", "mul", "truediv", "div") for kind in ("", "r", "i"))
BINARY += tuple(f"__{name}__" for name in COMPARISONS)
WITH_TENSORS = {getattr(home, name) for home in (Tensor, torch) for name in (*BINARY, "rsub") if hasattr(home, name)}
MADE = (torch.tensor, torch.as_tensor, torch.scalar_tensor)


def meeting(numbers: Numbers) -> AbstractContextManager[Any]:
    """A body in which the stand-ins of these numbers, and those that a model has kept of others, may meet tensors."""
    return _Meeting() if numbers.places else nullcontext()


class _Meeting(TorchFunctionMode):
    """Put a scalar tensor in the place of a followed number where torch computes with it and a tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        met = [x for x in _parts((args, kwargs)) if type(x) is Followed]
        if not met:
            return func(*args, **kwargs)
        if any(x.numbers.is_over for x in met):
            args, kwargs = pytree.tree_map(plain, (args, kwargs))
            return self.__torch_function__(func, types, args, kwargs)
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
            # the model may write to what it gets, and the graph reads the number anew
            values = [numbers.tensor(x, like.dtype, like.device).clone() if type(x) is Followed else x for x in args]
            return func(*values)
        numbers.fix(*met)


def _parts(values: Any) -> list[Any]:
    """The values in nested lists, tuples and dicts."""
    if isinstance(values, dict):
        values = list(values.values())
    if not isinstance(values, list | tuple):
        return [values]
    return [part for value in values for part in _parts(value)]
