"""What was fitted, on what data, by which method, and on which items it is judged."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from torch import nn

import pyrovae
from pyrovae.evaluation.estimate import pair_hash
from pyrovae.models.pair import dtype_and_device
from pyrovae.models.registry import recipe_of
from pyrovae.report.chosen import are_binarized
from pyrovae.report.entry import Entry
from pyrovae.report.markup import Markup, joined, note, number, text
from pyrovae.report.measurements import Measurements
from pyrovae.report.section import Section
from pyrovae.report.sections.training import step_of

ORDER = 10
LIBRARIES = ("torch", "pyro-ppl", "numpy", "scipy", "scikit-learn", "xarray")
MOST_WORDS = 160  # of the value of an option


def section(measurements: Measurements) -> Section:
    parts = [
        _facts(_of_data(measurements)),
        Markup('<div class="columns">\n'),
        *(_card(entry, measurements) for entry in measurements.entries),
        Markup("</div>\n"),
        _details("Versions", _of_versions()),
    ]
    return Section(
        "What was fitted, on what",
        "Two pairs are compared fairly where they were fitted on the same items with the same effort: "
        "read here whether they were.",
        joined(*parts),
    )


def _of_data(measurements: Measurements) -> Iterable[tuple[str, Any]]:
    data, settings = measurements.data, measurements.settings
    yield "data", f"{data.name}, items of shape {tuple(data.event_shape)}"
    beside = [name for name in ("covariates", "exposure") if getattr(data.test, name) is not None]
    if beside:
        yield "beside the items", " and ".join(beside)
    yield "training items", f"{len(data.train):,}"
    labels = "no labels"
    if data.test.y is not None:
        count = len(data.classes) if data.classes else len(set(data.test.y.tolist()))
        labels = f"labels of {count} classes"
    yield "test items", f"{len(data.test):,}, {labels}"
    judged = len(measurements.chosen)
    if judged == len(data.test):
        yield "judged on", f"all {judged:,} test items"
    else:
        yield "judged on", f"{judged:,} of the test items, chosen at random with seed {settings.seed}"
    call = f"pyrovae.report.items(data, {settings.num_items}, {settings.seed})"
    yield "the same items again", Markup(f"<code>{text(call)}</code>")


def _card(entry: Entry, measurements: Measurements) -> Markup:
    pair = entry.pair
    facts = [*_of_pair(entry, measurements), *_of_fit(entry), *entry.protocol.items()]
    parts = [Markup('<div class="card">\n<h3>'), entry.name, Markup("</h3>\n"), _facts(facts)]
    if entry.history is None:
        parts += [note("No history was handed over: how it was fitted is not known here.")]
    else:
        parts += [_details("How it was fitted", _options(entry.history.config))]
    warnings = measurements.warnings.get(entry.name, [])
    parts += [note("While it was judged: ", "; ".join(warnings))] if warnings else []
    opening = Markup("<details><summary>Its networks</summary>\n<pre>")
    structure = joined(opening, str(pair), Markup("</pre></details>\n"))
    parts += [_details("How it was built", _arguments(pair)), structure, Markup("</div>\n")]
    return joined(*parts)


def _of_pair(entry: Entry, measurements: Measurements) -> Iterable[tuple[str, Any]]:
    pair: Any = entry.pair
    recipe = recipe_of(pair)
    yield "pair", type(pair).__name__ if recipe is None else f"{type(pair).__name__}, by {recipe['builder']}"
    dtype, device = dtype_and_device(pair)
    count = sum(parameter.numel() for parameter in pair.parameters())
    yield "parameters", f"{count:,}, {str(dtype).removeprefix('torch.')} on {device}"
    if pair.latent_dim:
        yield "code", f"{pair.latent_dim} dimensions" if pair.latent_dim > 1 else "1 dimension"
    given = measurements.beside(entry)
    density = "p(x | c)" if "covariates" in given else "p(x)"
    yield "density", density if pair.is_normalized else f"none: it has no {density}"
    if given:
        yield "given of an item", " and ".join(f"its {name}" for name in given)
    if are_binarized(pair, measurements.chosen.x[:]):
        yield "items", f"made 0 or 1 by a draw with seed {measurements.seed}: its likelihood takes nothing else"
    yield "SHA-256", Markup(f'<span class="mono">{pair_hash(pair)[:12]}…</span>')


def _of_fit(entry: Entry) -> Iterable[tuple[str, Any]]:
    history = entry.history
    if history is None:
        return
    steps = history.epochs.sizes.get("epoch", 0)
    method = history.config.get("method", "a method that is not named")
    time: Any = ""
    if history.seconds is not None:
        time = joined(" in ", number(history.seconds, ".1f"), " s")
    elif "seconds" in history.epochs:
        time = joined(" in ", number(float(history.epochs["seconds"].sum()), ".1f"), " s of steps")
    yield "fitted by", joined(f"{method}, {steps:,} {step_of(history)}{'s' if steps != 1 else ''}", time)
    if stopped := history.config.get("stopped"):
        yield "stopped", stopped


def _arguments(pair: nn.Module) -> Iterable[tuple[str, Any]]:
    """The arguments of the builder that made the pair; nothing where none is known."""
    recipe = recipe_of(pair) or {}
    for name, value in recipe.items():
        if name != "builder":
            yield name, _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping) and "name" in value:  # a registered part, with its own arguments
        arguments = [f"{name}={_plain(each)}" for name, each in value.get("arguments", {}).items()]
        return f"{value['name']}({', '.join(arguments)})"
    if isinstance(value, list):
        return f"({', '.join(map(_plain, value))})"
    return str(value)


def _options(config: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if value is None:
            continue
        words = str(value)
        yield name, words if len(words) <= MOST_WORDS else f"{words[:MOST_WORDS]}…"


def _of_versions() -> Iterable[tuple[str, Any]]:
    yield "pyrovae", pyrovae.__version__
    yield "python", platform.python_version()
    for name in LIBRARIES:
        yield name, version(name)


def _facts(facts: Iterable[tuple[str, Any]]) -> Markup:
    lines = [joined(Markup("<dt>"), name, Markup("</dt><dd>"), value, Markup("</dd>\n")) for name, value in facts]
    return joined(Markup('<dl class="facts">\n'), *lines, Markup("</dl>\n"))


def _details(summary: str, facts: Iterable[tuple[str, Any]]) -> Markup:
    """Facts that are shown on request; nothing where there are none."""
    known = list(facts)
    if not known:
        return Markup("")
    opening = joined(Markup("<details><summary>"), summary, Markup("</summary>\n"))
    return joined(opening, _facts(known), Markup("</details>\n"))
