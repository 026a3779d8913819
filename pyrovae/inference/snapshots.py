"""The states that a run leaves in a folder, from which another process goes on, bit for bit."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from pyrovae import checks, ranks
from pyrovae.durable import SameFolder
from pyrovae.hidden import is_hidden
from pyrovae.inference.checkpoint import ArchitectureError, CheckpointError, Rebuilt, read_run, require_writable, write
from pyrovae.memory import in_words as in_bytes
from pyrovae.models.pair import Pair, as_module

__all__ = ["Place", "Run", "Snapshots", "in_words", "name_of", "place_of", "places_in"]

log = logging.getLogger(__name__)

KEPT = 2  # states: one more than is needed, should the newest be damaged
NAME = re.compile(r"epoch-(\d{6,})(?:-batch-(\d{6,}))?")
OURS = re.compile(r"epoch-\d{6,}(-batch-\d{6,})?|\.epoch-\d{6,}(-batch-\d{6,})?-(new|old)-.*|\.lock")

FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # no room on the disk, or none for this user

SYNCS = 5  # waits for the disk of one state: two files, a manifest, and the folders that they are in

Place = tuple[int, int]  # how many epochs are done, and how many batches of the next

Run = tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]  # metadata, the pair's weights, other tensors


def name_of(place: Place) -> str:
    """The name of a state: of the epoch at whose end it was written, or of the epoch and how many of its batches.

    It has the epoch's index, which is counted from 0 as that of the curves.

    >>> from pyrovae.inference.snapshots import name_of
    >>> name_of((13, 0)), name_of((13, 207))
    ('epoch-000012', 'epoch-000013-batch-000207')
    """
    epochs, batch = place
    return f"epoch-{epochs:06d}-batch-{batch:06d}" if batch else f"epoch-{epochs - 1:06d}"


def place_of(name: str) -> Place | None:
    """What `name_of` made the name of; None for another name."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    return (int(match[1]) + 1, 0) if match[2] is None else (int(match[1]), int(match[2]))


def in_words(place: Place) -> str:
    """The place in a sentence, which counts epochs from 1: "epoch 3", whose end it is, or "207 batches of epoch 4".

    >>> from pyrovae.inference.snapshots import in_words
    >>> in_words((13, 0)), in_words((13, 207))
    ('epoch 13', '207 batches of epoch 14')
    """
    epochs, batch = place
    return f"{batch:,} batch{'es' if batch > 1 else ''} of epoch {epochs + 1}" if batch else f"epoch {epochs}"


def places_in(folder: Path) -> list[Place]:
    """Where the run was whose states are in a folder, the newest first; [] where there is no folder."""
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return sorted((place for place in map(place_of, names) if place is not None), reverse=True)


class Snapshots:
    """A folder with the last states of a run; `load(folder / "epoch-000012")` reads one alone.

    One run at a time: `locked()` keeps others out until it ends, or the process does. With `every` a state is written
    after so many batches, and after the multiples of it.
    """

    def __init__(self, folder: str | os.PathLike[str], resume: bool, every: int | None = None) -> None:
        self.folder, self.resume, self.every = checks.path("checkpoint", folder).resolve(), resume, every
        self.ranks = ranks.current()
        self.damaged: list[Place] = []  # states that were found so
        self._in_use: SameFolder | None = None  # of the first process, while it is locked
        self._rebuilt = Rebuilt()
        self.seconds = 0.0  # that a description and a wait for the disk took, most of what a small state costs

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this run, or refuse it before anything is changed."""
        with contextlib.ExitStack() as stack:
            error = None
            try:
                self._refuse_foreign()
                if self.ranks.is_first:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self._lock(stack.enter_context((self.folder / ".lock").open("wb")))
                    self._in_use = stack.enter_context(contextlib.closing(SameFolder(self.folder)))
            except OSError as caught:
                error = self._naming_argument(caught)
            reasons = [reason for reason in self.ranks.gathered(error and str(error)) if reason]
            if error or reasons:
                raise error or CheckpointError(reasons[0])
            try:
                yield
            finally:
                self._in_use = None

    def _naming_argument(self, error: OSError) -> OSError:
        """An error of the system as one of the argument's; another as it is."""
        if error.errno is None:
            return error
        reason = error.strerror or os.strerror(error.errno)
        advice = "free some space, or name another folder" if error.errno in FULL else "name another folder"
        named = OSError(error.errno, f"checkpoint={self.folder} cannot be written: {reason}; {advice}")
        named.__cause__ = error
        return named

    def _refuse_foreign(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"checkpoint={self.folder} is a file: name a folder")
        names = sorted(p.name for p in self.folder.iterdir()) if self.folder.exists() else []
        holds_run = any(NAME.fullmatch(name) for name in names)
        if holds_run and not self.resume:
            raise FileExistsError(
                f"checkpoint={self.folder} holds a run: resume=True goes on with it, or name another folder"
            )
        foreign = [name for name in names if not OURS.fullmatch(name) and not is_hidden(name)]
        if foreign and not holds_run:
            raise FileExistsError(
                f"checkpoint={self.folder} holds {foreign[0]!r}, which is no run's: remove it, or name another folder"
            )

    def _lock(self, file: Any) -> None:
        try:
            import fcntl  # not on Windows, where a second run is not seen
        except ImportError:
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the kernel, however the process ends
        except BlockingIOError:
            raise BlockingIOError(f"another process trains in checkpoint={self.folder}: wait for it to end") from None
        start = time.monotonic()
        file.write(f"{os.getpid()}\n".encode())
        file.flush()
        os.fsync(file.fileno())
        self.seconds += SYNCS * (time.monotonic() - start)

    def _of(self, place: Place) -> Path:
        return self.folder / name_of(place)

    def newest(self, pair: Pair, more: dict[str, Tensor] | None = None) -> Run | None:
        """Read the last whole state; None where there is none at all, CheckpointError where none is whole.

        `more` are tensors that it may have beside what follows from the pair.
        """
        start = time.monotonic()
        require_writable(pair, self._rebuilt)  # rather before an epoch is trained than after
        self.seconds += time.monotonic() - start
        errors: list[tuple[Place, Exception]] = []
        for place in places_in(self.folder):
            try:
                run = read_run(self._of(place), pair, more)
            except ArchitectureError:
                raise
            except (CheckpointError, OSError) as error:
                errors.append((place, error))
                self.damaged.append(place)
                continue
            for _, error_before in errors:
                log.warning("goes on after %s: %s", in_words(place), error_before)
            if not errors:
                log.info("goes on after %s", in_words(place))
            return run
        if errors:
            raise self._none_whole(errors)
        return None

    def _none_whole(self, errors: list[tuple[Place, Exception]]) -> Exception:
        """What to raise where no state can be read: that of the system where there is one, which may pass."""
        for _, error in errors:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                return error
        reasons = [str(error).replace(f"{self._of(place)}{os.sep}", f"{name_of(place)}/") for place, error in errors]
        reasons = [reason.replace(" (nothing was unpickled)", "") for reason in reasons]
        none = "its state cannot" if len(reasons) == 1 else "none of its states can"
        return CheckpointError(
            f"checkpoint={self.folder}: {none} be read, and nothing is left to go on from; fit again into another "
            f"folder ({'; '.join(reasons)})"
        )

    def write(self, place: Place, pair: Pair, run_metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write the state at a place, and remove all earlier ones but the last."""
        error = None
        if self.ranks.is_first:
            try:
                self._require_same_folder()
                if place in self.damaged:  # the run goes on from a place before it
                    shutil.rmtree(self._of(place))
                    self.damaged.remove(place)
                write(self._of(place), pair, (run_metadata, tensors), self._rebuilt)
            except Exception as caught:
                error = self._with_advice(caught, pair, tensors)
            else:
                self._clean(place)
        if any(self.ranks.gathered(error is not None)):
            raise error or CheckpointError(f"{self._of(place)} could not be written by the first process")

    def _with_advice(self, error: Exception, pair: Pair, tensors: dict[str, Tensor]) -> Exception:
        """The same error; of a full disk before the first state one that says what that leaves, and what to do."""
        if not isinstance(error, OSError) or error.errno not in FULL:
            return error
        if set(places_in(self.folder)) - set(self.damaged):
            return error
        its_own = as_module(pair).state_dict().values()
        size = in_bytes(sum(t.numel() * t.element_size() for t in (*its_own, *tensors.values())))
        advised = OSError(
            error.errno,
            f"{error.strerror}; no state had been written, so nothing of the run is left in its folder: free some "
            f"space (a state takes about {size}) or name another folder",
            error.filename,
        )
        advised.__cause__ = error
        return advised

    def _require_same_folder(self) -> None:
        if self._in_use is not None and not self._in_use.is_there():
            raise CheckpointError(
                f"checkpoint={self.folder} was removed while the run trained, or another folder was put in its place: "
                "nothing is written there. Fit again, and let the folder of a run be until it ends"
            )

    def _clean(self, place: Place) -> None:
        """Remove the states before the previous one, and those that a killed run has left unfinished."""
        before = [one for one in places_in(self.folder) if one <= place]
        whole = [one for one in before if one not in self.damaged]
        old = [self._of(one) for one in before if one not in whole[:KEPT]]
        unfinished = [p for p in self.folder.iterdir() if p.name.startswith(".epoch-") and OURS.fullmatch(p.name)]
        for path in (*old, *unfinished):
            try:
                shutil.rmtree(path)
            except OSError as error:
                log.warning("%s stays where it is: %s", path, error)
