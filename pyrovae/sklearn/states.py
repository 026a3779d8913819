"""Fitted estimators as folders: parameters and fitted attributes as JSON, the pair as a saved state. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyrovae import checks
from pyrovae.inference.checkpoint import CheckpointError, load
from pyrovae.inference.checkpoint.manifest import MANIFEST, MANIFEST_BYTES, manifest_digest
from pyrovae.inference.checkpoint.opening import read_until_kept
from pyrovae.inference.checkpoint.replacing import Layout, fill, put, require_replaceable
from pyrovae.inference.checkpoint.writing import contents, require_finite
from pyrovae.json_files import TooLargeError, bounded, is_canonical, read_bounded
from pyrovae.sklearn.values import decoded_all, encoded, named

__all__ = ["read_state", "write_state"]

RECORD, PAIR, HISTORY, ESTIMATOR = "estimator.json", "pair", "history.nc", "estimator"
FORMAT = "pyrovae.sklearn"
VERSION = 2  # whose records state their own digest, and the name and the digest of each file; the first stated none
APART = ("pair_", "history_", "estimator_")  # fitted attributes with a file or a folder of their own
HISTORY_BYTES = 10**8  # a larger history is not read: few bytes of a file may state it
WRONG = (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError)


def write_state(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator into the folder `path`, as `pyrovae.save` writes a pair: it is whole at each moment."""
    folder = checks.path("path", path).resolve()
    require_replaceable(folder, ESTIMATORS)
    put(folder, _contents(estimator), ESTIMATORS)


def read_state(kind: type, path: str | os.PathLike[str]) -> Any:
    """Read an estimator of class `kind` from the folder `path`; all of it is of one save."""
    folder = checks.path("path", path)
    return read_until_kept(lambda: _record_bytes(folder), lambda content: _estimator_of(folder, content, kind))


def _contents(estimator: Any) -> Any:
    """What writes the files of an estimator, all of which is checked by now."""
    from pyrovae.run_folder import write_history

    name = type(estimator).__name__
    params = {key: encoded(value, f"{name}.{key}") for key, value in estimator.get_params(deep=False).items()}
    fitted = {key: encoded(value, f"{name}.{key}") for key, value in vars(estimator).items() if _is_fitted(key)}
    record = {"format": FORMAT, "format_version": VERSION, "class": name, "params": params, "fitted": fitted}
    made: dict[str, Any] = {}
    if hasattr(estimator, "pair_"):
        require_finite(estimator.pair_)
        made[PAIR] = contents(estimator.pair_)
    if hasattr(estimator, "estimator_"):
        made[ESTIMATOR] = _contents(estimator.estimator_)

    def make(folder: Path, names: Mapping[str, str]) -> bytes:
        digests: dict[str, str] = {}
        for kind, its_contents in made.items():
            inner = folder / names[kind]
            inner.mkdir()
            if kind == PAIR:
                fill(inner, its_contents)
            else:
                fill(inner, its_contents, ESTIMATORS)
            digests[kind] = _digest(inner / (MANIFEST if kind == PAIR else RECORD))
        if hasattr(estimator, "history_"):
            write_history(folder / names[HISTORY], estimator.history_)
            digests[HISTORY] = _digest(folder / names[HISTORY])
        files = {kind: {"name": names[kind], "sha256": digest} for kind, digest in digests.items()}
        return _record_of(record | {"files": files})

    _record_of(record)  # refused before anything is written
    return make


def _record_of(record: dict[str, Any]) -> bytes:
    content = json.dumps({**record, "sha256": manifest_digest(record)}, indent=1).encode()
    try:
        if len(content) > MANIFEST_BYTES:
            raise TooLargeError(f"it has {len(content):,} bytes, and at most {MANIFEST_BYTES:,} are read")
        bounded(content)
    except TooLargeError as error:
        raise CheckpointError(
            f"the record of this {record['class']} would be too large: {error}; save pair_ by pyrovae.save"
        ) from None
    return content


def _estimator_of(folder: Path, content: bytes, kind: type | None = None) -> Any:
    from pyrovae.run_folder import read_history

    record = _parsed(folder / RECORD, content)
    if kind is not None and record["class"] != kind.__name__:
        raise CheckpointError(f"{folder} holds a {record['class']}: load it as pyrovae.sklearn.{record['class']}.load")
    kind = kind or named(record["class"])
    try:
        estimator = kind(**decoded_all(record["params"]))
        fitted = decoded_all(record["fitted"])
    except WRONG as error:
        why = str(error)[:1000]
        raise CheckpointError(f"{folder / RECORD} is damaged, or of another version: {why}") from None
    for name, value in fitted.items():
        if not _is_fitted(name):
            raise CheckpointError(f"{folder / RECORD} is damaged: {name[:100]!r} is no fitted attribute")
        setattr(estimator, name, value)
    files = _files(folder, record)
    if PAIR in files:
        _require_digest(files[PAIR] / MANIFEST, record, PAIR)
        estimator.pair_ = load(files[PAIR])
    if HISTORY in files:
        _require_digest(files[HISTORY], record, HISTORY)
        try:
            estimator.history_ = read_history(files[HISTORY], most_bytes=HISTORY_BYTES)
        except Exception as error:  # HDF5 has many, and words of its own
            raise CheckpointError(f"{files[HISTORY]} is damaged, or no history: {str(error)[:1000]}") from None
    if ESTIMATOR in files:
        _require_digest(files[ESTIMATOR] / RECORD, record, ESTIMATOR)
        estimator.estimator_ = _estimator_of(files[ESTIMATOR], _record_bytes(files[ESTIMATOR]))
    return estimator


def _record_bytes(folder: Path) -> bytes:
    if not (folder / RECORD).is_file():
        raise FileNotFoundError(f"{folder} holds no saved estimator: {RECORD} is missing")
    try:
        return read_bounded(folder / RECORD, MANIFEST_BYTES)
    except TooLargeError as error:
        raise CheckpointError(f"{folder / RECORD} is no record of a saved estimator: {error}") from None


def _parsed(file: Path, content: bytes) -> dict[str, Any]:
    """The record that a file holds. Raises CheckpointError that names what is wrong with it."""
    try:
        record = bounded(content)
        version = record["format_version"]
        if record["format"] != FORMAT or named(record["class"]) is None:
            raise KeyError("format")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is no record of a saved estimator: {str(error)[:1000]}") from None
    if type(version) is not int or version not in (1, VERSION):
        raise CheckpointError(f"{file.parent} has format version {str(version)[:50]}, and this package reads 1 and 2")
    for name in ("params", "fitted"):
        if not isinstance(record.get(name), dict):
            raise CheckpointError(f"{file} is damaged, or of another version: it has no {name}")
    if version == VERSION:
        try:
            is_whole = record.get("sha256") == manifest_digest(record) and is_canonical(content, record)
        except RecursionError:
            is_whole = False
        if not is_whole or not _states_files(record.get("files")):
            raise CheckpointError(
                f"{file} is damaged or was changed: its SHA-256 or its bytes are not what was written"
            )
    return dict(record)


def _states_files(files: Any) -> bool:
    """Whether a record names files as a state has them, and no others: none leads out of the folder."""
    if not isinstance(files, dict) or not files.keys() <= {PAIR, HISTORY, ESTIMATOR}:
        return False
    return all(
        isinstance(stated, dict)
        and isinstance(name := stated.get("name"), str)
        and ESTIMATORS.is_other(name)
        and name.startswith(kind.partition(".")[0])
        for kind, stated in files.items()
    )


def _files(folder: Path, record: Mapping[str, Any]) -> dict[str, Path]:
    """The files of a state; where its record is of the first version, those that are there."""
    if record["format_version"] == VERSION:
        return {kind: folder / stated["name"] for kind, stated in record["files"].items()}
    return {kind: folder / kind for kind in (PAIR, HISTORY, ESTIMATOR) if (folder / kind).exists()}


def _require_digest(file: Path, record: Mapping[str, Any], kind: str) -> None:
    if not file.is_file():
        raise CheckpointError(f"{file.parent} is not whole: it has no {file.name}")
    if record["format_version"] == VERSION and _digest(file) != record["files"][kind].get("sha256"):
        raise CheckpointError(f"{file} is damaged or was replaced: its SHA-256 is not the one that {RECORD} states")


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _files_of(file: Path) -> frozenset[str] | None:
    try:
        record = bounded(read_bounded(file, MANIFEST_BYTES))
        if record["format_version"] == 1:
            return frozenset(ESTIMATORS.others)
        return frozenset(str(stated["name"]) for stated in record["files"].values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _is_ours(file: Path) -> bool:
    try:
        return bool(bounded(read_bounded(file, MANIFEST_BYTES))["format"] == FORMAT)
    except (OSError, ValueError, TypeError, KeyError):
        return False


ESTIMATORS = Layout("a saved estimator", RECORD, (PAIR, HISTORY, ESTIMATOR), _files_of, _is_ours)


def _is_fitted(name: str) -> bool:
    is_public = name.endswith("_") and not name.startswith("_")
    return is_public and name not in APART
