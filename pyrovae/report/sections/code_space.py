"""The code space in numbers: holes, smoothness, separation, and how far the codes are from the prior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import pyrovae
from pyrovae.models.pair import covariate_dim_of
from pyrovae.report.chosen import part
from pyrovae.report.decoding import first_covariates
from pyrovae.report.entry import Entry
from pyrovae.report.families import has_mean
from pyrovae.report.markup import Markup, estimate, joined, left_out, number, p_value, table
from pyrovae.report.measurements import TRAINING_ITEMS, Measurements, Refusal
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut

ORDER = 100
TITLE = "The code space in numbers"
Cell = Callable[[Any], Any]


def section(measurements: Measurements) -> Section | LeftOut:
    reasons: list[tuple[str, Any]] = []
    coded = []
    for entry in measurements.entries:
        lacks = _lacks(entry, measurements)
        reasons += [(entry.name, lacks)] if lacks else []
        coded += [] if lacks else [entry]
    judge = _judge(measurements) if coded else None
    if isinstance(judge, Refusal):
        reasons += [("the judge, a classifier of decoded items", judge)]
        judge = None
    results, refusals = measurements.of_each(
        lambda entry: measurements.of(entry, "code space", partial(_measured, entry, judge, measurements)), coded
    )
    refusals += [(name, each.attrs["left_out"]) for name, each in results.items() if each.attrs.get("left_out")]
    reasons += sorted(refusals, key=lambda one: measurements.place(one[0]))
    if not results:
        return LeftOut.of(TITLE, reasons)
    parts = [_group(results, *group, measurements) for group in GROUPS]
    how = (
        "A code space is good to move in where few codes decode to nothing seen, where a step changes the decoded item "
        "by little, and where all codes together follow the prior."
    )
    return Section(TITLE, how, joined(_which_covariates(coded, measurements), *parts, left_out(reasons)))


def _which_covariates(entries: Sequence[Entry], measurements: Measurements) -> Markup:
    """At which covariates codes were decoded, of the pairs given some."""
    at = [f"{each.name}, {_covariates(each, measurements)[0]}" for each in _given(entries)]
    if not at:
        return Markup("")
    words = (
        "A pair given covariates has a space for each value of these. Holes and walks are of codes decoded with one "
        f"value, the first that its plane shows ({'; '.join(at)}); items are encoded and reconstructed with their own."
    )
    return joined(Markup("<p>"), words, Markup("</p>\n"))


def _covariates(entry: Entry, measurements: Measurements) -> tuple[str, list[float]]:
    """The covariates that codes are decoded with, by name and value."""
    return first_covariates(measurements.beside(entry)["covariates"])


def _given(entries: Sequence[Entry]) -> list[Entry]:
    """Those of pairs given covariates."""
    return [entry for entry in entries if covariate_dim_of(entry.pair)]


def _lacks(entry: Entry, measurements: Measurements) -> str:
    """Why a pair has no code space that could be surveyed; empty where it has one, as far as can be told at once."""
    pair: Any = entry.pair
    if not pair.latent_dim:
        return "it has no code"
    if not hasattr(pair, "encode") or not hasattr(pair, "decode"):
        return "it has no encode and decode of a code alone"
    if covariate_dim_of(pair) and "covariates" not in measurements.beside(entry):
        return "it is given covariates, and the test items of this data carry none"
    if not has_mean(pair):
        return "entries of its likelihood have no mean, so that codes cannot be compared by what they decode to"
    return ""


def _judge(measurements: Measurements) -> Any:
    """A classifier that was trained on training items alone; a refusal where there are no labels."""
    data, settings = measurements.data, measurements.settings
    if data.train.y is None:
        return Refusal("the training items have no labels")
    with measurements.timed("judge"):
        items = part(data.train, TRAINING_ITEMS * settings.num_items, settings.seed)
        try:
            return pyrovae.Judge.fit(items.x[:], items.y, seed=settings.seed)
        except (ValueError, MemoryError) as error:
            return Refusal(str(error))


def _measured(entry: Entry, judge: Any, measurements: Measurements) -> Any:
    settings = measurements.settings
    at: dict[str, Any] = {}
    if _given([entry]):
        at["covariates"] = _covariates(entry, measurements)[1]
    return pyrovae.code_space(
        entry.pair,
        measurements.training_items(entry),
        measurements.items(entry),
        judge,
        **at,
        num_codes=settings.num_codes,
        num_pairs=settings.num_pairs,
        seed=settings.seed,
    )


def _value(name: str, form: str = ".3f", *, at: dict[str, str] | None = None) -> Cell:
    """A cell with a statistic, with its standard error where the survey has one; "none" where the pair has none."""

    def cell(result: Any) -> Any:
        if name not in result:
            return "none"
        value, error = result[name], result.get(f"{name}_se")
        if at is not None:
            value, error = value.sel(at), None if error is None else error.sel(at)
        if not np.isfinite(float(value)):
            return "none"
        return number(float(value), form) if error is None else estimate(float(value), float(error), form)

    return cell


def _with_p(name: str, at: dict[str, str]) -> Cell:
    def cell(result: Any) -> Any:
        excess, p = result[f"{name}_excess"].sel(at), result[f"{name}_p_value"].sel(at)
        return joined(number(float(excess)), ", p ", p_value(float(p)))

    return cell


Column = tuple[str, Cell]
GROUPS: list[tuple[str, str, Sequence[Column]]] = [
    (
        "Holes",
        "The share of codes, drawn from three distributions, that decode to something farther from all training "
        "reconstructions than 99 % of test reconstructions are, by the features of a judge, a classifier trained "
        "on training items alone; by chance it is the share in the fourth column. The last column, of averages of "
        "two classes, shows that the measure sees what is no item.",
        [
            ("drawn from the prior", _value("hole_fraction", at={"law": "prior"})),
            ("from a normal fitted to the codes", _value("hole_fraction", at={"law": "gaussian"})),
            ("from the box of the codes", _value("hole_fraction", at={"law": "box"})),
            ("by chance", _value("base_rate")),
            ("averages of two classes", _value("control_fraction")),
        ],
    ),
    (
        "Holes, by entries of the items",
        "The same by the entries themselves, in place of a judge's features.",
        [
            ("drawn from the prior", _value("pixel_hole_fraction", at={"law": "prior"})),
            ("from a normal fitted to the codes", _value("pixel_hole_fraction", at={"law": "gaussian"})),
            ("from the box of the codes", _value("pixel_hole_fraction", at={"law": "box"})),
            ("by chance", _value("pixel_base_rate")),
        ],
    ),
    (
        "Smoothness",
        "Along straight walks of 64 steps between the codes of two test items. The largest step's share of the "
        "path is 1/64 = 0.016 for an even change and 1 for a jump; the path is as long as the distance of its "
        "ends, a ratio of 1, where it takes no detour; the label is that which the judge gives to what is decoded.",
        [
            ("largest step / path, median", _value("largest_step_share_median", ".4f")),
            ("path / distance of its ends, median", _value("path_ratio_median")),
            ("changes of the label on a walk", _value("label_switches_mean")),
        ],
    ),
    (
        "Separation of the labels",
        "How well the labels are told by whitened codes: by their 10 nearest training codes, and by the "
        "silhouette, from −1 to 1, which is 0 where classes overlap entirely. The judge's accuracy is that on "
        "reconstructions.",
        [
            ("accuracy of 10 nearest neighbours", _value("knn_accuracy")),
            ("silhouette", _value("silhouette")),
            ("judge's accuracy on reconstructions", _value("judge_accuracy")),
        ],
    ),
    (
        "All codes together, and the prior",
        "The sliced Wasserstein distance beyond that of a sample of the prior, in units of a code, 0 where the "
        "codes follow it, with the p-value of a test. The rate, nats per item, is the sum of the information of "
        "the code on its item, at most log N, and of what is wasted because all codes together are not the prior.",
        [
            ("distance of codes to the prior", _with_p("sliced_w2", {"codes": "raw"})),
            ("of whitened codes to N(0, I)", _with_p("sliced_w2", {"codes": "whitened"})),
            ("rate", _value("rate")),
            ("information of code and item", _value("mutual_information")),
            ("KL of all codes to the prior", _value("kl_aggregate")),
        ],
    ),
]


def _group(
    results: dict[str, Any], title: str, meaning: str, columns: Sequence[Column], measurements: Measurements
) -> Markup:
    """A table of some statistics, where any pair has them."""
    rows = [[name, *(cell(result) for _, cell in columns)] for name, result in results.items()]
    if all(cell == "none" for row in rows for cell in row[1:]):
        return Markup("")
    settings = measurements.settings
    count, training = len(measurements.chosen), min(len(measurements.data.train), TRAINING_ITEMS * settings.num_items)
    of = f"{count:,} test and {training:,} training items, {settings.num_codes:,} codes, {settings.num_pairs:,} walks"
    caption = f"{meaning} ({of}, seed {settings.seed}; errors over items or codes.)"
    return joined(
        Markup("<h3>"), title, Markup("</h3>\n"), table(caption, ["pair", *(head for head, _ in columns)], rows)
    )
