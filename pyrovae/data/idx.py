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
from typing import Any, Literal

import numpy as np

from pyrovae import checks
from pyrovae.data.dataset import Dataset, Part, assembled
from pyrovae.data.limits import AXES, UNPACKED, bytes_of, require_unpacked
from pyrovae.hidden import visible

__all__ = ["idx_files", "read_idx", "read_idx_folder"]

AGAIN = "delete it and fetch or copy it again"
CHUNK = 2**20  # bytes
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an IDX file, plain or .gz, in the byte order of this machine.

    An IDX file has two zero bytes, a code for the dtype, the number of axes, one big-endian uint32 per axis, and the
    values (LeCun, Cortes and Burges, "The MNIST database", section "File formats"). Raises ValueError for another magic
    number, for a file that is longer or shorter than its header states, and for a .gz that would unpack to more than
    both 256 MiB and 200 times its own size, as some megabytes may unpack to gigabytes of zeros.

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
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {path.absolute()}")
    packed = path.suffix == ".gz"
    size = path.stat().st_size
    with _Values(path, packed) as values:
        start = values.read(4)
        axes = start[3] if len(start) == 4 else 0
        if start[:2] != b"\0\0"[: len(start)] or (len(start) == 4 and (start[2] not in _IDX_DTYPES or axes == 0)):
            raise ValueError(
                f"{path} is no IDX file: expected 00 00, a dtype code, axes at its start, got {start.hex(' ')}"
            )
        if axes > AXES:
            raise ValueError(f"{path} states an array of {axes} axes, and at most {AXES} are read; {AGAIN}")
        sizes = values.read(4 * axes)
        head, read = 4 + 4 * axes, len(start) + len(sizes)
        if read < max(head, 8):
            raise ValueError(f"{path} is truncated: expected at least {max(head, 8)} bytes, got {read}; {AGAIN}")
        shape = struct.unpack(f">{axes}I", sizes)
        dtype = np.dtype(_IDX_DTYPES[start[2]])
        expected = head + math.prod(shape) * dtype.itemsize
        if not packed and size != expected:
            raise _of_another_length(path, expected, shape, str(size))
        bytes_of(shape, dtype.itemsize, str(path))
        if packed:
            require_unpacked(str(path), size, expected, "unpack it by gunzip, and load the unpacked file")
        data = values.read(expected - head)
        actual = head + len(data) + values.left()
    if actual != expected:
        raise _of_another_length(path, expected, shape, f"{actual}{' once unpacked' if packed else ''}")
    if not values.is_whole:
        raise ValueError(f"{path} is truncated: the values are there but the checksum after them is not; {AGAIN}")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _of_another_length(path: Path, expected: int, shape: Sequence[int], actual: str) -> ValueError:
    fault = "is truncated" if int(actual.split()[0]) < expected else "is too long"
    return ValueError(f"{path} {fault}: expected {expected} bytes for shape {shape}, got {actual}; {AGAIN}")


class _Values:
    """The bytes of a file, of one that is packed once unpacked, of which no more are held than were asked for."""

    def __init__(self, path: Path, packed: bool) -> None:
        self._path = path
        self._file: Any = gzip.GzipFile(path) if packed else path.open("rb")
        self.is_whole = True  # whether the gzip stream has not ended early

    def __enter__(self) -> _Values:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, count: int) -> bytearray:
        """As many bytes, or what there is."""
        result = bytearray(count)
        read = 0
        while read < count and (part := self._part(count - read)):
            result[read : read + len(part)] = part
            read += len(part)
        if read < count:
            del result[read:]
        return result

    def left(self) -> int:
        """How many bytes there are still, counted up to a limit."""
        count = 0
        while count < UNPACKED and (part := self._part(CHUNK)):
            count += len(part)
        return count

    def _part(self, most: int) -> bytes:
        try:
            # read1 returns the data before a cut, which read would lose
            part: bytes = self._file.read1(min(CHUNK, most))
        except EOFError:
            self.is_whole = False
            return b""
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{self._path} is a damaged gzip file: {error}; {AGAIN}") from None
        return part


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
