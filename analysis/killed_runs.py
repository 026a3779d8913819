"""Does a run that is killed go on to the same bits, whenever it is killed?

    python analysis/killed_runs.py                      # 200 kills
    python analysis/killed_runs.py --kills 20 --seed 1  # others, to be added to those

A small VAE is trained in processes of their own, from other initial weights each time, with a checkpoint every few
batches. Each process gets SIGKILL after it has written a state: every other one at a random moment, the others at a
random moment of the next write. Another process goes on from the folder, and gets the next kill; the last one of a run
is left to its end, and compared with a run that nothing interrupted, in every bit of every weight and loss. Then a new
run begins. Printed are the kills, how many left a run within an epoch, how many fell within a write, as the process
itself has noted in memory that outlives it, and how many kills belong to runs that came to the same bits. The processes
are forked, so that none waits for imports.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

import pyrovae
from pyrovae.inference.snapshots import Snapshots

WRITES = mmap.mmap(-1, 1)  # shared with the forks: 1 while a state is written


def digest(folder: Path | None, seed: int, epochs: int, every: int) -> str:
    """Train, or go on with the run in the folder, from the weights of a seed; all bits of the result."""
    torch.manual_seed(seed)
    x = torch.rand(600, 5, generator=torch.Generator().manual_seed(0))
    vae = pyrovae.mlp_vae((5,), hidden_dims=(8,))
    kept = {"checkpoint": folder, "resume": True, "checkpoint_every": every} if folder else {}
    options = {"epochs": epochs, "batch_size": 20, "binarize": True, "compile": False, "progress": False}
    history = pyrovae.fit(vae, x, **options, **kept)
    found = hashlib.sha256(history.epochs.loss.values.tobytes())
    for p in vae.parameters():
        found.update(p.detach().numpy().tobytes())
    return found.hexdigest()


def note_writes() -> None:
    """Let `Snapshots.write` say in memory that outlives a process when it is at work."""
    write = Snapshots.write

    def noted(*given: Any) -> None:
        WRITES[0] = 1
        write(*given)
        WRITES[0] = 0

    Snapshots.write = noted  # type: ignore[method-assign]


class Process:
    """A fork that trains, and says its digest."""

    def __init__(self, *given: Any) -> None:
        self.reads, writes = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            WRITES[0] = 0
            try:
                os.write(writes, digest(*given).encode())
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(writes)
        self.status: int | None = None

    def is_over(self) -> bool:
        """Whether it has ended, without waiting."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is not None

    def said(self) -> str:
        """What it said, once it has ended; "" where it was killed. RuntimeError where it has broken."""
        with os.fdopen(self.reads) as pipe:
            words = pipe.read()
        if self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]
        if not words and not os.WIFSIGNALED(self.status):
            raise RuntimeError("a process ended by itself, without a result")
        return words


def whole_ones(folder: Path) -> list[str]:
    """The names of the states in the folder of a run."""
    names = [p.name for p in folder.iterdir()] if folder.exists() else []
    return sorted(name for name in names if not name.startswith("."))


def one_run(folder: Path, kills: int, whole: str, moments: random.Random, given: argparse.Namespace) -> list[int]:
    """Kill a run up to so many times, and let it end: the kills, those within an epoch, within a write, the same."""
    found, attempt = [0, 0, 0], 0
    while True:
        before, attempt = whole_ones(folder), attempt + 1
        process = Process(folder, attempt if before else 0, given.epochs, given.every)
        if found[0] < kills:
            while not process.is_over() and (WRITES[0] or whole_ones(folder) == before):
                time.sleep(0.0005)
            if found[0] % 2:
                while not process.is_over() and not WRITES[0]:
                    pass
                time.sleep(moments.random() * given.writing)
            else:
                time.sleep(moments.random() * given.seconds)
            if not process.is_over():
                os.kill(process.pid, signal.SIGKILL)
        words = process.said()
        if words:
            return [*found, found[0] * (words == whole)]
        found[0] += 1
        found[1] += "-batch-" in max(whole_ones(folder))
        found[2] += WRITES[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=4, help="of 30 batches")
    parser.add_argument("--every", type=int, default=7, help="batches between two states")
    parser.add_argument("--seconds", type=float, default=0.1, help="after a process's first state it is killed within")
    parser.add_argument("--writing", type=float, default=0.03, help="after a write has begun it is killed within")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    moments, total, runs = random.Random(given.seed), [0, 0, 0, 0], 0
    whole = digest(None, 0, given.epochs, given.every)  # after which no process has anything left to import
    note_writes()
    with tempfile.TemporaryDirectory() as made:
        while total[0] < given.kills:
            found = one_run(Path(made, str(runs)), given.kills - total[0], whole, moments, given)
            runs, total = runs + 1, [a + b for a, b in zip(total, found, strict=True)]
            print(
                f"{total[0]} kills of {runs} runs, {total[1]} within an epoch, {total[2]} within a write; "
                f"{total[3]} of {total[0]} to the same bits",
                flush=True,
            )
    sys.exit(total[3] != total[0])


if __name__ == "__main__":
    main()
