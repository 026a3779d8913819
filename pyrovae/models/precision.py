"""Copies of a pair in another floating-point type."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyrovae.models.pair import Pair, as_module, dtype_and_device
from pyrovae.models.scopes import copied

__all__ = ["doubled", "widened"]


def widened(pair: Pair) -> Pair:
    """The pair itself, or a copy in float32 of one in half precision, which has too few digits for sums."""
    dtype = dtype_and_device(pair)[0]
    if dtype in (torch.float32, torch.float64):
        return pair
    wide: Any = copied(as_module(pair)).float()
    return wide


def doubled(pair: Pair) -> Any:
    """A copy in float64, the tensors that its parts hold in plain attributes, lists or distributions included."""
    double: Any = copied(as_module(pair)).double()
    for part in double.modules():
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                vars(part)[name] = _doubled(value)
    for part in double.children():
        part.register_forward_hook(_doubled_output)
    for name in ("model", "guide"):
        vars(double)[name] = _InFloat64()(getattr(double, name))
    return double


class _InFloat64(Messenger):
    """A handler that casts the draws of sites: a distribution of Python numbers, as Normal(0.0, 1.0), draws float32."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor) and msg["value"].is_floating_point():
            msg["value"] = msg["value"].double()


def _doubled_output(_: nn.Module, __: Any, output: Any) -> Any:
    """A hook that casts a distribution of tensors that a part makes when it is called, such as torch.zeros(2)."""
    return _doubled(output) if isinstance(output, torch.distributions.Distribution) else output


def _doubled(value: Any) -> Any:
    """A copy of a distribution in float64; a part may give one that the caller made outside of the pair."""
    if isinstance(value, nn.Module):
        return value.double()
    if isinstance(value, Tensor):
        return value.double() if value.dtype.is_floating_point else value
    if type(value) in (list, tuple):
        return type(value)(map(_doubled, value))
    if type(value) is dict:
        return {key: _doubled(each) for key, each in value.items()}
    if isinstance(value, torch.distributions.Distribution):
        value = copy.copy(value)
        for name, each in vars(value).items():
            vars(value)[name] = _doubled(each)
    return value
