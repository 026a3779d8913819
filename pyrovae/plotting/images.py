"""Sheets of images: reconstructions, decoded grids, interpolations, samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyrovae.plotting.codes import latent_scatter, product_grid
from pyrovae.plotting.shared import (
    checked_array,
    checked_codes,
    checked_images,
    checked_labels,
    decimal,
    mapping,
    names_of,
    new_axes,
    new_figure,
    text,
    titled,
    vector,
    whole,
)

__all__ = ["decoded_grid", "grid_over_scatter", "interpolations", "reconstructions", "sample_sheet"]

_GAP = 0.75
_MOST_IN_A_ROW = 60


def reconstructions(
    x: Any, rows: Mapping[str, Any], codes: Mapping[str, Any] | None = None, *, labels: Any = None, name: str = "test"
) -> Figure:
    """N images `x` in a row, and below it a row of reconstructions for each entry of `rows`.

    `codes` may give the codes of some rows, shape (N, d). They are printed under the reconstructions with one decimal;
    if d is over 2, only the first two dimensions. The N `labels` are printed above the images and `name` to their left.
    Raises ValueError for reconstructions of another shape than x's, for lengths that differ and for codes of a row that
    is not in `rows`.

    >>> import numpy as np
    >>> from pyrovae.plotting import reconstructions
    >>> x = np.ones((1, 8, 8))
    >>> figure = reconstructions(x, {"AE": x / 2}, {"AE": np.array([[-1.23, 0.8]])})
    >>> [text.get_text() for text in figure.axes[1].get_xticklabels()]
    ['(-1.2, 0.8)']
    """
    name = text("name", name)
    originals = checked_images("x", x)
    count = len(originals)
    if count > _MOST_IN_A_ROW:
        raise ValueError(
            f"x must have at most {_MOST_IN_A_ROW} images to fit in a row, got {count}; pass a few, as x[:10]"
        )
    drawn = {name: originals}
    rows = mapping("rows", rows, "name to images", may_be_empty=True)
    codes = {} if codes is None else mapping("codes", codes, "name of a row to codes", may_be_empty=True)
    for row, values in rows.items():
        if row == name:
            raise ValueError(f"rows may not be called {name!r}, as x's own row is; pass another name=")
        drawn[row] = checked_images(f"rows[{row!r}]", values)
        if drawn[row].shape != originals.shape:
            raise ValueError(
                f"rows[{row!r}] must have as many images as x and of the same size: "
                f"x has shape {originals.shape}, rows[{row!r}] has {drawn[row].shape}"
            )
    under: dict[str, list[str]] = {}
    for row, values in codes.items():
        if row not in rows:
            raise ValueError(f"codes must be of the rows {', '.join(map(repr, rows))}, got {row!r}")
        under[row] = [
            _coordinates(code) for code in checked_codes(f"codes[{row!r}]", values, least=1, count=count, of="x")
        ]
    over = None if labels is None else [str(label) for label in checked_labels(labels, count, of="x")]

    height, width = originals.shape[1:3]
    figure = new_figure((0.8 + 0.78 * count, len(drawn) * (0.75 * height / width + 0.25)))
    axes = figure.subplots(len(drawn), 1, squeeze=False)[:, 0]
    for ax, (row, images) in zip(axes, drawn.items(), strict=True):
        centres, _ = _draw_sheet(ax, images, 1, count)
        ax.set_ylabel(row, rotation=0, ha="right", va="center", labelpad=8)
        if row in under:
            ax.set_xticks(centres, under[row], fontsize=7)
        elif row == name and over is not None:
            ax.set_xticks(centres, over, fontsize=9)
            ax.xaxis.tick_top()
        ax.tick_params(length=0)
    return figure


def decoded_grid(
    images: Any,
    n_rows: int,
    n_cols: int,
    *,
    x_values: Any = None,
    y_values: Any = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """n_rows x n_cols images as one sheet, row by row from the top left, as the grids of this module are ordered.

    `x_values`, n_cols of them from left to right, and `y_values`, n_rows of them from top to bottom, are the codes of
    the columns and rows and label the axes. Raises ValueError if the number of images or values does not match.

    >>> import numpy as np
    >>> from pyrovae.plotting import decoded_grid
    >>> ax = decoded_grid(np.zeros((6, 8, 8)), 2, 3, x_values=[-1, 0, 1], y_values=[1, -1])
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['-1.0', '0.0', '1.0']
    """
    array = checked_images("images", images)
    n_rows, n_cols = whole("n_rows", n_rows), whole("n_cols", n_cols)
    if len(array) != n_rows * n_cols:
        raise ValueError(f"images must be n_rows * n_cols = {n_rows * n_cols} images, got {len(array)}")
    across = None if x_values is None else vector("x_values", x_values, n_cols, of="columns")
    down = None if y_values is None else vector("y_values", y_values, n_rows, of="rows")
    ax = new_axes(ax, _sheet_size(array, n_rows, n_cols))
    centres, middles = _draw_sheet(ax, array, n_rows, n_cols)
    if across is not None:
        ticks = _some(n_cols)
        ax.set_xticks(centres[ticks], [decimal(v) for v in across[ticks]], fontsize=7)
        ax.set_xlabel("latent 1")
    if down is not None:
        ticks = _some(n_rows)
        ax.set_yticks(middles[ticks], [decimal(v) for v in down[ticks]], fontsize=7)
        ax.set_ylabel("latent 2")
    ax.tick_params(length=2)
    return titled(ax, title)


def grid_over_scatter(
    codes: Any,
    labels: Any,
    grid_codes: Any,
    images: Any,
    title: str | None = None,
    *,
    alpha: float = 0.6,
    size: float = 8.0,
    max_items: int = 5000,
    seed: int = 0,
) -> Figure:
    """A scatter of codes with a grid drawn over it, and to its right the decoded images of the grid, equally oriented.

    `codes` has shape (N, 2). `grid_codes`, shape (R * C, 2), contains every pair of C first and R second latents in any
    order, and `images` their decodings in the same order. In both panels the first latent increases to the right and
    the second upward. `labels` may be None. Raises ValueError for grid codes that are not such a grid and for lengths
    that differ.

    >>> import numpy as np
    >>> from pyrovae.plotting import grid_over_scatter
    >>> from pyrovae.plotting import normal_quantile_grid
    >>> grid = normal_quantile_grid(3)
    >>> figure = grid_over_scatter(np.zeros((1, 2)), [7], grid, np.zeros((9, 8, 8)), "VAE")
    >>> [ax.get_xlabel() for ax in figure.axes]
    ['latent 1', 'latent 1']
    """
    array = checked_codes("codes", codes, exactly=2)
    grid = checked_codes("grid_codes", grid_codes, exactly=2)
    decoded = checked_images("images", images)
    if len(decoded) != len(grid):
        raise ValueError(f"images must have an image for each of grid_codes: {len(decoded)} images, {len(grid)} codes")
    across, down = np.unique(grid[:, 0]), np.unique(grid[:, 1])[::-1]
    order = np.lexsort((grid[:, 0], -grid[:, 1]))
    if len(grid) != len(across) * len(down) or not np.array_equal(grid[order], product_grid(across, down[::-1])):
        raise ValueError(
            f"grid_codes must hold every pair of its first and second latents once, got {len(grid)} codes with "
            f"{len(across)} first and {len(down)} second latents; make them with normal_quantile_grid or box_grid"
        )
    figure = new_figure((10.4, 4.8))
    left, right = figure.subplots(1, 2)
    latent_scatter(array, labels, ax=left, alpha=alpha, size=size, max_items=max_items, seed=seed)
    left.scatter(grid[:, 0], grid[:, 1], s=16, marker="s", color="black", edgecolor="white", linewidth=0.6, zorder=4)
    decoded_grid(decoded[order], len(down), len(across), x_values=across, y_values=down, ax=right)
    left.set_title("codes, and the grid (black)", fontsize=10)
    right.set_title("the grid, decoded", fontsize=10)
    if title is not None:
        figure.suptitle(title)
    return figure


def interpolations(
    images: Any, *, titles: Sequence[object] | None = None, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Rows of images between pairs of codes: shape (P, S, H, W) or (P, S, C, H, W), for P pairs in S steps.

    The P `titles` label the rows. The horizontal axis is the share of the way, in even steps from 0 to 1. Raises
    ValueError for another shape, for fewer than 2 steps and for titles of another length.

    >>> import numpy as np
    >>> from pyrovae.plotting import interpolations
    >>> ax = interpolations(np.zeros((2, 5, 1, 8, 8)), titles=["3 to 5", "1 to 7"])
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['3 to 5', '1 to 7']
    """
    array = checked_array("images", images)
    if array.ndim not in (4, 5):
        raise ValueError(f"images must have shape (P, S, H, W) or (P, S, C, H, W), got {array.shape}")
    n_rows, n_cols = array.shape[:2]
    if n_cols < 2:
        raise ValueError(f"images must have at least 2 steps on the second axis, got shape {array.shape}")
    flat = checked_images("images", array.reshape(-1, *array.shape[2:]), shape=array.shape)
    titles = None if titles is None else names_of(titles)
    if titles is not None and len(titles) != n_rows:
        raise ValueError(f"titles must have one for each row of images: {n_rows} rows, {len(titles)} titles")
    ax = new_axes(ax, _sheet_size(flat, n_rows, n_cols))
    centres, middles = _draw_sheet(ax, flat, n_rows, n_cols)
    if titles is not None:
        ax.set_yticks(middles, titles)
    ax.set_xticks(np.linspace(centres[0], centres[-1], 5), ["0", "¼", "½", "¾", "1"])
    ax.set_xlabel("share of the way from the first code to the second")
    ax.tick_params(length=2)
    return titled(ax, title)


def sample_sheet(images: Any, *, n_cols: int | None = None, ax: Axes | None = None, title: str | None = None) -> Axes:
    """All images as one sheet, row by row from the top left; by default with about as many rows as columns.

    >>> import numpy as np
    >>> from pyrovae.plotting import sample_sheet
    >>> sample_sheet(np.zeros((10, 1, 8, 8)), n_cols=5).images[0].get_array().shape
    (17, 44)
    """
    array = checked_images("images", images)
    columns = math.ceil(math.sqrt(len(array))) if n_cols is None else whole("n_cols", n_cols)
    columns = min(columns, len(array))
    n_rows = math.ceil(len(array) / columns)
    ax = new_axes(ax, _sheet_size(array, n_rows, columns))
    _draw_sheet(ax, array, n_rows, columns)
    return titled(ax, title)


def _sheet(images: np.ndarray, n_rows: int, n_cols: int) -> np.ndarray:
    height, width = images.shape[1:3]
    sheet = np.full((n_rows * (height + 1) - 1, n_cols * (width + 1) - 1, *images.shape[3:]), _GAP)
    for i, image in enumerate(images):
        top, left = i // n_cols * (height + 1), i % n_cols * (width + 1)
        sheet[top : top + height, left : left + width] = image
    used = len(images) - (n_rows - 1) * n_cols
    if used < n_cols:
        sheet[max(0, sheet.shape[0] - height - 1) :, used * (width + 1) - 1 :] = 1.0
    return sheet


def _draw_sheet(ax: Axes, images: np.ndarray, n_rows: int, n_cols: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the sheet without ticks; return the pixel positions of the centres of its columns and of its rows."""
    ax.imshow(_sheet(images, n_rows, n_cols), cmap="gray", vmin=0, vmax=1, origin="upper", interpolation="antialiased")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    height, width = images.shape[1:3]
    return np.arange(n_cols) * (width + 1) + (width - 1) / 2, np.arange(n_rows) * (height + 1) + (height - 1) / 2


def _sheet_size(images: np.ndarray, n_rows: int, n_cols: int) -> tuple[float, float]:
    # 0.45 inches per tile, or less to keep the sheet within 12 inches
    height, width = images.shape[1:3]
    tile = min(0.45, 12 / n_cols, 12 * width / (n_rows * height))
    return max(1.5, 0.6 + tile * n_cols), max(1.0, 0.6 + tile * n_rows * height / width)


def _some(count: int) -> np.ndarray:
    return np.arange(0, count, math.ceil(count / 12))


def _coordinates(code: np.ndarray) -> str:
    return f"({', '.join(decimal(v) for v in code[:2])}{', …' if len(code) > 2 else ''})"
