"""Rate and distortion: how many nats the code carries, and what is lost of the item."""

from __future__ import annotations

from functools import partial

import numpy as np

import pyrovae
from pyrovae.evaluation.estimate import Estimate
from pyrovae.report.charts import Line, figure, legend, scatter
from pyrovae.report.entry import Entry
from pyrovae.report.markup import Markup, estimate, joined, left_out, number, table
from pyrovae.report.measurements import Measurements, Refusal
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut

ORDER = 60
TITLE = "Rate and distortion"


def section(measurements: Measurements) -> Section | LeftOut:
    bounds, reasons = measurements.of_each(partial(_bound, measurements))
    if not bounds:
        return LeftOut.of(TITLE, reasons)
    rows = []
    for entry in measurements.entries:
        if entry.name in bounds:
            rows += [_row(entry, bounds[entry.name], measurements)]
    head = ["pair", "rate, nats per item", "distortion, nats per item", "ELBO = −(rate + distortion)", "active units"]
    one = next(iter(bounds.values()))
    caption = (
        f"On {one.pointwise.sizes['item']:,} test items, {one.pointwise.attrs['num_particles']} draws of "
        f"q(z | x) each, seed {measurements.seed}, with Monte Carlo errors. A unit is active where the variance "
        "over items of its posterior mean exceeds 0.01."
    )
    how = (
        "The rate is what the code tells of an item, the distortion what it leaves open: a smaller sum of the two is "
        "better, and a rate of 0 says that the code is not used."
    )
    return Section(TITLE, how, joined(table(caption, head, rows), _chart(bounds, measurements), left_out(reasons)))


def _bound(measurements: Measurements, entry: Entry) -> Estimate | Refusal:
    bound = measurements.elbo(entry)
    if isinstance(bound, Estimate) and "rate" not in bound.pointwise:
        return Refusal("its ELBO is put together from those of its members, and has no rate of its own")
    return bound


def _row(entry: Entry, bound: Estimate, measurements: Measurements) -> list[Markup | str]:
    rate, distortion = (_mean(bound, name) for name in ("rate", "distortion"))
    return [entry.name, rate, distortion, estimate(bound.mean, bound.se), _active(entry, measurements)]


def _mean(bound: Estimate, name: str) -> Markup:
    values, errors = bound.pointwise[name].values, bound.pointwise[f"{name}_se"].values
    return estimate(float(values.mean()), float(np.sqrt((errors**2).sum())) / len(errors))


def _active(entry: Entry, measurements: Measurements) -> Markup | str:
    if not entry.pair.latent_dim:
        return "it has no code"
    codes = measurements.codes(entry)
    if isinstance(codes, Refusal):
        return str(codes)
    found = measurements.of(entry, "active units", lambda: pyrovae.active_units(codes))
    if isinstance(found, Refusal):
        return str(found)
    return joined(number(int(found.active_units), ".0f"), f" of {entry.pair.latent_dim}")


def _chart(bounds: dict[str, Estimate], measurements: Measurements) -> Markup:
    """Rate across and distortion up, with lines of equal ELBO, for the entries that one base measure holds for."""
    measures = {bound.pointwise.attrs["base_measure"] for bound in bounds.values()}
    items = {bound.pointwise.attrs["items_sha256"] for bound in bounds.values()}
    if len(measures) > 1 or len(items) > 1 or len(bounds) < 2:
        return Markup("")
    lines = []
    for name, bound in bounds.items():
        rate, distortion = (float(bound.pointwise[of].mean()) for of in ("rate", "distortion"))
        lines += [Line(name, [rate], [distortion], place=measurements.place(name))]
    across = [line.x[0] for line in lines]
    low, high = min(across), max(across)
    guides = []
    for line in lines:  # of its own ELBO: rate + distortion is constant
        total = line.x[0] + line.y[0]
        guides += [((low, total - low), (high, total - high))]
    chart = scatter(
        lines,
        label="rate against distortion of each pair",
        xlabel="rate, nats per item",
        ylabel="distortion, nats per item",
        guides=guides,
    )
    return figure(chart, caption="Along a dashed line the ELBO is the same.", names=legend(lines))
