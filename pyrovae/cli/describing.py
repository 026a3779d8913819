"""What `pyrovae data` does: look at every item once, and say what `pyrovae fit` would make of it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

import click

from pyrovae.cli.choosing import Choice
from pyrovae.cli.outputs import json_text
from pyrovae.cli.planning import Plan, read, refusal
from pyrovae.cli.plugins import PLUGINS
from pyrovae.listed import listed

__all__ = ["describe"]

BESIDE = ("covariates", "exposure")
CLASSES_SHOWN = 12


def describe(ctx: click.Context, parameters: Mapping[str, Any]) -> None:
    """Print what is in a data set, as lines or as one JSON object."""
    from pyrovae.data.summary import summarize

    data, scale = read(parameters, missing=True)
    parts = {"train": summarize(data.train), "test": summarize(data.test)}
    plan = Plan({**parameters, "model": None, "network": None}, bool(ctx.meta.get(PLUGINS)))
    model, likelihood = plan.choose(data, parts["train"])
    facts = _facts(data, scale, parts)
    facts["fit"] = {
        "split": _split(data),
        "model": model.name,
        "model_reason": model.reason,
        "likelihood": None if likelihood is None else likelihood.name,
        "likelihood_reason": None if likelihood is None else likelihood.reason,
        "refused": _refusal(facts),
    }
    if parameters["as_json"]:
        click.echo(json_text(facts, indent=None))
        return
    _print_facts(facts, parameters, model, likelihood)


def _facts(data: Any, scale: bool, parts: Mapping[str, Any]) -> dict[str, Any]:
    """What both parts hold together."""
    from pyrovae.data import MappedArray

    both = list(parts.values())
    entries = sum(part.count for part in both) * math.prod(data.event_shape)
    bytes_each = 8 if both[0].dtype == "float64" else 4
    ends = [part for part in both if not math.isnan(part.minimum)]
    return {
        "name": data.name,
        "items": sum(part.count for part in both),
        "event_shape": list(data.event_shape),
        "stored": data.stored,
        "read_as": both[0].dtype,
        "scaled": bool(scale and data.stored in ("uint8", "images")),
        "minimum": min((part.minimum for part in ends), default=None),
        "maximum": max((part.maximum for part in ends), default=None),
        "is_binary": all(part.is_binary for part in both),
        "is_whole": all(part.is_whole for part in both),
        "missing": sum(part.missing for part in both),
        "infinite": sum(part.infinite for part in both),
        "entries": entries,
        "labels": _labels(data),
        **{name: _beside(data, name) for name in BESIDE},
        "bytes": entries * bytes_each,
        "is_memory_mapped": isinstance(data.train.x, MappedArray),
        "sha256": {name: part.sha256 for name, part in parts.items()},
    }


def _labels(data: Any) -> dict[str, int] | None:
    """How many items each class has; None without labels."""
    if data.train.y is None:
        return None
    counts: dict[int, int] = {}
    for part in (data.train, data.test):
        for label in [] if part.y is None else part.y.tolist():
            counts[label] = counts.get(label, 0) + 1
    names = data.classes
    return {str(label if names is None else names[label]): counts[label] for label in sorted(counts)}


def _beside(data: Any, name: str) -> dict[str, Any] | None:
    """The columns and the ends of what lies beside the items; None without it."""
    rows = [getattr(part, name) for part in (data.train, data.test)]
    if rows[0] is None:
        return None
    ends = [float(end) for part in rows for end in (part.min(), part.max())]
    columns = {"columns": int(rows[0].shape[1])} if name == "covariates" else {}
    return {**columns, "minimum": min(ends), "maximum": max(ends)}


def _beside_in_words(facts: Mapping[str, Any]) -> str:
    ends = f"{facts['minimum']:g} to {facts['maximum']:g}"
    if "columns" not in facts:
        return ends
    return f"{facts['columns']} column{'s' if facts['columns'] > 1 else ''}, {ends}"


def _split(data: Any) -> str:
    counts = f"{len(data.train):,} training and {len(data.test):,} test items"
    if data.divided:
        return f"{counts}: 80 / 20 by a fixed permutation, for DATA has no test part"
    return f"{counts}, as DATA has them"


def _refusal(facts: Mapping[str, Any]) -> str | None:
    """Why `fit` would not take these items; None where it would."""
    return refusal(facts["missing"], facts["infinite"])


def _print_facts(
    facts: Mapping[str, Any], parameters: Mapping[str, Any], model: Choice, likelihood: Choice | None
) -> None:
    shape = tuple(facts["event_shape"])
    stored = {"images": "images, 8 or 16 bits"}.get(facts["stored"], facts["stored"])
    how = "scaled to [0, 1]" if facts["scaled"] else "values kept as they are"
    kind = ""
    if facts["is_binary"]:
        kind = ", all of them 0 or 1"
    elif facts["is_whole"]:
        kind = ", all of them whole numbers"
    values = "none" if facts["minimum"] is None else f"{facts['minimum']:g} to {facts['maximum']:g}{kind}"
    missing = "none"
    if facts["missing"]:
        missing = f"{facts['missing']:,} of {facts['entries']:,} entries ({facts['missing'] / facts['entries']:.2%})"
    rows = [
        ("items", f"{facts['items']:,} of shape {shape}"),
        ("stored as", f"{stored}; read as {facts['read_as']}, {how}"),
        ("values", values),
        ("missing", missing),
        ("labels", _labels_in_words(facts["labels"])),
        *((name, _beside_in_words(facts[name])) for name in BESIDE if facts[name] is not None),
        ("memory", _memory(facts)),
    ]
    click.echo(facts["name"])
    _print_rows(rows)
    words = [str(parameters["data"])]
    for name in ("labels", *BESIDE, "channel_axis", "root"):
        if parameters[name] is not None:
            words += [f"--{name.replace('_', '-')}", str(parameters[name])]
    if parameters["scale"] is not None:
        words += ["--scale" if parameters["scale"] else "--no-scale"]
    command = f"pyrovae fit {shlex.join(words)} --out run"
    refusal = facts["fit"]["refused"]
    if refusal is not None:
        click.echo(f"\n`{command}` would be refused: {refusal}.")
        return
    click.echo(f"\n{command}")
    rows = [("split", facts["fit"]["split"]), ("model", f"{model.name}: {model.reason} (--model for another)")]
    if likelihood is not None:
        rows.append(("likelihood", f"{likelihood.name}: {likelihood.reason} (--likelihood for another)"))
    _print_rows(rows)


def _print_rows(rows: list[tuple[str, str]]) -> None:
    for name, text in rows:
        click.echo(f"  {name:<12}{text}")


def _labels_in_words(labels: Mapping[str, int] | None) -> str:
    if labels is None:
        return "none"
    counts = [f"{name} ({count:,})" for name, count in labels.items()]
    return f"{len(counts)} classes: {listed(counts, CLASSES_SHOWN)}"


def _memory(facts: Mapping[str, Any]) -> str:
    size = f"{facts['bytes'] / 1e6:,.1f} MB as {facts['read_as']}"
    return f"{size}; the file is mapped, and read as it is used" if facts["is_memory_mapped"] else size
