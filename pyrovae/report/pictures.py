"""Items as pictures: sheets of images as PNG within the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.report.markup import Markup, joined, text

__all__ = ["are_images", "sheet", "value_range"]

ACROSS = 160  # pixels that a small picture is enlarged to at least, in whole steps, so that its edges stay sharp


def are_images(event_shape: Sequence[int]) -> bool:
    """Whether items of this shape are shown as images: (H, W), or (C, H, W) with 1, 3 or 4 channels."""
    shape = tuple(event_shape)
    if len(shape) == 3 and shape[0] not in (1, 3, 4):
        return False
    return len(shape) in (2, 3) and min(shape[-2:]) >= 3


def value_range(x: Tensor) -> tuple[float, float]:
    """The values that are shown as black and as white: 0 and 1, or the items' own range where they leave it."""
    low, high = float(x.min()), float(x.max())
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def sheet(images: Tensor, *, columns: int, limits: tuple[float, float], alt: str, caption: Any = "") -> Markup:
    """A figure of images in rows, one PNG."""
    pixels = _pixels(images, limits)
    count, height, width = pixels.shape[:3]
    rows = -(-count // columns)
    gap = max(1, width // 12)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), 0, np.uint8)
    for place in range(count):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        canvas[top : top + height, left : left + width, :3] = pixels[place]
        canvas[top : top + height, left : left + width, 3] = 255
    wide = canvas.shape[1]
    source = f"data:image/png;base64,{base64.b64encode(_png(canvas)).decode()}"
    size = f'width="{wide}" height="{canvas.shape[0]}"'
    image = Markup(f'<img class="sheet" {size} src="{source}" alt="{text(alt)}">\n')
    return joined(
        Markup('<figure class="plot">\n'), image, Markup("<figcaption>"), caption, Markup("</figcaption>\n</figure>\n")
    )


def _pixels(images: Tensor, limits: tuple[float, float]) -> np.ndarray:
    """(N, H, W, 3) bytes; of four channels the last, the opacity, is left out."""
    low, high = limits
    x = images.detach().cpu().double()
    x = x[:, None] if x.ndim == 3 else x
    x = x[:, :3] if x.shape[1] == 4 else x
    scaled = ((x - low) / (high - low or 1.0)).clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels: np.ndarray = scaled.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    return pixels


def _png(canvas: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(canvas, "RGBA").save(stream, "PNG", optimize=True)
    return stream.getvalue()
