"""A value as an error shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["short"]


def short(value: Any) -> str:
    """A value as an error shows it: in few characters, whatever it is.

    >>> from pyrovae.checks.shown import short
    >>> short(10**100)
    'an integer of 333 bits'
    """
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of {value.dtype}"
    try:
        text = repr(value)
    except Exception:  # of a user's own class
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"
