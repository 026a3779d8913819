"""The states that a run leaves in a folder after its epochs, from which another process goes on, bit for bit."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from pyrovae import checks, ranks
from pyrovae.hidden import is_hidden
from pyrovae.inference.checkpoint import ArchitectureError, CheckpointError, read_run, require_writable, write
from pyrovae.models.pair import Pair

__all__ = ["Run", "Snapshots"]

log = logging.getLogger(__name__)

KEPT = 2  # epochs: one more than is needed, should the newest be damaged
NAME = re.compile(r"epoch-(\d{6,})")
OURS = re.compile(r"epoch-\d{6,}|\.epoch-\d{6,}-(new|old)-.*|\.lock")

Run = tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]  # metadata, the pair's weights, other tensors


class Snapshots:
    """A folder with a saved state of each of the last epochs; `load(folder / "epoch-000012")` reads one alone.

    One run at a time: `locked()` keeps others out until it ends, or the process does.
    """

    def __init__(self, folder: str | os.PathLike[str], resume: bool) -> None:
        self.folder, self.resume = checks.path("checkpoint", folder).resolve(), resume
        self.ranks = ranks.current()
        self.damaged: list[int] = []  # epochs that were found so

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
            except OSError as caught:
                error = caught
            reasons = [reason for reason in self.ranks.gathered(error and str(error)) if reason]
            if error or reasons:
                raise error or CheckpointError(reasons[0])
            yield

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

    def _epochs(self) -> list[int]:
        """The epochs whose states are there, the newest first."""
        matches = [NAME.fullmatch(p.name) for p in self.folder.iterdir()]
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def _of(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:06d}"

    def newest(self, pair: Pair) -> Run | None:
        """Read the last complete epoch; None where there are no epochs, CheckpointError where none is complete."""
        require_writable(pair)  # rather before an epoch is trained than after
        errors: list[Exception] = []
        for epoch in self._epochs():
            try:
                run = read_run(self._of(epoch), pair)
            except ArchitectureError:
                raise
            except (CheckpointError, OSError) as error:
                errors.append(error)
                self.damaged.append(epoch)
                continue
            for error_before in errors:
                log.warning("goes on from epoch %d: %s", epoch, error_before)
            return run
        if errors:
            raise errors[0]
        return None

    def write(self, epoch: int, pair: Pair, run_metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write the state after `epoch`, and remove all earlier ones but the last."""
        error = None
        if self.ranks.is_first:
            try:
                if epoch in self.damaged:  # the run goes on from an epoch before it
                    shutil.rmtree(self._of(epoch))
                write(self._of(epoch), pair, (run_metadata, tensors))
            except Exception as caught:
                error = caught
            else:
                self._clean(epoch)
        if any(self.ranks.gathered(error is not None)):
            raise error or CheckpointError(f"{self._of(epoch)} could not be written by the first process")

    def _clean(self, epoch: int) -> None:
        """Remove the states before the previous epoch, and those that a killed run has left unfinished."""
        old = [self._of(one) for one in self._epochs() if one <= epoch - KEPT]
        unfinished = [p for p in self.folder.iterdir() if p.name.startswith(".epoch-") and OURS.fullmatch(p.name)]
        for path in (*old, *unfinished):
            try:
                shutil.rmtree(path)
            except OSError as error:
                log.warning("%s stays where it is: %s", path, error)
