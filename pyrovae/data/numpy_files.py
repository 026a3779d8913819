"""NumPy's file formats: a .npy of items, memory-mapped, and a .npz of items, labels, covariates and exposures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pyrovae import checks
from pyrovae.data.archives import Archive
from pyrovae.data.beside import BESIDE, checked_rows, with_beside
from pyrovae.data.dataset import Dataset, Part, assembled
from pyrovae.data.images import kind_of
from pyrovae.data.npy_format import Header, mapped, read_header, read_values
from pyrovae.data.shards import Shards, shard_files
from pyrovae.warned import gathered

__all__ = ["archive_has", "read_array", "read_npy", "read_npz", "read_shards"]


def read_npy(
    path: Path, channels: Literal["first", "last"] | None, scale: bool, labels: Any = None, missing: bool = False
) -> Dataset:
    """A data set of memory-mapped items from a .npy file, which has no labels of its own."""
    array = _mapped(path)
    return assembled(path.stem, [Part(path.name, array, labels)], channels, scale=scale, missing=missing)


def read_shards(
    folder: Path, channels: Literal["first", "last"] | None, scale: bool, labels: Any = None, missing: bool = False
) -> Dataset | None:
    """A data set from the .npy files of a folder, one below the other and memory-mapped; None where it has none."""
    files = shard_files(folder)
    if not files:
        return None
    arrays: list[np.ndarray] = []
    for path in files:
        array = _mapped(path)
        if array.ndim == 0:
            raise ValueError(f"{path} must hold an array of items, as each .npy file of a folder of them does")
        arrays.append(array)
    rows: Any = Shards(arrays, [path.name for path in files])
    return assembled(folder.name, [Part(folder.name, rows, labels)], channels, scale=scale, missing=missing)


def read_npz(
    path: Path, channels: Literal["first", "last"] | None, scale: bool, labels: Any = None, missing: bool = False
) -> Dataset:
    """A data set from a .npz archive of arrays; `labels` are for one that has items of one part and no labels."""
    with Archive(path) as archive:
        chosen = _npz_keys(path, archive.keys)
        archive.require_room({key for its in chosen for key in its.values() if key is not None})
        has_labels = chosen[0]["y"] is not None
        if labels is not None and (len(chosen) > 1 or has_labels):
            why = "has a training and a test part" if len(chosen) > 1 else f"has labels, {chosen[0]['y']!r}"
            raise ValueError(
                f"labels must be left out: they are for items of one part that have none, and {path} {why}"
            )

        def read(key: str | None) -> Any:
            return None if key is None else archive.read(key)

        parts: list[Part] = []
        for its in chosen:
            parts.append(
                Part(f"{path.name}:{its['x']}", read(its["x"]), labels if its["y"] is None else read(its["y"]))
            )
        beside = {name: [(its[name], read(its[name])) for its in chosen] for name in BESIDE}
    data = assembled(path.stem, parts, channels, scale=scale, missing=missing)
    return with_beside(data, **{name: _joined(data, name, rows) for name, rows in beside.items()})


def archive_has(name: str, source: Any) -> bool:
    """Whether a source is a .npz archive with the covariates or the exposure, as `name` says, beside its items."""
    path = Path(source)
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with Archive(path) as archive, gathered():
            return any(its[name] is not None for its in _npz_keys(path, archive.keys))
    except (ValueError, OSError):
        return False  # which reading it says


def _joined(data: Dataset, name: str, rows: Sequence[tuple[str | None, Any]]) -> Any:
    """What lies beside the items of all parts of an archive, each checked against its part; None without any."""
    if all(key is None for key, _ in rows):
        return None
    if len(rows) == 1:
        return rows[0][1]
    parts = []
    for split, part, (key, value) in zip((data.train, data.test), ("training", "test"), rows, strict=True):
        if key is None:
            raise ValueError(f"{name} must be in {data.name}.npz for both parts: there are none of the {part} items")
        parts.append(checked_rows(name, value, len(split), f"the {part} items", key=key))
    if parts[0].shape[1:] != parts[1].shape[1:]:
        shapes = " and ".join(str(tuple(part.shape)) for part in parts)
        raise ValueError(f"{name} must have the same columns in both parts, got shapes {shapes}")
    return torch.cat(parts)


def read_array(name: str, path: Path, what: str) -> np.ndarray:
    """The array in the .npy file that the argument `name` names; `what` are the words for what it must hold."""
    must = f"{name} must be a .npy file of {what}, and {path}"
    if path.suffix.lower() != ".npy" or not path.is_file():
        raise ValueError(f"{must} {'is no .npy file' if path.exists() else 'does not exist'}")
    with path.open("rb") as file:
        header = _header(file, path)
        checks.affordable(str(path), header.nbytes, "give a smaller array")
        return read_values(file, header, str(path))


def _mapped(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        header = _header(file, path)
    return mapped(path, header)


def _header(file: Any, path: Path) -> Header:
    if file.peek(4)[:4] == b"PK\3\4":
        raise ValueError(f"{path} is no .npy file but an archive; name it .npz")
    return read_header(file, str(path), os.fstat(file.fileno()).st_size)


def _npz_keys(path: Path, keys: Sequence[str]) -> list[dict[str, str | None]]:
    """The keys of each part of an archive by what they hold; a warning names the parts that are not used."""
    lower: dict[str, str] = {}
    for key in keys:
        lower.setdefault(key.lower(), key)

    def first(*names: str) -> str | None:
        return next((lower[name] for name in names if name in lower), None)

    def of(*parts: str) -> dict[str, str | None]:
        xs = [name for part in parts for name in (f"x_{part}", f"{part}_x", f"{part}_images", f"{part}_data", part)]
        ys = [name for part in parts for name in (f"y_{part}", f"{part}_y", f"{part}_labels")]
        beside = {name: first(*(n for part in parts for n in (f"{name}_{part}", f"{part}_{name}"))) for name in BESIDE}
        return {"x": first(*xs), "y": first(*ys), **beside}

    train, test = of("train", "training"), of("test", "testing")
    valid = of("valid", "validation", "val", "dev")
    if train["x"] is not None and test["x"] is None and valid["x"] is not None:
        checks.warn(f"{path}: {valid['x']!r} is taken as the test part: there is no other")
        test = valid
    x = first("x", "data", "images", "arr_0")
    if train["x"] is not None and test["x"] is not None:
        chosen = [train, test]
    elif x is not None:
        chosen = [{"x": x, "y": first("y", "labels", "target"), **{name: first(name) for name in BESIDE}}]
    else:
        raise ValueError(
            f"{path} must hold 'x', or 'x_train' and 'x_test' (with labels: 'y', or 'y_train' and 'y_test'), "
            f"got {', '.join(map(repr, keys)) or 'nothing'}"
        )
    used = {key for its in chosen for key in its.values()}
    names = ("x", "y", *BESIDE)
    unused = [
        key
        for key in keys
        if key not in used and (kind_of(key) or key.lower() in names or key.lower().startswith(BESIDE))
    ]
    if unused:
        used_names = ", ".join(repr(key) for key in keys if key in used)
        checks.warn(f"of {path} {', '.join(map(repr, unused))} are not used, only {used_names}")
    return chosen
