"""Errors of reconstructions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrovae import checks
from pyrovae.evaluation.code_space.arrays import as_floats, as_images
from pyrovae.labelled import Variable, labelled

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["reconstruction_error", "squared_error"]


def reconstruction_error(x: Any, reconstruction: Any, *, mean: Any = None) -> xr.Dataset:
    """Errors of reconstructions: squared error, root mean squared error, and R2.

    `squared_error_items` is |x_i - r_i|^2, summed over the event, and `squared_error` its mean over
    items. `rmse` is the root of the mean over items and pixels. `r2` is 1 - sum_i |x_i - r_i|^2 /
    sum_i |x_i - m|^2, where m is `mean`, of the event's shape (usually the training mean), and by
    default the mean of `x`. Both arrays have shape (N, *event). Raises ValueError for other shapes
    and if every x_i equals m.

    >>> import torch
    >>> from pyrovae import reconstruction_error
    >>> x = torch.tensor([[0.0], [2.0]])
    >>> float(reconstruction_error(x, x + 0.5).r2)
    0.75
    """
    real = as_images(x, "x")
    decoded = checks.checked_array(reconstruction, real.shape[1:], name="reconstruction", dtype=torch.float64)
    fake = decoded.detach().cpu().numpy()
    if len(real) != len(fake):
        raise ValueError(f"reconstruction must have an item for each of x, got {len(fake)} for {len(real)}")
    centre = real.mean(0)
    if mean is not None:
        one_item = as_floats(mean, "mean")[None]
        checked_mean = checks.checked_array(one_item, real.shape[1:], name="mean", dtype=torch.float64)
        centre = checked_mean.detach().cpu().numpy()[0]
    total = float(((real - centre) ** 2).sum())
    if total <= 0:
        raise ValueError("x must have items that differ from the mean image: R2 divides by that distance")
    variables = squared_error(fake, real)
    mean_square = float(variables["squared_error"][0])
    rmse = math.sqrt(mean_square / real[0].size)
    variables["rmse"] = (rmse, "root mean squared error over items and pixels", "pixel units")
    variables["r2"] = (1 - mean_square * len(real) / total, "share of variance explained", "1")
    return labelled(variables)


def squared_error(fake: np.ndarray, real: np.ndarray) -> dict[str, Variable]:
    each = ((fake - real) ** 2).reshape(len(real), -1).sum(1)
    return {
        "squared_error": (each.mean(), "mean squared error of an item, summed over the event", "pixel units^2"),
        "squared_error_items": (each, "squared error summed over the event", "pixel units^2", "item"),
    }
