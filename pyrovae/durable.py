"""Files and folders that are on the disk before they have their names, and errors that say whose they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["SameFolder", "naming", "sync_folder", "write_whole"]


@contextmanager
def naming(path: Path, doing: str) -> Iterator[None]:
    """Let errors of the system name `path`, not a file beside it that has a name for a moment only.

    >>> from pathlib import Path
    >>> from pyrovae.durable import naming
    >>> with naming(Path("state"), "saving"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
        ...
    OSError: [Errno 28] No space left on device while saving: 'state'
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename == str(path):
            raise
        raise OSError(error.errno, f"{error.strerror} while {doing}", str(path)) from error


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can say so."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        with suppress(OSError):  # nor do some file systems sync them
            os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that at its path there is the earlier one or all of the new one, whatever ends the process."""
    partial = file.with_name(f".{file.name}-new-{os.getpid()}")
    with naming(file, "it was written"):
        try:
            with partial.open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(file.parent)


class SameFolder:
    """Notices where a folder is removed, or another one is put in its place, while it is in use.

    A handle to the folder stays open until `close`: while it is, the system gives its number to no other folder.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pyrovae.durable import SameFolder
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = SameFolder(Path(name))
    ...     folder.is_there()
    True
    >>> folder.is_there()
    False
    >>> folder.close()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._handle: int | None = os.open(folder, os.O_RDONLY)
        except OSError:  # Windows opens no folders; a folder in use cannot be removed there
            self._handle = None

    def is_there(self) -> bool:
        """Whether the path still leads to the folder that it led to at first."""
        try:
            now = self.folder.stat()
        except OSError:
            return False
        if self._handle is None:
            return True
        first = os.fstat(self._handle)
        return (now.st_dev, now.st_ino) == (first.st_dev, first.st_ino)

    def close(self) -> None:
        """Let go of the folder."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
