"""The classifiers: accuracy, log-loss, reliability, and which classes are taken for which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import pyrovae
from pyrovae.models.pair import takes_labels
from pyrovae.report.charts import Line, figure, legend, scatter
from pyrovae.report.markup import Markup, estimate, interval, joined, left_out, number, table
from pyrovae.report.measurements import Measurements
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut
from pyrovae.report.sections.comparison import paired

ORDER = 90
TITLE = "Classification"
MOST_CLASSES = 20  # of a table of mistakes


def section(measurements: Measurements) -> Section | LeftOut:
    classifiers = [entry for entry in measurements.entries if takes_labels(entry.pair)]
    if not classifiers:
        return LeftOut(TITLE, "none of these pairs is a classifier")
    tables, reasons = measurements.of_each(measurements.predictions, classifiers)
    if not tables:
        return LeftOut.of(TITLE, reasons)
    parts = [_scores(tables, measurements), _reliability(tables, measurements), *_compared(tables, measurements)]
    for entry in classifiers:
        if entry.name in tables:
            classes = measurements.data.classes if measurements.knows_places(entry) else None
            parts += [_confusion(entry.name, tables[entry.name], classes)]
    how = (
        "A lower log-loss is better: it punishes a wrong answer by how sure it was; a classifier whose points "
        "lie on the diagonal is right as often as it says."
    )
    return Section(TITLE, how, joined(*parts, left_out(reasons)))


def _scores(tables: dict[str, Any], measurements: Measurements) -> Markup:
    rows = []
    level = 0.95
    for name, predictions in tables.items():
        scores = pyrovae.classification_scores(predictions, seed=measurements.seed)
        level = scores.level
        cells: list[Any] = [name]
        for metric in ("accuracy", "log_loss", "brier"):
            row = scores.metrics.sel(metric=metric)
            cells += [interval(float(row.value), float(row.lower), float(row.upper), ".4f")]
        ece = scores.metrics.sel(metric="ece")
        chance = joined("; of calibrated ones up to ", number(scores.ece_calibrated[1], ".4f"))
        cells += [joined(estimate(float(ece.value), float(ece.se), ".4f"), chance)]
        rows += [cells]
    head = ["pair", "accuracy", "log-loss, nats per item", "Brier score", "calibration error"]
    count = next(iter(tables.values())).sizes["item"]
    caption = f"On {count:,} labelled test items, with intervals at {100 * level:.4g} %."
    return table(caption, head, rows)


def _reliability(tables: dict[str, Any], measurements: Measurements) -> Markup:
    lines, rows = [], []
    for name, predictions in tables.items():
        bins = pyrovae.reliability(predictions)
        given, right = bins["confidence"].values, bins["accuracy"].values
        ends = (bins["lower"].values, bins["upper"].values)
        lines += [Line(name, given, right, *ends, place=measurements.place(name))]
        for number_of_bin in range(bins.sizes["bin"]):
            one = bins.isel(bin=number_of_bin)
            share = interval(float(one.accuracy), float(one.lower), float(one.upper))
            rows += [[name, number(float(one.confidence)), share, number(int(one["count"]), ".0f")]]
    chart = scatter(
        lines,
        label="share that is right against the probability given",
        xlabel="probability given",
        ylabel="share that is right",
        guides=[((0.0, 0.0), (1.0, 1.0))],
        limits=(0.0, 1.0),
        square=True,
    )
    head = ["pair", "probability given", "share that is right", "items"]
    numbers = joined(
        Markup("<details><summary>The numbers of this chart</summary>\n"),
        table("Bins of the probability of the likeliest class, with Wilson's intervals at 95 %.", head, rows),
        Markup("</details>\n"),
    )
    return joined(figure(chart, names=legend(replace(line, x=[0.0]) for line in lines)), numbers)


def _compared(tables: dict[str, Any], measurements: Measurements) -> list[Markup]:
    log_proba = {name: predictions["log_proba_y"].values for name, predictions in tables.items()}

    def difference(name: str, reference: str) -> np.ndarray:
        values: np.ndarray = log_proba[name] - log_proba[reference]
        return values

    about = "Differences in log p(y | x) of the true label, item by item, nats per item; above 0 means better."
    return paired(
        "log p(y | x)", list(tables), difference, measurements, about=about, better="higher", xlabel="nats per item"
    )


def _confusion(name: str, predictions: Any, classes: tuple[str, ...] | None) -> Markup:
    """The mistakes of a classifier: of each class how many are right, and for which class most others are taken."""
    names = predictions["label"].values.tolist()
    if len(names) > MOST_CLASSES:
        return Markup("")
    true, given = predictions["y"].values, predictions["predicted"].values
    rows = []
    for label in names:
        of_class = true == label
        count = int(of_class.sum())
        right = int((of_class & (given == label)).sum())
        wrong = {other: int((of_class & (given == other)).sum()) for other in names if other != label}
        taken = sorted((other for other in wrong if wrong[other]), key=lambda other: -wrong[other])[:3]
        words = joined(
            *_listed([joined(_name(other, classes), " (", number(wrong[other], ".0f"), ")") for other in taken])
        )
        rows += [[_name(label, classes), number(count, ".0f"), number(right, ".0f"), words or "none"]]
    head = ["class", "items", "right", "taken for, items"]
    caption = f"{name}: the items of each class, and the three classes that most of the others are taken for."
    opening = joined(Markup("<details><summary>"), f"Mistakes of {name}", Markup("</summary>\n"))
    return joined(opening, table(caption, head, rows), Markup("</details>\n"))


def _listed(words: list[Markup]) -> list[Any]:
    parts: list[Any] = []
    for place, word in enumerate(words):
        parts += [", ", word] if place else [word]
    return parts


def _name(label: Any, classes: tuple[str, ...] | None) -> str:
    """The name of a class: the one of `classes` that has this place, where there are any."""
    return str(label) if classes is None else classes[label]
