"""Pairs given covariates: draws at each value of these, and what the covariates tell of an item."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyrovae
from pyrovae.data import Split
from pyrovae.evaluation.estimate import Estimate
from pyrovae.models.pair import covariate_dim_of, dtype_and_device
from pyrovae.report.entry import Entry
from pyrovae.report.families import has_mean
from pyrovae.report.markup import Markup, interval, joined, left_out, number, table
from pyrovae.report.measurements import Measurements, Refusal
from pyrovae.report.pictures import are_images, sheet, value_range
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut
from pyrovae.report.sections.samples import draws
from pyrovae.report.sections.semi_supervised import moments

ORDER = 52
TITLE = "Given covariates"
ACROSS = 10
DRAWS = 200  # at a value, for the numbers
MOST_VALUES = 20
MOST_COLUMNS = 8
SHARES = (0.1, 0.5, 0.9)  # of the items, at whose quantiles a real covariate is set


def section(measurements: Measurements) -> Section | LeftOut:
    entries = [entry for entry in measurements.entries if covariate_dim_of(entry.pair)]
    if not entries:
        return LeftOut(TITLE, "none of these pairs is given covariates")
    rows, parts = [], []
    reasons: list[tuple[str, Any]] = []
    for entry in entries:
        if "covariates" not in measurements.beside(entry):
            reasons += [(entry.name, "the test items of this data carry no covariates")]
            continue
        told = measurements.of(entry, "what covariates tell", partial(_told, entry, measurements))
        drawn = measurements.of(entry, "draws at covariates", partial(_draws, entry, measurements))
        if isinstance(told, Refusal):
            reasons += [(f"{entry.name}, what covariates tell", told)]
        else:
            rows += [[entry.name, interval(*told, "+.3f"), "yes" if told[1] > 0 else "not seen"]]
        if isinstance(drawn, Refusal):
            reasons += [(f"{entry.name}, draws", drawn)]
        else:
            parts += [drawn]
    if not rows and not parts:
        return LeftOut.of(TITLE, reasons)
    head = [
        "pair",
        "log p(x | own c) − log p(x | another item's c), nats per item",
        "do they tell something?",
    ]
    caption = (
        f"Importance-weighted bounds of {len(measurements.chosen):,} test items, with their own covariates and with "
        "those of another item, by a random permutation; the interval is Student's over the items, at 95 %."
    )
    how = (
        "A pair that uses its covariates finds an item less probable at another item's covariates, and draws other "
        "items at other values of them."
    )
    table_of = table(caption, head, rows) if rows else Markup("")
    return Section(TITLE, how, joined(table_of, *parts, left_out(reasons)))


def _told(entry: Entry, measurements: Measurements) -> tuple[float, float, float]:
    """The mean difference in log p(x | c) at an item's own covariates and at another's, with its interval."""
    pair: Any = entry.pair
    own = measurements.iwae(entry)
    if not isinstance(own, Estimate):
        raise ValueError(str(own))
    items = measurements.given(entry)
    order = np.random.default_rng([measurements.seed, 29]).permutation(len(items))
    split = Split(items.x, covariates=items.covariates[order], exposure=items.exposure)
    other = pyrovae.iwae(pair, split, num_particles=measurements.settings.num_particles, seed=measurements.seed)
    return pyrovae.paired_interval(own.pointwise["value"].values - other.pointwise["value"].values)


def _values(covariates: Tensor) -> tuple[list[tuple[str, Tensor]], str]:
    """Values of the covariates that draws are shown at, each with its name, and what they are in words."""
    count = covariates.shape[1]
    is_one_hot = bool((((covariates == 0) | (covariates == 1)).all(1) & (covariates.sum(1) == 1)).all())
    if is_one_hot and count > 1:
        names = [f"covariate {k} is 1" for k in range(min(count, MOST_VALUES))]
        some = "" if count <= MOST_VALUES else f" The first {MOST_VALUES} of {count} categories."
        one_hot = torch.eye(count).to(covariates)
        return [(name, one_hot[k]) for k, name in enumerate(names)], f"the categories of the covariates.{some}"
    values = []
    middle = covariates.mean(0)
    for k in range(min(count, MOST_VALUES // len(SHARES))):
        for share in SHARES:
            row = middle.clone()
            row[k] = covariates[:, k].quantile(share)
            values += [(f"covariate {k} = {float(row[k]):.4g}", row)]
    some = "" if 3 * count <= MOST_VALUES else f" The first {MOST_VALUES // len(SHARES)} of {count} covariates."
    words = "one covariate at its quantiles of 10, 50 and 90 % of the items, and the others at their means."
    return values, f"{words}{some}"


def _draws(entry: Entry, measurements: Measurements) -> Markup:
    pair: Any = entry.pair
    covariates = torch.as_tensor(measurements.beside(entry)["covariates"]).to(dtype_and_device(pair)[0])
    values, words = _values(covariates)
    pictures = are_images(measurements.data.event_shape)
    count = ACROSS if pictures else DRAWS
    # noise of one seed: the same codes at every value, where the prior does not depend on it
    drawn = {
        name: draws(
            pair, count, measurements.seed, mean=pictures and has_mean(pair), covariates=value.expand(count, -1)
        )
        for name, value in values
    }
    if pictures:
        images = torch.cat([items.detach().cpu() for items in drawn.values()])
        caption = f"{entry.name}, a row for each value, from above: {'; '.join(drawn)}; these are {words}"
        alt = f"draws of {entry.name}, a row for each value of the covariates"
        return sheet(images, columns=ACROSS, limits=value_range(measurements.chosen.x[:]), alt=alt, caption=caption)
    real = measurements.x(entry).flatten(1)
    columns = min(real.shape[1], MOST_COLUMNS)
    rows = []
    for (name, value), items in zip(values, drawn.values(), strict=True):
        rows += [[f"draws, {name}", number(len(items), ".0f"), *moments(items, columns)]]
        same = (covariates == value).all(1)
        if bool(same.any()):
            rows += [[f"test items, {name}", number(int(same.sum()), ".0f"), *moments(real[same], columns)]]
    exposure = " All draws are at an exposure of 1." if "exposure" in measurements.beside(entry) else ""
    caption = f"{entry.name}: mean ± standard deviation of columns, of draws at {words}{exposure}"
    return table(caption, ["at", "items", *(f"column {column}" for column in range(columns))], rows)
