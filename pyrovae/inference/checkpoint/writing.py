"""Writing a saved state: a folder that is complete or is not there, whatever ends the process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyrovae import checks, ranks
from pyrovae.inference.checkpoint.description import Rebuilt, describe
from pyrovae.inference.checkpoint.manifest import (
    FORMAT_VERSION_NAMED,
    RUN,
    WEIGHTS,
    CheckpointError,
    encoded,
    require_encodable,
)
from pyrovae.inference.checkpoint.replacing import Make, put, require_replaceable
from pyrovae.inference.checkpoint.tensor_file import refuse_unwritable, write_tensors
from pyrovae.inference.checkpoint.tensors import refuse_not_finite, state_dict_of
from pyrovae.models.pair import Pair, as_module

__all__ = ["contents", "require_finite", "require_writable", "save", "write"]


def save(path: str | os.PathLike[str], pair: Pair) -> Path:
    """Write the pair's weights and manifest into the folder `path`, and return the folder.

    An earlier state there is replaced by one rename of its manifest: at each moment the path holds the earlier state or
    the new one, whole and on the disk, whether the process is killed or another one reads. An empty folder is
    filled; one that holds anything else is refused (FileExistsError). Hidden files (`.DS_Store`, `Thumbs.db`) count for
    nothing and stay. Inside `distributed()` the first process writes, and the others wait. A pair from a builder can be
    loaded without its code at hand, and so can one with parts of your own, once the module that registers them is
    imported; one composed by hand needs `load(path, like=...)`. So does a pair that would be built as another density,
    because a setting was changed afterwards, or a constructor draws what is not among the weights. Raises
    CheckpointError for weights that are NaN or infinite, TypeError where the pair's state has more than plain tensors,
    and OSError, which names `path`, where the disk is full or the folder is not yours to write; what was there before
    is there still. Beside the pair it takes the memory of its largest tensor, and less on a CPU.

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
            require_finite(pair)
            write(target, pair)
        except Exception as caught:
            error = caught
    if any(shared.gathered(error is not None)):  # the others wait until it is there, or know that it is not
        raise error or CheckpointError(f"{target} could not be written by the first process")
    return target


def write(
    target: Path,
    pair: Pair,
    run: tuple[dict[str, Any], dict[str, Tensor]] | None = None,
    rebuilt: Rebuilt | None = None,
) -> None:
    """Write the state of a pair from this process alone, into the folder `target`.

    `run` is what a fit needs to go on from here: metadata that JSON can hold, and named tensors. `rebuilt` is kept from
    one state of a pair to the next.
    """
    require_replaceable(target)
    put(target, contents(pair, run, rebuilt))


def contents(
    pair: Pair,
    run: tuple[dict[str, Any], dict[str, Tensor]] | None = None,
    rebuilt: Rebuilt | None = None,
) -> Make:
    """What writes the files of the state of a pair, all of which is checked by now."""
    tensors = state_dict_of(pair)
    manifest = describe(pair, rebuilt)
    run_metadata, run_tensors = run or (None, {})

    def make(folder: Path, names: Mapping[str, str]) -> bytes:
        stated = {**manifest, "weights_sha256": _written(folder / names[WEIGHTS], tensors)}
        if run_metadata is not None:
            stated["run"] = {**run_metadata, "sha256": _written(folder / names[RUN], run_tensors)}
        if names[WEIGHTS] != WEIGHTS:
            used = {kind: name for kind, name in names.items() if kind == WEIGHTS or run_metadata is not None}
            stated |= {"format_version": FORMAT_VERSION_NAMED, "files": used}
        return encoded(stated)

    require_encodable(manifest | {"weights_sha256": "", "run": run_metadata})  # refused before anything is written
    return make


def require_finite(pair: Pair) -> None:
    """Raise CheckpointError for weights that are NaN or infinite, with which nothing can be computed."""
    module = as_module(pair)
    tensors = {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}
    refuse_not_finite(tensors, module, "the pair", strict=True)


def require_writable(pair: Pair, rebuilt: Rebuilt | None = None) -> None:
    """Refuse a pair that `write` would refuse, before it is trained."""
    for name, tensor in state_dict_of(pair).items():
        refuse_unwritable(name, tensor)
    describe(pair, rebuilt)


def _written(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a file of tensors, wait until it is on the disk, and return its SHA-256."""
    with file.open("wb") as opened:
        digest = write_tensors(opened, tensors)
        opened.flush()
        os.fsync(opened.fileno())
    return digest
