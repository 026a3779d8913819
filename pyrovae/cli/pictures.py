"""Pictures of items that the commands write."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import numpy as np

__all__ = ["IN_A_ROW", "is_image", "require_picture", "rows", "shades", "sheet"]

IN_A_ROW = 16


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether items of this shape are images, grey or in colour."""
    return len(event_shape) == 3 and event_shape[0] in (1, 3)


def require_picture(out: Path | None, event_shape: tuple[int, ...]) -> None:
    """Refuse a picture of items that are no images."""
    if out is not None and (out.suffix.lower() == ".png" or not out.suffix) and not is_image(event_shape):
        raise click.UsageError(
            f"-o {out}: pictures are of images, of shape (1, H, W) or (3, H, W), and these items have shape "
            f"{event_shape}; name a .npy or .csv file"
        )


def shades(images: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Images whose black and white are the `limits` as ones whose are 0 and 1."""
    low, high = limits
    return images if limits == (0.0, 1.0) else (images - low) / (high - low)


def sheet(images: np.ndarray) -> Any:
    """All images on one sheet."""
    from pyrovae import plotting

    return plotting.sample_sheet(images).figure


def rows(kinds: Mapping[str, np.ndarray]) -> Any:
    """A figure of rows of images, one kind below the other, in as many strips as they need."""
    import numpy as np

    from pyrovae import plotting

    names = list(kinds)
    count = len(kinds[names[0]])
    wide = math.ceil(count / math.ceil(count / IN_A_ROW))
    strips = []
    for start in range(0, count, wide):
        for name in names:
            strip = kinds[name][start : start + wide]
            if len(strip) < wide:
                strip = np.concatenate([strip, np.ones((wide - len(strip), *strip.shape[1:]), strip.dtype)])
            strips.append(strip)
    images = np.concatenate(strips)
    ax = plotting.decoded_grid(images, len(strips), wide)
    height = images.shape[2] + 1
    ticks = [height * i + height / 2 - 1 for i in range(len(strips))]
    ax.set_yticks(ticks, [names[i % len(names)] for i in range(len(strips))])
    ax.tick_params(length=0)
    return ax.figure
