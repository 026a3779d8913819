"""The arguments of a run that goes on: those that it had, and those that may differ."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pyrovae.cli.model_options import spelled
from pyrovae.cli.planning import is_given, shown

__all__ = ["as_recorded", "is_longer", "saying_where_it_goes_on"]

# what a run that goes on may be given anew: where the data lie, how long it trains, on what and how steps are taken
MAY_DIFFER = (
    "data",
    "labels",
    "covariates",
    "exposure",
    "unlabeled",
    "root",
    "download",
    "epochs",
    "checkpoint_every",
    "device",
    "compile",
    "plugin",
    "as_json",
    "resume",
    "out",
)


def as_recorded(parameters: dict[str, Any], manifest: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The arguments that the run had; those of this call are added where they may differ, and else must agree."""
    recorded = manifest["arguments"]
    conflicts = []
    merged = dict(parameters)
    for name, value in recorded.items():
        now = parameters.get(name)
        if name in MAY_DIFFER:
            merged[name] = now if is_given(now) else value
        elif is_given(now) and _plain(now) != value:
            conflicts.append(f"{spelled(name)} is {shown(value)} in the run, and {shown(now)} here")
        else:
            merged[name] = value
    for name, now in parameters.items():
        if name not in recorded and name not in MAY_DIFFER and is_given(now):
            conflicts.append(f"{spelled(name)} is not among the run's arguments, and {shown(now)} here")
    if conflicts:
        raise click.UsageError(f"--out {out} goes on under the arguments that it had: {'; '.join(conflicts)}")
    merged["resume"] = True
    merged["data"] = parameters["data"] or manifest["data"]["path"] or manifest["data"]["source"]
    merged["root"] = parameters["root"] or manifest["data"]["root"]
    merged["labels"] = parameters["labels"] or manifest["data"]["labels"] or recorded.get("labels")
    for name, record in manifest["data"].get("beside", {}).items():
        merged[name] = parameters[name] or record["path"]
    if "unlabeled" in manifest["data"]:
        record = manifest["data"]["unlabeled"]
        merged["unlabeled"] = parameters["unlabeled"] or record["path"] or record["source"]
    merged["scale"] = None if "table" in manifest["data"] else manifest["data"]["scale"]
    missing = [file["path"] for file in manifest.get("plugins", [])][len(parameters["plugin"]) :]
    if missing:
        raise click.UsageError(
            f"--out {out} was begun with --plugin {missing[0]}: give it again, for a run folder does not say which "
            "code is run"
        )
    return merged


def is_longer(parameters: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether more epochs are asked for than a complete run has."""
    epochs = parameters.get("epochs")
    return epochs is not None and epochs > manifest["fit"].get("epochs", epochs)


@contextmanager
def saying_where_it_goes_on(say: Callable[[str], None]) -> Iterator[None]:
    """Say what the library tells of the states of a run: the one that it goes on after, once it has been read."""
    log = logging.getLogger("pyrovae.inference.snapshots")
    handler, level = logging.Handler(), log.level
    handler.emit = lambda record: say(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
