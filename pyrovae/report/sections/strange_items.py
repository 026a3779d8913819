"""Which test items are strange to each entry: a score with a threshold of a stated rate of false alarms."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

import pyrovae
from pyrovae.data import Split
from pyrovae.models.independent import family_for
from pyrovae.report import chosen
from pyrovae.report.charts import distribution, figure
from pyrovae.report.entry import Entry
from pyrovae.report.markup import Markup, interval, joined, left_out, number, table
from pyrovae.report.measurements import Measurements
from pyrovae.report.pictures import are_images, sheet, value_range
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut

ORDER = 95
TITLE = "Strange items"
MOST_PARTICLES = 100
STRANGEST = 10
MOST_COLUMNS = 8
LEVEL = 0.05


def section(measurements: Measurements) -> Section | LeftOut:
    found, reasons = measurements.of_each(
        lambda entry: measurements.of(entry, "strange items", partial(_detected, entry, measurements))
    )
    if not found:
        return LeftOut.of(TITLE, reasons)
    rows = [_row(name, *result) for name, result in found.items()]
    head = ["pair, score", "threshold, nats", "false alarms claimed", "flagged [95 % interval]", "does it fit?"]
    usual, checked = _halves(measurements)
    caption = (
        f"{len(usual):,} of the test items, chosen at random, set the threshold, and the other {len(checked):,} are "
        "judged by it. These are usual items, so that the share that is flagged is the rate of false alarms that is "
        "seen, with its exact interval; that of one threshold varies about the claimed one, for which the last column "
        "allows."
    )
    shown = [_strangest(name, novelty, measurements) for name, (_, novelty) in found.items()]
    body = joined(
        table(caption, head, rows),
        Markup('<div class="plots">\n'),
        *(_chart(name, *result, measurements) for name, result in found.items()),
        Markup("</div>\n"),
        *shown,
        left_out(reasons),
    )
    how = (
        "The items with the highest scores are those that a pair finds least like its training items; look at them "
        "before you trust a number that is a mean over all items."
    )
    return Section(TITLE, how, body)


def _halves(measurements: Measurements) -> tuple[np.ndarray, np.ndarray]:
    """Places of the items that calibrate, and of those that are judged, in their order."""
    count = len(measurements.chosen)
    order = np.random.default_rng([measurements.seed, 17]).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def _detected(entry: Entry, measurements: Measurements) -> tuple[pyrovae.NoveltyDetector, pyrovae.Novelty]:
    pair: Any = entry.pair
    items, training = measurements.given(entry), measurements.training_items(entry)
    usual, checked = _halves(measurements)
    reference = Split(training.x, covariates=training.covariates, exposure=training.exposure)
    # the ratio is to independent entries, where there are some of this support
    score = "likelihood_ratio" if family_for(pair) is not None else "log_prob"
    detector = pyrovae.NoveltyDetector(
        pair,
        items[usual],
        reference=reference[chosen.rows(len(reference), 2 * len(items), measurements.seed)],
        score=score,
        perturbation=0.3 if are_images(pair.event_shape) else 0.0,  # entries of one unit, as pixels
        level=LEVEL,
        num_particles=min(MOST_PARTICLES, measurements.settings.num_particles),
        seed=measurements.seed,
    )
    return detector, detector.detect(items[checked])


def _row(name: str, detector: pyrovae.NoveltyDetector, novelty: pyrovae.Novelty) -> list[Any]:
    count, flagged = len(novelty.strange), int(novelty.strange.sum())
    ends = stats.binomtest(flagged, count).proportion_ci(0.95)
    # of one threshold the rate is Beta distributed: what is flagged of `count` usual items is beta-binomial
    law = stats.betabinom(count, detector.rank, detector.num_calibration + 1 - detector.rank)
    p = min(1.0, 2 * min(float(law.cdf(flagged)), float(law.sf(flagged - 1))))
    verdict = joined("as claimed, p " if p > 0.01 else "not as claimed, p ", number(p))
    return [
        f"{name}, {detector.score}".replace("_", " "),
        number(detector.threshold),
        number(detector.false_alarm),
        interval(flagged / count, float(ends.low), float(ends.high)),
        verdict,
    ]


def _chart(
    name: str, detector: pyrovae.NoveltyDetector, novelty: pyrovae.Novelty, measurements: Measurements
) -> Markup:
    chart = distribution(
        novelty.pointwise["score"].values,
        detector.threshold,
        label=f"{name}: scores of the judged items, and the threshold as an upright line",
        xlabel=f"{novelty.pointwise.attrs['score']}, nats".replace("_", " "),
        place=measurements.place(name),
    )
    formula = novelty.pointwise.attrs["formula"]
    return figure(chart, caption=f"{name}: {formula} of the judged items. Line: the threshold.")


def _strangest(name: str, novelty: pyrovae.Novelty, measurements: Measurements) -> Markup:
    """The items with the highest scores, the strangest first."""
    scores = novelty.pointwise["score"].values
    order = np.argsort(-scores, kind="stable")[:STRANGEST]
    places = _halves(measurements)[1][order]
    items = measurements.chosen.x[places]
    numbers = measurements.rows[places]
    labels = measurements.labels_of(places)
    if are_images(measurements.data.event_shape):
        words = ", ".join(
            f"{item}{f' (label {label})' if label is not None else ''}"
            for item, label in zip(numbers, labels, strict=True)
        )
        alt = f"the {len(places)} items that are strangest to {name}"
        caption = f"{name}, the strangest first: test items {words}; scores {_range(scores[order])} nats."
        return sheet(items, columns=len(places), limits=value_range(measurements.chosen.x[:]), alt=alt, caption=caption)
    return _rows_of(name, items, numbers, labels, scores[order], novelty.p_value[order])


def _rows_of(name: str, items: Tensor, numbers: Any, labels: list[Any], scores: Any, p_values: Any) -> Markup:
    flat = items.flatten(1).double().numpy()
    shown = min(flat.shape[1], MOST_COLUMNS)
    rows = []
    for values, item, label, score, p in zip(flat, numbers, labels, scores, p_values, strict=True):
        which = f"test item {item}" if label is None else f"test item {item}, label {label}"
        rows += [[which, number(float(score)), number(float(p)), *(number(float(v), ".4g") for v in values[:shown])]]
    some = "" if shown == flat.shape[1] else f", with the first {shown} of their {flat.shape[1]} columns"
    head = ["item", "score, nats", "p", *(f"column {column}" for column in range(shown))]
    return table(f"{name}: the strangest items first{some}.", head, rows)


def _range(scores: np.ndarray) -> str:
    high, low = float(scores.max()), float(scores.min())
    return f"{high:.1f}" if math.isclose(high, low) else f"{high:.1f} to {low:.1f}"
