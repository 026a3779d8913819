"""Items beside their reconstructions, the same items for every entry."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.report.charts import Line, figure, scatter
from pyrovae.report.chosen import rows as some_rows
from pyrovae.report.families import num_categories
from pyrovae.report.markup import Markup, estimate, joined, left_out, note, number, table
from pyrovae.report.measurements import Measurements, Refusal
from pyrovae.report.pictures import are_images, sheet, value_range
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut

ORDER = 40
TITLE = "Reconstructions"
SHOWN = 10  # items in a row
POINTS = 400  # entries in a scatter


def section(measurements: Measurements) -> Section | LeftOut:
    if measurements.data.columns is not None:
        return LeftOut(
            TITLE, "the rows of a table are no pictures: the code plane shows the row that a code stands for"
        )
    images: dict[str, Tensor] = {}
    categories: dict[str, Tensor] = {}
    reasons = []
    for entry in measurements.entries:
        of_categories = num_categories(entry.pair) and hasattr(entry.pair, "probabilities")
        reconstructions = measurements.probabilities(entry) if of_categories else measurements.reconstructions(entry)
        if of_categories and not isinstance(reconstructions, Refusal):
            categories[entry.name] = reconstructions
            if are_images(measurements.data.event_shape):
                images[entry.name] = reconstructions.argmax(-1).float()
        elif isinstance(reconstructions, Refusal):
            reasons += [(entry.name, reconstructions)]
        else:
            images[entry.name] = reconstructions
    if not images and not categories:
        return LeftOut.of(TITLE, reasons)
    parts, ways = [], []
    if images:
        make = _pictures if are_images(measurements.data.event_shape) else _scatters
        body, how = make(measurements, images)
        parts, ways = [body], [how]
    if categories:
        parts += [_table_of_categories(measurements, categories)]
        ways += ["Of categories, the decoder's probability of an item's own category is the better the higher it is."]
    return Section(TITLE, " ".join(ways), joined(*parts, left_out(reasons)))


def _table_of_categories(measurements: Measurements, categories: dict[str, Tensor]) -> Markup:
    """How often the most probable category is the item's own, beside always naming the most frequent one."""
    rows = []
    for entry in measurements.entries:
        if entry.name not in categories:
            continue
        table_of = categories[entry.name].flatten(1, -2).double()  # (N, entries, C)
        own = measurements.x(entry).flatten(1).long()
        of_own = table_of.gather(-1, own[..., None]).squeeze(-1)
        right = (table_of.argmax(-1) == own).double()
        counts = torch.stack([(own == each).double().mean(0) for each in range(table_of.shape[-1])])
        rows += [
            [
                entry.name,
                _over_items(right.mean(1)),
                number(float(counts.max(0).values.mean())),
                _over_items(of_own.mean(1)),
                number(1 / table_of.shape[-1]),
            ]
        ]
    head = [
        "pair",
        "most probable category is the item's own",
        "most frequent category of the entry is",
        "probability of the own category",
        "by chance",
    ]
    caption = (
        f"Shares over the entries of {len(measurements.chosen):,} test items, decoded at their codes, with standard "
        "errors over items. The second column is what always naming the most frequent category of an entry would reach."
    )
    return table(caption, head, rows)


def _over_items(values: Tensor) -> Markup:
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
    return estimate(float(values.mean()), error)


def _pictures(measurements: Measurements, images: dict[str, Tensor]) -> tuple[Markup, str]:
    index = some_rows(len(measurements.chosen), SHOWN, measurements.seed)
    places = ", ".join(str(place) for place in measurements.rows[index])
    items = measurements.chosen.x[index]
    limits = value_range(measurements.chosen.x[:])
    options: dict[str, Any] = {"columns": len(index), "limits": limits}
    parts = [sheet(items, alt=f"{len(index)} test items", caption="the items themselves", **options)]
    for entry in measurements.entries:
        if entry.name not in images:
            continue
        if measurements.are_binarized(entry):
            taken = measurements.x(entry)[index]
            parts += [sheet(taken, alt="the items made 0 or 1", caption=f"as {entry.name} takes them", **options)]
        alt = f"the same items reconstructed by {entry.name}"
        parts += [sheet(images[entry.name][index], alt=alt, caption=entry.name, **options)]
    low, high = limits
    words = f"Test items {places}. Black is {low:g} and white {high:g}."
    body = joined(Markup('<div class="stack">\n'), *parts, Markup("</div>\n"), note(words))
    how = "Each column is one test item: what a pair cannot put into its code is missing from its reconstruction."
    return body, how


def _scatters(measurements: Measurements, images: dict[str, Tensor]) -> tuple[Markup, str]:
    parts = []
    for entry in measurements.entries:
        if entry.name not in images:
            continue
        x = measurements.x(entry).flatten().double().numpy()
        y = images[entry.name].flatten().double().numpy()
        index = some_rows(len(x), POINTS, measurements.seed)
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        chart = scatter(
            [Line(entry.name, x[index], y[index], place=measurements.place(entry.name))],
            label=f"{entry.name}: {len(index)} entries of items against their reconstructions",
            xlabel="entry of an item",
            ylabel="its reconstruction",
            guides=[((low, low), (high, high))],
            limits=(low, high),
            square=True,
            small=True,
        )
        correlation = float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else float("nan")
        caption = f"{entry.name}: {len(index):,} of {len(x):,} entries; correlation of all {correlation:.3f}"
        parts += [figure(chart, caption=caption)]
    body = joined(Markup('<div class="plots">\n'), *parts, Markup("</div>\n"))
    return body, "Each point is one entry of a test item; the closer to the diagonal, the closer its reconstruction."
