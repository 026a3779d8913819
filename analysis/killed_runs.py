"""Does a run that is killed go on to the same bits, whenever it is killed?

    python analysis/killed_runs.py                      # 200 kills
    python analysis/killed_runs.py --kills 20 --seconds 0.1

A small VAE is trained in processes of their own, from other initial weights each time, with a checkpoint every few
batches. Each process gets SIGKILL at a random moment after it has written its first state, so that most kills fall
within an epoch and some within a write; the next one goes on from the folder. A run that reaches its end is compared
with the one that nothing interrupted, in every bit of every weight and loss, and a new one begins. Printed are the
kills, how many fell within an epoch and within a write, and how many runs came to the same bits.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

import pyrovae


def digest(folder: str, seed: int, epochs: int, every: int) -> str:
    """Train, or go on with the run in the folder, from the weights of a seed; all bits of the result."""
    import hashlib

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x = torch.rand(600, 5, generator=torch.Generator().manual_seed(0))
    vae = pyrovae.mlp_vae((5,), hidden_dims=(8,))
    print("begins", flush=True)
    kept = {"checkpoint": folder, "resume": True, "checkpoint_every": every} if folder else {}
    options = {"epochs": epochs, "batch_size": 20, "binarize": True, "compile": False, "progress": False}
    history = pyrovae.fit(vae, x, **options, **kept)
    found = hashlib.sha256(history.epochs.loss.values.tobytes())
    for p in vae.parameters():
        found.update(p.detach().numpy().tobytes())
    return found.hexdigest()


def start(*words: object) -> subprocess.Popen[str]:
    """A process that trains."""
    command = [sys.executable, __file__, "--train", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def states(folder: Path) -> list[str]:
    """The names in the folder of a run."""
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock") if folder.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=8, help="of 30 batches")
    parser.add_argument("--every", type=int, default=7, help="batches between two states")
    parser.add_argument("--seconds", type=float, default=0.15, help="after a process's first state it is killed within")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--train", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        folder, seed, epochs, every = given.train
        print(digest("" if folder == "-" else folder, int(seed), int(epochs), int(every)))
        return
    moments, sizes = random.Random(given.seed), (given.epochs, given.every)
    whole = start("-", 0, *sizes).communicate()[0].split()[-1]
    kills = within = writing = same = runs = attempt = 0
    with tempfile.TemporaryDirectory() as made:
        while kills < given.kills:
            folder, runs = Path(made, str(runs)), runs + 1
            while True:
                attempt += 1
                process, before = start(folder, attempt, *sizes), states(folder)
                while process.poll() is None and states(folder) == before:
                    time.sleep(0.001)
                if kills < given.kills:
                    time.sleep(moments.random() * given.seconds)
                    process.send_signal(signal.SIGKILL)
                output = process.communicate()[0]
                if process.returncode == -signal.SIGKILL:
                    kills += 1
                    left = states(folder)
                    within += any("-batch-" in name for name in left if not name.startswith("."))
                    writing += any(name.startswith(".") for name in left)
                    continue
                same += output.split()[-1] == whole
                break
    print(f"{kills} kills, {within} within an epoch, {writing} within a write; {same} of {runs} runs to the same bits")
    sys.exit(same != runs)


if __name__ == "__main__":
    main()
