"""Arrays as text: bytes in base64, and weights in float16 with a power of two before them."""

from __future__ import annotations

import base64
import math

import numpy as np

__all__ = ["as_text", "halved"]

LARGEST = 2.0**15  # float16 ends at 65504: the largest weight of an array lies below this


def as_text(array: np.ndarray, dtype: str) -> str:
    """The bytes of an array in base64, little-endian: "u1", "u2", "f2" or "f4".

    >>> import numpy as np
    >>> from pyrovae.report.network.packing import as_text
    >>> as_text(np.array([1.0]), "f4")
    'AACAPw=='
    """
    return base64.b64encode(np.ascontiguousarray(array, f"<{dtype}").tobytes()).decode()


def halved(array: np.ndarray) -> tuple[np.ndarray, float]:
    """An array in float16, and the power of two that it is to be multiplied by.

    The power puts the largest entry just below 2^15: none overflows, and small ones keep 11 bits down to 2^-29 of it.

    >>> import numpy as np
    >>> from pyrovae.report.network.packing import halved
    >>> half, scale = halved(np.array([2.0**20, 1.0]))
    >>> (half.astype(float) * scale).tolist()
    [1048576.0, 1.0]
    """
    largest = float(np.abs(array).max(initial=0.0))
    scale = 2.0 ** (math.floor(math.log2(largest)) + 1 - math.log2(LARGEST)) if largest > 0 else 1.0
    scale = max(scale, 2.0**-120)  # the page multiplies in float32
    return (array.astype(np.float64) / scale).astype(np.float16), scale
