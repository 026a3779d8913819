"""How fast is an iteration of EM beside scikit-learn's, from the same start and in the same run, and in what memory?

    python analysis/em_speed.py                          # 60,000 items of 50 features, 10 components
    python analysis/em_speed.py --map-items 10000000     # and 10,000,000 x 20 from a memory map

For each covariance structure and dtype both run --iterations of EM from the same parameters, in turn, --rounds times,
on --threads threads. Printed are the milliseconds an iteration takes, without what a call of fit takes beside its
iterations; the ratios scikit-learn's over ours, median and range over rounds, of iterations and of whole calls; and how
far apart the two log-likelihoods end, in nats an item. On one thread times are the processor's, which other processes
of a shared machine change less. A fit to items in float32 ends with E-steps in float64, which scikit-learn's does not:
how many of them the timed iterations have is printed too, none for as long as iterations gain more than float32 tells.
The peak of memory is that of a fit in a process of its own, from clusters, over what it had with the items in its
hands.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture as Peer
from threadpoolctl import threadpool_limits

import pyrovae
from pyrovae.models import sufficient

PAUSE = 0.3  # seconds, in which threads of the call before go to sleep
NAMES = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


def identity(covariance: str, loc: np.ndarray) -> np.ndarray:
    """Unit variances in the structure's own shape."""
    k, d = loc.shape
    shapes = {
        "full": np.stack([np.eye(d)] * k),
        "tied": np.eye(d),
        "diagonal": np.ones((k, d)),
        "spherical": np.ones(k),
    }
    return shapes[covariance]


def problem(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Items about components whose locations are `spread` apart in each column, and locations to start from."""
    rng = np.random.default_rng(0)
    loc = options.spread * rng.normal(size=(options.components, options.features))
    x = rng.normal(size=(options.items, options.features))
    x += loc[rng.integers(0, options.components, size=options.items)]
    return x, loc + 0.5 * options.spread * rng.normal(size=loc.shape)


def count_e_steps(counts: dict[bool, int]) -> None:
    """Let each E-step be counted, by whether its products are in float32."""
    plain = sufficient.expected_sums

    def counting(*args: Any, single: bool = False) -> Any:
        counts[single] += 1
        return plain(*args, single=single)

    sufficient.expected_sums = counting


def ours(x: torch.Tensor, loc: np.ndarray, covariance: str, iterations: int) -> float:
    """log p(x) an item after so many iterations."""
    weights = np.full(len(loc), 1 / len(loc))
    mixture = pyrovae.GaussianMixture.from_parameters(weights, loc, identity(covariance, loc), covariance=covariance)
    mixture.to(x.dtype)
    history = pyrovae.fit(mixture, x, max_iterations=iterations, num_restarts=0, tol=0.0, progress=False)
    assert len(history.epochs.epoch) == iterations, "it has converged: take fewer iterations"
    return -float(history.epochs.loss[-1])


def theirs(x: np.ndarray, loc: np.ndarray, covariance: str, iterations: int) -> float:
    """The same by scikit-learn."""
    k, dtype = len(loc), x.dtype
    start = {
        "weights_init": np.full(k, 1 / k, dtype),
        "means_init": loc.astype(dtype),
        "precisions_init": identity(covariance, loc).astype(dtype),
    }
    # an iteration gains -inf or more, so that none is the last before max_iter
    peer = Peer(k, covariance_type=NAMES[covariance], max_iter=iterations, tol=0.0, reg_covar=0.0, **start)
    peer.fit(x)
    assert peer.n_iter_ == iterations
    return float(peer.score(x))


def compared(options: argparse.Namespace, covariance: str, dtype: str, counts: dict[bool, int]) -> str:
    """Both in turn, round by round: calls of --iterations and of one, whose difference is that of iterations alone.

    There is a round before, which is not counted: that of imports.
    """
    x, start = problem(options)
    x, more = x.astype(dtype), options.iterations
    tensor, clock = torch.from_numpy(x), time.process_time if options.threads == 1 else time.perf_counter
    seconds, apart = [], 0.0
    for _ in range(1 + options.rounds):
        times, ends, in_float64 = [], [], []
        for fit, items in ((ours, tensor), (theirs, x)):
            for count in (1, more):
                time.sleep(PAUSE if options.threads > 1 else 0)
                began, before = clock(), counts[False]
                ends.append(fit(items, start, covariance, count))
                times.append(clock() - began)
                in_float64.append(counts[False] - before)
        seconds.append(times)
        apart = max(apart, abs(ends[1] - ends[3]))
    our_one, our_all, their_one, their_all = np.array(seconds[1:]).T
    mine, peers = (our_all - our_one) / (more - 1), (their_all - their_one) / (more - 1)
    extra = in_float64[1] - in_float64[0] if dtype == "float32" else 0
    note = f"{apart:.1e} apart" + (f"; {extra} of our E-steps in float64" if extra else "")
    beside = f"of whole calls {np.median(their_all / our_all):5.2f}; log p(x) {note}"
    if min(mine.min(), peers.min()) <= 0:
        return f"an iteration is lost in the noise of a call: take more --iterations; {beside}"
    each = peers / mine
    return (
        f"{np.median(mine) * 1e3:6.1f} ms, scikit-learn {np.median(peers) * 1e3:6.1f} ms; ratio {np.median(each):5.2f} "
        f"({each.min():.2f} to {each.max():.2f}), {beside}"
    )


def peak() -> float:
    """The most memory that this process has had, in MB."""
    # of this program alone: what getrusage tells begins with that of the process that started it
    (line,) = (
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024 / 1e6


def grown(path: str, how: str, covariance: str, dtype: str) -> str:
    """By how many MB a fit from clusters, in a process of its own, exceeds what it had with its items in memory."""
    command = [sys.executable, __file__, "--child", covariance, dtype, how, path]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
    found = json.loads(done.stdout)
    return f"{found['grown']:.0f} MB beside {found['items']:.0f} MB of items; {found['seconds']:.2f} s an iteration"


def child(covariance: str, dtype: str, how: str, path: str) -> None:
    """The fit of `grown`."""
    warnings.simplefilter("ignore")
    fit = partial(pyrovae.fit, num_restarts=1, max_iterations=3, tol=0.0, progress=False)

    def mixture(features: int) -> pyrovae.GaussianMixture:
        made = pyrovae.GaussianMixture((features,), 10, covariance=covariance)
        return made.double() if dtype == "float64" else made

    fit(mixture(3), torch.randn(500, 3))  # what libraries take once
    x = np.load(path, mmap_mode="r") if how == "map" else torch.from_numpy(np.load(path))
    before = peak()
    history = fit(mixture(x.shape[1]), x)
    seconds = float(history.epochs.seconds.median())
    size = x.shape[0] * x.shape[1] * np.dtype(dtype).itemsize / 1e6
    print(json.dumps({"grown": peak() - before, "items": size, "seconds": seconds}))


def write_map(path: Path, items: int, features: int) -> None:
    """A file of float32 items about ten locations, written part by part."""
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(items, features))
    rng = np.random.default_rng(0)
    loc = rng.normal(size=(10, features))
    for start in range(0, items, 100_000):
        part = file[start : start + 100_000]
        part[:] = loc[rng.integers(0, 10, size=len(part))] + rng.normal(size=part.shape)
    file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--spread", type=float, default=0.5, help="standard deviation of the locations, in the items'")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--map-items", type=int, default=0, help="of 20 features in a memory map; 0 leaves it out")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    torch.set_num_threads(options.threads)
    print(
        f"{options.items:,} x {options.features}, K = {options.components}, spread {options.spread:g}, "
        f"{options.threads} thread{'s' if options.threads > 1 else ''}; load {os.getloadavg()[0]:.1f}"
    )
    counts = {True: 0, False: 0}
    count_e_steps(counts)
    with threadpool_limits(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # neither has converged
        for dtype in ("float64", "float32"):
            for covariance in NAMES:
                print(f"{dtype} {covariance:9s} {compared(options, covariance, dtype, counts)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "x.npy")
        for dtype in ("float64", "float32"):
            np.save(path, problem(options)[0].astype(dtype))
            for covariance in NAMES:
                print(f"{dtype} {covariance:9s} peak {grown(path, 'array', covariance, dtype)}", flush=True)
        if options.map_items:
            write_map(Path(path), options.map_items, 20)
            for covariance in NAMES:
                print(f"{options.map_items:,} x 20, {covariance:9s} peak {grown(path, 'map', covariance, 'float32')}")


if __name__ == "__main__":
    main()
