"""Putting a state at its path: at no moment is there less than a whole one where there was one before.

A new folder is made beside its path, and renamed. In a folder that is there, the files of the new state have names of
their own, and the manifest, which says them, is replaced by one rename; the files of the earlier state are removed
after that. Whoever reads has one manifest or the other, and each names whole files.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyrovae.durable import naming, sync_folder
from pyrovae.hidden import visible
from pyrovae.inference.checkpoint.manifest import MANIFEST, RUN, WEIGHTS, files_of, format_of

__all__ = ["PAIRS", "Layout", "Make", "fill", "put", "require_replaceable"]

Make = Callable[[Path, Mapping[str, str]], bytes]  # writes a state's files under these names, and gives the manifest

TOKEN = "[0-9a-f]{16}"
PATIENCE = 60.0  # s, that a save waits for another one of the same state
LONG_AGO = 24 * 3600.0  # s, after which a file is a leftover, where no lock says so


@dataclass(frozen=True)
class Layout:
    """What the folders of one kind of states have in them.

    Attributes:
        what: what such a state is called.
        manifest: the name of the file that names the others.
        others: the names of the others, files or folders, in a new folder; saved over they have a token in theirs.
        files_of: which of them a manifest states; None where it cannot be read.
        is_ours: whether a manifest is one of this kind.
    """

    what: str
    manifest: str
    others: tuple[str, ...]
    files_of: Callable[[Path], frozenset[str] | None]
    is_ours: Callable[[Path], bool]

    @property
    def plain(self) -> dict[str, str]:
        """The names of the files of a new folder."""
        return {name: name for name in self.others}

    def named(self, token: str) -> dict[str, str]:
        """The names of the files of a state that is saved over another."""
        return {name: f"{stem}-{token}{dot}{end}" for name in self.others for stem, dot, end in [name.partition(".")]}

    def is_named(self, name: str) -> bool:
        """Whether that is a name of a file of a state that was saved over another."""
        return any(re.fullmatch(re.escape(each).replace("TOKEN", TOKEN), name) for each in self.named("TOKEN").values())

    def is_partial(self, name: str) -> bool:
        """Whether that is a name of a file that is being written."""
        whole, new, _ = name.removeprefix(".").partition("-new-")
        return name.startswith(".") and bool(new) and (whole == self.manifest or self.is_other(whole))

    def is_other(self, name: str) -> bool:
        """Whether a state may have a file of that name beside its manifest."""
        return name in self.others or self.is_named(name)


PAIRS = Layout("a saved state", MANIFEST, (WEIGHTS, RUN), files_of, lambda file: format_of(file) == "pyrovae")


def put(target: Path, make: Make, layout: Layout = PAIRS) -> None:
    """Put the state that `make` writes at the path `target`; errors of the system name that path.

    `make` is given a folder and the name that each of its files is to have, and returns the manifest. Raises
    FileExistsError for a path with anything but a state, and BlockingIOError where another process saves there for a
    minute.
    """
    with naming(target, "the state was saved"):
        target.parent.mkdir(parents=True, exist_ok=True)
        is_new = not target.exists() and _put_new(target, make, layout)
        if not is_new:
            _put_over(target, make, layout)
        _remove_left_beside(target, ("new", "old"), layout)


def fill(folder: Path, make: Make, layout: Layout = PAIRS) -> None:
    """Write a state into a folder that is new and of this process alone."""
    _write(folder / layout.manifest, make(folder, layout.plain))
    sync_folder(folder)


def require_replaceable(path: Path, layout: Layout = PAIRS) -> None:
    """Raise FileExistsError for a path with anything but an empty folder, a state or what a killed save has left."""
    if not os.path.lexists(path):
        return
    what = "it is a file" if not path.is_dir() else _foreign(path, layout)
    if what is not None:
        raise FileExistsError(f"{path} exists and is not {layout.what} ({what}): choose another folder or remove it")


def _foreign(folder: Path, layout: Layout) -> str | None:
    """What says that a folder is not ours to write in; hidden files apart."""
    names = {entry.name for entry in visible(folder)}
    for name in sorted(names - {layout.manifest}):
        if not layout.is_other(name):
            return f"it holds {name!r}"
    if layout.manifest in names:
        return None if layout.is_ours(folder / layout.manifest) else f"its {layout.manifest} is not of pyrovae"
    named_plainly = sorted(names & {*layout.others})  # no save leaves these without a manifest
    return f"it holds {named_plainly[0]!r} and no {layout.manifest}" if named_plainly else None


def _put_new(target: Path, make: Make, layout: Layout) -> bool:
    """Make the folder of a state; False where another process has made one at its path meanwhile."""
    _remove_left_beside(target, ("new",), layout)
    fresh, handle = _folder_beside(target)
    try:
        fill(fresh, make, layout)
        try:
            fresh.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        sync_folder(target.parent)
        return True
    finally:
        try:
            shutil.rmtree(fresh, ignore_errors=True)
        finally:
            if handle is not None:
                os.close(handle)


def _put_over(target: Path, make: Make, layout: Layout) -> None:
    """Put a state in a folder that is empty or holds one."""
    with _alone_in(target) as is_alone:
        require_replaceable(target, layout)  # of what is there now that no other save can change it
        token = secrets.token_hex(8)
        earlier = layout.files_of(target / layout.manifest) or frozenset()
        _sweep(target, token, earlier, is_alone, layout)
        partial = target / f".{layout.manifest}-new-{token}"
        try:
            _write(partial, make(target, layout.named(token)))
            sync_folder(target)  # the files have their names on the disk before the manifest says them
            os.replace(partial, target / layout.manifest)
            sync_folder(target)
        finally:
            _sweep(target, token, earlier, is_alone, layout)


def _sweep(folder: Path, token: str, earlier: frozenset[str], is_alone: bool, layout: Layout) -> None:
    """Remove the files of states that the manifest does not name: of the earlier one, of killed saves, of this one."""
    named = layout.files_of(folder / layout.manifest)
    for entry in list(folder.iterdir()):
        name = entry.name
        if name in (named or ()) or not (layout.is_partial(name) or layout.is_other(name)):
            continue
        if named is None and (folder / layout.manifest).exists():
            is_left = False  # it cannot be read, which is no reason to lose what it may name
        elif token in name:
            is_left = True
        elif named is None:
            is_left = is_alone and name not in layout.others
        else:
            is_left = is_alone or name in earlier or _is_old(entry)
        if is_left:
            _remove(entry)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
        return
    with suppress(OSError):
        entry.unlink()


def _is_old(entry: Path) -> bool:
    with suppress(OSError):
        return time.time() - entry.stat().st_mtime > LONG_AGO
    return False


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


@contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """Keep other saves out of a folder; False, and nobody is kept out, where the system has no such locks."""
    handle = _opened(folder)
    try:
        end = time.monotonic() + PATIENCE
        locked = None
        while handle is not None and (locked := _locked(handle)) is False:
            if time.monotonic() > end:
                raise BlockingIOError(errno.EAGAIN, f"another process saves there for {PATIENCE:g} s", str(folder))
            time.sleep(0.01)
        yield bool(locked)
    finally:
        if handle is not None:
            os.close(handle)  # the lock goes with it


def _opened(folder: Path) -> int | None:
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return None


def _locked(handle: int) -> bool | None:
    """Lock an open folder: False where another process has it, None where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the kernel, however the process ends
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _folder_beside(target: Path) -> tuple[Path, int | None]:
    """A new hidden folder beside `target`, locked for as long as its handle is open: it is no leftover."""
    while True:
        fresh = target.with_name(f".{target.name}-new-{os.getpid()}-{secrets.token_hex(8)}")
        fresh.mkdir()
        handle = _opened(fresh)
        if handle is None or (_locked(handle) is not False and fresh.exists()):
            return fresh, handle
        os.close(handle)  # another save took it for a leftover, in the moment that it was not locked


def _remove_left_beside(target: Path, kinds: tuple[str, ...], layout: Layout) -> None:
    """Remove what killed saves have left beside `target`, those of earlier versions too."""
    words = "|".join(kinds)
    left = re.compile(rf"\.{re.escape(target.name)}-({words})-\d+-[0-9a-f]+")
    with suppress(OSError):
        for entry in list(target.parent.iterdir()):
            if not left.fullmatch(entry.name) or not entry.is_dir() or entry.is_symlink():
                continue
            if not all(
                one.name == layout.manifest or layout.is_other(one.name) or layout.is_partial(one.name)
                for one in entry.iterdir()
            ):
                continue  # a user's own, or with hidden files that are not ours to remove
            handle = _opened(entry)
            try:
                if handle is None or _locked(handle) is not False:
                    shutil.rmtree(entry, ignore_errors=True)
            finally:
                if handle is not None:
                    os.close(handle)
