"""A saved state as it is opened: its manifest and its files, all of one save, whoever saves over it meanwhile."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from torch import Tensor

from pyrovae import checks
from pyrovae.hidden import visible
from pyrovae.inference.checkpoint.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    NAMED,
    RUN,
    WEIGHTS,
    CheckpointError,
    file_names,
    join_first,
    manifest_content,
    parsed_manifest,
)
from pyrovae.inference.checkpoint.tensor_file import Entry, SizeError, TensorFileError, read_header, read_tensors

__all__ = ["OpenState", "TensorFile", "read_until_kept", "read_whole"]

T = TypeVar("T")

TRIES = 100  # of a state that others save over: each takes a few milliseconds less than a save


@dataclass(frozen=True)
class TensorFile:
    """An open file of tensors, whose header has been read and held against what the manifest states."""

    path: Path
    file: BinaryIO
    size: int
    header: bytes
    entries: dict[str, Entry]

    def read(
        self, stated_sha256: Any, place_for: Callable[[str, Entry], Tensor | None] = lambda name, entry: None
    ) -> dict[str, Tensor]:
        """All tensors, in the places that there are for them. Raises CheckpointError for other bytes than stated."""
        digest = hashlib.sha256(self.header)
        try:
            tensors = read_tensors(self.file, self.entries, place_for, digest)
        except TensorFileError as error:
            raise damaged(self.path, str(error)) from None
        if digest.hexdigest() != stated_sha256:
            raise CheckpointError(
                f"{self.path} is damaged or was replaced: SHA-256 {digest.hexdigest()[:16]}..., the manifest says "
                f"{str(stated_sha256)[:16]}... (nothing was unpickled)"
            )
        return tensors


@dataclass(frozen=True)
class OpenState:
    """The manifest of a state, and its weights."""

    folder: Path
    manifest: dict[str, Any]
    weights: TensorFile
    handles: Mapping[str, BinaryIO]

    def run(self, most_header: int, most_bytes: int) -> TensorFile:
        """The file of what a run needs beside the weights, which is refused where it is larger than that."""
        return _tensor_file(self.folder, self.manifest, RUN, self.handles, None, most_header, most_bytes)


def read_whole(folder: Path, read: Callable[[OpenState], T], *, with_run: bool = False) -> T:
    """What `read` makes of the state in a folder; once more where another process has saved over it meanwhile."""

    def read_now(content: bytes) -> T:
        with _opened(folder, content, with_run) as state:
            made = read(state)
        _warn_of_others(folder, state.manifest)
        return made

    return read_until_kept(lambda: manifest_content(folder), read_now)


def read_until_kept(content_of: Callable[[], bytes], read: Callable[[bytes], T]) -> T:
    """What `read` makes of the manifest that `content_of` reads; once more where another one is there meanwhile."""
    for left in reversed(range(TRIES)):
        content = None
        try:
            content = content_of()
            return read(content)
        except (CheckpointError, OSError):
            if not left or content == _content_now(content_of):
                raise
    raise AssertionError


def damaged(file: Path, why: str) -> CheckpointError:
    """The error for a file that is not what its manifest states."""
    return CheckpointError(
        f"{file} is damaged, was replaced, or is not a safetensors file of the tensors that its manifest states: {why} "
        "(nothing was unpickled)"
    )


@contextmanager
def _opened(folder: Path, content: bytes, with_run: bool) -> Iterator[OpenState]:
    manifest = parsed_manifest(folder / MANIFEST, content)
    names = file_names(manifest)
    kinds = [WEIGHTS, RUN] if with_run and "run" in manifest else [WEIGHTS]
    handles: dict[str, BinaryIO] = {}
    try:
        for kind in kinds:  # at once: an open file stays whole, also where its name is removed
            handles[kind] = _open(folder / names.get(kind, kind))
        shapes = manifest["tensors"]
        weights = _tensor_file(folder, manifest, WEIGHTS, handles, shapes, most_header_of(shapes), None)
        yield OpenState(folder, manifest, weights, handles)
    finally:
        for handle in handles.values():
            handle.close()


def most_header_of(shapes: Mapping[str, str]) -> int:
    """How long the header of a file of such tensors can be."""
    return 1024 + sum(6 * len(name.encode()) + 256 + 2 * len(shape) for name, shape in shapes.items())


def _tensor_file(
    folder: Path,
    manifest: Mapping[str, Any],
    kind: str,
    handles: Mapping[str, BinaryIO],
    shapes: Mapping[str, str] | None,
    most_header: int,
    most_bytes: int | None,
) -> TensorFile:
    path, file = folder / file_names(dict(manifest)).get(kind, kind), handles[kind]
    size = os.fstat(file.fileno()).st_size
    if most_bytes is not None and size > most_bytes:
        raise damaged(path, f"it has {size:,} bytes, and these tensors take at most {most_bytes:,}")
    try:
        entries = read_header(file, size, shapes, most_header)
    except SizeError as error:
        what = "is cut short" if error.is_short else "is too long"
        raise CheckpointError(f"{path} {what} or was replaced: {error} (nothing was unpickled)") from None
    except TensorFileError as error:
        raise damaged(path, str(error)) from None
    length = file.tell()
    file.seek(0)
    header = file.read(length)
    return TensorFile(path, file, size, header, entries)


def _open(file: Path) -> BinaryIO:
    """Open a file for reading, if it is one: a pipe would wait for somebody who writes."""
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        handle = None
    if handle is not None and not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        handle = None
    if handle is None:
        raise CheckpointError(f"{file.parent} is not a whole saved state: it has no {file.name}")
    return os.fdopen(handle, "rb")


def _content_now(content_of: Callable[[], bytes]) -> bytes | None:
    try:
        return content_of()
    except (CheckpointError, OSError):
        return None


def _warn_of_others(folder: Path, manifest: dict[str, Any]) -> None:
    """Name files in the folder that are none of the state's: nothing of them was read."""
    named = {MANIFEST, WEIGHTS, RUN}
    if manifest["format_version"] == FORMAT_VERSION and "run" not in manifest:
        named.remove(RUN)  # which a save that was cut short may leave in a folder of the later version alone
    others = [entry.name for entry in visible(folder) if entry.name not in named and not NAMED.fullmatch(entry.name)]
    others = [name for name in others if not (folder / name).is_dir()]
    if others:
        checks.warn(f"{folder} holds files that are not of the saved state, and were not read: {join_first(others)}")
