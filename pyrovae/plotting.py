"""Figures from arrays: Axes out, or a Figure where several are drawn. The only file that imports matplotlib.

Nothing here trains, samples a model or saves a file, and pyplot is never imported: no backend is chosen, no global
state touched. Arrays are numpy's or torch's. Without `ax` a new Figure is made; `ax.figure.savefig(path)` writes it.
Images are (N, H, W) or (N, C, H, W) with C of 1 or 3, in [0, 1]; what lies beyond is clipped, and 0 is black.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy.special import ndtr, ndtri

__all__ = [
    "box_grid",
    "cdf_scatter",
    "decoded_grid",
    "grid_over_scatter",
    "interpolations",
    "interval_plot",
    "latent_scatter",
    "learning_curve",
    "normal_quantile_grid",
    "per_class",
    "post_ae_grid",
    "rate_distortion",
    "reconstructions",
    "sample_sheet",
]

# ten colours chosen for colour-vision deficiency: Petroff, "Accessible color sequences for data visualization", 2021
_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
# the same for few curves, those furthest apart in lightness and hue first
_SERIES = tuple(_COLOURS[i] for i in (0, 2, 1, 4, 8, 5, 6, 7, 3, 9))
_MARKERS = "osD^vP*X<>"
_LINES = ("-", "--", "-.", ":")
_GAP = 0.75
_MOST_CLASSES = 100
_MOST_IN_A_ROW = 60


def normal_quantile_grid(n: int = 10, low: float = 0.01, high: float = 0.99) -> np.ndarray:
    """Codes on the standard normal's quantiles: the n probabilities from `low` to `high`, evenly spaced, on both axes.

    Shape (n * n, 2), row by row: the top row, with the largest second latent, comes first, and in a row the first
    latent grows. The seed post decoded this grid with its VAE. Raises ValueError unless 0 < low < high < 1.

    >>> normal_quantile_grid(3, 0.1, 0.9).round(2)[:4].tolist()
    [[-1.28, 1.28], [0.0, 1.28], [1.28, 1.28], [-1.28, 0.0]]
    """
    if not 0 < low < high < 1:
        raise ValueError(f"low and high must satisfy 0 < low < high < 1, got low={low!r} and high={high!r}")
    values = ndtri(np.linspace(low, high, _whole("n", n, least=2)))
    return _product(values, values)


def box_grid(codes: Any, n: int = 10, quantiles: tuple[float, float] = (0.005, 0.995)) -> np.ndarray:
    """n x n evenly spaced codes over the box between two quantiles of each of the codes' two dimensions.

    `codes` has shape (N, 2); the answer has shape (n * n, 2) in the order of `normal_quantile_grid`. Raises ValueError
    for codes of another dimension and quantiles that are not 0 <= low < high <= 1.

    >>> box_grid([[0.0, 0.0], [2.0, 4.0]], 2, (0, 1)).tolist()
    [[0.0, 4.0], [2.0, 4.0], [0.0, 0.0], [2.0, 0.0]]
    """
    array = _codes("codes", codes, exactly=2)
    low, high = quantiles
    if not 0 <= low < high <= 1:
        raise ValueError(f"quantiles must satisfy 0 <= low < high <= 1, got {quantiles!r}")
    (left, bottom), (right, top) = np.quantile(array, [low, high], axis=0)
    n = _whole("n", n, least=2)
    return _product(np.linspace(left, right, n), np.linspace(bottom, top, n))


def post_ae_grid() -> np.ndarray:
    """The grid the seed post decoded with its AE: linspace(-5, 10) by linspace(-5, 6), 10 x 10.

    Shape (100, 2), in the order of `normal_quantile_grid`.

    >>> post_ae_grid()[[0, 9, 90, 99]].tolist()
    [[-5.0, 6.0], [10.0, 6.0], [-5.0, -5.0], [10.0, -5.0]]
    """
    return _product(np.linspace(-5, 10, 10), np.linspace(-5, 6, 10))


def reconstructions(
    x: Any, rows: Mapping[str, Any], codes: Mapping[str, Any] | None = None, *, labels: Any = None, name: str = "test"
) -> Figure:
    """Images `x` (N of them) in a row, and under them a row of reconstructions for each entry of `rows`.

    `codes` gives some of the rows' codes, shape (N, d): they are printed under the reconstructions with one decimal,
    the first two alone where d is over 2. `labels` (N) are printed over the images and `name` beside them. Raises
    ValueError for images of another shape than x's, lengths that differ and codes of a row that is not there.

    >>> import numpy as np
    >>> x = np.ones((1, 8, 8))
    >>> figure = reconstructions(x, {"AE": x / 2}, {"AE": np.array([[-1.23, 0.8]])})
    >>> [text.get_text() for text in figure.axes[1].get_xticklabels()]
    ['(-1.2, 0.8)']
    """
    originals = _images("x", x)
    count = len(originals)
    if count > _MOST_IN_A_ROW:
        raise ValueError(
            f"x must have at most {_MOST_IN_A_ROW} images to fit in a row, got {count}; pass a few, as x[:10]"
        )
    drawn = {name: originals}
    for row, values in rows.items():
        if row == name:
            raise ValueError(f"rows may not be called {name!r}, as x's own row is; pass another name=")
        drawn[row] = _images(f"rows[{row!r}]", values)
        if drawn[row].shape != originals.shape:
            raise ValueError(
                f"rows[{row!r}] must have as many images as x and of the same size: "
                f"x has shape {originals.shape}, rows[{row!r}] has {drawn[row].shape}"
            )
    under: dict[str, list[str]] = {}
    for row, values in (codes or {}).items():
        if row not in rows:
            raise ValueError(f"codes must be of the rows {', '.join(map(repr, rows))}, got {row!r}")
        under[row] = [_coordinates(code) for code in _codes(f"codes[{row!r}]", values, least=1, count=count, of="x")]
    over = None if labels is None else [str(label) for label in _labels(labels, count, of="x")]

    height, width = originals.shape[1:3]
    figure = Figure(figsize=(0.8 + 0.78 * count, len(drawn) * (0.75 * height / width + 0.25)), layout="constrained")
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

    With `names` each class is also written at its median, so that colour is not its only carrier; the ten colours
    repeat from the eleventh class on. The items are drawn in an order shuffled by `seed`, so that no class covers the
    others by coming last; of more than `max_items` the first of that order are shown, and the figure says so. The axes
    have one scale where the two ranges differ by less than a factor of 2. Raises ValueError for codes of another
    shape, labels of another length, missing labels, and more than 100 classes.

    >>> import numpy as np
    >>> ax = latent_scatter(np.array([[0.0, 1.0], [2.0, 3.0]]), ["a", "b"])
    >>> ax.get_xlabel(), ax.get_ylabel(), [text.get_text() for text in ax.texts]
    ('latent 1', 'latent 2', ['a', 'b'])
    """
    array = _codes("codes", codes, least=2)
    points, axis_names = _two(array, dims)
    ax = _axes(ax, (5.6, 4.4))
    _scatter(ax, points, labels, alpha, size, max_items, legend, names, seed)
    spread = np.ptp(points, axis=0)
    if spread.min() > 0 and spread.max() < 2 * spread.min():
        ax.set_aspect("equal", adjustable="datalim")
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
    return _titled(ax, title)


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
    """Scatter of the standard normal CDF of two dimensions of the codes, uniform on the square if they are N(0, I).

    Arguments and errors are those of `latent_scatter`.

    >>> import numpy as np
    >>> ax = cdf_scatter(np.zeros((1, 2)))
    >>> ax.collections[0].get_offsets().tolist(), ax.get_xlabel()
    ([[0.5, 0.5]], 'Φ(latent 1)')
    """
    points, axis_names = _two(_codes("codes", codes, least=2), dims)
    ax = _axes(ax, (5.2, 4.4))
    _scatter(ax, ndtr(points), labels, alpha, size, max_items, legend, names, seed)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel=f"Φ({axis_names[0]})", ylabel=f"Φ({axis_names[1]})")
    ax.set_aspect("equal")
    return _titled(ax, title)


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

    `x_values` (n_cols, left to right) and `y_values` (n_rows, top to bottom) are the codes of the columns and rows,
    written beside them. Raises ValueError where the number of images or values does not fit.

    >>> import numpy as np
    >>> ax = decoded_grid(np.zeros((6, 8, 8)), 2, 3, x_values=[-1, 0, 1], y_values=[1, -1])
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['-1.0', '0.0', '1.0']
    """
    array = _images("images", images)
    n_rows, n_cols = _whole("n_rows", n_rows), _whole("n_cols", n_cols)
    if len(array) != n_rows * n_cols:
        raise ValueError(f"images must be n_rows * n_cols = {n_rows * n_cols} images, got {len(array)}")
    across = None if x_values is None else _vector("x_values", x_values, n_cols, of="columns")
    down = None if y_values is None else _vector("y_values", y_values, n_rows, of="rows")
    ax = _axes(ax, _sheet_size(array, n_rows, n_cols))
    centres, middles = _draw_sheet(ax, array, n_rows, n_cols)
    if across is not None:
        kept = _some(n_cols)
        ax.set_xticks(centres[kept], [_decimal(v) for v in across[kept]], fontsize=7)
        ax.set_xlabel("latent 1")
    if down is not None:
        kept = _some(n_rows)
        ax.set_yticks(middles[kept], [_decimal(v) for v in down[kept]], fontsize=7)
        ax.set_ylabel("latent 2")
    ax.tick_params(length=2)
    return _titled(ax, title)


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
    """The codes' scatter with a grid drawn over it, and beside it the grid's decoded images the same way round.

    `codes` has shape (N, 2), `grid_codes` (R * C, 2) is every pair of C first and R second latents, `images` are their
    decodings in the order of `grid_codes`, whichever that is: in both panels the first latent grows to the right and
    the second upward. `labels` may be None. Raises ValueError for codes that are no such grid and lengths that differ.

    >>> import numpy as np
    >>> grid = normal_quantile_grid(3)
    >>> figure = grid_over_scatter(np.zeros((1, 2)), [7], grid, np.zeros((9, 8, 8)), "VAE")
    >>> [ax.get_xlabel() for ax in figure.axes]
    ['latent 1', 'latent 1']
    """
    array = _codes("codes", codes, exactly=2)
    grid = _codes("grid_codes", grid_codes, exactly=2)
    decoded = _images("images", images)
    if len(decoded) != len(grid):
        raise ValueError(f"images must have an image for each of grid_codes: {len(decoded)} images, {len(grid)} codes")
    across, down = np.unique(grid[:, 0]), np.unique(grid[:, 1])[::-1]
    order = np.lexsort((grid[:, 0], -grid[:, 1]))
    if len(grid) != len(across) * len(down) or not np.array_equal(grid[order], _product(across, down[::-1])):
        raise ValueError(
            f"grid_codes must hold every pair of its first and second latents once, got {len(grid)} codes with "
            f"{len(across)} first and {len(down)} second latents; make them with normal_quantile_grid or box_grid"
        )
    figure = Figure(figsize=(10.4, 4.8), layout="constrained")
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
    """Rows of images on the way between two codes: shape (P, S, H, W) or (P, S, C, H, W), P pairs in S steps.

    `titles` (P) are written beside the rows; the axis below is the share of the way, in even steps from 0 to 1.
    Raises ValueError for another shape, fewer than 2 steps and titles of another length.

    >>> import numpy as np
    >>> ax = interpolations(np.zeros((2, 5, 1, 8, 8)), titles=["3 to 5", "1 to 7"])
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['3 to 5', '1 to 7']
    """
    array = _array("images", images)
    if array.ndim not in (4, 5):
        raise ValueError(f"images must have shape (P, S, H, W) or (P, S, C, H, W), got {array.shape}")
    n_rows, n_cols = array.shape[:2]
    if n_cols < 2:
        raise ValueError(f"images must have at least 2 steps on the second axis, got shape {array.shape}")
    flat = _images("images", array.reshape(-1, *array.shape[2:]), shape=array.shape)
    if titles is not None and len(titles) != n_rows:
        raise ValueError(f"titles must have one for each row of images: {n_rows} rows, {len(titles)} titles")
    ax = _axes(ax, _sheet_size(flat, n_rows, n_cols))
    centres, middles = _draw_sheet(ax, flat, n_rows, n_cols)
    if titles is not None:
        ax.set_yticks(middles, [str(text) for text in titles])
    ax.set_xticks(np.linspace(centres[0], centres[-1], 5), ["0", "¼", "½", "¾", "1"])
    ax.set_xlabel("share of the way from the first code to the second")
    ax.tick_params(length=2)
    return _titled(ax, title)


def sample_sheet(images: Any, *, n_cols: int | None = None, ax: Axes | None = None, title: str | None = None) -> Axes:
    """All images as one sheet, row by row from the top left; without `n_cols`, about as many rows as columns.

    >>> import numpy as np
    >>> sample_sheet(np.zeros((10, 1, 8, 8)), n_cols=5).images[0].get_array().shape
    (17, 44)
    """
    array = _images("images", images)
    columns = math.ceil(math.sqrt(len(array))) if n_cols is None else _whole("n_cols", n_cols)
    columns = min(columns, len(array))
    n_rows = math.ceil(len(array) / columns)
    ax = _axes(ax, _sheet_size(array, n_rows, columns))
    _draw_sheet(ax, array, n_rows, columns)
    return _titled(ax, title)


def interval_plot(
    names: Sequence[object],
    mean: Any,
    low: Any,
    high: Any,
    *,
    reference: float = 0.0,
    margins: Any = None,
    normalize: bool | None = None,
    values: bool = True,
    ax: Axes | None = None,
    xlabel: str | None = None,
    title: str | None = None,
) -> Axes:
    """Means with their intervals, a row each from the top, and differences too small to matter shaded.

    `margins` is the smallest difference of interest, one number or one a row: from reference - margin to reference +
    margin is shaded. With `normalize` (the default where the margins differ) rows of different units share the axis as
    (value - reference) / margin, and the shade runs from -1 to 1. `values` writes mean and interval in their own units
    to the right. Raises ValueError for lengths that differ, intervals without their mean, margins that are not
    positive and `normalize` without margins.

    >>> ax = interval_plot(["accuracy", "nats"], [0.02, -4.0], [0.01, -9.0], [0.03, 1.0], margins=[0.01, 2.0])
    >>> [text.get_text() for text in ax.get_yticklabels()], ax.lines[0].get_xdata().tolist()
    (['accuracy', 'nats'], [2.0, -2.0])
    """
    count = len(names)
    if not count:
        raise ValueError("names is empty: expected a name for each row")
    centre, least, most = (_vector(n, v, count, of="names") for n, v in (("mean", mean), ("low", low), ("high", high)))
    wrong = (least > centre) | (centre > most)
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            "low <= mean <= high must hold in every row, "
            f"got {least[i]:g}, {centre[i]:g}, {most[i]:g} in row {i} ({names[i]})"
        )
    margin = None
    if margins is not None:
        margin = _array("margins", margins)
        margin = np.broadcast_to(margin, count) if margin.ndim == 0 else margin
        margin = _vector("margins", margin, count, of="names")
        if not (margin > 0).all():
            raise ValueError(f"margins must be greater than 0, got {margin.min():g}")
    elif normalize:
        raise ValueError("normalize=True needs margins, the smallest difference of interest of each row")
    if normalize is None:
        normalize = margin is not None and bool(np.ptp(margin) > 0)

    shift, scale = (reference, margin) if normalize and margin is not None else (0.0, np.ones(count))
    at = np.arange(count)
    ax = _axes(ax, (7.0, 1.1 + 0.42 * count))
    left, middle, right = ((v - shift) / scale for v in (least, centre, most))
    zero = reference - shift
    if margin is not None:
        shade = ax.barh(
            at,
            2 * margin / scale,
            height=1.0,
            left=zero - margin / scale,
            color="#e3e3e3",
            zorder=0,
            label="less than the smallest difference of interest",
        )
        for patch in shade:
            patch.sticky_edges.x.clear()  # so that the shade's own end is seen inside the axes
    # before the reference, so that the points are lines[0]
    ax.errorbar(
        middle,
        at,
        xerr=np.stack([middle - left, right - middle]),
        fmt="o",
        color="black",
        ecolor=_COLOURS[0],
        elinewidth=2.5,
        markersize=5,
        zorder=3,
    )
    ax.axvline(zero, color="black", linewidth=0.8, linestyle="--", zorder=1)
    ax.set_yticks(at, [str(n) for n in names])
    ax.set_ylim(count - 0.5, -0.5)
    if values:
        for i in range(count):
            ax.text(
                1.02,
                i,
                f"{centre[i]:.3g} [{least[i]:.3g}, {most[i]:.3g}]",
                transform=ax.get_yaxis_transform(),
                va="center",
                fontsize=8,
            )
    less = "difference" if reference == 0 else f"(value - {reference:g})"
    ax.set_xlabel(xlabel or (f"{less} / smallest difference of interest" if normalize else "difference"))
    if margin is not None:
        # placed from outside, so that it never lies over a row
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8, borderaxespad=0.2)
    return _titled(ax, title, pad=22 if margin is not None else None)


def rate_distortion(
    rate: Any,
    distortion: Any,
    *,
    rate_se: Any = None,
    distortion_se: Any = None,
    label: str | None = None,
    notes: Sequence[object] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Distortion against rate in nats per item, over lines of equal ELBO = -(rate + distortion).

    `rate` and `distortion` have shape (M,) and are joined in their order; `rate_se` and `distortion_se` are drawn as
    bars of one standard error; `notes` (M), such as each point's beta, are written beside the points. A second call
    on the same Axes adds a curve.
    Raises ValueError for lengths that differ, negative standard errors and values that are not finite.
    Alemi et al., "Fixing a broken ELBO", 2018, section 3.

    >>> ax = rate_distortion([5.0, 10.0], [100.0, 90.0], notes=["β = 4", "β = 1"])
    >>> ax.lines[0].get_xydata().tolist(), ax.get_xlabel()
    ([[5.0, 100.0], [10.0, 90.0]], 'rate (nats per item)')
    """
    across = _vector("rate", rate)
    down = _vector("distortion", distortion, len(across), of="rate")
    x_error, y_error = (
        None if value is None else _spread(name, value, len(across), of="rate")
        for name, value in (("rate_se", rate_se), ("distortion_se", distortion_se))
    )
    if notes is not None and len(notes) != len(across):
        raise ValueError(f"notes must have one for each point: {len(across)} points, {len(notes)} notes")
    ax = _axes(ax, (5.6, 4.4))
    earlier = [line for line in ax.lines if line.get_gid() == "rate-distortion"]
    style = len(earlier) % len(_MARKERS)
    colour = _SERIES[style % len(_SERIES)]
    bars = ax.errorbar(
        across,
        down,
        xerr=x_error,
        yerr=y_error,
        fmt=_MARKERS[style] + _LINES[style % len(_LINES)],
        markersize=5,
        color=colour,
        capsize=2,
        label=label,
        zorder=3,
    )
    bars.lines[0].set_gid("rate-distortion")
    for x, y, text in zip(across, down, notes or [], strict=False):
        ax.annotate(str(text), (x, y), (6, 5), textcoords="offset points", fontsize=8, path_effects=[_halo()], zorder=4)
    _iso_elbo(ax, [np.asarray(line.get_xydata()) for line in [*earlier, bars.lines[0]]])
    ax.set(xlabel="rate (nats per item)", ylabel="distortion (nats per item)")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=True, framealpha=0.9, fontsize=8)
    return _titled(ax, title)


def learning_curve(
    epochs: Any,
    curves: Mapping[str, Any],
    *,
    ax: Axes | None = None,
    ylabel: str = "nats per item",
    title: str | None = None,
) -> Axes:
    """One line against the epoch for each entry of `curves`, shape (E,) as `epochs`.

    An epoch where a curve is NaN or infinite (a validation not made) is left out of it, and its neighbours joined.
    Raises ValueError for no curves, lengths that differ and a curve without a finite value.

    >>> ax = learning_curve([1, 2, 3], {"loss": [9.0, 7.0, 6.0], "-validation ELBO": [9.5, float("nan"), 7.0]})
    >>> [line.get_ydata().tolist() for line in ax.lines]
    [[9.0, 7.0, 6.0], [9.5, 7.0]]
    """
    at = _vector("epochs", epochs)
    if not curves:
        raise ValueError("curves is empty: expected a dict of name to values, such as {'loss': history.epochs['loss']}")
    kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, values in curves.items():
        curve = _vector(f"curves[{name!r}]", values, len(at), of="epochs", finite=False)
        there = np.isfinite(curve)
        if not there.any():
            raise ValueError(
                f"curves[{name!r}] must have a finite value, got NaN or infinity {len(curve)} times; drop it"
            )
        kept[name] = at[there], curve[there]
    ax = _axes(ax, (5.6, 3.6))
    for i, (name, (x, y)) in enumerate(kept.items()):
        # points where they can be told apart; one point alone would be no line
        marker = _MARKERS[i % len(_MARKERS)] if len(x) <= 40 else ""
        colour, line = _SERIES[i % len(_SERIES)], _LINES[i % len(_LINES)]
        ax.plot(x, y, color=colour, linestyle=line, marker=marker, markersize=3.5, label=name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.legend(frameon=False, fontsize=8)
    return _titled(ax, title)


def per_class(
    values: Mapping[str, Any],
    *,
    errors: Mapping[str, Any] | None = None,
    classes: Sequence[object] | None = None,
    ax: Axes | None = None,
    ylabel: str = "value",
    title: str | None = None,
) -> Axes:
    """A dot for each class and each entry of `values`, shape (C,), the entries side by side within a class.

    `errors` gives half-lengths of bars, shape (C,), for some or all entries: say in `ylabel` what they are. `classes`
    are the classes' names, 0 to C - 1 without. Raises ValueError for lengths that differ, negative errors and values
    that are not finite.

    >>> ax = per_class({"AE": [0.9, 0.8], "VAE": [0.7, 0.6]}, ylabel="accuracy")
    >>> [line.get_ydata().tolist() for line in ax.lines]
    [[0.9, 0.8], [0.7, 0.6]]
    """
    if not values:
        raise ValueError("values is empty: expected a dict of name to one number a class")
    first = next(iter(values))
    count = len(_vector(f"values[{first!r}]", values[first]))
    drawn = {name: _vector(f"values[{name!r}]", v, count, of=f"values[{first!r}]") for name, v in values.items()}
    bars: dict[str, np.ndarray] = {}
    for name, v in (errors or {}).items():
        if name not in values:
            raise ValueError(f"errors must be of the values {', '.join(map(repr, values))}, got {name!r}")
        bars[name] = _spread(f"errors[{name!r}]", v, count, of=f"values[{name!r}]")
    if classes is not None and len(classes) != count:
        raise ValueError(f"classes must have a name for each class: {count} classes, {len(classes)} names")
    ax = _axes(ax, (1.6 + 0.5 * count, 3.4))
    at = np.arange(count)
    step = min(0.18, 0.7 / len(drawn))
    for i, (name, y) in enumerate(drawn.items()):
        colour, marker = _SERIES[i % len(_SERIES)], _MARKERS[i % len(_MARKERS)]
        x = at + step * (i - (len(drawn) - 1) / 2)
        ax.errorbar(x, y, yerr=bars.get(name), fmt=marker, markersize=5, color=colour, elinewidth=1.5, label=name)
    ax.set_xticks(at, [str(c) for c in (range(count) if classes is None else classes)])
    ax.set_xlim(-0.6, count - 0.4)
    ax.grid(axis="y", color="#e3e3e3")
    ax.set_axisbelow(True)
    ax.set(xlabel="class", ylabel=ylabel)
    if len(drawn) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return _titled(ax, title)


def _axes(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    if ax is None:
        made: Axes = Figure(figsize=figsize, layout="constrained").subplots()
        return made
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be a matplotlib Axes or None, got {type(ax).__name__}")
    return ax


def _titled(ax: Axes, title: str | None, *, pad: float | None = None) -> Axes:
    if title is not None:
        ax.set_title(title, pad=pad)
    return ax


def _halo() -> withStroke:
    return withStroke(linewidth=3, foreground="white")


def _whole(name: str, value: Any, *, least: int = 1) -> int:
    from pyrovae import checks  # here, as it imports torch and this module need not

    return checks.whole(name, value, least=least)


def _labels(y: Any, count: int, *, of: str) -> np.ndarray:
    from pyrovae import checks  # here, as it imports torch and this module need not

    return checks.labels(y, count, name="labels", of=of)


def _array(name: str, values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if "bfloat16" in str(values.dtype) else values).numpy()
    elif hasattr(values, "shape") and not hasattr(values, "__array__"):
        return _array(name, values[:])  # a memory-mapped view
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of numbers, got a {type(values).__name__}: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array of numbers, got {array.dtype} ({type(values).__name__})")
    return array


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    bad = ~np.isfinite(array)
    if bad.any():
        first = np.argwhere(bad)[0].tolist()
        raise ValueError(
            f"{name} must be finite: {int(bad.sum())} NaN or infinite values, the first at {name}{first}; drop them"
        )
    return array.astype(np.float64)


def _vector(name: str, values: Any, count: int | None = None, *, of: str = "", finite: bool = True) -> np.ndarray:
    array = _array(name, values)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} must be one-dimensional and not empty, got shape {array.shape}")
    if count is not None and len(array) != count:
        raise ValueError(f"{name} must have as many values as {of}: {count} there, {len(array)} in {name}")
    return _finite(name, array) if finite else array.astype(np.float64)


def _spread(name: str, values: Any, count: int, *, of: str) -> np.ndarray:
    array = _vector(name, values, count, of=of)
    if (array < 0).any():
        raise ValueError(f"{name} must be at least 0, got {array.min():g}")
    return array


def _codes(
    name: str, values: Any, *, least: int = 2, exactly: int | None = None, count: int | None = None, of: str = ""
) -> np.ndarray:
    array = _array(name, values)
    width = array.shape[1] if array.ndim == 2 and len(array) else 0
    if width < least or (exactly is not None and width != exactly):
        expected = f"(N, d) with d of at least {least}" if exactly is None else f"(N, {exactly})"
        raise ValueError(f"{name} must have shape {expected} and N of at least 1, got {array.shape}")
    if count is not None and len(array) != count:
        raise ValueError(f"{name} must have a code for each of {of}: {of} has {count} items, {name} has {len(array)}")
    return _finite(name, array)


def _images(name: str, values: Any, *, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Images as (N, H, W) or (N, H, W, 3) in [0, 1]."""
    array = _array(name, values)
    shape = shape or array.shape
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[1] not in (1, 3)) or 0 in array.shape:
        hint = "; one image is " + name + "[None]" if array.ndim == 2 else ""
        if array.ndim == 4 and array.shape[3] in (1, 3):
            hint = f"; the channels look last: move them with numpy.moveaxis({name}, -1, {len(shape) - 3})"
        raise ValueError(
            f"{name} must hold one image (H, W) or (C, H, W), C of 1 or 3, or more, got shape {shape}{hint}"
        )
    if array.dtype.kind in "iu" and array.max() > 1:
        raise ValueError(f"{name} looks like 0..255 integers; divide by 255 (min {array.min()}, max {array.max()})")
    shown: np.ndarray = np.clip(_finite(name, array), 0.0, 1.0)
    if shown.ndim == 4:
        shown = shown[:, 0] if shown.shape[1] == 1 else np.moveaxis(shown, 1, 3)
    return shown


def _product(across: np.ndarray, up: np.ndarray) -> np.ndarray:
    first, second = np.meshgrid(across, up[::-1])
    return np.stack([first.ravel(), second.ravel()], axis=1)


def _two(codes: np.ndarray, dims: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    width = codes.shape[1]
    if len(dims) != 2 or not all(0 <= dim < width for dim in dims):
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
    shown = np.random.default_rng(seed).permutation(count)[: _whole("max_items", max_items)]
    # only vector files are affected: thousands of marks would make them slow to open
    style: dict[str, Any] = {"s": size, "alpha": alpha, "linewidths": 0, "rasterized": len(shown) > 2000}
    of = f"{len(shown):,} of {count:,} items" if len(shown) < count else ""
    if labels is None:
        ax.scatter(*points[shown].T, color=_COLOURS[0], **style)
        if of:
            ax.annotate(of, (1, 1), (-4, -4), "axes fraction", "offset points", ha="right", va="top", fontsize=8)
        return
    y = _labels(labels, count, of="codes")
    classes, index = np.unique(y, return_inverse=True)
    if len(classes) > _MOST_CLASSES:
        raise ValueError(
            f"labels has {len(classes)} different values, more than the {_MOST_CLASSES} a scatter can tell apart; "
            "group them or pass labels=None"
        )
    colours = np.array([_COLOURS[i % len(_COLOURS)] for i in range(len(classes))])
    ax.scatter(*points[shown].T, color=colours[index[shown]], **style)
    if names:
        for i, name in enumerate(classes):
            x, up = np.median(points[index == i], axis=0)
            text = ax.text(x, up, str(name), ha="center", va="center", fontsize=11, fontweight="bold", zorder=5)
            text.set(path_effects=[_halo()], clip_on=True)
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
    """Draw the sheet without ticks; the pixel positions of its columns' and rows' centres."""
    ax.imshow(_sheet(images, n_rows, n_cols), cmap="gray", vmin=0, vmax=1, origin="upper", interpolation="antialiased")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    height, width = images.shape[1:3]
    return np.arange(n_cols) * (width + 1) + (width - 1) / 2, np.arange(n_rows) * (height + 1) + (height - 1) / 2


def _sheet_size(images: np.ndarray, n_rows: int, n_cols: int) -> tuple[float, float]:
    # a tile of 0.45 inch, less where the sheet would grow past 12 inches
    height, width = images.shape[1:3]
    tile = min(0.45, 12 / n_cols, 12 * width / (n_rows * height))
    return max(1.5, 0.6 + tile * n_cols), max(1.0, 0.6 + tile * n_rows * height / width)


def _some(count: int) -> np.ndarray:
    return np.arange(0, count, math.ceil(count / 12))


def _decimal(value: float) -> str:
    return f"{round(float(value), 1) + 0.0:.1f}"  # + 0.0: no "-0.0"


def _coordinates(code: np.ndarray) -> str:
    return f"({', '.join(_decimal(v) for v in code[:2])}{', …' if len(code) > 2 else ''})"


def _iso_elbo(ax: Axes, curves: list[np.ndarray]) -> None:
    for old in [artist for artist in ax.collections if artist.get_gid() == "iso-elbo"]:
        old.remove()
    points = np.concatenate(curves)
    pad = np.maximum(0.12 * np.ptp(points, axis=0), 0.5)
    # more on the right, where the last point's note goes
    low, high = points.min(axis=0) - pad, points.max(axis=0) + pad * (1.8, 1.0)
    x, y = np.meshgrid(*np.linspace(low, high, 50).T)
    levels = MaxNLocator(6).tick_values(-high.sum(), -low.sum())
    lines: QuadContourSet = ax.contour(x, y, -(x + y), levels=levels, colors="#8a8a8a", linewidths=0.7, zorder=1)
    lines.set(gid="iso-elbo", linestyle="-")  # a monochrome contour below zero would be dashed

    # each label where its line is furthest from the curves, and not at the border
    along = np.linspace(0, 1, 50)[:, None]
    between = [a + along * (b - a) for curve in curves for a, b in pairwise(curve)]
    taken = np.concatenate([*curves, *between])
    places = []
    for level in levels:
        line = np.stack([x[0], -level - x[0]], axis=1)
        line = line[((line > low + 0.09 * (high - low)) & (line < high - 0.09 * (high - low))).all(axis=1)]
        if len(line):
            apart = np.linalg.norm((line[:, None] - taken) / (high - low), axis=2).min(axis=1)
            places.append(tuple(line[apart.argmax()]))
    if places:
        ax.clabel(lines, fmt=lambda level: f"ELBO {level:g}", fontsize=7, manual=places)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
