"""The tables and figures of tables.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import pyrovae

PUBLISHED = {("breast", "MIWAE"): 0.280}  # Mattei and Frellsen 2019, section 5
BESIDE_MIWAE = ["mean or mode", "nearest neighbours", "Gaussian", "ColumnMixture"]
SCORES = {
    "squared_error": "error",
    "wrong": "wrong categories",
    "log_score": "log-score",
    "coverage": "coverage, 0.9",
}
AXES = {
    "squared_error": "error, standard deviations",
    "wrong": "share of wrong categories",
    "log_score": "log-score, nats per entry",
    "coverage": "coverage of 90 % intervals",
}
MARKERS = "osD^v<>P"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def density_table(name: str, values: dict[str, np.ndarray]) -> str:
    """Mean log p, and the paired differences to the best, which has none."""
    best = max(values, key=lambda each: float(values[each].mean()))
    rows = []
    for each, value in sorted(values.items(), key=lambda pair: -float(pair[1].mean())):
        behind = (
            "" if each == best else "{:.2f} [{:.2f}, {:.2f}]".format(*pyrovae.paired_interval(value - values[best]))
        )
        rows.append([each, f"{value.mean():.2f}", behind])
    count = len(values[best])
    return table([f"{name}, {count:,} rows", "log p, nats per row", "less the best, 95 % interval over rows"], rows)


def over_masks(values: Sequence[float]) -> tuple[float, float]:
    """The mean over masks, and half of its 95 % t interval."""
    mean, low, _ = pyrovae.paired_interval(np.array(values))
    return mean, mean - low


def of_masks(rows: list[dict[str, Any]], method: str, share: float, score: str) -> tuple[float, float] | None:
    """A score of a method at a share, as `over_masks`; errors of numbers as roots."""
    own = [row[score] for row in rows if row["method"] == method and row["share"] == share and score in row]
    if not own:
        return None
    return over_masks(np.sqrt(own) if score == "squared_error" else own)


def in_words(found: tuple[float, float] | None, digits: int = 3) -> str:
    if found is None:
        return ""
    spread = "" if np.isinf(found[1]) else f" ± {found[1]:.{digits}f}"
    return f"{found[0]:.{digits}f}{spread}"


def imputation_table(name: str, rows: list[dict[str, Any]]) -> str:
    """Each method at each share: errors, log-score and coverage, ± half a 95 % interval over masks."""
    scores = {score: title for score, title in SCORES.items() if any(score in row for row in rows)}
    lines = []
    for share in sorted({row["share"] for row in rows}):
        for method in dict.fromkeys(row["method"] for row in rows):
            cells = [
                in_words(of_masks(rows, method, share, score), 2 if score == "log_score" else 3) for score in scores
            ]
            lines.append([f"{share:.0%}", method, *cells])
    return table([name, "method", *scores.values()], lines)


def miwae_table(name: str, rows: list[dict[str, Any]]) -> str:
    """Mean squared errors with their standard deviation over masks, as the paper has them, and a 95 % interval."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = np.array([row["squared_error"] for row in rows if row["method"] == method])
        spread = interval = ""
        if len(own) > 1:
            spread = f" ({own.std(ddof=1):.3f})"
            interval = "[{:.3f}, {:.3f}]".format(*pyrovae.paired_interval(own)[1:])
        published = PUBLISHED.get((name, method))
        printed = "" if published is None else f"{published:.3f}"
        lines.append([method, str(len(own)), f"{own.mean():.3f}{spread}", interval, printed])
    head = [f"{name}, half missing", "masks", "squared error (sd over masks)", "95 % interval over masks", "published"]
    return table(head, lines)


def density_figure(name: str, values: dict[str, np.ndarray]) -> Figure:
    """Differences to the first floor, with their intervals over rows, the best on top."""
    first, *rest = values
    others = sorted(rest, key=lambda each: -float(values[each].mean()))
    drawn = Figure(figsize=(7, 1.2 + 0.35 * len(others)), layout="constrained")
    ax = drawn.subplots()
    for row, each in enumerate(others):
        mean, low, high = pyrovae.paired_interval(values[each] - values[first])
        ax.errorbar(mean, row, xerr=[[mean - low], [high - mean]], fmt="o", color="C0", markersize=4)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(others)), [f"{each}, a bound" if each == "table_vae" else each for each in others])
    ax.set_ylim(len(others) - 0.5, -0.5)
    ax.grid(axis="x", alpha=0.3)
    ax.set_title(f"{name}: held-out log p less that of {first} columns", loc="left", fontsize=10)
    ax.set_xlabel("nats per row, with 95 % intervals over rows")
    return drawn


def imputation_figure(name: str, rows: list[dict[str, Any]]) -> Figure:
    """Each score against the share that is missing, a line a method."""
    scores = [score for score in SCORES if any(score in row for row in rows)]
    shares = sorted({row["share"] for row in rows})
    names = list(dict.fromkeys(row["method"] for row in rows))
    drawn = Figure(figsize=(3.2 * len(scores) + 1.8, 3.2), layout="constrained")
    for ax, score in zip(drawn.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
        for number, method in enumerate(names):
            found = [of_masks(rows, method, share, score) for share in shares]
            if any(each is None for each in found):
                continue
            mean, half = np.array(found).T
            at = 100 * np.array(shares) + 0.6 * (number - len(names) / 2)  # side by side
            half = np.where(np.isinf(half), 0.0, half)
            marker = MARKERS[number % len(MARKERS)]
            ax.errorbar(at, mean, half, marker=marker, markersize=4, linewidth=1, color=f"C{number}", label=method)
        if score == "coverage":
            ax.axhline(0.9, color="black", linewidth=0.8)
        if score == "log_score":
            ax.set_ylim(**_of_scores(rows))
        ax.set_title(AXES[score], fontsize=10)
        ax.set_xticks([100 * share for share in shares])
        ax.set_xlabel("missing, %")
        ax.grid(alpha=0.3)
    handles = {
        label: handle for ax in drawn.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    drawn.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False)
    drawn.suptitle(f"{name}: missing completely at random, 95 % intervals over masks", fontsize=10, x=0.01, ha="left")
    return drawn


def _of_scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Limits of an axis of log-scores: a method far below the floor's, as one near a singular fit, leaves it."""
    scores = np.array([row["log_score"] for row in rows if "log_score" in row])
    floor = min((row["log_score"] for row in rows if row["method"] == "independent"), default=scores.min())
    room = 0.1 * (scores.max() - floor) + 0.1
    return {"bottom": max(float(scores.min()), float(floor) - 1.0) - room, "top": float(scores.max()) + room}
