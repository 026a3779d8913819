"""The sharpness of images relative to real ones: variance of the Laplacian and share of high frequencies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae import checks
from pyrovae.evaluation.code_space.arrays import as_images, squared_se
from pyrovae.evaluation.code_space.reconstruction import squared_error
from pyrovae.labelled import Variable, labelled

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["crispness"]


def crispness(images: Any, reference: Any, *, paired: bool | None = None) -> xr.Dataset:
    """The sharpness of `images` relative to the real ones in `reference`.

    The Laplacian of a channel is x[i-1, j] + x[i+1, j] + x[i, j-1] + x[i, j+1] - 4 x[i, j] where
    all five pixels exist. Its variance over positions is averaged over channels and then items;
    `laplacian_ratio` is the ratio of that mean to the mean of `reference`, with its delta-method
    standard error over items. `high_frequency_share` is the power |FFT|^2 at spatial frequencies of
    radius above 0.25 cycles per pixel (half the Nyquist frequency), as a share of all power except
    that at frequency zero; no window is applied.

    Both arrays have shape (N, *event), whose last two axes are height and width, of at least 3
    pixels. With `paired`, item i of `images` is compared with item i of `reference`: the result also
    has the squared errors summed over the event, `squared_error_items`, and their mean,
    `squared_error`. The default None pairs arrays of equal shape; pass False for samples. Raises
    ValueError for other shapes and for a reference of constant images.

    >>> import torch
    >>> from pyrovae import crispness
    >>> board = torch.zeros(1, 5, 5)
    >>> board[0, 2, 2] = 1.0
    >>> float(crispness(board / 2, board).laplacian_ratio)
    0.25
    """
    real, fake = as_images(reference, "reference"), as_images(images, "images")
    if real.shape[1:] != fake.shape[1:]:
        raise ValueError(f"images and reference must have one event shape, got {fake.shape[1:]} and {real.shape[1:]}")
    if min(real.shape[-2:], default=0) < 3 or real.ndim < 3:
        raise ValueError(f"images must have shape (N, ..., height, width) of at least 3 by 3 pixels, got {fake.shape}")
    laplacian = {name: _laplacian_variance(x) for name, x in (("images", fake), ("reference", real))}
    power = {name: _power(x) for name, x in (("images", fake), ("reference", real))}
    below = float(laplacian["reference"].mean())
    if below <= 0:
        raise ValueError("reference must have images that are not constant: the variance of their Laplacian is 0")
    ratio = float(laplacian["images"].mean()) / below
    paired = None if paired is None else checks.flag("paired", paired)
    if paired is None:
        paired = real.shape == fake.shape
    elif paired and real.shape != fake.shape:
        raise ValueError(f"paired images need an image for each of reference, got {len(fake)} for {len(real)}")
    if paired:
        variance = squared_se(laplacian["images"] - ratio * laplacian["reference"])
    else:
        variance = squared_se(laplacian["images"]) + ratio**2 * squared_se(laplacian["reference"])
    shares = [_share(*power[name]) for name in ("images", "reference")]
    means = [laplacian[name].mean() for name in ("images", "reference")]
    variables: dict[str, Variable] = {
        "laplacian_ratio": (ratio, "variance of the Laplacian over that of the real images", "1"),
        "laplacian_ratio_se": (math.sqrt(variance) / below, "standard error of the ratio over items", "1"),
        "laplacian_variance": (means, "mean variance of the Laplacian", "pixel units^2", "source"),
        "high_frequency_share": (shares, "share of power above half the Nyquist frequency", "1", "source"),
    }
    if paired:
        variables |= squared_error(fake, real)
    return labelled(variables, {"source": ["images", "reference"]})


def _laplacian_variance(x: np.ndarray) -> np.ndarray:
    """The variance of the five-point Laplacian over valid positions, averaged over channels, per item."""
    inner = x[..., 1:-1, 1:-1]
    laplacian = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:] - 4 * inner
    return laplacian.var((-2, -1)).reshape(len(x), -1).mean(1)


def _power(x: np.ndarray) -> tuple[float, float]:
    """The power at high frequencies and at all frequencies but zero, each summed over items."""
    height, width = x.shape[-2:]
    vertical, horizontal = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    high = np.hypot(vertical, horizontal) > 0.25
    total = np.zeros((height, width))
    for start in range(0, len(x), 1024):
        total += (np.abs(np.fft.fft2(x[start : start + 1024])) ** 2).reshape(-1, height, width).sum(0)
    total[0, 0] = 0.0
    return float(total[high].sum()), float(total.sum())


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
