"""A .npz archive: the sizes of its arrays from the table of contents, and the arrays, unpacked in parts."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pyrovae.data.limits import decoded, require_unpacked
from pyrovae.data.npy_format import MAGIC, damaged, pickled, read_header, read_values

__all__ = ["Archive"]

CONTENTS = 2**22  # bytes of an archive's table of contents; one of ten arrays has less than a thousand
ENCRYPTED = 0x1
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those of NumPy; others may take any amount of memory
AGAIN = "save its arrays by numpy.savez"


class Archive:
    """The arrays of a .npz file by name, each read when it is asked for.

    Raises ValueError for another kind of file, for one that is damaged or encrypted, and for an array that would be
    unpacked to far more than the file has (`pyrovae.data.limits`).

    >>> import pathlib
    >>> import tempfile
    >>> import numpy as np
    >>> from pyrovae.data.archives import Archive
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.npz")
    ...     np.savez_compressed(path, x=np.arange(3))
    ...     with Archive(path) as archive:
    ...         print(archive.keys, archive.read("x"))
    ['x'] [0 1 2]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _Bounded(io.FileIO(path))
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            start = self._file.peek(6)[:6]
            if start == MAGIC:
                raise ValueError(f"{path} is no .npz archive but one array; name it .npy")
            if start and not start.startswith(b"PK"):
                raise pickled(str(path))
            with decoded(f"{path} is damaged or no NumPy file"):
                self._zip = zipfile.ZipFile(self._file)
                members = {info.filename.removesuffix(".npy"): info for info in self._zip.infolist()}
        except BaseException:
            self._file.close()
            raise
        self._members = {name: info for name, info in members.items() if not name.endswith("/")}

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def keys(self) -> list[str]:
        """The names of the arrays, in the order of the archive."""
        return list(self._members)

    def require_room(self, names: Iterable[str]) -> None:
        """Refuse arrays that, together, would be unpacked to far more than the file has."""
        total = sum(self._members[name].file_size for name in names)
        require_unpacked(str(self.path), self._size, total, f"{AGAIN}, or each as a .npy file")

    def read(self, name: str) -> np.ndarray:
        """The array of that name."""
        info, what = self._members[name], f"{self.path}:{name}"
        if info.flag_bits & ENCRYPTED:
            raise ValueError(f"{what} is encrypted: {AGAIN}, which encrypts nothing")
        if info.compress_type not in METHODS:
            raise ValueError(f"{what} is packed by another method than deflate: {AGAIN}_compressed")
        if not info.filename.endswith(".npy"):
            raise ValueError(f"{what} is a file in the archive, and no array: {AGAIN}")
        if info.compress_size > self._size or (info.compress_type == METHODS[0] and info.file_size > self._size):
            raise damaged(what, f"it is said to have {info.compress_size:,} bytes, and the file has {self._size:,}")
        self.require_room([name])
        with _Member(self._zip, info, what) as member:
            header = read_header(member, what, info.file_size)
            array = read_values(member, header, what)
            while member.read(2**20):  # to its end, where the checksum is
                pass
        return array


class _Bounded(io.BufferedReader):
    """A file of which zipfile reads no large table of contents at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(CONTENTS + 1 if size is None or size < 0 else min(size, CONTENTS + 1))
        if len(part) > CONTENTS:
            raise ValueError(f"its table of contents has over {CONTENTS:,} bytes")
        return part


class _Member:
    """A member of an archive as a file, whose errors name it."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, what: str) -> None:
        self._said = f"{what} is damaged or no NumPy file"
        with decoded(self._said):
            self._file = archive.open(info)

    def read(self, size: int) -> bytes:
        with decoded(self._said):
            return self._file.read(size)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
