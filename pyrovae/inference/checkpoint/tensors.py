"""The tensors of a saved state: which a pair has, how their file is read, and the checks that they pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.inference.checkpoint.manifest import CheckpointError, join_first
from pyrovae.inference.checkpoint.opening import TensorFile
from pyrovae.inference.checkpoint.tensor_file import Entry
from pyrovae.models.pair import Pair, as_module

__all__ = [
    "dtype_names",
    "filled",
    "most_bytes",
    "most_header",
    "refuse_not_finite",
    "require_types",
    "shape_names",
    "state_dict_of",
]

PIECE = 2**20  # values that are looked at at once
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def state_dict_of(pair: Pair) -> dict[str, Tensor]:
    """The pair's `state_dict`. Raises TypeError where it has an entry that is no tensor."""
    state = dict(as_module(pair).state_dict())
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name!r} of the pair's state is a {type(value).__name__}, and a saved state has tensors")
    return state


def shape_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The shape of each tensor, as a manifest has it."""
    return {name: str(list(t.shape)) for name, t in tensors.items()}


def dtype_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The dtype of each tensor, as a manifest has it."""
    return {name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items()}


def filled(module: nn.Module, file: TensorFile, stated_sha256: Any) -> dict[str, Tensor]:
    """The tensors of a file, read into those of the module where their bytes lie as in the file, else into new ones."""
    state = dict(module.state_dict(keep_vars=True))
    storages: dict[int, set[int]] = {}
    for tensor in state.values():
        storages.setdefault(tensor.untyped_storage().data_ptr(), set()).add(id(tensor))

    taken: set[int] = set()

    def place_for(name: str, entry: Entry) -> Tensor | None:
        tensor = state[name]
        if id(tensor) in taken:  # a further name of one that is tied, whose values are compared with those of the first
            return None
        taken.add(id(tensor))
        is_alike = tensor.device.type == "cpu" and tensor.dtype == entry.dtype and tuple(tensor.shape) == entry.shape
        is_alone = len(storages[tensor.untyped_storage().data_ptr()]) == 1
        if not is_alike or not is_alone or not tensor.is_contiguous() or tensor.is_inference():
            return None
        return tensor.detach() if tensor.untyped_storage().nbytes() == entry.size else None

    return file.read(stated_sha256, place_for)


def refuse_not_finite(tensors: Mapping[str, Tensor], module: nn.Module, what: str, *, strict: bool) -> None:
    """Raise CheckpointError for weights that are NaN or infinite.

    With `strict` this holds for buffers too, except those of a user's own modules: these are named in a warning.
    """
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    modules = dict(module.named_modules(remove_duplicate=False))
    for name, t in tensors.items():
        if not (t.dtype in FLOATING or t.is_complex()) or not (num_strange := _num_not_finite(t)):
            continue
        count = f"{name!r} of {what} has {num_strange:,} of {t.numel():,} values NaN or infinite"
        owner = type(modules.get(name.rpartition(".")[0])).__module__
        if name in parameters or (strict and owner.startswith(("pyrovae.", "torch."))):
            raise CheckpointError(f"{count}: nothing can be computed with it; load, or go on from, an earlier state")
        if strict:
            checks.warn(f"buffer {count}")


def require_types(file: TensorFile, manifest: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors of another dtype than the manifest states, or of one that the pair's tensors could not take.

    Nothing but the header of the file has been read by then.
    """
    stated = manifest.get("dtypes")
    pair_dtypes = dtype_names(expected)
    wrong, unlike = [], []
    for name, entry in file.entries.items():
        saved_dtype = str(entry.dtype).removeprefix("torch.")
        both_floating = entry.dtype in FLOATING and expected[name].dtype in FLOATING
        if stated is not None and saved_dtype != stated.get(name):
            wrong.append(f"{name} is {saved_dtype}, and the manifest says {stated.get(name)}")
        elif not both_floating and entry.dtype != expected[name].dtype:
            wrong.append(f"{name} is {saved_dtype}, and here it is {pair_dtypes[name]}")
        elif stated is None and saved_dtype not in (manifest["dtype"], pair_dtypes[name]):
            unlike.append(f"{name} is {saved_dtype}")
    if wrong:
        raise CheckpointError(f"{file.path} has tensors of other types:\n  " + join_first(wrong, "\n  "))
    if unlike:  # it may have been so: the first manifests of this format version state no types
        checks.warn(f"{file.path.parent} is a state in {manifest['dtype']}, and {join_first(unlike)}")


def most_header(tensors: Mapping[str, Tensor]) -> int:
    """How long the header of a file of such tensors can be."""
    return 1024 + sum(6 * len(name.encode()) + 256 + 24 * t.ndim for name, t in tensors.items())


def most_bytes(tensors: Mapping[str, Tensor]) -> int:
    """How long a file of such tensors can be, in whichever dtype."""
    return 8 + most_header(tensors) + sum(16 * t.numel() for t in tensors.values())


def _num_not_finite(tensor: Tensor) -> int:
    """How many values are NaN or infinite, counted in pieces: the whole would take three times its memory."""
    if tensor.is_contiguous():
        pieces = tensor.detach().reshape(-1).split(PIECE)
        return sum(len(piece) - int(piece.isfinite().sum()) for piece in pieces)
    return int((~tensor.isfinite()).sum())
