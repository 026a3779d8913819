"""NumPy's file formats: a .npy of items, memory-mapped, and a .npz of items and labels."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pyrovae import checks
from pyrovae.data.dataset import Dataset, Part, assembled
from pyrovae.data.images import kind_of

__all__ = ["read_labels", "read_npy", "read_npz"]


def read_npy(
    path: Path, channels: Literal["first", "last"] | None, scale: bool, labels: Any = None, missing: bool = False
) -> Dataset:
    """A data set of memory-mapped items from a .npy file, which has no labels of its own."""
    array = _numpy(path, partial(np.load, path, mmap_mode="r", allow_pickle=False))
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is no .npy file but an archive; name it .npz")
    return assembled(path.stem, [Part(path.name, array, labels)], channels, scale=scale, missing=missing)


def read_npz(
    path: Path, channels: Literal["first", "last"] | None, scale: bool, labels: Any = None, missing: bool = False
) -> Dataset:
    """A data set from a .npz archive of arrays; `labels` are for one that has items of one part and no labels."""
    # opened explicitly, since NumPy does not close a damaged archive
    with path.open("rb") as file:
        archive = _numpy(path, partial(np.load, file, allow_pickle=False))
        if isinstance(archive, np.ndarray):
            raise ValueError(f"{path} is no .npz archive but one array; name it .npy")
        keys = list(archive.keys())
        parts: list[Part] = []
        chosen = _npz_keys(path, keys)
        if labels is not None and (len(chosen) > 1 or chosen[0][1] is not None):
            why = "has a training and a test part" if len(chosen) > 1 else f"has labels, {chosen[0][1]!r}"
            raise ValueError(
                f"labels must be left out: they are for items of one part that have none, and {path} {why}"
            )
        for x, y in chosen:
            its_labels = labels if y is None else _numpy(path, partial(archive.__getitem__, y), y)
            parts.append(Part(f"{path.name}:{x}", _numpy(path, partial(archive.__getitem__, x), x), its_labels))
    return assembled(path.stem, parts, channels, scale=scale, missing=missing)


def read_labels(path: Path) -> np.ndarray:
    """The labels in a .npy file, integers or strings, shape (N,)."""
    if path.suffix.lower() != ".npy" or not path.is_file():
        there = "is no .npy file" if path.exists() else "does not exist"
        raise ValueError(f"labels must be a .npy file of one label for each item, and {path} {there}")
    array = _numpy(path, partial(np.load, path, allow_pickle=False))
    if not isinstance(array, np.ndarray):
        raise ValueError(f"labels must be a .npy file of one label for each item, and {path} is an archive")
    return array


def _npz_keys(path: Path, keys: Sequence[str]) -> list[tuple[str, str | None]]:
    """The keys of items and labels for each part of an archive; a warning names the parts that are not used."""
    lower: dict[str, str] = {}
    for key in keys:
        lower.setdefault(key.lower(), key)

    def first(*names: str) -> str | None:
        return next((lower[name] for name in names if name in lower), None)

    def of(*parts: str) -> tuple[str | None, str | None]:
        xs = [name for part in parts for name in (f"x_{part}", f"{part}_x", f"{part}_images", f"{part}_data", part)]
        return first(*xs), first(*[name for part in parts for name in (f"y_{part}", f"{part}_y", f"{part}_labels")])

    train, test = of("train", "training"), of("test", "testing")
    valid = of("valid", "validation", "val", "dev")
    if train[0] is not None and test[0] is None and valid[0] is not None:
        checks.warn(f"{path}: {valid[0]!r} is taken as the test part: there is no other")
        test = valid
    x = first("x", "data", "images", "arr_0")
    if train[0] is not None and test[0] is not None:
        chosen = [(train[0], train[1]), (test[0], test[1])]
    elif x is not None:
        chosen = [(x, first("y", "labels", "target"))]
    else:
        raise ValueError(
            f"{path} must hold 'x', or 'x_train' and 'x_test' (with labels: 'y', or 'y_train' and 'y_test'), "
            f"got {', '.join(map(repr, keys)) or 'nothing'}"
        )
    used = {key for pair in chosen for key in pair}
    unused = [key for key in keys if key not in used and (kind_of(key) or key.lower() in ("x", "y"))]
    if unused:
        used_names = ", ".join(repr(key) for key in keys if key in used)
        checks.warn(f"of {path} {', '.join(map(repr, unused))} are not used, only {used_names}")
    return chosen


def _numpy(path: Path, read: Callable[[], Any], key: str | None = None) -> Any:
    """The result of `read`; NumPy's errors are raised again with the name of the file."""
    what = str(path) if key is None else f"{path}:{key}"
    try:
        return read()
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        said = str(error).replace(str(path), "")  # a folder may be named "objects"
        if re.search("object|pickle", said, re.IGNORECASE):
            raise ValueError(
                f"{what} holds pickled Python objects, or no NumPy array at all; a pickle can run code and is never "
                "opened: save an array of numbers (or strings, for labels)"
            ) from None
        raise ValueError(f"{what} is damaged or no NumPy file: {error}") from error
