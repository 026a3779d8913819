"""The tensors of a saved state: which a pair has, how their file is read, and the checks that they pass."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.inference.checkpoint.manifest import WEIGHTS, CheckpointError, join_first, require_equal
from pyrovae.models.pair import Pair, as_module

__all__ = [
    "checked_weights",
    "dtype_names",
    "read_safetensors",
    "refuse_not_finite",
    "shape_names",
    "state_dict_of",
    "state_for_saving",
]

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def state_dict_of(pair: Pair) -> dict[str, Tensor]:
    """The pair's `state_dict`. Raises TypeError where it has an entry that is no tensor."""
    state = dict(as_module(pair).state_dict())
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name!r} of the pair's state is a {type(value).__name__}, and a saved state has tensors")
    return state


def state_for_saving(pair: Pair) -> dict[str, Tensor]:
    """Copies of the pair's tensors on the host, each in memory of its own."""
    return {name: t.detach().cpu().contiguous().clone() for name, t in state_dict_of(pair).items()}


def shape_names(tensors: dict[str, Tensor]) -> dict[str, str]:
    """The shape of each tensor, as a manifest has it."""
    return {name: str(list(t.shape)) for name, t in tensors.items()}


def dtype_names(tensors: dict[str, Tensor]) -> dict[str, str]:
    """The dtype of each tensor, as a manifest has it."""
    return {name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items()}


def checked_weights(folder: Path, manifest: dict[str, Any], pair: Pair, *, strict: bool) -> dict[str, Tensor]:
    """Read the weights of a state of the pair's architecture, and check names, shapes, dtypes and values.

    With `strict`, buffers of the package's and torch's own modules must be finite too.
    """
    expected = state_dict_of(pair)
    tensors = read_safetensors(folder / WEIGHTS, manifest["weights_sha256"], expected)
    require_equal({"tensors": shape_names(tensors)}, manifest, folder)
    _refuse_other_dtypes(tensors, expected, manifest, folder)
    refuse_not_finite(tensors, as_module(pair), str(folder / WEIGHTS), strict=strict)
    return tensors


def read_safetensors(file: Path, stated_sha256: Any, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file whose SHA-256 the manifest states, and which is no larger than one of `like` could be."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    if not file.is_file():
        raise CheckpointError(f"{file.parent} is not a whole saved state: it has no {file.name}")
    most_header, most_size = _most_bytes(like)
    with file.open("rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
        size = os.fstat(opened.fileno()).st_size
    # a header that is there is parsed as a whole, a thousand bytes of memory for each name in it
    if size > most_size or most_header < header < size:
        raise CheckpointError(
            f"{file} is no file of these tensors: it has {size:,} bytes, {header:,} of them a header, and they take at "
            f"most {most_size:,} and {most_header:,} (nothing was unpickled)"
        )
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != stated_sha256:
        raise CheckpointError(
            f"{file} is damaged or was replaced: SHA-256 {digest[:16]}..., the manifest says "
            f"{str(stated_sha256)[:16]}... (nothing was unpickled)"
        )
    try:
        return from_bytes(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file} is not a safetensors file: {error} (nothing was unpickled)") from None


def refuse_not_finite(tensors: dict[str, Tensor], module: nn.Module, what: str, *, strict: bool) -> None:
    """Raise CheckpointError for weights that are NaN or infinite.

    With `strict` this holds for buffers too, except those of a user's own modules: these are named in a warning.
    """
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    modules = dict(module.named_modules(remove_duplicate=False))
    for name, t in tensors.items():
        if not (t.dtype in FLOATING or t.is_complex()) or bool(t.isfinite().all()):
            continue
        count = f"{name!r} of {what} has {int((~t.isfinite()).sum()):,} of {t.numel():,} values NaN or infinite"
        owner = type(modules.get(name.rpartition(".")[0])).__module__
        if name in parameters or (strict and owner.startswith(("pyrovae.", "torch."))):
            raise CheckpointError(f"{count}: nothing can be computed with it; load, or go on from, an earlier state")
        if strict:
            checks.warn(f"buffer {count}")


def _refuse_other_dtypes(
    tensors: dict[str, Tensor], expected: dict[str, Tensor], manifest: dict[str, Any], folder: Path
) -> None:
    """Refuse tensors of another dtype than the manifest states, or of one that the pair's tensors could not take."""
    stated = manifest.get("dtypes")
    saved_dtypes = dtype_names(tensors)
    pair_dtypes = dtype_names(expected)
    wrong, unlike = [], []
    for name, t in tensors.items():
        both_floating = t.dtype in FLOATING and expected[name].dtype in FLOATING
        if stated is not None and saved_dtypes[name] != stated.get(name):
            wrong.append(f"{name} is {saved_dtypes[name]}, and the manifest says {stated.get(name)}")
        elif not both_floating and t.dtype != expected[name].dtype:
            wrong.append(f"{name} is {saved_dtypes[name]}, and here it is {pair_dtypes[name]}")
        elif stated is None and saved_dtypes[name] not in (manifest["dtype"], pair_dtypes[name]):
            unlike.append(f"{name} is {saved_dtypes[name]}")
    if wrong:
        raise CheckpointError(f"{folder / WEIGHTS} has tensors of other types:\n  " + join_first(wrong, "\n  "))
    if unlike:  # it may have been so: the first manifests of this format version state no types
        checks.warn(f"{folder} is a state in {manifest['dtype']}, and {join_first(unlike)}")


def _most_bytes(tensors: dict[str, Tensor]) -> tuple[int, int]:
    """How long the header and the whole of a safetensors file of such tensors can be, in whichever dtype."""
    header = 1024 + sum(6 * len(name.encode()) + 256 + 24 * t.ndim for name, t in tensors.items())
    return header, 8 + header + sum(16 * t.numel() for t in tensors.values())
