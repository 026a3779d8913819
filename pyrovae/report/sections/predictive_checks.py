"""Whether sets drawn from p(x) look like the test items: named statistics with p-values."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pyrovae
from pyrovae.report.charts import distribution, figure
from pyrovae.report.entry import Entry
from pyrovae.report.markup import Markup, estimate, joined, left_out, note, number, p_value, table
from pyrovae.report.measurements import Measurements, Refusal
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut

ORDER = 55
TITLE = "Predictive checks"
SHOWN = 3  # statistics of an entry that have a chart, those that fit worst


def section(measurements: Measurements) -> Section | LeftOut:
    results, reasons = measurements.of_each(partial(_checked, measurements))
    if not results:
        return LeftOut.of(TITLE, reasons)
    rows, charts = [], []
    for name, result in results.items():
        rows += [_row(name, statistic, result) for statistic in result.table["statistic"].values.tolist()]
        charts += [_chart(name, statistic, result, measurements) for statistic in _worst(result)]
    head = ["pair, statistic", "test items", "mean of the sets", "95 % of the sets", "p", "p, Holm", "verdict"]
    told = [note(f"{name}: {result._verdict()}.") for name, result in results.items()]
    body = joined(
        table(_caption(measurements), head, rows),
        *told,
        Markup('<div class="plots">\n'),
        *charts,
        Markup("</div>\n"),
        left_out(reasons),
    )
    how = (
        "Each bar chart is a statistic of many sets that the pair draws, and the upright line is that of the test "
        "items: a line outside of the bars says in which way p(x) is not that of the items."
    )
    return Section(TITLE, how, body)


def _checked(measurements: Measurements, entry: Entry) -> pyrovae.PredictiveChecks | Refusal:
    pair: Any = entry.pair
    check = partial(
        pyrovae.predictive_checks,
        pair,
        measurements.given(entry),
        draws=measurements.settings.num_sets,
        seed=measurements.seed,
    )
    return measurements.of(entry, "predictive checks", check)


def _caption(measurements: Measurements) -> str:
    words = (
        f"{len(measurements.chosen):,} test items against {measurements.settings.num_sets:,} sets of as many draws "
        f"from p(x), seed {measurements.seed}. p is two-sided, with its Monte Carlo error, and uniform where the items "
        "are drawn from p(x); Holm's correction is over the statistics of a pair."
    )
    if any(measurements.beside(entry) for entry in measurements.entries):
        words += " A pair that is given covariates or an exposure draws each set at those of the test items."
    return words


def _row(name: str, statistic: str, result: pyrovae.PredictiveChecks) -> list[Any]:
    one = result.table.sel(statistic=statistic)
    p, adjusted = float(one.p_value), float(one.p_adjusted)
    ends = joined(number(float(one.lower), ".4g"), " to ", number(float(one.upper), ".4g"))
    figures = [number(float(one.observed), ".4g"), number(float(one["mean"]), ".4g"), ends]
    if math.isnan(p):
        return [f"{name}, {statistic}", *figures, "none", "none", "the same in all sets"]
    verdict = "fails" if adjusted <= result.level else "no misfit seen"
    return [
        f"{name}, {statistic}",
        *figures,
        estimate(p, float(one.p_value_se)),
        p_value(adjusted),
        verdict,
    ]


def _worst(result: pyrovae.PredictiveChecks) -> list[str]:
    """The statistics with the smallest p-values, the furthest from the middle of the sets first, in their own order."""
    one = result.table
    spread = one["replicate"].std("draw")
    away = (abs(one["observed"] - one["mean"]) / spread.where(spread > 0)).fillna(0.0)
    order = sorted(range(one.sizes["statistic"]), key=lambda i: (float(one["p_value"].fillna(2.0)[i]), -float(away[i])))
    kept = [i for i in sorted(order[:SHOWN]) if math.isfinite(float(one["p_value"][i]))]
    return [str(one["statistic"].values[i]) for i in kept]


def _chart(name: str, statistic: str, result: pyrovae.PredictiveChecks, measurements: Measurements) -> Markup:
    one = result.table.sel(statistic=statistic)
    chart = distribution(
        one["replicate"].values,
        float(one.observed),
        label=f"{name}: {statistic} of sets of draws, and that of the test items as an upright line",
        xlabel=statistic,
        place=measurements.place(name),
    )
    return figure(chart, caption=f"{name}, {statistic}. Bars: sets of draws. Line: the test items.")
