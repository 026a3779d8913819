"""Figures of classifiers: scores with intervals against a condition, and reliability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from pyrovae.plotting.shared import LINES, MARKERS, SERIES, entries, flag, mapping, new_axes, titled, vector

__all__ = ["interval_curves", "reliability_curve"]


def interval_curves(
    at: Any,
    curves: Mapping[str, tuple[Any, Any, Any]],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """One line with interval bars for each entry of `curves`, against the values `at`, shape (M,).

    An entry is (values, lower, upper), each of shape (M,). The curves are shifted a little horizontally, so that no bar
    hides another. `log` makes the horizontal axis logarithmic. Raises ValueError for no curves, for lengths that
    differ, for values that are not finite or outside their interval and, with `log`, for `at` that is not above 0.

    >>> from pyrovae.plotting import interval_curves
    >>> curve = [0.8, 0.9], [0.7, 0.88], [0.85, 0.92]
    >>> ax = interval_curves([10, 100], {"LDA": curve}, xlabel="labels", ylabel="share")
    >>> ax.get_xlabel(), len(ax.containers)
    ('labels', 1)
    """
    x, log = vector("at", at), flag("log", log)
    curves = mapping("curves", curves, "name to (values, lower, upper)")
    if log and x.min() <= 0:
        raise ValueError(f"at must be above 0 on a logarithmic axis, got {x.min():g}")
    ax = new_axes(ax, (5.6, 4.0))
    step = 0.012 * (x.max() - x.min() or 1.0)
    for i, (name, three) in enumerate(curves.items()):
        if len(entries(f"curves[{name!r}]", three, "(values, lower, upper)")) != 3:
            raise ValueError(f"curves[{name!r}] must be (values, lower, upper), got {len(three)} entries")
        value, low, high = (vector(f"curves[{name!r}]", v, len(x), of="at") for v in three)
        if (low > value).any() or (value > high).any():
            raise ValueError(f"curves[{name!r}] has values outside their intervals")
        away = i - (len(curves) - 1) / 2
        place = x * (1.0 + 0.02 * away) if log else x + step * away
        style = MARKERS[i % len(MARKERS)] + LINES[i % len(LINES)]
        bars = [value - low, high - value]
        colour = SERIES[i % len(SERIES)]
        ax.errorbar(place, value, bars, fmt=style, color=colour, capsize=2, markersize=4, linewidth=1.3, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log else "linear")
    if log:  # ticks at the points, and no powers of ten between them
        ax.set_xticks(x, [f"{value:g}" for value in x])
        ax.minorticks_off()
    ax.legend(frameon=False, fontsize=8)
    return titled(ax, title)


def reliability_curve(tables: Any, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Accuracy against predicted probability, with intervals; a calibrated classifier lies on the diagonal.

    `tables` is the result of `pyrovae.reliability`, or maps names to several: "confidence", "accuracy", "lower" and
    "upper", each of shape (B,). Raises ValueError for no entries and for values outside [0, 1].

    >>> from pyrovae.plotting import reliability_curve
    >>> bins = {"confidence": [0.55, 0.9], "accuracy": [0.5, 0.95], "lower": [0.3, 0.8], "upper": [0.7, 1.0]}
    >>> reliability_curve({"LDA": bins}).get_ylabel()
    'share that is right'
    """
    if hasattr(tables, "data_vars"):
        tables = {"": tables}
    tables = mapping("tables", tables, "name to reliability(...)")
    ax = new_axes(ax, (4.4, 4.2))
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, zorder=1)
    for i, (name, bins) in enumerate(tables.items()):
        names = ("accuracy", "lower", "upper")
        missing = [c for c in ("confidence", *names) if not isinstance(bins, Mapping) or c not in bins]
        if missing:
            raise ValueError(f"tables[{name!r}] must be what reliability(...) gives, and has no {missing[0]!r}")
        x = vector(f"tables[{name!r}]['confidence']", bins["confidence"])
        columns = [vector(f"tables[{name!r}][{c!r}]", bins[c], len(x), of="confidence") for c in names]
        for column in (x, *columns):
            if column.min() < 0 or column.max() > 1:
                raise ValueError(f"tables[{name!r}] must lie in [0, 1], got {column.min():g} to {column.max():g}")
        value, low, high = columns
        bars = [(value - low).clip(min=0), (high - value).clip(min=0)]
        # no lines between bins, which would emphasise bins of few items
        style, colour = MARKERS[i % len(MARKERS)], SERIES[i % len(SERIES)]
        ax.errorbar(x, value, bars, fmt=style, color=colour, capsize=2, markersize=5, elinewidth=1.0, label=name)
    ax.set(xlabel="probability given", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    if any(tables):
        ax.legend(frameon=False, fontsize=8)
    return titled(ax, title)
