"""Writing a saved state: a folder that is complete or is not there, whatever ends the process."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from pyrovae import checks, ranks
from pyrovae.hidden import is_hidden, visible
from pyrovae.inference.checkpoint.description import describe
from pyrovae.inference.checkpoint.manifest import MANIFEST, RUN, WEIGHTS, CheckpointError, encoded
from pyrovae.inference.checkpoint.tensors import refuse_not_finite, state_for_saving
from pyrovae.models.pair import Pair, as_module

__all__ = ["require_writable", "save", "write"]

log = logging.getLogger(__name__)


def save(path: str | os.PathLike[str], pair: Pair) -> Path:
    """Write the pair's weights and manifest into the folder `path`, and return the folder.

    An earlier state there is replaced as a whole, by another folder: no process should stand in it. An empty folder is
    filled; one that holds anything else is refused (FileExistsError). Hidden files (`.DS_Store`, `Thumbs.db`) count for
    nothing and stay. Inside `distributed()` the first process writes, and the others wait. A pair from a builder can be
    loaded without its code at hand, and so can one with parts of your own, once the module that registers them is
    imported; one composed by hand needs `load(path, like=...)`. So does a pair that would be built as another density,
    because a setting was changed afterwards, or a constructor draws what is not among the weights. Raises
    CheckpointError for weights that are NaN or infinite, and TypeError where the pair's state has more than tensors.

    >>> import tempfile
    >>> import torch
    >>> import pyrovae
    >>> vae = pyrovae.mlp_vae((3,), hidden_dims=(4,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = pyrovae.load(pyrovae.save(f"{folder}/state", vae))
    >>> bool((again.encode(torch.ones(1, 3)) == vae.encode(torch.ones(1, 3))).all())
    True
    """
    target = checks.path("path", path).resolve()
    shared = ranks.current()
    error: Exception | None = None
    if shared.is_first:
        try:
            module = as_module(pair)
            tensors = {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}
            refuse_not_finite(tensors, module, "the pair", strict=True)
            write(target, pair)
        except Exception as caught:
            error = caught
    if any(shared.gathered(error is not None)):  # the others wait until it is there, or know that it is not
        raise error or CheckpointError(f"{target} could not be written by the first process")
    return target


def write(target: Path, pair: Pair, run: tuple[dict[str, Any], dict[str, Tensor]] | None = None) -> None:
    """Write the state of a pair from this process alone, into the folder `target`.

    `run` is what a fit needs to go on from here: metadata that JSON can hold, and named tensors.
    """
    from safetensors.torch import save as to_bytes

    if target.exists() and not _may_be_replaced(target):
        raise FileExistsError(f"{target} exists and is not a saved state: choose another folder or remove it")
    files = {WEIGHTS: to_bytes(state_for_saving(pair))}
    manifest = describe(pair)
    manifest["weights_sha256"] = hashlib.sha256(files[WEIGHTS]).hexdigest()
    if run is not None:
        run_metadata, run_tensors = run
        on_host = {name: t.detach().cpu().contiguous().clone() for name, t in run_tensors.items()}
        files[RUN] = to_bytes(on_host)
        manifest["run"] = {**run_metadata, "sha256": hashlib.sha256(files[RUN]).hexdigest()}
    files[MANIFEST] = encoded(manifest)
    _replace(target, files)


def require_writable(pair: Pair) -> None:
    """Refuse a pair that `write` would refuse, before it is trained."""
    state_for_saving(pair)
    describe(pair)


def _replace(target: Path, files: dict[str, bytes]) -> None:
    """Put a folder with these files in the place of `target`; where that fails, what was there is there again."""
    target.parent.mkdir(parents=True, exist_ok=True)
    token = f"{os.getpid()}-{time.monotonic_ns()}"
    fresh = target.with_name(f".{target.name}-new-{token}")
    aside = target.with_name(f".{target.name}-old-{token}")
    fresh.mkdir()
    try:
        for name, content in files.items():
            with (fresh / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # on the disk before it has a name
        if target.exists() and not (target / WEIGHTS).exists():
            _fill_empty_folder(target, fresh)
        else:
            if target.exists():
                shutil.copymode(target, fresh)
                target.rename(aside)
            fresh.rename(target)
            _keep_hidden_files(aside, target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.exists() and not _hidden_files(aside):
            shutil.rmtree(aside, ignore_errors=True)


def _fill_empty_folder(target: Path, fresh: Path) -> None:
    """Move a new state's files into an empty folder: the manifest first, since it says whose folder a kill left."""
    try:
        (target / MANIFEST).unlink(missing_ok=True)
        for name in (MANIFEST, WEIGHTS, RUN):
            if (fresh / name).exists():
                (fresh / name).rename(target / name)
    except BaseException:
        for name in (MANIFEST, WEIGHTS, RUN):
            (target / name).unlink(missing_ok=True)
        raise


def _hidden_files(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if is_hidden(entry.name)] if folder.exists() else []


def _keep_hidden_files(aside: Path, target: Path) -> None:
    """Move the hidden files of the earlier state's folder to the new one: they are not ours to remove."""
    for entry in _hidden_files(aside):
        try:
            entry.rename(target / entry.name)
        except OSError as error:  # the new state is whole: this is no reason to fail
            log.warning("%s stays where it is: %s", entry, error)


def _may_be_replaced(path: Path) -> bool:
    """Whether a folder is empty, or holds a saved state or the manifest of a half-written one; hidden files apart."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in visible(path)}
    if not names:
        return True
    try:
        return names <= {MANIFEST, WEIGHTS, RUN} and json.loads((path / MANIFEST).read_bytes())["format"] == "pyrovae"
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        return False
