"""Figures of estimates of log p(x): bounds against particles, gaps, ranks and coverage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy import stats

from pyrovae.plotting.shared import (
    COLOURS,
    LINES,
    MARKERS,
    SERIES,
    entries,
    estimates_in,
    is_a,
    mapping,
    new_axes,
    number,
    probability,
    spread,
    titled,
    vector,
    whole,
)

__all__ = ["bound_curve", "coverage_curve", "gap_histogram", "rank_histogram"]


def bound_curve(
    particles: Any,
    bounds: Mapping[str, Any],
    *,
    exact: Any = None,
    exact_label: str = "exact log p(x)",
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Lower bounds in nats per item against the number of particles, with the exact value as a horizontal line.

    `bounds` maps names to (values, standard errors), each of the shape (M,) of `particles`, or to M estimates; bars
    show two standard errors. `exact` is a number, or an estimate. Raises ValueError for no bounds, for lengths that
    differ, for negative standard errors, for values that are not finite and for fewer than one particle.

    >>> from pyrovae.plotting import bound_curve
    >>> ax = bound_curve([1, 10], {"iwae": ([-90.0, -88.0], [0.1, 0.1])}, exact=-87.0)
    >>> ax.get_xscale(), ax.get_ylabel()
    ('log', 'nats per item')
    """
    bounds = mapping("bounds", bounds, "name to (values, standard errors)")
    at = vector("particles", particles)
    if at.min() < 1:
        raise ValueError(f"particles must be at least 1, got {at.min():g}")
    line = None if exact is None else number("exact", exact, "a finite number or None")
    ax = new_axes(ax, (5.6, 4.0))
    for i, (name, pair) in enumerate(bounds.items()):
        if estimates := estimates_in(pair):
            values, errors = [one.mean for one in estimates], [one.se for one in estimates]
        elif len(entries(f"bounds[{name!r}]", pair, "(values, standard errors)")) == 2:
            values, errors = pair
        else:
            raise ValueError(f"bounds[{name!r}] must be (values, standard errors), got {len(pair)} entries")
        y = vector(f"bounds[{name!r}]", values, len(at), of="particles")
        bars = 2 * spread(f"bounds[{name!r}]", errors, len(at), of="particles")
        style = MARKERS[i % len(MARKERS)] + LINES[i % len(LINES)]
        ax.errorbar(at, y, bars, fmt=style, color=SERIES[i % len(SERIES)], capsize=3, markersize=5, label=name)
    if line is not None:
        ax.axhline(line, color="black", linewidth=1.2, label=exact_label, zorder=1)
    ax.set(xscale="log", xlabel="particles per item", ylabel="nats per item")
    ax.legend(frameon=False, fontsize=8)
    return titled(ax, title)


def gap_histogram(gaps: Any, *, bins: int = 20, ax: Axes | None = None, title: str | None = None) -> Axes:
    """A histogram over items of the gap between upper and lower bound, in nats, with the mean ± two standard errors.

    `gaps` has shape (N,), or is a difference of two estimates, such as upper - lower of `pyrovae.bdmc`, or a `Gaps`,
    whose log p(x) - ELBO is drawn. Raises ValueError for fewer than 2 gaps and for values that are not finite.

    >>> from pyrovae.plotting import gap_histogram
    >>> ax = gap_histogram([0.1, 0.2, 0.0])
    >>> ax.get_xlabel()
    'upper bound less lower bound (nats)'
    """
    xlabel = "upper bound less lower bound (nats)"
    if is_a(gaps, "Gaps"):
        gaps, xlabel = gaps.pointwise["gap"], "log p(x) less ELBO (nats)"
    elif is_a(gaps, "Estimate"):
        if "difference" not in gaps.pointwise.attrs:
            raise ValueError(f"gaps must be a difference of two estimates, such as upper - lower, got {gaps!r}")
        xlabel = f"{gaps.kind} (nats)"
    values = vector("gaps", gaps)
    if len(values) < 2:
        raise ValueError(f"gaps must hold at least 2 items for a spread, got {len(values)}")
    ax = new_axes(ax, (5.6, 3.6))
    counts = ax.hist(values, bins=whole("bins", bins), color=COLOURS[0], edgecolor="white", linewidth=0.5)[0]
    ax.set_ylim(top=1.25 * np.max(counts))  # room for the legend
    mean, error = values.mean(), 2 * values.std(ddof=1) / np.sqrt(len(values))
    ax.axvspan(mean - error, mean + error, color="black", alpha=0.12, linewidth=0)
    ax.axvline(mean, color="black", linewidth=1.2, label=f"mean {mean:.3f} ± {error:.3f} (2 standard errors)")
    ax.axvline(0.0, color="black", linewidth=0.8, linestyle=":")
    ax.set(xlabel=xlabel, ylabel="items")
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.legend(fontsize=8, framealpha=0.9, edgecolor="none")
    return titled(ax, title)


def rank_histogram(
    uniform: Any,
    *,
    quantity: str | None = None,
    bins: int = 20,
    confidence: float = 0.99,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """A histogram of the ranks of simulated codes, scaled to (0, 1), with a band for the counts of uniform ranks.

    Under uniform ranks the count of each bin, which is binomial, lies in the band with probability `confidence`. A
    hump indicates that q is too wide, a U that it is too narrow, and a slope that it is shifted (Talts et al. 2018,
    section 4). `uniform` has shape (S,), or is a `Calibration`, of which one `quantity` is drawn; None: the one that
    departs most. Raises ValueError for values outside [0, 1] and for an unknown quantity.

    >>> from pyrovae.plotting import rank_histogram
    >>> ax = rank_histogram([0.1, 0.4, 0.6, 0.9], bins=2)
    >>> [int(patch.get_height()) for patch in ax.patches if patch.get_gid() == "rank"]
    [2, 2]
    """
    of = ""
    if is_a(uniform, "Calibration"):
        ranks, known = uniform.pointwise["uniform"], uniform.pointwise["quantity"].values.tolist()
        quantity = known[int(uniform.tests["statistic"].values.argmax())] if quantity is None else quantity
        if not isinstance(quantity, str) or quantity not in known:
            raise ValueError(f"quantity must be one of {', '.join(map(repr, known))}, got {quantity!r}")
        uniform, of = ranks.sel(quantity=quantity), f" of {quantity}"
    elif quantity is not None:
        raise ValueError("quantity names one of a Calibration's, and uniform holds the ranks of a single one")
    values = vector("uniform", uniform)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"uniform must lie in [0, 1], got {values.min():g} to {values.max():g}")
    probability("confidence", confidence)
    count = whole("bins", bins)
    ax = new_axes(ax, (4.6, 3.2))
    counts, edges = np.histogram(values, bins=count, range=(0, 1))
    ax.bar(edges[:-1], counts, 1 / count, align="edge", color=COLOURS[0], edgecolor="white", linewidth=0.5, gid="rank")
    law = stats.binom(len(values), 1 / count)
    low, high = law.ppf(0.5 - confidence / 2), law.ppf(0.5 + confidence / 2)
    label = f"{100 * confidence:.4g} % of uniform counts"
    ax.axhspan(low, high, color="black", alpha=0.15, linewidth=0, label=label, zorder=3)
    ax.axhline(len(values) / count, color="black", linewidth=0.8, zorder=3)
    ax.set(xlabel=f"rank{of} among draws of q(z | x), scaled to [0, 1]", ylabel="simulations", xlim=(0, 1))
    ax.legend(frameon=False, fontsize=8)
    return titled(ax, title)


def coverage_curve(uniform: Any, *, confidence: float = 0.99, ax: Axes | None = None, title: str | None = None) -> Axes:
    """The coverage of the true code by central intervals of q, against their nominal probability.

    `uniform` maps quantities to ranks in (0, 1), shape (S,), or is a `Calibration`; the central interval of probability
    c contains the codes whose rank is within c / 2 of 1/2. Below the diagonal q is overconfident. The band contains the
    curve of S uniform ranks with probability `confidence` at each point. Raises ValueError for no quantities and for
    values outside [0, 1].

    >>> from pyrovae.plotting import coverage_curve
    >>> ax = coverage_curve({"latent[0]": [0.1, 0.3, 0.5, 0.7, 0.9]})
    >>> ax.get_xlabel()
    'probability claimed'
    """
    if is_a(uniform, "Calibration"):
        ranks_of_all = uniform.pointwise["uniform"]
        uniform = {str(name): ranks_of_all.sel(quantity=name) for name in ranks_of_all["quantity"].values}
    uniform = mapping("uniform", uniform, "quantity to ranks")
    probability("confidence", confidence)
    claimed = np.linspace(0, 1, 101)
    ax = new_axes(ax, (4.4, 4.2))
    sizes = []
    for i, (name, values) in enumerate(uniform.items()):
        ranks = vector(f"uniform[{name!r}]", values)
        if ranks.min() < 0 or ranks.max() > 1:
            raise ValueError(f"uniform[{name!r}] must lie in [0, 1], got {ranks.min():g} to {ranks.max():g}")
        held = np.searchsorted(np.sort(2 * np.abs(ranks - 0.5)), claimed, side="right") / len(ranks)
        ax.plot(claimed, held, color=SERIES[i % len(SERIES)], linestyle=LINES[i % len(LINES)], label=name)
        sizes.append(len(ranks))
    law = stats.binom(min(sizes), claimed)
    low, high = (law.ppf(0.5 + side * confidence / 2) / min(sizes) for side in (-1, 1))
    band = f"{100 * confidence:.4g} % of calibrated curves"
    ax.fill_between(claimed, low, high, color="black", alpha=0.15, linewidth=0, label=band, zorder=1)
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, zorder=1)
    ax.set(xlabel="probability claimed", ylabel="share of codes inside", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.legend(frameon=False, fontsize=8)
    return titled(ax, title)
