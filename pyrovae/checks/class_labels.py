"""Checks of class labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks.arrays import is_missing, numbers, unmasked

__all__ = ["labels", "several_classes"]


def labels(y: Any, count: int | None, *, name: str = "y", of: str = "x") -> np.ndarray:
    """Return `y` as an array of one label for each of `count` items, or of as many as there are where that is None.

    Missing labels and mixed types are refused.
    """
    unmasked(y, name)
    if isinstance(y, Tensor):
        y = numbers(y, name).detach().cpu()
        array = (y.float() if y.dtype == torch.bfloat16 else y).resolve_neg().numpy()
    else:
        # a list of words and NaN would become words
        try:
            array = np.array(y, dtype=object) if isinstance(y, list | tuple) else np.asarray(y)
        except (TypeError, ValueError, RuntimeError, RecursionError) as error:
            raise TypeError(f"{name} must be an array of labels, got {type(y).__name__}: {error}") from None
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be one-dimensional, one label per item, got shape {array.shape}; {name}.ravel() of a column, "
            f"{name}.argmax(1) of indicators"
        )
    if count is not None and len(array) != count:
        raise ValueError(
            f"{name} must have a label for each item of {of}: {of} has {count} items, {name} has {len(array)}"
        )
    absent = np.array([is_missing(v) for v in array]) if array.dtype.kind in "fOmM" else np.zeros(len(array), bool)
    if absent.any():
        raise ValueError(
            f"{name} has {int(absent.sum())} missing labels (NaN or None), the first at {name}[{int(absent.argmax())}]"
        )
    if array.dtype.kind == "O":
        strings = sum(isinstance(v, str) for v in array)
        if 0 < strings < len(array):
            raise TypeError(f"{name} must be all numbers or all strings, got both")
        array = np.array(array.tolist())
    return array


def several_classes(y: np.ndarray, *, name: str = "y") -> np.ndarray:
    """Return the sorted classes of `y`; one class alone is refused."""
    classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(f"{name} must hold at least 2 classes, got only {classes.tolist()}")
    return classes
