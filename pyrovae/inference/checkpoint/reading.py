"""Reading a saved state: nothing in it is executed, and every byte of it is checked before a pair takes it."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.inference.checkpoint.building import Extent, built_pair, sketched_pair
from pyrovae.inference.checkpoint.description import architecture, describe, tied_names
from pyrovae.inference.checkpoint.manifest import (
    COMPARED_FIELDS,
    MANIFEST,
    MANIFEST_BYTES,
    CheckpointError,
    comparable,
    join_first,
    names_of_states,
    require_equal,
)
from pyrovae.inference.checkpoint.opening import OpenState, read_whole
from pyrovae.inference.checkpoint.tensors import (
    filled,
    most_bytes,
    most_header,
    refuse_not_finite,
    require_types,
    state_dict_of,
)
from pyrovae.json_files import bounded, read_bounded
from pyrovae.memory import in_words
from pyrovae.models.fingerprint import digests
from pyrovae.models.pair import Pair, as_module, dtype_and_device
from pyrovae.models.scopes import copied

__all__ = ["load", "read_run"]

MOST_BYTES = 2**32  # of weights, where no pair at hand says how many they are
MODEL_FOLDER = "model"  # the folder of the state in that of a run
RUN_RECORD = "run.json"  # what such a folder says of its run: pyrovae.run_folder


def load(path: str | os.PathLike[str], like: Pair | None = None, *, max_bytes: int = MOST_BYTES) -> Any:
    """Read the pair that `save` wrote into the folder `path`; every byte of its weights is checked.

    `path` may be the folder of a complete run of `pyrovae fit`, whose pair lies in `path`/model. With `like` the
    weights go into a copy of that pair, whose architecture must agree with the saved one; where one of its settings
    that are no weights has another value, a warning names it. Another process may save over the state meanwhile: what
    is read is all of one save.

    What the manifest, the header of the weights and the length of their file say must agree before anything is built,
    and weights of more than `max_bytes` (4 GiB) are refused where no `like` says that they are meant to be so many. The
    weights are read tensor by tensor into the pair, which takes no memory beside it.

    Raises FileNotFoundError, naming the states that lie beside a missing one, and CheckpointError for a damaged or
    foreign folder (naming the states that lie in it), another format version, another architecture (field by field),
    weights that are NaN, infinite or of another dtype than the manifest says, and a part that its recipe does not build
    as it was, as where a constructor draws. A warning names files in the folder that are not of the state. Nothing is
    unpickled.

    >>> from pyrovae import load
    >>> load("nowhere/state")
    Traceback (most recent call last):
        ...
    FileNotFoundError: nowhere/state does not exist; no saved state lies in nowhere
    """
    most = checks.whole("max_bytes", max_bytes, least=1, most=2**63 - 1)
    folder = _locate_state(checks.path("path", path))
    return read_whole(folder, lambda state: _pair_of(state, like, most))


def read_run(
    folder: Path, pair: Pair, more: dict[str, Tensor] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Read the metadata and tensors of a run that `write` was given, and the weights; all of it is checked.

    `more` are tensors that the run may have beside what follows from the pair: no larger file is read.

    Raises CheckpointError for a state without a run, a damaged one, and one of another architecture or dtype than the
    pair's.
    """
    return read_whole(folder, lambda state: _run_of(state, pair, more or {}), with_run=True)


def _pair_of(state: OpenState, like: Pair | None, most: int) -> Any:
    folder, manifest, weights = state.folder, state.manifest, state.weights
    if like is None:
        recipe = manifest["recipe"]
        if recipe is None:
            why = f" ({manifest['by_hand']})" if manifest.get("by_hand") else ""
            raise CheckpointError(
                f"{folder} holds a pair composed by hand: give load(path, like=pair of the same parts){why}"
            )
        if weights.size > most:
            raise CheckpointError(
                f"{weights.path} has {in_words(weights.size)} of weights, and load reads at most {in_words(most)}: if "
                f"they are meant to be so many, give max_bytes={weights.size}"
            )
        checks.affordable(str(folder), weights.size, "load it on a machine with more memory")
        extent = Extent.of(weights.entries)
        sketch = sketched_pair(recipe, folder, extent)
        require_equal(architecture(sketch), manifest, folder)
        require_types(weights, manifest, state_dict_of(sketch))
        pair = built_pair(recipe, folder, extent)
    else:
        _require_same_architecture(like, manifest, COMPARED_FIELDS, folder)
        require_types(weights, manifest, state_dict_of(like))
        pair = copied(like)
        _restore_class_names(pair, manifest.get("classes"), folder)
    module = as_module(pair)
    device = dtype_and_device(pair)[1]
    module.to(device, getattr(torch, manifest["dtype"]))
    if like is not None:
        _warn_of_other_attributes(pair, manifest, folder)
    elif names := _unlike(pair, manifest, exact=False):
        raise CheckpointError(
            f"{folder} holds a pair that its recipe does not build again: {join_first(names)} came out otherwise, as "
            "where a constructor draws at random; give load(path, like=pair of the same parts)"
        )
    tensors = filled(module, weights, manifest["weights_sha256"])
    refuse_not_finite(tensors, module, str(weights.path), strict=True)
    if "tied" not in manifest:
        _require_equal_where_tied(pair, tensors, folder)
    # each tensor in the type it was saved in; assign=True would do that too, but part what is shared
    for name, tensor in module.state_dict(keep_vars=True).items():
        if tensor.data_ptr() != tensors[name].data_ptr() or tensor.dtype != tensors[name].dtype:
            tensor.data = tensors[name].to(device)
    module.load_state_dict(tensors)
    return pair


def _run_of(
    state: OpenState, pair: Pair, more: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    folder, manifest = state.folder, state.manifest
    run_metadata = manifest.get("run")
    if not isinstance(run_metadata, dict):
        raise CheckpointError(f"{folder} holds a state and no run: load(path) reads it")
    _require_same_architecture(pair, manifest, (*COMPARED_FIELDS, "dtype"), folder)
    _warn_of_other_attributes(pair, manifest, folder, restored=dict(as_module(pair).named_buffers()))
    require_types(state.weights, manifest, state_dict_of(pair))
    weights = state.weights.read(manifest["weights_sha256"])
    module = as_module(pair)
    refuse_not_finite(weights, module, str(state.weights.path), strict=False)
    changed = {**module.state_dict(), **dict(module.named_buffers())}
    # an optimiser has up to four tensors a parameter; the last good, the best and the buffers are there once more
    largest = {f"{i}.optimizer.momentum_buffer.{name}": value for name, value in changed.items() for i in range(8)}
    largest |= more
    file = state.run(most_header(largest), most_bytes(largest))
    return run_metadata, weights, file.read(run_metadata.get("sha256"))


def _require_same_architecture(pair: Pair, manifest: dict[str, Any], fields: tuple[str, ...], folder: Path) -> None:
    here = comparable(describe(pair))
    require_equal({field: here[field] for field in fields}, comparable(manifest), folder)


def _warn_of_other_attributes(
    pair: Pair, manifest: dict[str, Any], folder: Path, restored: Collection[str] = ()
) -> None:
    """Say which attributes of a user's parts are not as they were; they are the caller's, and no error."""
    if names := [name for name in _unlike(pair, manifest, exact=True) if name not in restored]:
        checks.warn(
            f"{folder} was saved with other values of {join_first(names)} than the pair at hand has, and these are not "
            "among the weights: the density may be another"
        )


def _unlike(pair: Pair, manifest: dict[str, Any], *, exact: bool) -> list[str]:
    """The attributes of a user's parts that are not as they were when the state was saved, of those known of both."""
    here, saved = digests(as_module(pair)), manifest.get("attributes")
    if not isinstance(saved, dict):  # the first manifests of this format version have none
        return []
    names = []
    for name, both in here.items():
        before = saved.get(name)
        if isinstance(before, list) and len(before) == 2 and before[exact] != both[exact]:
            names.append(name)
    return names


def _require_equal_where_tied(pair: Pair, tensors: dict[str, Tensor], folder: Path) -> None:
    """Refuse two tensors of unlike values for one: all that is known where a manifest does not say what is tied."""
    for name, first_name in tied_names(pair).items():
        if not torch.equal(tensors[name], tensors[first_name]):
            raise CheckpointError(
                f"{folder} holds another architecture: {first_name} and {name} are one here and differ in the saved "
                "state"
            )


def _restore_class_names(pair: Any, classes: list[Any] | None, folder: Path) -> None:
    """Give a classifier the saved names of its classes; where it was given other names, the state is refused."""
    if classes is None or not hasattr(pair, "names"):
        return
    if pair.names_are_given and pair.names.tolist() != classes:
        require_equal({"classes": pair.names.tolist()}, {"classes": classes}, folder)
    pair.rename(np.array(classes))


def _locate_state(path: Path) -> Path:
    """The folder of the state that is meant: the path itself, or the folder `model` in that of a run."""
    if not path.exists():
        names = names_of_states(path.parent) if path.parent.is_dir() else []
        there = f"saved states beside it: {join_first(names)}" if names else f"no saved state lies in {path.parent}"
        raise FileNotFoundError(f"{path} does not exist; {there}")
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file, and a saved state is a folder (nothing was unpickled)")
    if (path / MANIFEST).is_file():
        return path
    status = _status_of_run(path)
    if status not in (None, "complete"):
        raise CheckpointError(
            f"{path} holds a run that is {status}, and no fitted pair: `pyrovae fit --resume --out {path}` goes on "
            f"with an unfinished one, and {path}/checkpoint has the states of its last epochs"
        )
    return path / MODEL_FOLDER if (path / MODEL_FOLDER / MANIFEST).is_file() else path


def _status_of_run(folder: Path) -> str | None:
    """What run.json of a run folder says of the run; None where there is no such file, or it is no JSON."""
    try:
        return str(bounded(read_bounded(folder / RUN_RECORD, MANIFEST_BYTES))["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
