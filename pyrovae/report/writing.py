"""`write`: fitted pairs as one page."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyrovae import checks
from pyrovae.data import Dataset
from pyrovae.models.pair import as_module
from pyrovae.progress import progress_bar
from pyrovae.report.entry import Entry
from pyrovae.report.explorer import explorer
from pyrovae.report.markup import Markup, joined, note, number
from pyrovae.report.measurements import Measurements, Settings
from pyrovae.report.page import page
from pyrovae.report.pricing import draws_within
from pyrovae.report.section import Section
from pyrovae.report.sections import LeftOut, makers

__all__ = ["write"]


@checks.allocating
def write(
    path: str | os.PathLike[str],
    entries: Sequence[Entry],
    data: Dataset,
    *,
    title: str | None = None,
    num_items: int = 500,
    num_ledger_items: int = 20,
    num_particles: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write a report on fitted pairs as one self-contained HTML page, and return its path.

    The page compares the pairs on the same items of the data set's test part: their reconstructions and log p(x) with
    intervals of the paired differences, training curves, samples, predictive checks, rate and distortion, the gap
    between log p(x) and the ELBO, the calibration of the encoder, classification, strange items, and the code space;
    and it has a code plane to explore. Covariates and exposures that the data's splits carry are given to the pairs
    that take them. What a pair does not have is left out, with the reason. All numbers are those of the package's
    estimators with their default options, but for these:

    Args:
        path: the file, such as "report.html". It is replaced as a whole, or not at all.
        entries: the pairs, each an `Entry` with a name of its own; the first is the one that others are compared with.
        data: the data set that they were fitted on.
        title: the page's heading; None names the pairs and the data.
        num_items: test items that are judged: all, or so many chosen by `seed` (`pyrovae.report.items`). The code space
            is measured by up to ten times as many training items.
        num_ledger_items: the first of these, for `quadrature`, `exact` and `gaps`.
        num_particles: draws per item of `iwae`; None is 1,000, or 100 where the costliest decoder would take minutes.
        seed: of the choice and of all estimates.
        progress: whether a bar names what is estimated.

    Raises TypeError for entries that are no `Entry` and for a pair that is no module with model and guide; ValueError
    for no entries, for two of one name, and for a pair whose items have another shape than the data's;
    FileNotFoundError for a folder that does not exist.

    >>> import tempfile
    >>> import pyrovae
    >>> digits = pyrovae.data.load("digits")
    >>> mixture = pyrovae.GaussianMixture((1, 8, 8), 3, covariance="diagonal")
    >>> history = pyrovae.fit(mixture, digits.train.x, num_restarts=1, tol=1e-2, progress=False)
    >>> entry = pyrovae.report.Entry("mixture", mixture, history)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pyrovae.report.write(f"{folder}/report.html", [entry], digits, num_items=20, num_particles=10)
    ...     path.read_text(encoding="utf-8").startswith("<!doctype html>")
    True
    """
    target = checks.path("path", path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path {target}: there is no folder {target.parent}")
    if target.is_dir():
        raise IsADirectoryError(f"path {target} is a folder: name a file, such as {target / 'report.html'}")
    checks.having("data", data, "train", "test", "event_shape", what="a data set, as data.load gives it")
    _require_entries(entries, data)
    checks.seed(seed)
    judged = checks.whole("num_items", num_items)
    if num_particles is None:
        num_particles = draws_within(entries, 1000, 100, decodings_each=min(judged, len(data.test)))
    settings = Settings(
        num_items=judged,
        num_ledger_items=checks.whole("num_ledger_items", num_ledger_items),
        num_particles=checks.whole("num_particles", num_particles),
        num_simulations=draws_within(entries, 1000, 200, decodings_each=100),
        num_sets=draws_within(entries, 399, 99, decodings_each=min(judged, len(data.test))),
        seed=seed,
    )
    heading = title if title is not None else f"{', '.join(entry.name for entry in entries)} on {data.name}"
    began = time.perf_counter()
    with progress_bar(show=progress, total=len(makers()) + 1, desc="report", unit="section") as bar:
        measurements = Measurements(entries, data, settings, say=bar.set_postfix_str)
        sections = [*_sections(measurements, bar)]
        bar.set_postfix_str("explorer")
        with measurements.timed("explorer"):
            plane = explorer(entries, data, seed=seed)
        bar.update()
    sections += [_times(measurements, time.perf_counter() - began)]
    text = page(heading, sections, plane, lead=str(data))
    _replace(target, text)
    return target


def _require_entries(entries: Any, data: Dataset) -> None:
    if isinstance(entries, Entry) or not isinstance(entries, Sequence) or not entries:
        raise ValueError("entries must be a list of at least one pyrovae.report.Entry")
    names = []
    for entry in entries:
        if not isinstance(entry, Entry):
            raise TypeError(f"entries must hold pyrovae.report.Entry(name, pair), got {type(entry).__name__}")
        if entry.name in names:
            raise ValueError(f"entries must have different names, and {entry.name!r} stands twice")
        names += [entry.name]
        pair: Any = as_module(entry.pair)
        if tuple(pair.event_shape) != tuple(data.event_shape):
            raise ValueError(
                f"{entry.name} is for items of shape {tuple(pair.event_shape)}, and those of {data.name} have shape "
                f"{tuple(data.event_shape)}"
            )


def _sections(measurements: Measurements, bar: Any) -> Iterator[Section]:
    """Each section there is, and at last one that names those there are not."""
    absent = []
    for make in makers():
        try:
            made = make(measurements)
        except Exception as error:  # a fault of this package: the other sections stand
            title = getattr(sys.modules[make.__module__], "TITLE", make.__name__)
            made = LeftOut(title, f"it failed with {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        if isinstance(made, LeftOut):
            absent += [(made.title, made.reason)]
        else:
            yield made
        bar.update()
    if absent:
        how = "A section is missing where none of these pairs, or this data, has what it shows."
        lines = [joined(Markup("<dt>"), name, Markup("</dt><dd>"), why, Markup("</dd>\n")) for name, why in absent]
        yield Section(
            "What this page leaves out", how, joined(Markup('<dl class="facts">\n'), *lines, Markup("</dl>\n"))
        )


def _times(measurements: Measurements, total: float) -> Section:
    each = sorted(measurements.seconds.items(), key=lambda one: -one[1])
    parts = [joined(name, " ", number(seconds, ".1f"), " s; ") for name, seconds in each if seconds >= 0.1]
    how = "What takes long can be made shorter by fewer items, or by fewer draws."
    return Section("What this page cost", how, note(*parts, "in all ", number(total, ".1f"), " s."))


def _replace(target: Path, text: str) -> None:
    """The whole file, or what was there before."""
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="replace")  # a name on a disk may be no Unicode
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
