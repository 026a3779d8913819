"""log p(x) by all estimators that a pair allows, and the ledger of the gap between it and the ELBO."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyrovae
from pyrovae.evaluation.estimate import Estimate
from pyrovae.evaluation.evidence import PARETO_LIMIT
from pyrovae.models.pair import entries_of
from pyrovae.report.charts import figure, legend_of_parts, stacked
from pyrovae.report.entry import Entry
from pyrovae.report.markup import Markup, estimate, joined, left_out, note, number, table
from pyrovae.report.measurements import Measurements, Refusal
from pyrovae.report.pricing import DECODINGS_OF_GAPS, MOST_FOR_GAPS, decoding_cost
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut

ORDER = 70
TITLE = "Evidence and the gap ledger"
PARTS = {"amortization": "the encoder's own", "approximation": "the family's of q"}
MOST_ENTRIES = 8_000  # of the ledger's items, about 7 ms each where quadrature has no matrix product
MEANINGS = {"lower": "a lower bound", "upper": "an upper bound", "exact": "log p(x) itself"}


def section(measurements: Measurements) -> Section | LeftOut:
    rows: list[list[Any]] = []
    ledger: list[list[Any]] = []
    bars: dict[str, dict[str, float]] = {}
    reasons: list[tuple[str, Any]] = []
    for entry in measurements.entries:
        estimates, refused = _estimates(entry, measurements)
        if not estimates:
            reasons += [(entry.name, refused["elbo"])]
            continue
        reasons += [(f"{entry.name}, {name}", reason) for name, reason in refused.items()]
        rows += [_row(entry, one) for one in estimates.values()]
        split = _ledger(entry, estimates, measurements)
        if isinstance(split, Refusal):
            reasons += [(f"{entry.name}, gap ledger", split)]
        else:
            ledger += [[entry.name, *(_part(split, name) for name in ("gap", *PARTS)), _evidence(split)]]
            bars[entry.name] = {words: split.mean(name)[0] for name, words in PARTS.items()}
    if not rows:
        return LeftOut.of(TITLE, reasons)
    body = joined(_estimates_table(rows, measurements), _ledger_table(ledger, bars, measurements), left_out(reasons))
    how = (
        "A lower bound lies below log p(x), apart from its Monte Carlo error, so the highest bound is the best. What "
        "the ELBO lacks is the fault of the encoder, which a better network could mend, or of the family of q(z | x)."
    )
    return Section(TITLE, how, body)


def _estimates(entry: Entry, measurements: Measurements) -> tuple[dict[str, Estimate], dict[str, Refusal]]:
    """What each estimator says of the first items, the more exact the later; and why others say nothing."""
    pair: Any = entry.pair
    seed, count = measurements.seed, measurements.settings.num_particles
    x = measurements.few_items(entry)

    def quadrature() -> Estimate:
        entries = math.prod(pair.event_shape) * len(x)
        if entries > MOST_ENTRIES and not hasattr(entries_of(pair), "natural_parameter"):
            raise ValueError(
                f"quadrature would take minutes for {len(x)} items of {math.prod(pair.event_shape)} entries under this "
                "likelihood, which is called for each item and node: call pyrovae.quadrature for fewer items"
            )
        return pyrovae.quadrature(pair, x)

    calls: dict[str, Callable[[], Estimate]] = {
        "elbo": lambda: pyrovae.elbo(pair, x, seed=seed),
        f"iwae({count})": lambda: pyrovae.iwae(pair, x, num_particles=count, seed=seed),
        "quadrature": quadrature,
        "exact": lambda: pyrovae.exact(pair, x),
    }
    estimates: dict[str, Estimate] = {}
    refused: dict[str, Refusal] = {}
    for name, call in calls.items():
        answer = measurements.of(entry, f"{name} of the ledger's items", call)
        if isinstance(answer, Refusal):
            refused[name] = answer
            if name == "elbo":  # no p(x): the others would say the same
                break
        else:
            estimates[name] = answer
    return estimates, refused


def _row(entry: Entry, one: Estimate) -> list[Any]:
    attributes = one.pointwise.attrs
    value = number(one.mean) if attributes["errors"] == "none" else estimate(one.mean, one.se)
    weights: Any = ""
    if "pareto_k" in one.pointwise:
        shapes = one.pointwise["pareto_k"]
        heavy = int((shapes > PARETO_LIMIT).sum())
        words = joined(number(heavy, ".0f"), " with Pareto k over 0.7")
        weights = words if bool(shapes.notnull().any()) else "too few draws for a Pareto k"
    if "unreliable" in one.pointwise:
        weights = joined(weights, ", ", number(int(one.pointwise["unreliable"].sum()), ".0f"), " unreliable")
    meaning = MEANINGS.get(str(one.bound), "relation to log p(x) unknown")
    return [entry.name, one.kind, value, meaning, weights]


def _estimates_table(rows: list[list[Any]], measurements: Measurements) -> Markup:
    count = min(measurements.settings.num_ledger_items, len(measurements.chosen))
    head = ["pair", "estimator", "nats per item", "which is", "importance weights, items"]
    caption = (
        f"On the first {count} of the items that are judged, seed {measurements.seed}. The errors are Monte "
        "Carlo's, or of the quadrature's grid; that of another draw of items is much larger."
    )
    return table(caption, head, rows)


def _ledger(entry: Entry, estimates: dict[str, Estimate], measurements: Measurements) -> Any:
    """log p(x) - ELBO in its two parts, by the most exact evidence there is."""
    evidence = [one for name, one in estimates.items() if name != "elbo"]
    if not evidence:
        return Refusal("there is no estimate of log p(x) beside the ELBO")
    pair: Any = entry.pair
    x = measurements.few_items(entry)
    if decoding_cost(pair) * DECODINGS_OF_GAPS * len(x) > MOST_FOR_GAPS:
        return Refusal(
            f"the search for the best q of {len(x)} items would take many minutes with this decoder: call "
            "pyrovae.gaps(pair, x, evidence) for a few items"
        )
    return measurements.of(
        entry,
        "gap ledger",
        lambda: pyrovae.gaps(pair, x, evidence[-1], progress=False, seed=measurements.seed),
    )


def _part(split: pyrovae.Gaps, name: str) -> Markup:
    return estimate(*split.mean(name))


def _evidence(split: pyrovae.Gaps) -> str:
    attributes = split.pointwise.attrs
    side = {"lower": ", a lower bound: the gap is larger"}.get(str(attributes["evidence_bound"]), "")
    return f"{attributes['evidence']}{side}"


def _ledger_table(rows: list[list[Any]], bars: dict[str, dict[str, float]], measurements: Measurements) -> Markup:
    if not rows:
        return Markup("")
    head = ["pair", "log p(x) − ELBO", "amortisation gap, at least", "approximation gap, at most", "log p(x) from"]
    caption = (
        "Nats per item, on the same items, with Monte Carlo errors. The amortisation gap is what a q of the same "
        "family, sought for each item by itself, gains over the encoder; the approximation gap is what even that "
        "one lacks."
    )
    places = {name: measurements.place(name) for name in bars}
    label = "the two parts of the gap of each pair"
    chart = stacked(bars, label=label, xlabel="nats per item", places=places)
    names = legend_of_parts(PARTS.values(), *places.values() if len(places) == 1 else ())
    told = note("A part below 0 is one that Monte Carlo error, or evidence that is a lower bound, hides.")
    needs_note = any(part < 0 for parts in bars.values() for part in parts.values())
    return joined(
        Markup("<h3>The gap ledger</h3>\n"),
        table(caption, head, rows),
        figure(chart, names=names),
        told if needs_note else "",
    )
