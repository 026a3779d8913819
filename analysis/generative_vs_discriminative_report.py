"""Tables, verdicts in words and figures of generative_vs_discriminative.py, each from one question's results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy.stats import norm

import pyrovae
from pyrovae import plotting

__all__ = ["REPORTS"]

RESAMPLES = 2000
ACROSS = {  # names of axes
    "labels": "labelled items",
    "missing": "share of a test item's entries missing",
    "noise": "share of training labels replaced",
}


def widened(values: Any) -> np.ndarray:
    """Figures by seed as far apart as if seeds had drawn from a population: with the mean as it is, and a variance of
    the mean of s^2 (1 / n + overlap), overlap the test items of a split for each training item (Nadeau and Bengio 2003,
    section 3), in place of s^2 / n.
    """
    found = np.asarray(values, dtype=float).ravel()
    found = found[~np.isnan(found)]
    overlap = float(values["overlap"]) if isinstance(values, xr.DataArray) else 0.0
    if not np.isfinite(found).all() or not len(found):
        return found
    return found.mean() + (found - found.mean()) * np.sqrt(1 + len(found) * overlap)


def over_seeds(values: Any) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval, an infinite one where a figure is."""
    found = widened(values)
    if not len(found):
        return np.nan, np.nan, np.nan
    if not np.isfinite(found).all():
        return float(found.mean()), -np.inf, np.inf
    return pyrovae.paired_interval(found)


def interval(values: Any, scale: float = 1.0, digits: int = 3) -> str:
    mean, low, high = (scale * v for v in over_seeds(values))
    if not np.isfinite(mean):
        return "-"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite(low) else f"{mean:.{digits}f}"


def verdicts(differences: dict[str, tuple[Any, str, str]]) -> Iterator[str]:
    """A line for each {what: (paired differences, what a positive one means, a negative one)}, one error rate for all.

    Intervals are at the levels of Holm's procedure: wider than 95 % alone.
    """
    known = {
        name: one for name, one in differences.items() if len(widened(one[0])) and np.isfinite(widened(one[0])).all()
    }
    if not known:
        return
    found = pyrovae.verdicts({name: widened(one[0]) for name, one in known.items()}, dict.fromkeys(known, 0.0))
    for name, (_, above, below) in known.items():
        row = found.sel(claim=name)
        said = {"holds": above, "does not hold": below}.get(str(row.verdict.values), "cannot tell")
        yield f"{name}: {float(row['mean']):.3f} [{float(row.low):.3f}, {float(row.high):.3f}]: {said}"


def grid(found: xr.DataArray, condition: str) -> Iterator[str]:
    """A row for each model, a column for each condition: mean and interval over seeds."""
    width = max(len(str(name)) for name in found.model.values) + 2
    yield " " * width + "  ".join(f"{v!s:>22}" for v in found[condition].values)
    for name in found.model.values:
        cells = [interval(found.sel({condition: v, "model": name})) for v in found[condition].values]
        yield f"{name:<{width}}" + "  ".join(f"{cell:>22}" for cell in cells)


def curves(found: xr.DataArray, condition: str, ylabel: str, ax: Any, *, log: bool = False) -> None:
    """Means and intervals over seeds against a condition that is a number."""
    lines = {}
    for name in found.model.values:
        three = np.array([over_seeds(found.sel({condition: v, "model": name})) for v in found[condition].values])
        there = np.isfinite(three).all(1)
        if there.all():
            lines[str(name)] = tuple(three.T)
    plotting.interval_curves(found[condition].values, lines, xlabel=ACROSS[condition], ylabel=ylabel, log=log, ax=ax)


def panels(count: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.8 * count, 4.2), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, count))


def crossover(found: xr.DataArray, first: str, second: str) -> str:
    """Where the mean paired difference changes sign, on a log axis, with a bootstrap interval over widened seeds."""
    at = np.log(found["labels"].values.astype(float))
    gap = (found.sel(model=first) - found.sel(model=second)).transpose("labels", "seed")
    difference = np.stack([widened(gap.sel(labels=n)) for n in gap["labels"].values])

    def where(curve: np.ndarray) -> float:
        """The last change of sign; -inf where `second` is ahead from the first count on, inf where never at the end."""
        if curve[-1] > 0:
            return np.inf
        ahead = np.flatnonzero(curve > 0)
        if not len(ahead):
            return -np.inf
        i = int(ahead[-1])
        return float(at[i] + (at[i + 1] - at[i]) * curve[i] / (curve[i] - curve[i + 1]))

    rng, seeds = np.random.default_rng(0), difference.shape[1]
    again = [where(difference[:, rng.integers(0, seeds, size=seeds)].mean(1)) for _ in range(RESAMPLES)]
    least, most = int(found["labels"].min()), int(found["labels"].max())

    def said(value: float) -> str:
        return f"under {least}" if value == -np.inf else f"over {most}" if value == np.inf else f"{np.exp(value):.0f}"

    low, high = (said(float(np.quantile(again, q, method="nearest"))) for q in (0.025, 0.975))
    middle = said(where(difference.mean(1)))
    return f"{second} overtakes {first} at {middle} labels (95 % over seeds: {low} to {high})"


def learning(found: xr.Dataset) -> tuple[str, Figure]:
    figure, axes = panels(2)
    for ax, metric, words in ((axes[0], "accuracy", "accuracy"), (axes[1], "log_loss", "log-loss (nats per item)")):
        curves(found[metric], "labels", words, ax, log=True)
    axes[1].set_yscale("log")
    pairs, differences = (("naive Bayes", "softmax"), ("LDA", "softmax"), ("mixtures", "perceptron")), {}
    for first, second in pairs:
        for metric, sign in (("accuracy", 1), ("log_loss", -1)):
            d = sign * (found[metric].sel(model=first) - found[metric].sel(model=second))
            which = f"{first} - {second}" if sign > 0 else f"{second} - {first}"
            differences |= {
                f"{metric} at {n} labels: {which}": (d.sel(labels=n), f"{first} is better", f"{second} is better")
                for n in found["labels"].values
            }
    paired = verdicts(differences)
    words = ["accuracy", *grid(found.accuracy, "labels"), "log-loss, nats", *grid(found.log_loss, "labels")]
    return "\n".join([*words, *paired, *(f"accuracy: {crossover(found.accuracy, *pair)}" for pair in pairs)]), figure


def specification(found: xr.Dataset) -> tuple[str, Figure]:
    words = ["accuracy", *grid(found.accuracy, "classes")]
    effects = {}
    for kind in found["classes"].values:
        for first, second in (("LDA", "softmax"), ("QDA", "quadratic softmax")):
            d = found.accuracy.sel(model=first, classes=kind) - found.accuracy.sel(model=second, classes=kind)
            effects[f"{kind}: {first} - {second}"] = (d, f"{first} is better", f"{second} is better")
    words += verdicts(effects)
    three = np.array([over_seeds(d) for d, *_ in effects.values()])
    figure = Figure(figsize=(8.8, 0.9 + 0.42 * len(effects)), layout="constrained")
    plotting.interval_plot(
        list(effects), *three.T, ax=figure.subplots(), xlabel="difference of accuracy, paired over seeds"
    )
    return "\n".join(words), figure


def missing(found: xr.Dataset) -> tuple[str, Figure]:
    figure, axes = panels(2)
    for ax, how in zip(axes, ("iterated", "mean"), strict=True):
        shown = [name for name in found.model.values if name.split(", ")[1] in ("exact", how)]
        if len(shown) > 2:
            curves(found.accuracy.sel(model=shown), "missing", "accuracy", ax)
        else:  # too many features for the other imputation
            ax.set_axis_off()
    words = ["accuracy", *grid(found.accuracy, "missing"), "log-loss, nats", *grid(found.log_loss, "missing")]
    imputed, differences = [name for name in found.model.values if "exact" not in name], {}
    for share in found["missing"].values[1:]:
        at = found.accuracy.sel(missing=share)
        best = max(imputed, key=lambda name: float(at.sel(model=name).mean()))
        for name in ("LDA, exact", "mixtures, exact"):
            what = f"{share:.0%} missing: {name} - {best} (the best imputed here)"
            differences[what] = (at.sel(model=name) - at.sel(model=best), f"{name} is better", f"{best} is better")
    words += verdicts(differences)
    return "\n".join(words), figure


def noise(found: xr.Dataset) -> tuple[str, Figure]:
    figure, axes = panels(1)
    curves(found.accuracy, "noise", "accuracy on clean test labels", axes[0])
    lost = found.accuracy.isel(noise=0) - found.accuracy.isel(noise=-1)
    words = ["accuracy", *grid(found.accuracy, "noise"), f"lost from none to {float(found.noise[-1]):.0%}:"]
    words += [f"  {name}: {interval(lost.sel(model=name))}" for name in found.model.values]
    pairs = [(first, second) for first in ("naive Bayes", "LDA", "mixtures") for second in ("softmax", "perceptron")]
    words += verdicts(
        {
            f"lost by {second} - lost by {first}": (
                lost.sel(model=second) - lost.sel(model=first),
                f"{first} loses less",
                f"{second} loses less",
            )
            for first, second in pairs
        }
    )
    return "\n".join(words), figure


def priors(found: xr.Dataset) -> tuple[str, Figure]:
    words = ["accuracy", *grid(found.accuracy, "prior"), "log-loss, nats", *grid(found.log_loss, "prior")]
    gains = {
        str(name): found.log_loss.sel(model=name, prior="as fitted") - found.log_loss.sel(model=name, prior="told")
        for name in found.model.values
    }
    words += verdicts(
        {
            f"{name}: log-loss, as fitted - told the new proportions": (gain, "telling helps", "telling hurts")
            for name, gain in gains.items()
        }
    )
    three = np.array([over_seeds(value) for value in gains.values()])
    figure = Figure(figsize=(7.4, 2.8), layout="constrained")
    plotting.interval_plot(
        list(gains), *three.T, ax=figure.subplots(), xlabel="log-loss saved by the new class prior (nats per item)"
    )
    return "\n".join(words), figure


def calibration(found: xr.Dataset) -> tuple[str, Figure]:
    words, curves_of = [], {}
    for name in found.model.values:
        one = found.sel(model=name)
        cells = []
        for metric in ("accuracy", "log_loss", "brier"):
            row = one.sel(metric=metric)
            cells.append(f"{metric} {float(row.value):.3f} [{float(row.lower):.3f}, {float(row.upper):.3f}]")
        ece, error = float(one.value.sel(metric="ece")), float(one.se.sel(metric="ece"))
        cells.append(f"ece {ece:.3f} ± {error:.3f}")
        monte_carlo = float(one.monte_carlo.sel(metric="log_loss"))
        extra = f", Monte Carlo ± {monte_carlo:.3f} of the log-loss" if monte_carlo else ""
        limit = float(one.ece_calibrated_upper)
        mean, se = float(one.overconfidence), float(one.overconfidence_se)
        wide = norm.isf(0.025 / len(found.model)) * se  # Bonferroni's, over the models
        said = "overconfident" if mean > wide else "underconfident" if mean < -wide else "cannot tell"
        extra += f"; mean confidence less accuracy {mean:+.3f} ± {wide:.3f}"
        words.append(f"{name}: {', '.join(cells)}{extra}; calibrated would show up to {limit:.3f}: {said}")
        there = one.dropna("bin", subset=["bin_confidence"])
        curves_of[str(name)] = {k: there[f"bin_{k}"].values for k in ("confidence", "accuracy", "lower", "upper")}
    figure, axes = panels(2)
    half = len(curves_of) // 2  # generative ones first
    for ax, names in zip(axes, (list(curves_of)[:half], list(curves_of)[half:]), strict=True):
        plotting.reliability_curve({name: curves_of[name] for name in names}, ax=ax)
    return "\n".join(words), figure


def strange(found: xr.Dataset) -> tuple[str, Figure]:
    words, width = [], max(len(str(name)) for name in found.by.values) + 2
    words.append(" " * width + "  ".join(f"{name!s:>24}" for name in found["set"].values))
    for by in found.by.values:
        rows = [found.sel(by=by, set=s) for s in found["set"].values]
        cells = [f"{float(r.value):.3f} [{float(r.lower):.3f}, {float(r.upper):.3f}]" for r in rows]
        words.append(f"{by:<{width}}" + "  ".join(f"{cell:>24}" for cell in cells))
    for s in found["set"].values:
        fooled = [str(by) for by in found.by.values if float(found.upper.sel(by=by, set=s)) < 0.5]
        if fooled:
            words.append(f"{s}: taken for more usual than real ones (at 97.5 % each) by {'; '.join(fooled)}")
    shown = found.sel(set=found["set"].values[2:4])
    names = [f"{s}: {by}" for s in shown["set"].values for by in shown.by.values]
    three = [shown[k].transpose("set", "by").values.flatten() for k in ("value", "lower", "upper")]
    figure = Figure(figsize=(9.4, 0.9 + 0.34 * len(names)), layout="constrained")
    plotting.interval_plot(names, *three, reference=0.5, ax=figure.subplots(), xlabel="AUROC, usual against strange")
    return "\n".join(words), figure


def unlabelled(found: xr.Dataset) -> tuple[str, Figure]:
    words = [
        "accuracy from labels alone",
        *grid(found.alone, "labels"),
        "with unlabelled items",
        *grid(found.together, "labels"),
    ]
    words += verdicts(
        {
            f"{n} labels, {name}: gain": (found.gain.sel(labels=n, model=name), "they help", "they hurt")
            for n in found["labels"].values
            for name in found.model.values
        }
    )
    figure, axes = panels(1)
    curves(found.gain, "labels", "accuracy gained by unlabelled items", axes[0], log=True)
    axes[0].axhline(0, color="black", linewidth=0.8, zorder=1)
    return "\n".join(words), figure


def samples(found: xr.Dataset) -> tuple[str, Figure]:
    words = []
    for name in found.model.values:
        one = found.sel(model=name)
        share = f"{float(one.value):.3f} [{float(one.lower):.3f}, {float(one.upper):.3f}]"
        p = float(one.p_value)
        right = f"a forest tells {float(one.told_apart):.3f} of them and test items apart"
        said = "it can" if p < 0.01 else "no more than chance shows"
        small = "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"
        words.append(f"{name}: the judge sees the class asked for in {share}; {right}, {small}: {said}")
    three = [found[k].values for k in ("value", "lower", "upper")]
    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    words_below = "share of draws that the judge gives to the class asked for"
    plotting.interval_plot(
        [str(n) for n in found.model.values], *three, reference=1.0, ax=figure.subplots(), xlabel=words_below
    )
    return "\n".join(words), figure


REPORTS: dict[str, Callable[[xr.Dataset], tuple[str, Figure]]] = {
    f.__name__: f for f in (learning, specification, missing, noise, priors, calibration, strange, unlabelled, samples)
}
