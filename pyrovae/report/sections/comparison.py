"""The entries side by side: reconstruction, log p(x), whether they can be sampled, and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import pyrovae
from pyrovae.evaluation.estimate import Estimate
from pyrovae.report.charts import Row, figure, intervals
from pyrovae.report.entry import Entry
from pyrovae.report.markup import Markup, estimate, interval, joined, left_out, number, table
from pyrovae.report.measurements import Measurements, Refusal
from pyrovae.report.section import Section

ORDER = 20
TITLE = "Which is better, and can it be sampled?"


def section(measurements: Measurements) -> Section:
    parts = [_side_by_side(measurements), *_log_p(measurements), *_reconstruction(measurements)]
    return Section(
        TITLE,
        "A higher log p(x) is better and a lower reconstruction error is better; where the interval of a difference "
        "holds 0, the items do not tell which of the two it is.",
        joined(*parts),
    )


def _side_by_side(measurements: Measurements) -> Markup:
    rows, reasons = [], []
    for entry in measurements.entries:
        bound, error = measurements.iwae(entry), measurements.reconstruction_error(entry)
        log_p: Any = "no p(x)"
        of_items: Any = "none"
        if isinstance(bound, Estimate):
            log_p, of_items = estimate(bound.mean, bound.se), number(bound.se_items)
            log_p = joined(log_p, " (a mass)" if bound.pointwise.attrs["base_measure"] == "mass" else "")
        else:
            reasons += [(f"{entry.name}, log p(x)", bound)]
        squared: Any = "none"
        rmse: Any = "none"
        if isinstance(error, Refusal):
            reasons += [(f"{entry.name}, reconstruction", error)]
        else:
            squared = estimate(float(error.squared_error), standard_error(error.squared_error_items.values))
            rmse = number(float(error.rmse), ".4f")
        rows += [[entry.name, squared, rmse, log_p, of_items, _sampling(entry)]]
    head = [
        "pair",
        "squared error of a reconstruction",
        "RMSE of an entry",
        "log p(x), nats per item",
        "its error over items",
        "can it be sampled?",
    ]
    count = len(measurements.chosen)
    caption = (
        f"On {count:,} test items. log p(x) is its importance-weighted lower bound from "
        f"{measurements.settings.num_particles:,} draws per item, with its Monte Carlo error; the error over items is "
        "that of another draw of as many items. The squared error is summed over an item's entries, with its standard "
        "error over items."
    )
    return joined(table(caption, head, rows), left_out(reasons))


def _sampling(entry: Entry) -> str:
    if entry.pair.is_normalized:
        return "yes, from p(x); how good its draws are stands under Samples and under Holes"
    if hasattr(entry.pair, "encode"):
        return "no: there is no density of its codes; pyrovae.as_density adds one"
    return "no: it has no p(x)"


def standard_error(values: np.ndarray) -> float:
    """The standard error of the mean of independent values; NaN for one."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _log_p(measurements: Measurements) -> list[Markup]:
    """Differences in log p(x), nats per item, of each entry and the first that it can be compared with."""
    known = {e.name: measurements.iwae(e) for e in measurements.entries}
    estimates = {name: bound for name, bound in known.items() if isinstance(bound, Estimate)}

    def difference(name: str, reference: str) -> np.ndarray:
        values: np.ndarray = (estimates[name] - estimates[reference]).pointwise["value"].values
        return values

    about = (
        "Differences of the importance-weighted bounds, item by item, nats per item; above 0 means a higher "
        "log p(x). A pair whose bound is less tight than the other's is better than its difference shows: see "
        "the gap ledger."
    )
    return paired(
        "log p(x)", list(estimates), difference, measurements, about=about, better="higher", xlabel="nats per item"
    )


def _reconstruction(measurements: Measurements) -> list[Markup]:
    """Differences in squared reconstruction error of each entry and the first with the same items."""
    reconstructed, _ = measurements.of_each(measurements.reconstruction_error)
    errors = {name: error.squared_error_items.values for name, error in reconstructed.items()}
    items = {entry.name: measurements.are_binarized(entry) for entry in measurements.entries if entry.name in errors}

    def difference(name: str, reference: str) -> np.ndarray:
        if items[name] != items[reference]:
            raise ValueError("one reconstructs the items as they are, the other the items made 0 or 1")
        values: np.ndarray = errors[name] - errors[reference]
        return values

    about = "Differences of the squared errors, item by item, summed over an item's entries; below 0 means closer."
    return paired(
        "Reconstruction",
        list(errors),
        difference,
        measurements,
        about=about,
        better="lower",
        xlabel="squared error of an item",
    )


def paired(
    title: str,
    names: list[str],
    difference: Callable[[str, str], np.ndarray],
    measurements: Measurements,
    *,
    about: str,
    better: str,
    xlabel: str,
) -> list[Markup]:
    """Each entry less the first one that it can be compared with: intervals by Holm's procedure, and a verdict."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    reasons: dict[str, str] = {}
    for name in names:
        for reference in groups:
            try:
                groups[reference][name] = difference(name, reference)
                break
            except ValueError as error:  # not comparable, which the estimates themselves say
                reasons[f"{name} and {reference}"] = str(error)
        else:
            groups[name] = {}
    parts = []
    for reference, effects in groups.items():
        if effects:
            parts += [_against(reference, effects, measurements, title, about, better, xlabel)]
    if reasons:
        parts += [left_out(reasons.items(), "Not compared")]
    if parts:
        return [joined(Markup("<h3>"), f"{title}, compared", Markup("</h3>\n")), *parts]
    return []


def _against(
    reference: str,
    effects: Mapping[str, np.ndarray],
    measurements: Measurements,
    title: str,
    about: str,
    better: str,
    xlabel: str,
) -> Markup:
    try:
        found = pyrovae.verdicts(effects, dict.fromkeys(effects, 0.0))
    except ValueError as error:
        return left_out([(f"against {reference}", error)], "Not compared")
    words = {"holds": "higher", "does not hold": "lower"}
    rows, bars = [], []
    for name in effects:
        row = found.sel(claim=name)
        mean, low, high = float(row["mean"]), float(row.low), float(row.high)
        side = words.get(str(row.verdict.item()))
        verdict = "cannot tell" if side is None else f"{side}: {'better' if side == better else 'worse'}"
        rows += [[name, interval(mean, low, high), number(100 * float(row.level), ".3g"), verdict]]
        bars += [Row(f"{name} − {reference}", mean, low, high, measurements.place(name))]
    head = [f"pair, less {reference}", "difference [interval]", "level of the interval, %", "verdict"]
    count = len(next(iter(effects.values())))
    caption = f"{about} Student t intervals over {count:,} paired items; Holm's procedure sets their levels."
    chart = intervals(bars, label=f"{title}: differences from {reference} with intervals", xlabel=xlabel, zero=0.0)
    return joined(table(caption, head, rows), figure(chart))
