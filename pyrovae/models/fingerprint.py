"""The settings of the parts of a module as a string that is the same in every process."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["settings"]


def settings(module: nn.Module) -> str:
    """The settings of a module's parts that their repr and tensors may not show: numbers, strings, lists of these.

    The attributes of the outermost module itself are left out: its name and notes are no part of its density.
    """
    parts = [(name, part) for name, part in module.named_modules() if name]
    rows_by_part = [
        (name, sorted((k, _plain(v)) for k, v in vars(part).items() if k != "training")) for name, part in parts
    ]
    return repr([(name, [(k, v) for k, v in rows if v is not None and k[0] != "_"]) for name, rows in rows_by_part])


def _plain(value: Any) -> str | None:
    """A setting as a string that is the same in every process; None for what is no setting."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Tensor | np.ndarray) and value.dtype != object:
        return repr(torch.as_tensor(value).detach().cpu().tolist())
    if isinstance(value, tuple | list):
        each = [_plain(v) for v in value]
        return None if None in each else f"[{', '.join(map(str, each))}]"
    return None
