"""The curves of the fits: the loss, and what was measured on validation items."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrovae.inference.history import History
from pyrovae.report.charts import Line, curves, figure, legend
from pyrovae.report.entry import Entry
from pyrovae.report.markup import Markup, joined, left_out, number, table
from pyrovae.report.measurements import Measurements
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut

ORDER = 30
TITLE = "Training"
HIGHER_IS_BETTER = "validation_elbo"  # drawn with its sign turned, beside the loss that is to come down
STEPS = {"em": "iteration", "lbfgs": "iteration", "nuts": "chain", "closed form": "step"}


def section(measurements: Measurements) -> Section | LeftOut:
    rows, charts, reasons = [], [], []
    for entry in measurements.entries:
        history = entry.history
        if history is None:
            reasons += [(entry.name, "no history was handed over")]
            continue
        if not history.epochs.sizes.get("epoch"):
            reasons += [(entry.name, "its history has no epoch")]
            continue
        if "loss" not in history.epochs:
            reasons += [(entry.name, "its history has no loss")]
            continue
        rows += [_row(entry, history)]
        lines = _lines(entry, measurements.place(entry.name))
        if max(len(line.x) for line in lines) < 2:
            reasons += [(f"{entry.name}, curve", "it was fitted in one step")]
            continue
        step = step_of(history)
        chart = curves(lines, label=f"{entry.name}: {_names(lines)} by {step}", xlabel=step, ylabel="nats per item")
        charts += [figure(chart, caption=entry.name, names=legend(lines))]
    if not rows:
        return LeftOut.of(TITLE, reasons)
    head = ["pair", "steps", "last loss, nats per item", "best on validation items", "levelled off?", "seconds"]
    caption = (
        "The loss is the method's own, and that of two methods is not the same quantity: for SVI the negative ELBO at "
        "the epoch's weight of the KL term, for an autoencoder −log p(x | z), for EM −log p(x), for a classifier of "
        "labels −log p(y | x). Seconds are those of the whole call of fit, with all starts and compilation."
    )
    body = joined(table(caption, head, rows), Markup('<div class="plots">\n'), *charts, Markup("</div>\n"))
    how = (
        "If a curve still falls at its end, more epochs would help. If the curve of the validation items rises while "
        "the loss falls, the model overfits its training items."
    )
    return Section(TITLE, how, joined(body, left_out(reasons)))


def _row(entry: Entry, history: History) -> list[Any]:
    epochs = history.epochs
    count = epochs.sizes["epoch"]
    steps = f"{count:,} {step_of(history)}{'s' if count > 1 else ''}"
    last = np.nanmean(_last(epochs["loss"].values))
    best: Any = "none"
    if "validation_elbo" in epochs:
        best = joined(_validated(entry), " ", number(float(epochs["validation_elbo"].max())))
    elif "validation_log_loss" in epochs:
        best = joined("log-loss ", number(float(epochs["validation_log_loss"].min())))
    seconds: Any = "none"
    if history.seconds is not None:
        seconds = number(history.seconds, ".1f")
    elif "seconds" in epochs:
        seconds = joined(number(float(epochs["seconds"].sum()), ".1f"), " of steps")
    return [entry.name, steps, number(last), best, _levelled(history), seconds]


def _validated(entry: Entry) -> str:
    """What the variable "validation_elbo" of a history is: the ELBO, or what stands in its place."""
    if not entry.pair.is_normalized:  # also of a history of before it said so
        return "E log p(x | z)"
    return entry.history.validated


def _last(values: np.ndarray) -> np.ndarray:
    """The last finite value of each curve, of the shape without epochs."""
    flat = np.atleast_2d(values.reshape(-1, values.shape[-1]))
    return np.array([row[np.isfinite(row)][-1] if np.isfinite(row).any() else np.nan for row in flat])


def _levelled(history: History) -> Any:
    if "validation_elbo" not in history.epochs:
        return "not known without validation items"
    try:
        is_level, rise = history.levelled_off()
    except ValueError:
        return "not known from so few steps"
    return joined("yes, " if is_level else "no, ", number(rise, "+.3f"), " nats per item and step at the end")


def step_of(history: History) -> str:
    return STEPS.get(history.config.get("method", ""), "epoch")


def _lines(entry: Entry, place: int) -> list[Line]:
    """A line for each variable in nats per item, one for each class where these were fitted one by one."""
    lines: list[Line] = []
    for name, variable in entry.history.epochs.data_vars.items():
        if variable.attrs.get("units") != "nats per item" and name != "loss":
            continue
        sign, words = 1.0, str(name)
        if name == HIGHER_IS_BETTER:
            sign, words = -1.0, f"−{_validated(entry)} of validation items"
        words = words.replace("_", " ")
        for label, values in _curves(variable):
            steps = np.arange(1, len(values) + 1)
            lines += [Line(f"{words}{label}", steps, sign * values, place=place, dash=len(lines))]
    return lines


def _curves(variable: Any) -> list[tuple[str, np.ndarray]]:
    if "label" not in variable.dims:
        return [("", variable.values)]
    table = variable.transpose("label", "epoch")
    return [(f", class {label}", row.values) for label, row in zip(table.label.values, table, strict=True)]


def _names(lines: list[Line]) -> str:
    return ", ".join(line.name for line in lines)
