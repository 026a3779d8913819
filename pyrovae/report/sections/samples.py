"""Draws from p(x) of each entry that has one."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

import pyrovae
from pyrovae.models.items import checked_beside
from pyrovae.models.pair import dtype_and_device, has_global_latents, takes_labels
from pyrovae.models.particles import drawn_items
from pyrovae.models.scopes import Workspace
from pyrovae.report.entry import Entry
from pyrovae.report.families import has_mean, num_categories
from pyrovae.report.markup import Markup, estimate, joined, left_out, note, number, table
from pyrovae.report.measurements import Measurements, Refusal
from pyrovae.report.pictures import are_images, sheet, value_range
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut
from pyrovae.report.table_rows import MOST_COLUMNS as MOST_OF_ROWS
from pyrovae.report.table_rows import MOST_SUMMARIZED, columns_table, rows_table
from pyrovae.seeding import Noise, stream

ORDER = 50
TITLE = "Samples"
ACROSS = 10
DOWN = 4
DRAWS = 500  # for the numbers
SHOWN_ROWS = 6  # of a table
MOST_COLUMNS = 8  # of a table of vectors
MOST_SHARES = 10  # of categories in a cell


def section(measurements: Measurements) -> Section | LeftOut:
    samples, reasons = measurements.of_each(partial(_drawn, measurements))
    if not samples:
        return LeftOut.of(TITLE, reasons)
    if are_images(measurements.data.event_shape):
        body = _pictures(measurements, samples)
        how = (
            "Good draws look like the items and are as varied as they are; blurred draws, or kinds of items that are "
            "never drawn, say that p(x) is not that of the items."
        )
    elif measurements.data.columns is not None:
        body = _rows_of_table(measurements, samples)
        how = (
            "Means, spreads and shares of the draws should be those of the test rows; less spread says that something "
            "is missing. Drawn rows should look like rows of the data, whose columns go together as these do."
        )
    else:
        body = _columns(measurements, samples)
        how = "Means and spreads of the draws should be those of the items; less spread says that something is missing."
        if all(num_categories(entry.pair) for entry in measurements.entries if entry.name in samples):
            body = _shares(measurements, samples)
            how = "The share of each category should be that among the items, in every column."
    return Section(TITLE, how, joined(body, left_out(reasons)))


def _drawn(measurements: Measurements, entry: Entry) -> Tensor | Refusal:
    pair: Any = entry.pair
    if not pair.is_normalized:
        return Refusal("it has no p(x), so that nothing can be drawn from it")
    if has_global_latents(pair) and not hasattr(pair, "sample"):
        return Refusal("its latent variables are parameters, and it has no sample of items")
    mean = are_images(measurements.data.event_shape) and has_mean(pair)
    beside = going_round(measurements.beside(entry), DRAWS)
    return measurements.of(
        entry, f"{DRAWS} samples", lambda: draws(pair, DRAWS, measurements.seed, mean=mean, **beside).detach().cpu()
    )


def going_round(beside: dict[str, Any], count: int) -> dict[str, Any]:
    """What lies beside `count` draws: that of the items, row after row and from the first again."""
    return {name: value[np.arange(count) % len(value)] for name, value in beside.items()}


def draws(pair: Any, count: int, seed: int, *, mean: bool, **beside: Any) -> Tensor:
    """`count` items drawn from p(x), shape (count, *event_shape).

    With `mean` they are the likelihood's means at drawn codes, as pictures show, where the pair gives these. By the
    pair's own `sample`, whose labels are drawn from p(y) where it takes one; a pair on Pyro alone draws by its model.
    `beside` are covariates and an exposure, a row for each draw.
    """
    sample: Any = getattr(pair, "sample", None)
    known = {} if sample is None else inspect.signature(sample).parameters
    if {"n", "seed"} <= {*known}:
        options: dict[str, Any] = {"mean": mean} if "mean" in known else {}
        if "label" in known:
            options["label"] = None
        items: Tensor = sample(n=count, seed=seed, **options, **beside)
        return items
    rows = checked_beside(pair, beside.get("covariates"), beside.get("exposure"), count)
    noise = Noise(stream(seed, "samples of a report"), dtype_and_device(pair)[1])
    with Workspace(pair, noise=noise, checks=None).turn():
        return drawn_items(pair, count, **rows)


def _pictures(measurements: Measurements, samples: dict[str, Tensor]) -> Markup:
    real = measurements.chosen.x[:]
    limits = value_range(real)
    parts, rows = [], []
    shown = ACROSS * DOWN
    for name, images in samples.items():
        alt = f"{shown} draws from p(x) of {name}"
        parts += [sheet(images[:shown], columns=ACROSS, limits=limits, alt=alt, caption=name)]
        rows += [
            [name, _crispness(images, real), number(float(images.mean()), ".4f"), number(float(images.std()), ".4f")]
        ]
    parts += [sheet(real[:shown], columns=ACROSS, limits=limits, alt="test items", caption="test items")]
    rows += [["test items", "1", number(float(real.mean()), ".4f"), number(float(real.std()), ".4f")]]
    head = ["of", "variance of the Laplacian / that of the test items", "mean of an entry", "standard deviation"]
    caption = (
        f"Of {DRAWS} draws with seed {measurements.seed}. The variance of the Laplacian measures edges: 1 is as "
        "crisp as the test items, less is blurred, more is noisy."
    )
    words = (
        "A picture of a VAE is the mean of its likelihood at a code drawn from the prior, without the noise of the "
        "likelihood. A picture of a mixture, or of categories, is a draw with its noise."
    )
    words += _labels_in_words(measurements, samples)
    if any(measurements.beside(entry) for entry in measurements.entries):
        words += " Covariates and exposures are those of the test items, from the first on."
    return joined(Markup('<div class="plots">\n'), *parts, Markup("</div>\n"), note(words), table(caption, head, rows))


def _crispness(images: Tensor, real: Tensor) -> Any:
    try:
        found = pyrovae.crispness(images, real, paired=False)
    except ValueError as error:
        return str(error)
    return estimate(float(found.laplacian_ratio), float(found.laplacian_ratio_se))


def _columns(measurements: Measurements, samples: dict[str, Tensor]) -> Markup:
    real = measurements.chosen.x[:].flatten(1).double().numpy()
    shown = min(real.shape[1], MOST_COLUMNS)
    names = [f"column {column}" for column in range(shown)]
    rows = [["test items", *_moments(real, shown)]]
    for name, items in samples.items():
        rows += [[name, *_moments(items.flatten(1).double().numpy(), shown)]]
    some = "" if shown == real.shape[1] else f" The first {shown} of {real.shape[1]} columns."
    caption = (
        f"Mean ± standard deviation of each column, of {len(real)} test items and of {DRAWS} draws with seed "
        f"{measurements.seed}, the likelihood's noise included.{some}"
    )
    caption += _labels_in_words(measurements, samples)
    if any(measurements.beside(entry) for entry in measurements.entries):
        caption += " Covariates and exposures are those of the test items, row after row."
    return table(caption, ["of", *names], rows)


def _rows_of_table(measurements: Measurements, samples: dict[str, Tensor]) -> Markup:
    """What each column of a table holds, then a few rows as they are, by the names of columns and categories."""
    columns = measurements.data.columns
    assert columns is not None
    real = measurements.chosen.x[:].double().numpy()
    drawn = {name: items.double().numpy() for name, items in samples.items()}
    some = "" if len(columns) <= MOST_SUMMARIZED else f" The first {MOST_SUMMARIZED} of {len(columns)} columns."
    caption = (
        f"Each column: mean ± standard deviation of a number, the share of each category, of {len(real)} test rows and "
        f"of {DRAWS} draws with seed {measurements.seed}, the likelihood's noise included.{some}"
    )
    if np.isnan(real).any():
        caption += (
            " Entries that are missing are left out of the test rows' numbers; where it depends on other columns which "
            "are missing, those of a good model differ from them."
        )
    caption += _labels_in_words(measurements, samples)
    if any(measurements.beside(entry) for entry in measurements.entries):
        caption += " Covariates and exposures are those of the test items, row after row."
    parts = [columns_table(caption, columns, real, drawn)]
    some = "" if len(columns) <= MOST_OF_ROWS else f" The first {MOST_OF_ROWS} of {len(columns)} columns."
    few = real[:SHOWN_ROWS]
    dash = ", with — where an entry is missing" if np.isnan(few).any() else ""
    caption = f"{len(few)} of the {len(real)} test rows{dash}.{some}"
    parts.append(rows_table(caption, "test row", columns, few, real))
    for name, rows in drawn.items():
        caption = f"{SHOWN_ROWS} rows drawn from p(x) of {name}, seed {measurements.seed}.{some}"
        parts.append(rows_table(caption, "draw", columns, rows[:SHOWN_ROWS], real))
    return joined(*parts)


def _labels_in_words(measurements: Measurements, samples: dict[str, Tensor]) -> str:
    """Of which entries a label is drawn before the code or the item, as a sentence; empty where of none."""
    names = [entry.name for entry in measurements.entries if entry.name in samples and takes_labels(entry.pair)]
    if not names:
        return ""
    return f" Each draw of {' and of '.join(names)} has a label of its own, drawn from the model's p(y)."


def _shares(measurements: Measurements, samples: dict[str, Tensor]) -> Markup:
    """Of columns that are categories: how often each of these comes."""
    count = max(num_categories(entry.pair) for entry in measurements.entries)
    real = measurements.chosen.x[:].flatten(1)
    shown = min(real.shape[1], MOST_COLUMNS)
    rows = []
    for name, items in {"test items": real, **samples}.items():
        of = np.rint(items.flatten(1)[:, :shown].double().numpy()).astype(int)
        shares = np.stack([(of == category).mean(0) for category in range(count)])
        rows += [[name, *(_listed_shares(shares[:, column]) for column in range(shown))]]
    some = "" if shown == real.shape[1] else f" The first {shown} of {real.shape[1]} columns."
    caption = (
        f"The share of each category 0 to {count - 1} in each column, in their order, of {len(real)} test items and of "
        f"{DRAWS} draws with seed {measurements.seed}.{some}{_labels_in_words(measurements, samples)}"
    )
    return table(caption, ["of", *(f"column {column}" for column in range(shown))], rows)


def _listed_shares(shares: np.ndarray) -> Markup:
    parts: list[Any] = []
    for place, share in enumerate(shares[:MOST_SHARES]):
        parts += [", "] * bool(place) + [number(float(share), ".2f")]
    return joined(*parts, ", …" if len(shares) > MOST_SHARES else "")


def _moments(values: np.ndarray, shown: int) -> list[Markup]:
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1], math.nan)
    return [estimate(float(values[:, column].mean()), float(spread[column])) for column in range(shown)]
