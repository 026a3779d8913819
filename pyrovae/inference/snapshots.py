"""What the epochs of a run leave in a folder, so that another process goes on from there, bit for bit."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from pyrovae import ranks
from pyrovae.inference.checkpoint import CheckpointError, read_run, write
from pyrovae.models.pair import Pair

__all__ = ["Run", "Snapshots"]

log = logging.getLogger(__name__)

KEPT = 2  # epochs: one more than is needed, should the newest be damaged
NAME = re.compile(r"epoch-(\d{6,})")
UNFINISHED = re.compile(r"\.epoch-\d{6,}-(new|old)-.*")

Run = tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]  # facts, the pair's weights, other tensors


class Snapshots:
    """A folder with a saved state of each of the last epochs; `load(folder / "epoch-000012")` reads one alone."""

    def __init__(self, folder: str | os.PathLike[str], resume: bool) -> None:
        self.folder, self.ranks = Path(folder).resolve(), ranks.current()
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"checkpoint={self.folder} is a file: name a folder")
        held = [] if not self.folder.exists() else sorted(p.name for p in self.folder.iterdir())
        foreign = [name for name in held if not NAME.fullmatch(name) and not UNFINISHED.fullmatch(name)]
        if foreign:
            raise FileExistsError(f"checkpoint={self.folder} holds {foreign[0]!r}, which is no run's: name another")
        if not resume and any(NAME.fullmatch(name) for name in held):
            raise FileExistsError(
                f"checkpoint={self.folder} holds a run: resume=True goes on with it, or name another folder"
            )
        if any(self.ranks.gathered(self._unwritable())):  # before any training
            raise PermissionError(f"checkpoint={self.folder} cannot be written: name another folder")

    def _unwritable(self) -> bool:
        if not self.ranks.is_first:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (probe := self.folder / f".epoch-000000-new-{os.getpid()}").mkdir()
            probe.rmdir()
        except OSError:
            return True
        return False

    def _epochs(self) -> list[int]:
        """Those that are there, the newest first."""
        found = [NAME.fullmatch(p.name) for p in self.folder.iterdir()]
        return sorted((int(one[1]) for one in found if one), reverse=True)

    def _of(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:06d}"

    def newest(self, pair: Pair) -> Run | None:
        """The last epoch that is whole, None where there is none; CheckpointError where all that are there are not."""
        damaged = []
        for epoch in self._epochs():
            try:
                found = read_run(self._of(epoch), pair)
            except CheckpointError as error:
                damaged.append(error)
                continue
            for one in damaged:
                log.warning("goes on from epoch %d: %s", epoch, one)
            return found
        if damaged:
            raise damaged[0]
        return None

    def write(self, epoch: int, pair: Pair, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """What there is after `epoch`; of those before it, one stays."""
        error = None
        if self.ranks.is_first:
            try:
                if self._of(epoch).exists():  # damaged: the run goes on from an epoch before it
                    shutil.rmtree(self._of(epoch))
                write(self._of(epoch), pair, (facts, tensors))
                for old in self._epochs():
                    if old > epoch or old <= epoch - KEPT:
                        shutil.rmtree(self._of(old))
                for path in self.folder.iterdir():
                    if UNFINISHED.fullmatch(path.name):  # of a run that was killed
                        with contextlib.suppress(OSError):
                            shutil.rmtree(path)
            except OSError as caught:
                error = caught
        if any(self.ranks.gathered(error is not None)):
            raise error or CheckpointError(f"{self._of(epoch)} could not be written by the first process")
