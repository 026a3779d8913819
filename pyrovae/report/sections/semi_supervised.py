"""Pairs that learnt from items with and without a label: the error of q(y | x), and draws of each class."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyrovae
from pyrovae.models.means import mean_of
from pyrovae.models.scopes import Workspace
from pyrovae.models.semi_supervised import SemiSupervisedVAE
from pyrovae.report.entry import Entry
from pyrovae.report.families import num_categories
from pyrovae.report.markup import Markup, estimate, interval, joined, left_out, number, table
from pyrovae.report.measurements import Measurements, Refusal
from pyrovae.report.pictures import are_images, sheet, value_range
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut
from pyrovae.seeding import Noise, stream

ORDER = 92
TITLE = "Learnt from few labels"
ACROSS = 10
DRAWS = 200  # of a class, for the numbers
MOST_CLASSES = 20
MOST_COLUMNS = 8


def section(measurements: Measurements) -> Section | LeftOut:
    entries = [entry for entry in measurements.entries if isinstance(entry.pair, SemiSupervisedVAE)]
    if not entries:
        return LeftOut(TITLE, "none of these pairs is a SemiSupervisedVAE")
    rows, parts = [], []
    reasons: list[tuple[str, Any]] = []
    for entry in entries:
        rows += [_row(entry, measurements, reasons)]
        drawn = measurements.of(entry, "draws of each class", partial(_draws, entry, measurements))
        if isinstance(drawn, Refusal):
            reasons += [(f"{entry.name}, draws of each class", drawn)]
        else:
            parts += [drawn]
    head = ["pair", "labelled items", "items without a label", "error of q(y | x) [95 % interval]", "error of guessing"]
    caption = (
        f"The share of {len(measurements.chosen):,} labelled test items whose class is not the likeliest by q(y | x), "
        "with Wilson's interval; the error of guessing is that of naming the most frequent class."
    )
    how = (
        "The error is that of the network q(y | x), which learnt from the labelled items and, through the decoder, "
        "from the others; draws of a class should be items of that class, and differ in what the label does not say."
    )
    return Section(TITLE, how, joined(table(caption, head, rows), *parts, left_out(reasons)))


def _row(entry: Entry, measurements: Measurements, reasons: list[tuple[str, Any]]) -> list[Any]:
    config = {} if entry.history is None else entry.history.config
    counts = [number(config[name], ",.0f") if name in config else "not known" for name in ("items", "unlabeled_items")]
    predictions = measurements.predictions(entry)
    if isinstance(predictions, Refusal):
        reasons += [(f"{entry.name}, error", predictions)]
        return [entry.name, *counts, "none", "none"]
    accuracy = pyrovae.classification_scores(predictions, seed=measurements.seed).metrics.sel(metric="accuracy")
    value, low, high = (1 - float(accuracy[of]) for of in ("value", "upper", "lower"))
    most = np.unique(predictions["y"].values, return_counts=True)[1].max() / predictions.sizes["item"]
    return [entry.name, *counts, interval(value, low, high), number(1 - float(most))]


def _draws(entry: Entry, measurements: Measurements) -> Markup:
    """Draws of p(x | y) for each class, a row of pictures or of numbers each."""
    pair: Any = entry.pair
    names = pair.names.tolist()
    shown = names[:MOST_CLASSES]
    some = "" if len(shown) == len(names) else f" The first {len(shown)} of {len(names)} classes."
    if are_images(measurements.data.event_shape):
        mean = not num_categories(pair)
        draw = at_the_same_codes if mean else _each
        images = draw(pair, shown, ACROSS, measurements.seed)
        what = (
            "means of p(x | y, z) at codes drawn from the prior, the same in each row" if mean else "draws of p(x | y)"
        )
        classes = ", ".join(map(str, shown))
        caption = f"{entry.name}: {what}; classes from above: {classes}.{some}"
        alt = f"draws of {entry.name}, a row for each class"
        return sheet(images, columns=ACROSS, limits=value_range(measurements.chosen.x[:]), alt=alt, caption=caption)
    real, labels = measurements.x(entry).flatten(1).double(), measurements.labels(entry)
    columns = min(real.shape[1], MOST_COLUMNS)
    rows = []
    for name in shown:
        rows += [[f"draws of class {name}", *moments(pair.sample(name, DRAWS, seed=measurements.seed), columns)]]
        if labels is not None and (of_class := np.array([label == name for label in np.asarray(labels)])).any():
            rows += [[f"test items of class {name}", *moments(real[torch.from_numpy(of_class)], columns)]]
    caption = f"{entry.name}: mean ± standard deviation of columns, of {DRAWS} draws of each class.{some}"
    return table(caption, ["of", *(f"column {column}" for column in range(columns))], rows)


def at_the_same_codes(pair: Any, labels: list[Any], count: int, seed: int) -> Tensor:
    """The means of p(x | y, z) for each label at the same `count` codes, a label after the other."""
    number = pair.numbers(labels, len(labels))
    with Workspace(pair, noise=Noise(stream(seed, "codes of all classes"), number.device), checks=None).turn():
        z = pair.prior().sample((count,))
        means: Tensor = mean_of(pair.given(pair.indicators(number)[:, None], z))
    return means.flatten(0, 1).detach().cpu()


def _each(pair: Any, labels: list[Any], count: int, seed: int) -> Tensor:
    return torch.cat([pair.sample(label, count, seed=seed).cpu() for label in labels])


def moments(items: Any, columns: int) -> list[Markup]:
    """Mean ± standard deviation of the first columns of items."""
    flat = items.detach().cpu().flatten(1)[:, :columns].double()
    spread = flat.std(0) if len(flat) > 1 else torch.full((columns,), float("nan"))
    return [estimate(float(mean), float(sd)) for mean, sd in zip(flat.mean(0), spread, strict=True)]
