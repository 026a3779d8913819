"""Binarisation of grey values."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.data.mapped import MappedArray, require_numbers

__all__ = ["binarize"]


def binarize(
    x: Tensor | MappedArray | np.ndarray, *, how: Literal["sample", "threshold"] = "sample", seed: int = 0
) -> Tensor:
    """Binarise values in [0, 1]: by a draw of Bernoulli(x) for each ("sample"), or as x >= 0.5 ("threshold").

    Shape and dtype are kept. The draws depend on `seed` alone and not on the device. One "sample" for all epochs is the
    static binarisation of Burda, Grosse and Salakhutdinov (2016), appendix D and table 1, and a new one per epoch their
    stochastic binarisation. Raises ValueError for an empty `x`, for NaN and for values outside [0, 1]; TypeError for a
    masked array.

    >>> import torch
    >>> from pyrovae.data import binarize
    >>> binarize(torch.tensor([0.0, 0.49, 0.5, 1.0]), how="threshold")
    tensor([0., 0., 1., 1.])
    >>> round(float(binarize(torch.full((500, 500), 0.25)).mean()), 2)
    0.25
    """
    checks.choice("how", how, ["sample", "threshold"])
    seed = checks.seed(seed, most=2**64 - 1)  # the range of torch.Generator.manual_seed
    if isinstance(x, Tensor):
        values = checks.numbers(x.detach(), "x")
    elif isinstance(x, MappedArray):
        values = x.exactly(slice(None))
    else:
        array = np.asanyarray(x)
        require_numbers(array, "x")
        values = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    if values.numel() == 0:
        raise ValueError(f"x is empty: expected at least one value, got shape {tuple(values.shape)}")
    absent = int(torch.isnan(values).sum())
    present = values[~torch.isnan(values)] if absent else values
    if absent or bool(present.min() < 0) or bool(present.max() > 1):
        range_of = "no other value"
        if present.numel():
            range_of = f"min {float(present.min()):g}, max {float(present.max()):g}"
        hint = "impute or drop them first" if absent else "scale x to [0, 1] first (8-bit values: divide by 255)"
        raise ValueError(f"x must lie in [0, 1] to be binarised, got {range_of} and {absent} NaN; {hint}")
    values = values.to(x.dtype) if isinstance(x, MappedArray) else values
    if how == "threshold":
        return (values >= 0.5).to(values.dtype)
    # half precision has too few uniform numbers for a fair draw
    precision = torch.float64 if values.dtype == torch.float64 else torch.float32
    uniform = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed), dtype=precision)
    return (uniform.to(values.device) < values).to(values.dtype)
