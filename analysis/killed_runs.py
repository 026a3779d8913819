"""Does a run that is killed go on to the same bits, whenever it is killed?

    python analysis/killed_runs.py                      # 200 kills
    python analysis/killed_runs.py --kills 20 --seconds 0.1

A small VAE is trained in processes of their own, from other initial weights each time, with a checkpoint every few
batches. Each process gets SIGKILL at a random moment after it has written a state, so that most kills fall within an
epoch and some within a write; the next one goes on from the folder. A run that reaches its end is compared with the one
that nothing interrupted, in every bit of every weight and loss, and a new one begins. Printed are the kills, how many
fell within an epoch and within a write, and how many runs came to the same bits. The processes are forked, so that
none waits for imports.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import pyrovae


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


class Process:
    """A fork that trains, and says its digest."""

    def __init__(self, *given: Any) -> None:
        self.reads, writes = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.write(writes, digest(*given).encode())
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
        """What it said, once it has ended; "" where it was killed."""
        with os.fdopen(self.reads) as pipe:
            words = pipe.read()
        if self.status is None:
            os.waitpid(self.pid, 0)
        return words


def states(folder: Path) -> list[str]:
    """The names in the folder of a run."""
    names = [p.name for p in folder.iterdir()] if folder.exists() else []
    return sorted(name for name in names if name != ".lock")


def whole_ones(folder: Path) -> list[str]:
    """Those of the states that are written."""
    return [name for name in states(folder) if not name.startswith(".")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=4, help="of 30 batches")
    parser.add_argument("--every", type=int, default=7, help="batches between two states")
    parser.add_argument("--seconds", type=float, default=0.15, help="after a process's first state it is killed within")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which there are no more kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    moments, sizes = random.Random(given.seed), (given.epochs, given.every)
    whole = digest(None, 0, *sizes)  # after which no process has anything left to import
    end = time.monotonic() + 60 * given.minutes
    kills = within = writing = same = runs = attempt = 0
    with tempfile.TemporaryDirectory() as made:
        while kills < given.kills and time.monotonic() < end:
            folder, runs = Path(made, str(runs)), runs + 1
            while True:
                attempt += 1
                before = whole_ones(folder)
                process = Process(folder, attempt if before else 0, *sizes)
                while not process.is_over() and whole_ones(folder) == before:
                    time.sleep(0.001)
                is_time = time.monotonic() < end
                if is_time and kills < given.kills and not process.is_over():
                    time.sleep(moments.random() * given.seconds)
                    os.kill(process.pid, signal.SIGKILL)
                words = process.said()
                if words:
                    same += words == whole
                    break
                kills += 1
                left = states(folder)
                within += "-batch-" in max(whole_ones(folder))
                writing += any(name.startswith(".") for name in left)
    print(f"{kills} kills, {within} within an epoch, {writing} within a write; {same} of {runs} runs to the same bits")
    sys.exit(same != runs)


if __name__ == "__main__":
    main()
