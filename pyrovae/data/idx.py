"""IDX files, the format of MNIST and similar data sets, and folders of them."""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pyrovae import checks
from pyrovae.data.dataset import Dataset, Part, assembled
from pyrovae.hidden import visible

__all__ = ["idx_files", "read_idx", "read_idx_folder"]

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an IDX file, plain or .gz, in the byte order of this machine.

    An IDX file has two zero bytes, a code for the dtype, the number of axes, one big-endian uint32 per axis, and the
    values (LeCun, Cortes and Burges, "The MNIST database", section "File formats"). Raises ValueError for another magic
    number and for a file that is longer or shorter than its header states.

    >>> import pathlib
    >>> import tempfile
    >>> from pyrovae.data.idx import read_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    path = checks.path("path", path)
    again = "delete it and fetch or copy it again"
    data, whole = _unpacked(path)
    axes = data[3] if len(data) >= 4 else 0
    if data[:2] != b"\0\0"[: len(data)] or (len(data) >= 4 and (data[2] not in _IDX_DTYPES or axes == 0)):
        start = data[:4].hex(" ")
        raise ValueError(f"{path} is no IDX file: expected 00 00, a dtype code, axes at its start, got {start}")
    head = 4 + 4 * axes
    if len(data) < max(head, 8):
        raise ValueError(f"{path} is truncated: expected at least {max(head, 8)} bytes, got {len(data)}; {again}")
    shape = struct.unpack(f">{axes}I", data[4:head])
    dtype = np.dtype(_IDX_DTYPES[data[2]])
    expected = head + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        fault = "is truncated" if len(data) < expected else "is too long"
        actual = f"{len(data)} once unpacked" if path.suffix == ".gz" else len(data)
        raise ValueError(f"{path} {fault}: expected {expected} bytes for shape {shape}, got {actual}; {again}")
    if not whole:
        raise ValueError(f"{path} is truncated: the values are there but the checksum after them is not; {again}")
    return np.frombuffer(data, dtype, offset=head).reshape(shape).astype(dtype.newbyteorder("="))


def _unpacked(path: Path) -> tuple[bytes, bool]:
    """All bytes of a file, and whether its gzip stream is complete."""
    if path.suffix != ".gz":
        return path.read_bytes(), True
    chunks, whole = [], True
    with gzip.open(path) as file:
        try:
            # read1 returns the data before a cut, which read would lose
            while chunk := file.read1(1 << 20):
                chunks.append(chunk)
        except EOFError:
            whole = False
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file: {error}; delete it and fetch or copy it again") from None
    return b"".join(chunks), whole


def idx_files(folder: Path) -> list[Path]:
    """The files whose names are those of IDX images or labels; an unpacked file takes precedence over its .gz."""
    files: dict[str, Path] = {}
    for path in visible(folder):
        stem = path.name.removesuffix(".gz").lower()
        kind = "." not in stem or re.search("idx|ubyte", stem)
        if kind and re.search("images|labels", stem) and path.is_file():
            files.setdefault(stem, path)
    return list(files.values())


def read_idx_folder(
    folder: Path, files: Sequence[Path], channels: Literal["first", "last"] | None, scale: bool = True
) -> Dataset:
    """A data set from the IDX files that `idx_files` lists in a folder."""
    groups: dict[str, list[Path]] = {}
    for path in files:
        name = path.name.lower()
        part = "train" if "train" in name else "test" if re.search("test|t10k", name) else "all"
        groups.setdefault(f"{part} {'images' if 'images' in name else 'labels'}", []).append(path)
    several = next((paths for paths in groups.values() if len(paths) > 1), None)
    present = [part for part in ("train", "test", "all") if f"{part} images" in groups]
    if several or present not in (["train", "test"], ["train"], ["test"], ["all"]):
        listed = ", ".join(path.name for path in several or files)
        raise ValueError(f"{folder} must hold the images of a training and a test part, or of one part, got {listed}")
    parts: list[Part] = []
    for part in present:
        images, labels = groups[f"{part} images"][0], groups.get(f"{part} labels")
        parts.append(Part(str(images), read_idx(images), read_idx(labels[0]) if labels else None))
    return assembled(folder.name, parts, channels, scale=scale)
