"""Is there a whole state at a path at each moment, whenever a save is killed and whoever reads beside it?

    python analysis/killed_saves.py                              # 200 kills of each kind, and 1,000 loads
    python analysis/killed_saves.py --kills 20 --loads 0 --seed 1

A process saves a pair, or a fitted estimator, to a folder that does not exist, to an empty one, or over what was saved
there before, and gets SIGKILL at a random moment. Only kills within the save count. What is then at the path must be
what was there before or what was being saved, whole: where nothing was there before, `load` may also say so. After
each kill another save has to come back, and must leave nothing behind of the one that was killed. At the end, one
process saves two pairs in turn over one another while another loads them. The processes are forked, so that none waits
for imports.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import random
import shutil
import signal
import statistics
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import pyrovae

NOTHING = ("does not exist", "is not a saved state: it has no manifest", "holds no saved estimator")
SAVING = mmap.mmap(-1, 1)  # shared with the forks: 1 while something is saved, 2 after that


class Kind(NamedTuple):
    """What is saved: how, how it comes back, and two of it that differ in all their parts."""

    save: Callable[[Path, Any], object]
    load: Callable[[Path], Any]
    both: tuple[Any, Any]


def pairs() -> Kind:
    def made(seed: int) -> pyrovae.VAE:
        torch.manual_seed(seed)
        return pyrovae.mlp_vae((50,), hidden_dims=(100,))

    return Kind(lambda path, pair: pyrovae.save(path, pair), pyrovae.load, (made(0), made(1)))


def estimators() -> Kind:
    from pyrovae.sklearn import VAE

    def made(seed: int) -> Any:
        x = np.random.default_rng(seed).normal(size=(40, 50))
        return VAE(epochs=1 + seed, hidden_dims=(100,), random_state=seed).fit(x)

    return Kind(lambda path, estimator: estimator.save(path), VAE.load, (made(0), made(1)))


def digest(saved: Any) -> str:
    """All bits of a pair, or of an estimator with its parameters and its history."""
    pair = getattr(saved, "pair_", saved)
    found = hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in pair.state_dict().values()))
    if pair is not saved:
        found.update(repr(sorted(saved.get_params().items())).encode() + saved.history_.epochs.loss.values.tobytes())
    return found.hexdigest()


def forked(work: Callable[[], object]) -> int:
    """The number of a process that does it and ends."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def begun(kind: Kind, path: Path, before: str) -> int:
    """The number of a process that saves to a path where such a thing lies, once it does."""
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    if before == "empty":
        path.mkdir()
    elif before == "earlier":
        kind.save(path, kind.both[0])

    def work() -> None:
        SAVING[0] = 1
        kind.save(path, kind.both[1])
        SAVING[0] = 2

    SAVING[0] = 0
    pid = forked(work)
    while not SAVING[0]:
        pass
    return pid


def one_kill(kind: Kind, path: Path, before: str, seconds: float) -> str | None:
    """What is at the path after a save was killed: "earlier", "new", "nothing"; None where the save had ended."""
    pid = begun(kind, path, before)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    was_saving = SAVING[0] == 1
    try:
        found = digest(kind.load(path))
    except (ValueError, FileNotFoundError) as error:
        if before == "earlier" or not any(words in str(error) for words in NOTHING):
            raise
        found = "nothing"
    names = {digest(kind.both[0]): "earlier", digest(kind.both[1]): "new", "nothing": "nothing"}
    if found not in names or (names[found] == "earlier") > (before == "earlier"):
        raise RuntimeError(f"{path} holds what nobody saved")
    kind.save(path, kind.both[0])
    if digest(kind.load(path)) != digest(kind.both[0]):
        raise RuntimeError(f"the save after the one that was killed did not come back from {path}")
    if [p.name for p in path.parent.iterdir()] != [path.name] or any(p.name.startswith(".") for p in path.rglob("*")):
        raise RuntimeError(f"something of the save that was killed is left: {sorted(path.parent.rglob('*'))}")
    return names[found] if was_saving else None


def duration(kind: Kind, path: Path, before: str) -> float:
    """The seconds that a save takes in a process of its own: the median of five."""
    seconds = []
    for _ in range(5):
        pid, start = begun(kind, path, before), time.monotonic()
        while SAVING[0] == 1:
            pass
        seconds.append(time.monotonic() - start)
        os.waitpid(pid, 0)
    return statistics.median(seconds)


def killed(kind: Kind, path: Path, before: str, kills: int, moments: random.Random) -> Counter[str]:
    """What was at the path after so many kills within a save."""
    seconds, found = duration(kind, path, before), Counter[str]()
    while found.total() < kills:
        words = one_kill(kind, path, before, 1.1 * seconds * moments.random())
        found.update([] if words is None else [words])
    return found


def read_beside(kind: Kind, path: Path, loads: int) -> Counter[str]:
    """How often each of two pairs was read while a process saved them over one another."""
    shutil.rmtree(path.parent, ignore_errors=True)
    kind.save(path, kind.both[0])

    def work() -> None:
        while True:
            for each in reversed(kind.both):
                kind.save(path, each)

    names = {digest(kind.both[0]): "the first", digest(kind.both[1]): "the second"}
    pid = forked(work)
    try:
        return Counter(names[digest(kind.load(path))] for _ in range(loads))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of each kind, all within a save")
    parser.add_argument("--loads", type=int, default=1000, help="beside a process that saves")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    moments = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as made:
        for name, kind in {"pair": pairs(), "estimator": estimators()}.items():
            path = Path(made, name, "state")
            path.parent.mkdir()
            kind.save(path, kind.both[0])
            kind.load(path)  # after which no process has anything left to import
            for before in ("none", "empty", "earlier"):
                found = killed(kind, path, before, given.kills, moments) if given.kills else {}
                said = ", ".join(f"{count} {words}" for words, count in sorted(found.items()))
                print(
                    f"{name}, {before} there before: {given.kills} kills within a save; then there: {said}", flush=True
                )
            found = read_beside(kind, path, given.loads)
            said = ", ".join(f"{count} of {words}" for words, count in sorted(found.items()))
            print(f"{name}: {given.loads} loads beside a process that saves: {said}", flush=True)


if __name__ == "__main__":
    main()
