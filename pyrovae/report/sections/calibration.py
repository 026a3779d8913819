"""Whether q(z | x) is the posterior: simulation-based calibration of each entry's encoder."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from scipy import stats

import pyrovae
from pyrovae.report.charts import figure, histogram
from pyrovae.report.entry import Entry
from pyrovae.report.markup import Markup, joined, left_out, number, p_value, table
from pyrovae.report.measurements import Measurements, Refusal
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut

ORDER = 80
TITLE = "Calibration of the encoder"
BINS = 20
SHOWN = 3  # quantities of an entry, those that fit worst


def section(measurements: Measurements) -> Section | LeftOut:
    results, reasons = measurements.of_each(partial(_calibrated, measurements))
    rows, charts = [], []
    for name, result in results.items():
        worst = result.tests.sortby("statistic", ascending=False).quantity.values[:SHOWN]
        for quantity in result.tests.quantity.values:  # in the order of the code
            if quantity in worst:
                rows += [_row(name, quantity, result)]
                charts += [_histogram(name, quantity, result, measurements.place(name))]
    if not rows:
        return LeftOut.of(TITLE, reasons)
    attributes = next(iter(results.values())).tests.attrs
    caption = (
        f"{attributes['num_simulations']:,} items drawn from each decoder, not real ones, "
        f"{attributes['num_draws']} draws of q(z | x) each, seed {measurements.seed}. The test is "
        f"{attributes['test']}; p is Holm's over the quantities of a pair, of which at most {SHOWN} are shown, "
        "those that fit worst."
    )
    head = ["pair, quantity", "adjusted p", "q's mean off by, its standard deviations", "true spread / q's", "verdict"]
    body = joined(
        table(caption, head, rows),
        Markup('<div class="plots">\n'),
        *charts,
        Markup("</div>\n"),
        left_out(reasons),
    )
    how = (
        "Bars within the grey band are those of an encoder that is the posterior of its own decoder; a valley "
        "says that it is too sure of its codes, a hill that it is too unsure, and a slope that it is off to one "
        "side."
    )
    return Section(TITLE, how, body)


def _calibrated(measurements: Measurements, entry: Entry) -> pyrovae.Calibration | Refusal:
    pair: Any = entry.pair
    calibrate = partial(
        pyrovae.calibrate,
        pair,
        num_simulations=measurements.settings.num_simulations,
        seed=measurements.seed,
        **measurements.beside(entry),
    )
    return measurements.of(entry, "calibration", calibrate)


def _row(name: str, quantity: str, result: pyrovae.Calibration) -> list[Any]:
    test = result.tests.sel(quantity=quantity)
    p = float(test.p_adjusted)
    verdict = "departs" if p < result.tests.attrs["level"] else "no departure seen"
    bias, ratio = float(test.bias), float(test.scale_ratio)
    return [f"{name}, {quantity}", p_value(p), number(bias, "+.3f"), number(ratio, ".3f"), verdict]


def _histogram(name: str, quantity: str, result: pyrovae.Calibration, place: int) -> Markup:
    ranks = result.pointwise["uniform"].sel(quantity=quantity).values
    counts = np.bincount(np.minimum((BINS * ranks).astype(int), BINS - 1), minlength=BINS)
    band = stats.binom.ppf([0.005, 0.995], len(ranks), 1 / BINS)
    label = f"{name}, {quantity}: ranks of the true code among draws, in {BINS} bins"
    chart = histogram(counts.tolist(), label=label, xlabel="rank", band=(float(band[0]), float(band[1])), place=place)
    return figure(chart, caption=f"{name}, {quantity}. Grey: where 99 % of calibrated bars lie.")
