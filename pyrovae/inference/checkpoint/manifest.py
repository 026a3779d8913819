"""The manifest of a saved state: how it is written, read and checked, and how it is compared with a pair."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pyrovae.hidden import visible
from pyrovae.models import registry

__all__ = [
    "COMPARED_FIELDS",
    "FORMAT_VERSION",
    "MANIFEST",
    "MOST_TENSORS",
    "RUN",
    "WEIGHTS",
    "ArchitectureError",
    "CheckpointError",
    "comparable",
    "encoded",
    "join_first",
    "manifest_digest",
    "names_of_states",
    "read_manifest",
    "require_equal",
]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
RUN = "run.safetensors"  # what a run needs to go on, beside the weights
LINES_SHOWN = 20  # of a long error
MANIFEST_BYTES = 2**26  # longer ones are not read: what a file says must not decide how much memory it takes
MOST_TENSORS = 50_000
OPTIONAL_FIELDS = ("event_shape", "latent_dim", "tied")  # the first manifests of this format version lack them
COMPARED_FIELDS = ("class", "recipe", "event_shape", "latent_dim", "tensors", "tied", "structure")


class CheckpointError(ValueError):
    """A saved state that is damaged, of another format, of another architecture, or no saved state at all."""


class ArchitectureError(CheckpointError):
    """A complete saved state, but of a pair with another architecture."""


def encoded(manifest: dict[str, Any]) -> bytes:
    """The manifest, with its own SHA-256, as the bytes of its file; CheckpointError where it would be too large."""
    content = json.dumps({**manifest, "sha256": manifest_digest(manifest)}, indent=1).encode()
    if len(content) > MANIFEST_BYTES or len(manifest["tensors"]) > MOST_TENSORS:
        raise CheckpointError(
            f"a saved state has at most {MOST_TENSORS:,} tensors and {MANIFEST_BYTES:,} bytes of manifest, and this "
            f"one would have {len(manifest['tensors']):,} and {len(content):,}"
        )
    return content


def manifest_digest(manifest: dict[str, Any]) -> str:
    """The SHA-256 of all fields of a manifest except the field `sha256` itself."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of the state in a folder. Raises CheckpointError that names what is wrong with it."""
    file = folder / MANIFEST
    if not file.is_file():
        names = names_of_states(folder, deep=True)
        there = f"; saved states in it: {join_first(names)}" if names else ""
        raise CheckpointError(f"{folder} is not a saved state: it has no {MANIFEST}{there}")
    if file.stat().st_size > MANIFEST_BYTES:
        raise CheckpointError(f"{file} has {file.stat().st_size:,} bytes, and a manifest at most {MANIFEST_BYTES:,}")
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise CheckpointError(
            f"{file} is not JSON: damaged, or not written by pyrovae (nothing was unpickled)"
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != "pyrovae":
        raise CheckpointError(f"{file} was not written by pyrovae")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format version {manifest.get('format_version')!r}, this pyrovae reads {FORMAT_VERSION}"
        )
    if manifest.get("sha256") != manifest_digest(manifest):
        raise CheckpointError(f"{file} is damaged or was changed: its SHA-256 is not the one it states")
    missing = {"class", "recipe", "dtype", "tensors", "structure", "weights_sha256"} - manifest.keys()
    if missing or manifest["dtype"] not in ("float16", "bfloat16", "float32", "float64"):
        raise CheckpointError(f"{file} is damaged: missing or unreadable {sorted(missing) or ['dtype']}")
    if not isinstance(manifest["tensors"], dict) or len(manifest["tensors"]) > MOST_TENSORS:
        raise CheckpointError(f"{file} names no tensors, or more than {MOST_TENSORS:,}")
    if not isinstance(manifest.get("dtypes", {}), dict):
        raise CheckpointError(f"{file} is damaged: its dtypes are not named one by one")
    return manifest


def comparable(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with its recipe in a form that can be compared: in today's words, the builder's arguments alone.

    The names of classes and a class prior are left out, because a fit changes them. An event shape of one axis may be
    saved as a number, and becomes a list.
    """
    recipe = registry.completed(manifest["recipe"])
    if not isinstance(recipe, dict):
        return manifest
    recipe = {name: value for name, value in recipe.items() if name not in ("classes", "class_prior")}
    if isinstance(recipe.get("event_shape"), int):
        recipe["event_shape"] = [recipe["event_shape"]]
    return {**manifest, "recipe": recipe}


def require_equal(expected: dict[str, Any], manifest: dict[str, Any], folder: Path) -> None:
    """Compare the fields of `expected` with the manifest's; all that differ are listed in one ArchitectureError."""
    lines = []
    for field, here in expected.items():
        if field not in manifest and field in OPTIONAL_FIELDS:
            continue
        saved = manifest[field]
        if isinstance(here, dict) and isinstance(saved, dict):
            for key in dict.fromkeys([*saved, *here]):
                saved_value = saved.get(key, "absent")
                here_value = here.get(key, "absent")
                if saved_value != here_value:
                    lines.append(f"{field}.{key}: saved {saved_value}, here {here_value}")
        elif here != saved:
            lines.append(f"{field}: saved {saved}, here {here}")
    if lines:
        advice = ""
        if any(line.startswith("recipe.") for line in lines):
            advice = "\nBuild the pair with the saved arguments; without `like`, load does so by itself"
        listed = join_first(lines, "\n  ")
        raise ArchitectureError(f"{folder} holds another architecture:\n  {listed}{advice}")


def names_of_states(folder: Path, deep: bool = False) -> list[str]:
    """The names of the saved states in a folder; with `deep` also of those one folder further down."""
    names: list[str] = []
    try:
        entries = visible(folder)
    except OSError:  # not ours to read
        return []
    for path in entries:
        if path.is_dir() and (path / MANIFEST).is_file() and (path / WEIGHTS).is_file():
            names.append(path.name)
        elif deep and path.is_dir():
            names += [f"{path.name}/{name}" for name in names_of_states(path)]
    return names


def join_first(lines: list[str], separator: str = ", ") -> str:
    """The first lines of a list in one string, and how many more there are."""
    more = [f"and {len(lines) - LINES_SHOWN} more"] if len(lines) > LINES_SHOWN else []
    return separator.join([*lines[:LINES_SHOWN], *more])
