"""The test items of an explorer: which of them, their labels, and their pictures as text."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from pyrovae.columns import Column
from pyrovae.data import Dataset
from pyrovae.report.chosen import rows
from pyrovae.report.network.packing import as_text

__all__ = ["Layout", "chosen_items", "items_text", "pictures_text"]

MOST_ITEMS = 10_000
MOST_PIXELS = 2**23  # of all pictures together: 8 million bytes before they are compressed
MOST_NUMBERS = 2**19  # of items that are no images
MOST_CLASSES = 2**16


@dataclass(frozen=True)
class Layout:
    """How an item is drawn: an image of `channels` x `height` x `width`, or a row of `entries` numbers.

    `low` and `high` are the ends of an image's grey scale. An image of 1 or 3 channels is one panel; of any other
    number, a grey panel for each channel, side by side.
    """

    image: bool
    entries: int
    channels: int
    height: int
    width: int
    low: float
    high: float
    columns: tuple[Column, ...] | None = None  # of a table

    @classmethod
    def of(cls, event_shape: tuple[int, ...], values: np.ndarray, columns: tuple[Column, ...] | None = None) -> Layout:
        """The layout of items of this shape, with a scale from the values that are shown; NaN is not."""
        shape = (1, *event_shape) if len(event_shape) == 2 else event_shape
        image = len(shape) == 3 and min(shape[1:]) > 1 and shape[0] <= 16
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        elif high <= low:
            high = low + 1.0
        entries = math.prod(event_shape)
        channels, height, width = shape if image else (1, 1, entries)
        return cls(image, entries, channels, height, width, low, high, columns)

    @property
    def panels(self) -> int:
        return 1 if self.channels in (1, 3) else self.channels

    def text(self, values: np.ndarray) -> dict[str, Any]:
        """As the page takes it; items of numbers have a name and a range for each entry, from `values` (N, entries).

        Of a table these are its columns' names; "categories" has those of each column, or None.
        """
        text = {name: value for name, value in vars(self).items() if name != "columns"} | {"panels": self.panels}
        if not self.image:
            seen = np.where(np.isnan(values).all(0), 0.0, values)
            text["names"] = [f"x{i + 1}" for i in range(self.entries)]
            text["lows"] = [float(v) for v in np.nanmin(seen, 0)]
            text["highs"] = [float(v) for v in np.nanmax(seen, 0)]
        if self.columns is not None:
            text["names"] = [column.name for column in self.columns]
            text["categories"] = [column.categories and list(map(str, column.categories)) for column in self.columns]
        return text


def chosen_items(data: Dataset, event_shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Places of the test items that a page shows: all, or as many as it has room for, drawn by `seed`, in order."""
    total, entries = len(data.test), math.prod(event_shape)
    room = MOST_PIXELS if len(event_shape) > 1 else MOST_NUMBERS
    return rows(total, min(MOST_ITEMS, max(50, room // entries)), seed)


def items_text(data: Dataset, index: np.ndarray, values: np.ndarray, layout: Layout) -> dict[str, Any]:
    """What the page holds of the items at `index`; `values` are theirs, (N, entries)."""
    labels, classes = _labels(data, index)
    text: dict[str, Any] = {
        "count": len(index),
        "classes": classes,
        "layout": layout.text(values),
        "pictures": pictures_text(values, layout),
    }
    if labels is not None:
        text["labels"] = as_text(labels, "u2" if len(classes) > 256 else "u1")
    if len(index) < len(data.test):
        text["places"] = as_text(index, "f4")
    return text


def _labels(data: Dataset, index: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    """The number of each item's class, and the names of the classes."""
    y = data.test.y
    if y is None:
        return None, []
    given = y.numpy() if isinstance(y, Tensor) else np.asarray(y)
    present, codes = np.unique(given, return_inverse=True)
    if len(present) > MOST_CLASSES:
        return None, []
    names = [str(each) if data.classes is None else data.classes[int(each)] for each in present]
    return codes.reshape(-1)[index], names


def pictures_text(values: np.ndarray, layout: Layout) -> dict[str, Any]:
    """Items (N, entries) as one PNG sheet of 256 levels, row by row, or as float32 where they are no images."""
    if not layout.image:
        return {"data": as_text(values, "f4")}
    count, wide = len(values), layout.width * layout.panels
    columns = max(1, min(count, round(math.sqrt(count * layout.height / wide))))
    rows = math.ceil(count / columns)
    share = (values.astype(np.float64) - layout.low) / (layout.high - layout.low)
    bytes_ = np.rint(np.nan_to_num(share).clip(0, 1) * 255).astype(np.uint8)
    images = bytes_.reshape(count, layout.channels, layout.height, layout.width)
    if layout.panels > 1:
        images = images.transpose(0, 2, 1, 3).reshape(count, 1, layout.height, wide)
    full = np.zeros((rows * columns, *images.shape[1:]), np.uint8)
    full[:count] = images
    sheet = full.reshape(rows, columns, -1, layout.height, wide).transpose(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * layout.height, columns * wide, -1)
    out = io.BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(out, "PNG", optimize=True)
    return {"sheet": f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}", "columns": columns}
