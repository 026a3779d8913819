"""The manifest of a saved state: how it is written, read and checked, and how it is compared with a pair."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pyrovae.hidden import visible
from pyrovae.inference.checkpoint.tensor_file import DTYPES, SHAPE
from pyrovae.json_files import TooLargeError, bounded, is_canonical, read_bounded, refuse_many
from pyrovae.models import registry

__all__ = [
    "COMPARED_FIELDS",
    "FORMAT_VERSION",
    "MANIFEST",
    "MOST_TENSORS",
    "NAMED",
    "OF_STATES",
    "RUN",
    "WEIGHTS",
    "ArchitectureError",
    "CheckpointError",
    "comparable",
    "encoded",
    "file_names",
    "files_of",
    "format_of",
    "join_first",
    "manifest_content",
    "manifest_digest",
    "names_of_states",
    "parsed_manifest",
    "require_encodable",
    "require_equal",
    "require_known_tensors",
]

FORMAT_VERSION = 1
FORMAT_VERSION_NAMED = 2  # of a state that was saved over another: its manifest says the names of its files
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
RUN = "run.safetensors"  # what a run needs to go on, beside the weights
# the files of a state that was saved over another, and all that a state's folder may have
NAMED = re.compile(r"(weights|run)-[0-9a-f]{16}\.safetensors")
OF_STATES = re.compile(rf"{re.escape(MANIFEST)}|(weights|run)(-[0-9a-f]{{16}})?\.safetensors")
LINES_SHOWN = 20  # of a long error
MANIFEST_BYTES = 2**25  # longer ones are not read: what a file says must not decide how much memory it takes
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
    try:
        refuse_many(content)  # which nobody could read
    except TooLargeError as error:
        raise CheckpointError(f"the manifest of this state would be too large: {error}") from None
    return content


def require_encodable(manifest: dict[str, Any]) -> None:
    """Raise the error of `encoded`, in a sixth of its time where the manifest is far from too large."""
    if 8 * len(json.dumps(manifest)) > MANIFEST_BYTES or len(manifest["tensors"]) > MOST_TENSORS:
        encoded(manifest)


def manifest_digest(manifest: dict[str, Any]) -> str:
    """The SHA-256 of all fields of a manifest except the field `sha256` itself."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def manifest_content(folder: Path) -> bytes:
    """The bytes of the manifest of the state in a folder. Raises CheckpointError where there is none, or a huge one."""
    file = folder / MANIFEST
    if not file.is_file():
        names = names_of_states(folder, deep=True)
        there = f"; saved states in it: {join_first(names)}" if names else ""
        raise CheckpointError(f"{folder} is not a saved state: it has no {MANIFEST}{there}")
    try:
        return read_bounded(file, MANIFEST_BYTES)
    except TooLargeError:
        raise CheckpointError(
            f"{file} has {file.stat().st_size:,} bytes, and a manifest at most {MANIFEST_BYTES:,}"
        ) from None


def parsed_manifest(file: Path, content: bytes) -> dict[str, Any]:
    """The manifest that a file holds. Raises CheckpointError that names what is wrong with it."""
    try:
        manifest = bounded(content)
    except TooLargeError as error:
        raise CheckpointError(f"{file} is no manifest of a state: {error}") from None
    except ValueError:
        raise CheckpointError(
            f"{file} is not JSON: damaged, or not written by pyrovae (nothing was unpickled)"
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != "pyrovae":
        raise CheckpointError(f"{file} was not written by pyrovae")
    version = manifest.get("format_version")
    if type(version) is not int or version not in (FORMAT_VERSION, FORMAT_VERSION_NAMED):
        raise CheckpointError(
            f"{file} has format version {str(version)[:50]}, this pyrovae reads {FORMAT_VERSION} and "
            f"{FORMAT_VERSION_NAMED}"
        )
    for field in ("tensors", "dtypes", "tied"):  # before what takes seconds for a million of them
        of_field = manifest.get(field)
        if isinstance(of_field, dict) and len(of_field) > MOST_TENSORS:
            raise CheckpointError(f"{file} names {len(of_field):,} {field}, and at most {MOST_TENSORS:,} are read")
    try:
        digest = manifest_digest(manifest)
    except RecursionError:
        raise CheckpointError(f"{file} is no manifest of a state: its lists lie too deep in one another") from None
    if manifest.get("sha256") != digest:
        raise CheckpointError(f"{file} is damaged or was changed: its SHA-256 is not the one it states")
    if not is_canonical(content, manifest):
        raise CheckpointError(f"{file} is damaged or was changed: its bytes are not those that pyrovae writes")
    missing = {"class", "recipe", "dtype", "tensors", "structure", "weights_sha256"} - manifest.keys()
    if missing or manifest["dtype"] not in ("float16", "bfloat16", "float32", "float64"):
        raise CheckpointError(f"{file} is damaged: missing or unreadable {sorted(missing) or ['dtype']}")
    require_known_tensors(file, manifest)
    if version == FORMAT_VERSION_NAMED and not _names_files(manifest):
        raise CheckpointError(f"{file} is damaged: it does not name the files of the state")
    return manifest


def require_known_tensors(file: Path, manifest: dict[str, Any]) -> None:
    """Refuse a manifest whose tensors are too many, have no shapes, or have dtypes that no state has."""
    tensors, dtypes = manifest["tensors"], manifest.get("dtypes", {})
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{file} names no tensors")
    for name, shape in tensors.items():
        if not isinstance(shape, str) or SHAPE.fullmatch(shape) is None:
            raise CheckpointError(f"{file} is damaged: {str(shape)[:100]!r} is no shape of {name[:200]!r}")
    if not isinstance(dtypes, dict):
        raise CheckpointError(f"{file} is damaged: its dtypes are not named one by one")
    known = {str(dtype).removeprefix("torch.") for dtype in DTYPES.values()}
    for name, dtype in dtypes.items():
        if not isinstance(dtype, str) or dtype not in known:
            raise CheckpointError(
                f"{file} is damaged: {str(dtype)[:50]!r} is no dtype of {name[:200]!r}; these are read: "
                f"{', '.join(sorted(known))}"
            )
    tied = manifest.get("tied", {})
    if "dtypes" in manifest and dtypes.keys() != tensors.keys():
        raise CheckpointError(f"{file} is damaged: it says the dtypes of other tensors than it has")
    if not isinstance(tied, dict) or not tied.keys() <= tensors.keys():
        raise CheckpointError(f"{file} is damaged: it says that other tensors are tied than it has")


def file_names(manifest: dict[str, Any]) -> dict[str, str]:
    """The names of the files of a state, by those that they have where no manifest says others."""
    return {WEIGHTS: WEIGHTS, RUN: RUN} | manifest.get("files", {})


def files_of(file: Path) -> frozenset[str] | None:
    """The names of the files that a manifest states; None where it is not there or cannot be read."""
    try:
        manifest = bounded(read_bounded(file, MANIFEST_BYTES))
        names = file_names(manifest)
        return frozenset(names.values() if "run" in manifest else [names[WEIGHTS]])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def format_of(file: Path) -> Any:
    """What a manifest says that its format is; None where it cannot be read."""
    try:
        return bounded(read_bounded(file, MANIFEST_BYTES))["format"]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _names_files(manifest: dict[str, Any]) -> bool:
    """Whether a manifest names the files of its state, and no others: none leads out of the folder."""
    names = manifest.get("files")
    kinds = {WEIGHTS: "weights-", RUN: "run-"}
    if not isinstance(names, dict) or WEIGHTS not in names or not names.keys() <= kinds.keys():
        return False
    return all(
        isinstance(name, str) and NAMED.fullmatch(name) is not None and name.startswith(kinds[kind])
        for kind, name in names.items()
    )


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
                    lines.append(f"{field}.{key[:200]}: saved {_short(saved_value)}, here {_short(here_value)}")
        elif here != saved:
            lines.append(f"{field}: saved {_short(saved)}, here {_short(here)}")
    if lines:
        advice = ""
        if any(line.startswith("recipe.") for line in lines):
            advice = "\nBuild the pair with the saved arguments; without `like`, load does so by itself"
        listed = join_first(lines, "\n  ")
        raise ArchitectureError(f"{folder} holds another architecture:\n  {listed}{advice}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 1000 else f"{text[:1000]}..."


def names_of_states(folder: Path, deep: bool = False) -> list[str]:
    """The names of the saved states in a folder; with `deep` also of those one folder further down."""
    names: list[str] = []
    try:
        entries = visible(folder)
    except OSError:  # not ours to read
        return []
    for path in entries:
        if path.is_dir() and (path / MANIFEST).is_file() and _has_weights(path):
            names.append(path.name)
        elif deep and path.is_dir():
            names += [f"{path.name}/{name}" for name in names_of_states(path)]
    return names


def _has_weights(folder: Path) -> bool:
    try:
        return any(entry.name.startswith("weights") and OF_STATES.fullmatch(entry.name) for entry in folder.iterdir())
    except OSError:
        return False


def join_first(lines: list[str], separator: str = ", ") -> str:
    """The first lines of a list in one string, and how many more there are."""
    more = [f"and {len(lines) - LINES_SHOWN} more"] if len(lines) > LINES_SHOWN else []
    return separator.join([*lines[:LINES_SHOWN], *more])
