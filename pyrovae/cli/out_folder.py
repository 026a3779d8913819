"""The folder that `pyrovae fit` writes to: for one process at a time, and as it was where a fit comes to nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from pyrovae.durable import SameFolder, write_whole
from pyrovae.hidden import visible_files

__all__ = ["alone_in", "earlier_run", "nothing_left_of_nothing", "take_away"]

TAKEN = -1  # in place of a handle: another process has the lock


def earlier_run(out: Path, resume: bool, ranks: Any) -> dict[str, Any] | None:
    """What run.json says of the run in the folder; None where a new run begins."""
    from pyrovae import run_folder

    held = out.is_dir() and any(True for _ in visible_files(out))
    if any(ranks.gathered(held and not resume)):
        if not _holds_a_run_without_an_epoch(out):
            raise click.UsageError(f"--out {out} is not empty: name another folder, or --resume the run in it")
        ranks.gathered(None)  # all have looked
        if ranks.is_first:
            take_away(out)
        ranks.gathered(None)
        return None
    has_manifest = (out / run_folder.MANIFEST).is_file()
    if any(ranks.gathered(held and not has_manifest and not (out / run_folder.CHECKPOINT).is_dir())):
        raise click.UsageError(f"--out {out} is not empty and holds no checkpoint/ to --resume: name another folder")
    if resume and not held:
        return None
    if not has_manifest:
        return None
    manifest = run_folder.read_manifest(out)
    if manifest["status"] == "diverged":
        raise click.UsageError(
            f"--out {out} holds a run that diverged, and would again: fit into another folder with a lower "
            "--learning-rate, or another model"
        )
    return manifest


def _holds_a_run_without_an_epoch(out: Path) -> bool:
    """Whether all that a folder holds is what an interrupted run has left that had written no state."""
    from pyrovae import run_folder

    try:
        manifest = run_folder.read_manifest(out)
    except (ValueError, OSError):
        return False
    ours = (run_folder.MANIFEST, run_folder.MODEL, run_folder.CHECKPOINT)
    files = [file.relative_to(out).parts[0] for file in visible_files(out)]
    return manifest["status"] == "unfinished" and run_folder.last_place(out) is None and set(files) <= set(ours)


def take_away(out: Path, keep: Collection[str] = ()) -> None:
    """Remove what a run that did not train has left, and nothing that has a name to be kept."""
    from pyrovae import run_folder

    if run_folder.MODEL not in keep:
        shutil.rmtree(out / run_folder.MODEL, ignore_errors=True)
    for file in (out / run_folder.MANIFEST, out / run_folder.CHECKPOINT / ".lock"):
        with suppress(OSError):
            file.unlink()


@contextmanager
def alone_in(out: Path, ranks: Any) -> Iterator[SameFolder]:
    """Make the folder and keep every other `fit` out of it; where the body leaves nothing in it, it is gone again."""
    from pyrovae import run_folder

    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    ranks.gathered(None)  # it is there for all
    handle = _locked(out) if ranks.is_first else None
    try:
        if any(ranks.gathered(handle == TAKEN)):
            made = []  # by another one, whatever this one has seen
            raise click.UsageError(f"another pyrovae fit writes to --out {out}: name another folder, or wait for it")
        with closing(SameFolder(out)) as in_use:
            yield in_use
    finally:
        if made and not (out.is_dir() and any(visible_files(out))):
            for folder in (out / run_folder.CHECKPOINT, *made):
                with suppress(OSError):
                    (folder / ".lock").unlink()
                with suppress(OSError):  # which is not empty, or not there
                    folder.rmdir()
        if handle not in (None, TAKEN):
            os.close(handle)  # the lock goes with it


def _locked(folder: Path) -> int | None:
    """A handle whose lock on the folder ends with this process at the latest; TAKEN where another has it.

    None where the system has no such locks.
    """
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        return TAKEN if isinstance(error, BlockingIOError) else None
    return handle


@contextmanager
def nothing_left_of_nothing(out: Path, ranks: Any, folder: SameFolder) -> Iterator[None]:
    """Where the body fails before a state is written, what was in the folder before is in it again."""
    from pyrovae import run_folder

    record = out / run_folder.MANIFEST
    before = record.read_bytes() if record.is_file() else None
    there = {entry.name for entry in out.iterdir()}  # of a run of an earlier version its model, without run.json
    place = run_folder.last_place(out)
    try:
        yield
    except BaseException:
        if ranks.is_first and folder.is_there() and run_folder.last_place(out) == place:
            if before is None:
                take_away(out, keep=there)
            else:
                write_whole(record, before)
        raise
