"""How fast is an iteration of EM beside scikit-learn's, from the same start and in the same run?

    python analysis/mixture_speed.py                    # 60,000 items of 50 features, 10 components

For each covariance structure both run --iterations of EM from the same parameters, in turn, --rounds times; printed are
the seconds an iteration, the ratio scikit-learn's over ours (median and range over rounds), and how far apart the two
log-likelihoods end, in nats an item.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import torch
from sklearn.mixture import GaussianMixture as Peer

import pyrovae

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


def ours(x: torch.Tensor, loc: np.ndarray, covariance: str, iterations: int) -> float:
    """log p(x) an item after so many iterations."""
    weights = np.full(len(loc), 1 / len(loc))
    mixture = pyrovae.GaussianMixture.from_parameters(weights, loc, identity(covariance, loc), covariance=covariance)
    pyrovae.fit(mixture, x, max_iterations=iterations, num_restarts=0, tol=0.0, progress=False)
    with torch.no_grad():
        return float(mixture.log_prob(x).mean())


def theirs(x: np.ndarray, loc: np.ndarray, covariance: str, iterations: int) -> float:
    """The same by scikit-learn."""
    k = len(loc)
    start = {"weights_init": np.full(k, 1 / k), "means_init": loc, "precisions_init": identity(covariance, loc)}
    peer = Peer(k, covariance_type=NAMES[covariance], max_iter=iterations, tol=0.0, init_params="random", **start)
    return float(peer.fit(x).score(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    loc = 2 * rng.normal(size=(options.components, options.features))
    label = rng.integers(0, options.components, size=options.items)
    x = loc[label] + rng.normal(size=(options.items, options.features))
    start = loc + rng.normal(size=loc.shape)
    tensor = torch.from_numpy(x)
    print(f"{options.items:,} x {options.features}, K = {options.components}, {torch.get_num_threads()} threads")
    for covariance in NAMES:
        seconds, apart = [], 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # neither has converged
            for _ in range(options.rounds):
                first = time.perf_counter()
                a = ours(tensor, start, covariance, options.iterations)
                second = time.perf_counter()
                b = theirs(x, start, covariance, options.iterations)
                seconds.append((second - first, time.perf_counter() - second))
                apart = max(apart, abs(a - b))
        mine, peers = (np.array(column) / options.iterations for column in zip(*seconds, strict=True))
        ratio = peers / mine
        print(
            f"{covariance:10s} ours {np.median(mine):.3f} s, scikit-learn {np.median(peers):.3f} s an iteration; ratio "
            f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f}); log p(x) {apart:.1e} nats apart",
            flush=True,
        )


if __name__ == "__main__":
    main()
