"""Curves and intervals: learning curves, rate against distortion, intervals of claims, values per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.ticker import MaxNLocator

from pyrovae.plotting.shared import (
    COLOURS,
    LINES,
    MARKERS,
    SERIES,
    checked_array,
    estimates_in,
    flag,
    halo,
    is_a,
    mapping,
    names_of,
    new_axes,
    number,
    spread,
    text,
    titled,
    vector,
)

__all__ = ["interval_plot", "learning_curve", "per_class", "rate_distortion"]


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
    """Means with their intervals, one per row from the top, with the range of irrelevant differences shaded.

    `margins` is the smallest difference of interest, one number or one per row; the shaded range is reference - margin
    to reference + margin. With `normalize`, the default if the margins differ, the axis shows
    (value - reference) / margin, so that rows in different units share it, and the shaded range is -1 to 1. `values`
    writes mean and interval in their own units to the right. Raises ValueError for lengths that differ, for intervals
    that do not contain their mean, for margins that are not positive and for `normalize` without margins.

    >>> from pyrovae.plotting import interval_plot
    >>> ax = interval_plot(["accuracy", "nats"], [0.02, -4.0], [0.01, -9.0], [0.03, 1.0], margins=[0.01, 2.0])
    >>> [text.get_text() for text in ax.get_yticklabels()], ax.lines[0].get_xdata().tolist()
    (['accuracy', 'nats'], [2.0, -2.0])
    """
    rows, values = names_of(names), flag("values", values)
    normalize = None if normalize is None else flag("normalize", normalize)
    xlabel = None if xlabel is None else text("xlabel", xlabel)
    count = len(rows)
    if not count:
        raise ValueError("names is empty: expected a name for each row")
    reference = number("reference", reference)
    centre, least, most = (vector(n, v, count, of="names") for n, v in (("mean", mean), ("low", low), ("high", high)))
    wrong = (least > centre) | (centre > most)
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            "low <= mean <= high must hold in every row, "
            f"got {least[i]:g}, {centre[i]:g}, {most[i]:g} in row {i} ({rows[i]})"
        )
    margin = None
    if margins is not None:
        margin = checked_array("margins", margins)
        margin = np.broadcast_to(margin, count) if margin.ndim == 0 else margin
        margin = vector("margins", margin, count, of="names")
        if not (margin > 0).all():
            raise ValueError(f"margins must be greater than 0, got {margin.min():g}")
    elif normalize:
        raise ValueError("normalize=True needs margins, the smallest difference of interest of each row")
    if normalize is None:
        normalize = margin is not None and bool(np.ptp(margin) > 0)

    shift, scale = (reference, margin) if normalize and margin is not None else (0.0, np.ones(count))
    at = np.arange(count)
    ax = new_axes(ax, (7.0, 1.1 + 0.42 * count))
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
            patch.sticky_edges.x.clear()  # so that the end of the shaded range lies inside the axes
    # drawn before the reference line, so that the points are lines[0]
    ax.errorbar(
        middle,
        at,
        xerr=np.stack([middle - left, right - middle]),
        fmt="o",
        color="black",
        ecolor=COLOURS[0],
        elinewidth=2.5,
        markersize=5,
        zorder=3,
    )
    ax.axvline(zero, color="black", linewidth=0.8, linestyle="--", zorder=1)
    ax.set_yticks(at, rows)
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
        # outside of the axes, so that it never covers a row
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8, borderaxespad=0.2)
    return titled(ax, title, pad=22 if margin is not None else None)


def rate_distortion(
    rate: Any,
    distortion: Any = None,
    *,
    rate_se: Any = None,
    distortion_se: Any = None,
    label: str | None = None,
    notes: Sequence[object] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Distortion against rate in nats per item, over lines of equal ELBO = -(rate + distortion).

    `rate` and `distortion` have shape (M,), and a line joins the points in their order; or `rate` is an estimate of
    `pyrovae.elbo`, or a list of M of them, and `distortion` is left out. `rate_se` and `distortion_se`
    are drawn as bars of one standard error. `notes`, one for each of the M points, such as its beta, are written next
    to the points. A second call on the same Axes adds a curve. Raises ValueError for lengths that differ, for negative
    standard errors and for values that are not finite. Alemi et al., "Fixing a broken ELBO", 2018, section 3.

    >>> from pyrovae.plotting import rate_distortion
    >>> ax = rate_distortion([5.0, 10.0], [100.0, 90.0], notes=["β = 4", "β = 1"])
    >>> ax.lines[0].get_xydata().tolist(), ax.get_xlabel()
    ([[5.0, 100.0], [10.0, 90.0]], 'rate (nats per item)')
    """
    estimates = estimates_in(rate)
    if estimates and distortion is None:
        if any({"rate", "distortion"} - {*one.pointwise} for one in estimates):
            raise ValueError("rate must hold estimates of pyrovae.elbo, which alone have a rate and a distortion")
        rate, distortion = (
            [float(one.pointwise[name].mean(skipna=False)) for one in estimates] for name in ("rate", "distortion")
        )
    if distortion is None:
        raise ValueError("distortion is missing: give rate and distortion, or estimates of pyrovae.elbo")
    across = vector("rate", rate)
    down = vector("distortion", distortion, len(across), of="rate")
    x_error, y_error = (
        None if value is None else spread(name, value, len(across), of="rate")
        for name, value in (("rate_se", rate_se), ("distortion_se", distortion_se))
    )
    notes = None if notes is None else names_of(notes)
    if notes is not None and len(notes) != len(across):
        raise ValueError(f"notes must have one for each point: {len(across)} points, {len(notes)} notes")
    ax = new_axes(ax, (5.6, 4.4))
    earlier = [line for line in ax.lines if line.get_gid() == "rate-distortion"]
    style = len(earlier) % len(MARKERS)
    colour = SERIES[style % len(SERIES)]
    bars = ax.errorbar(
        across,
        down,
        xerr=x_error,
        yerr=y_error,
        fmt=MARKERS[style] + LINES[style % len(LINES)],
        markersize=5,
        color=colour,
        capsize=2,
        label=label,
        zorder=3,
    )
    bars.lines[0].set_gid("rate-distortion")
    for x, y, note in zip(across, down, notes or [], strict=False):
        ax.annotate(str(note), (x, y), (6, 5), textcoords="offset points", fontsize=8, path_effects=[halo()], zorder=4)
    _iso_elbo(ax, [np.asarray(line.get_xydata()) for line in [*earlier, bars.lines[0]]])
    ax.set(xlabel="rate (nats per item)", ylabel="distortion (nats per item)")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=True, framealpha=0.9, fontsize=8)
    return titled(ax, title)


def learning_curve(
    epochs: Any,
    curves: Mapping[str, Any] | None = None,
    *,
    ax: Axes | None = None,
    ylabel: str = "nats per item",
    title: str | None = None,
) -> Axes:
    """One line against the epoch for each entry of `curves`, shape (E,) as `epochs`; or the curves of a fit.

    In place of both, a `History` has its loss drawn, and its validation's in the same units (less the ELBO, so that
    lower is better for each); a dict of name to `History` draws several fits in one figure. Their epochs count from 1.

    Epochs at which a curve is NaN or infinite, such as those without a validation, are left out, and the line joins
    the others. Raises ValueError for no curves, for lengths that differ and for a curve without a finite value.

    >>> from pyrovae.plotting import learning_curve
    >>> ax = learning_curve([1, 2, 3], {"loss": [9.0, 7.0, 6.0], "-validation ELBO": [9.5, float("nan"), 7.0]})
    >>> [line.get_ydata().tolist() for line in ax.lines]
    [[9.0, 7.0, 6.0], [9.5, 7.0]]
    """
    lines = _curves_of_fits(epochs) if curves is None else _curves_over(epochs, curves)
    finite_curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, (at, values) in lines.items():
        curve = vector(f"curves[{name!r}]", values, len(at), of="epochs", finite=False)
        finite = np.isfinite(curve)
        if not finite.any():
            raise ValueError(
                f"curves[{name!r}] must have a finite value, got NaN or infinity {len(curve)} times; drop it"
            )
        finite_curves[name] = at[finite], curve[finite]
    ax = new_axes(ax, (5.6, 3.6))
    for i, (name, (x, y)) in enumerate(finite_curves.items()):
        # markers if there are few points; a single point would draw no line
        marker = MARKERS[i % len(MARKERS)] if len(x) <= 40 else ""
        colour, line = SERIES[i % len(SERIES)], LINES[i % len(LINES)]
        ax.plot(x, y, color=colour, linestyle=line, marker=marker, markersize=3.5, label=name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.legend(frameon=False, fontsize=8)
    return titled(ax, title)


def per_class(
    values: Mapping[str, Any],
    *,
    errors: Mapping[str, Any] | None = None,
    classes: Sequence[object] | None = None,
    ax: Axes | None = None,
    ylabel: str = "value",
    title: str | None = None,
) -> Axes:
    """One dot per class for each entry of `values`, shape (C,), with the entries side by side within a class.

    `errors` are half-lengths of bars, shape (C,), for some or all entries; state in `ylabel` what they are. `classes`
    are the names of the classes, by default 0 to C - 1. Raises ValueError for lengths that differ, for negative errors
    and for values that are not finite.

    >>> from pyrovae.plotting import per_class
    >>> ax = per_class({"AE": [0.9, 0.8], "VAE": [0.7, 0.6]}, ylabel="accuracy")
    >>> [line.get_ydata().tolist() for line in ax.lines]
    [[0.9, 0.8], [0.7, 0.6]]
    """
    classes = None if classes is None else names_of(classes)
    values = mapping("values", values, "name to one number per class")
    errors = {} if errors is None else mapping("errors", errors, "name to one number per class")
    first = next(iter(values))
    count = len(vector(f"values[{first!r}]", values[first]))
    drawn = {name: vector(f"values[{name!r}]", v, count, of=f"values[{first!r}]") for name, v in values.items()}
    bars: dict[str, np.ndarray] = {}
    for name, v in errors.items():
        if name not in values:
            raise ValueError(f"errors must be of the values {', '.join(map(repr, values))}, got {name!r}")
        bars[name] = spread(f"errors[{name!r}]", v, count, of=f"values[{name!r}]")
    if classes is not None and len(classes) != count:
        raise ValueError(f"classes must have a name for each class: {count} classes, {len(classes)} names")
    ax = new_axes(ax, (1.6 + 0.5 * count, 3.4))
    at = np.arange(count)
    step = min(0.18, 0.7 / len(drawn))
    for i, (name, y) in enumerate(drawn.items()):
        colour, marker = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]
        x = at + step * (i - (len(drawn) - 1) / 2)
        ax.errorbar(x, y, yerr=bars.get(name), fmt=marker, markersize=5, color=colour, elinewidth=1.5, label=name)
    ax.set_xticks(at, [str(c) for c in (range(count) if classes is None else classes)])
    ax.set_xlim(-0.6, count - 0.4)
    ax.grid(axis="y", color="#e3e3e3")
    ax.set_axisbelow(True)
    ax.set(xlabel="class", ylabel=ylabel)
    if len(drawn) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return titled(ax, title)


def _curves_over(epochs: Any, curves: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, Any]]:
    at = vector("epochs", epochs)
    curves = mapping("curves", curves, "name to values, such as {'loss': history.epochs['loss']}")
    return {name: (at, values) for name, values in curves.items()}


def _curves_of_fits(fits: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The curves of one History, or of several by name, each with its own epochs."""
    named = {"": fits} if is_a(fits, "History") else fits
    if not isinstance(named, Mapping) or not named or not all(is_a(one, "History") for one in named.values()):
        raise TypeError(
            "learning_curve draws a History, a dict of name to History, or epochs and their curves: got "
            f"{type(fits).__name__} and no curves"
        )
    lines: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, history in named.items():
        for words, curve in _curves_of_fit(history).items():
            at = np.arange(1, len(curve) + 1)
            if not len(at):
                raise ValueError(f"{name or 'the history'} has no epochs to draw")
            lines[f"{name}: {words}" if name else words] = at, curve
    return lines


def _curves_of_fit(history: Any) -> dict[str, np.ndarray]:
    epochs = history.epochs
    if "label" in epochs.dims:  # the densities of a classifier, fitted one by one
        return {f"loss of class {label}": epochs["loss"].sel(label=label).values for label in epochs["label"].values}
    is_weighted = "beta" in epochs and bool((epochs["beta"] != 1).any())
    curves = {"loss, at each epoch's β" if is_weighted else "loss": epochs["loss"].values}
    if "validation_elbo" in epochs:
        curves[f"validation, less the {history.validated}"] = -epochs["validation_elbo"].values
    if "validation_log_loss" in epochs:
        curves["validation log-loss"] = epochs["validation_log_loss"].values
    return curves


def _iso_elbo(ax: Axes, curves: list[np.ndarray]) -> None:
    for old in [artist for artist in ax.collections if artist.get_gid() == "iso-elbo"]:
        old.remove()
    points = np.concatenate(curves)
    pad = np.maximum(0.12 * np.ptp(points, axis=0), 0.5)
    # more space on the right, for the note of the last point
    low, high = points.min(axis=0) - pad, points.max(axis=0) + pad * (1.8, 1.0)
    x, y = np.meshgrid(*np.linspace(low, high, 50).T)
    levels = MaxNLocator(6).tick_values(-high.sum(), -low.sum())
    lines: QuadContourSet = ax.contour(x, y, -(x + y), levels=levels, colors="#8a8a8a", linewidths=0.7, zorder=1)
    lines.set(gid="iso-elbo", linestyle="-")  # matplotlib dashes negative contours of one colour

    # place each label where its line is furthest from the curves, away from the border
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
