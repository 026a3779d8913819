"""Codes in the plane: grids of codes, and scatter plots by label."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy.special import ndtr, ndtri

from pyrovae.plotting.shared import (
    COLOURS,
    checked_codes,
    checked_labels,
    checked_seed,
    flag,
    halo,
    new_axes,
    number,
    titled,
    vector,
    whole,
)

__all__ = ["box_grid", "cdf_scatter", "latent_scatter", "normal_quantile_grid", "post_ae_grid"]

_MOST_CLASSES = 100


def normal_quantile_grid(n: int = 10, low: float = 0.01, high: float = 0.99) -> np.ndarray:
    """A grid of codes at standard normal quantiles: n evenly spaced probabilities from `low` to `high` on both axes.

    The result has shape (n * n, 2), row by row: the top row, with the largest second latent, comes first, and within a
    row the first latent increases. The seed post decoded this grid with its VAE. Raises ValueError unless
    0 < low < high < 1.

    >>> from pyrovae.plotting import normal_quantile_grid
    >>> normal_quantile_grid(3, 0.1, 0.9).round(2)[:4].tolist()
    [[-1.28, 1.28], [0.0, 1.28], [1.28, 1.28], [-1.28, 0.0]]
    """
    low, high = number("low", low), number("high", high)
    if not 0 < low < high < 1:
        raise ValueError(f"low and high must satisfy 0 < low < high < 1, got low={low!r} and high={high!r}")
    values = ndtri(np.linspace(low, high, whole("n", n, least=2)))
    return product_grid(values, values)


def box_grid(codes: Any, n: int = 10, quantiles: tuple[float, float] = (0.005, 0.995)) -> np.ndarray:
    """A grid of n x n evenly spaced codes over the box between two quantiles of each dimension of `codes`.

    `codes` has shape (N, 2); the result has shape (n * n, 2), in the order of `normal_quantile_grid`. Raises ValueError
    for codes of another dimension and for quantiles that do not satisfy 0 <= low < high <= 1.

    >>> from pyrovae.plotting import box_grid
    >>> box_grid([[0.0, 0.0], [2.0, 4.0]], 2, (0, 1)).tolist()
    [[0.0, 4.0], [2.0, 4.0], [0.0, 0.0], [2.0, 0.0]]
    """
    array = checked_codes("codes", codes, exactly=2)
    low, high = vector("quantiles", quantiles, 2, of="low and high").tolist()
    if not 0 <= low < high <= 1:
        raise ValueError(f"quantiles must satisfy 0 <= low < high <= 1, got {quantiles!r}")
    (left, bottom), (right, top) = np.quantile(array, [low, high], axis=0)
    n = whole("n", n, least=2)
    return product_grid(np.linspace(left, right, n), np.linspace(bottom, top, n))


def post_ae_grid() -> np.ndarray:
    """The grid that the post decoded with its AE: linspace(-5, 10) by linspace(-5, 6), 10 x 10.

    Shape (100, 2), in the order of `normal_quantile_grid`.

    >>> from pyrovae.plotting import post_ae_grid
    >>> post_ae_grid()[[0, 9, 90, 99]].tolist()
    [[-5.0, 6.0], [10.0, 6.0], [-5.0, -5.0], [10.0, -5.0]]
    """
    return product_grid(np.linspace(-5, 10, 10), np.linspace(-5, 6, 10))


def latent_scatter(
    codes: Any,
    labels: Any = None,
    *,
    dims: tuple[int, int] = (0, 1),
    ax: Axes | None = None,
    title: str | None = None,
    alpha: float = 0.6,
    size: float = 8.0,
    max_items: int = 5000,
    legend: bool = True,
    names: bool = True,
    seed: int = 0,
) -> Axes:
    """Scatter of two dimensions of the codes, shape (N, d) with d of at least 2, coloured by label.

    With `names` each class is also named at its median, so that it is not identified by colour alone; the ten colours
    repeat from the eleventh class on. The items are drawn in an order shuffled by `seed`, so that no class covers the
    others because it is drawn last. At most `max_items` are shown, the first in that order, and the figure states how
    many. The axes have the same scale if their ranges differ by less than a factor of 2. Raises ValueError for codes
    of another shape, for labels of another length, for missing labels, and for more than 100 classes.

    >>> import numpy as np
    >>> from pyrovae.plotting import latent_scatter
    >>> ax = latent_scatter(np.array([[0.0, 1.0], [2.0, 3.0]]), ["a", "b"])
    >>> ax.get_xlabel(), ax.get_ylabel(), [text.get_text() for text in ax.texts]
    ('latent 1', 'latent 2', ['a', 'b'])
    """
    legend, names = flag("legend", legend), flag("names", names)
    array = checked_codes("codes", codes, least=2)
    points, axis_names = _two(array, dims)
    ax = new_axes(ax, (5.6, 4.4))
    _scatter(ax, points, labels, alpha, size, max_items, legend, names, seed)
    spread = np.ptp(points, axis=0)
    if spread.min() > 0 and spread.max() < 2 * spread.min():
        ax.set_aspect("equal", adjustable="datalim")
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
    return titled(ax, title)


def cdf_scatter(
    codes: Any,
    labels: Any = None,
    *,
    dims: tuple[int, int] = (0, 1),
    ax: Axes | None = None,
    title: str | None = None,
    alpha: float = 0.6,
    size: float = 8.0,
    max_items: int = 5000,
    legend: bool = True,
    names: bool = True,
    seed: int = 0,
) -> Axes:
    """Scatter of the standard normal CDF of two dimensions of the codes, which is uniform if the codes are N(0, I).

    Arguments and errors are those of `latent_scatter`.

    >>> import numpy as np
    >>> from pyrovae.plotting import cdf_scatter
    >>> ax = cdf_scatter(np.zeros((1, 2)))
    >>> ax.collections[0].get_offsets().tolist(), ax.get_xlabel()
    ([[0.5, 0.5]], 'Φ(latent 1)')
    """
    legend, names = flag("legend", legend), flag("names", names)
    points, axis_names = _two(checked_codes("codes", codes, least=2), dims)
    ax = new_axes(ax, (5.2, 4.4))
    _scatter(ax, ndtr(points), labels, alpha, size, max_items, legend, names, seed)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel=f"Φ({axis_names[0]})", ylabel=f"Φ({axis_names[1]})")
    ax.set_aspect("equal")
    return titled(ax, title)


def product_grid(across: np.ndarray, up: np.ndarray) -> np.ndarray:
    first, second = np.meshgrid(across, up[::-1])
    return np.stack([first.ravel(), second.ravel()], axis=1)


def _two(codes: np.ndarray, dims: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    width = codes.shape[1]
    if (
        not isinstance(dims, tuple | list)
        or len(dims) != 2
        or not all(isinstance(dim, int | np.integer) and 0 <= dim < width for dim in dims)
    ):
        raise ValueError(f"dims must be two of the codes' dimensions 0 to {width - 1}, got {dims!r}")
    suffix = f" of {width}" if width > 2 else ""
    return codes[:, list(dims)], [f"latent {dim + 1}{suffix}" for dim in dims]


def _scatter(
    ax: Axes,
    points: np.ndarray,
    labels: Any,
    alpha: float,
    size: float,
    max_items: int,
    legend: bool,
    names: bool,
    seed: int,
) -> None:
    count = len(points)
    max_items = whole("max_items", max_items, most=sys.maxsize)
    shown = np.random.default_rng(checked_seed(seed)).permutation(count)[:max_items]
    # affects vector files alone, which would be slow to open with thousands of marks
    alpha, size = number("alpha", alpha), number("size", size)
    style: dict[str, Any] = {"s": size, "alpha": alpha, "linewidths": 0, "rasterized": len(shown) > 2000}
    of = f"{len(shown):,} of {count:,} items" if len(shown) < count else ""
    if labels is None:
        ax.scatter(*points[shown].T, color=COLOURS[0], **style)
        if of:
            ax.annotate(of, (1, 1), (-4, -4), "axes fraction", "offset points", ha="right", va="top", fontsize=8)
        return
    y = checked_labels(labels, count, of="codes")
    classes, index = np.unique(y, return_inverse=True)
    if len(classes) > _MOST_CLASSES:
        raise ValueError(
            f"labels has {len(classes)} different values, more than the {_MOST_CLASSES} a scatter can tell apart; "
            "group them or pass labels=None"
        )
    colours = np.array([COLOURS[i % len(COLOURS)] for i in range(len(classes))])
    ax.scatter(*points[shown].T, color=colours[index[shown]], **style)
    if names:
        for i, name in enumerate(classes):
            x, up = np.median(points[index == i], axis=0)
            text = ax.text(x, up, str(name), ha="center", va="center", fontsize=11, fontweight="bold", zorder=5)
            text.set(path_effects=[halo()], clip_on=True)
    if legend:
        handles = [
            Line2D([], [], linestyle="", marker="o", color=colour, label=str(name))
            for colour, name in zip(colours, classes, strict=True)
        ]
        ax.legend(
            handles=handles,
            title=of or None,
            loc="upper left",
            bbox_to_anchor=(1, 1),
            frameon=False,
            fontsize=8,
            title_fontsize=7,
            ncols=math.ceil(len(classes) / 16),
        )
