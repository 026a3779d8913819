"""How fast is the importance-weighted bound, and what share of the speed of its bare matrix products is that?

    python analysis/iwae_speed.py --root data                                     # 200 MNIST images, 5 rounds
    python analysis/iwae_speed.py --root data --items 10000 --rounds 1            # the whole test set

IWAE with --particles draws an image under a 784-400-20-400-784 softplus network, Bernoulli likelihood, in float32.
Each round times the estimator and then its decoder's two matrix products alone, 4,096 rows at a time, so that a ratio
is taken within one round; medians and the range over rounds are printed. The weights are untrained: they do not
change the time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import pyrovae


def bare_products(vae: pyrovae.VAE, rows: int, chunk: int) -> None:
    """The decoder's matrix products for `rows` codes, `chunk` at a time, and nothing else."""
    first, second = (p.detach().T for p in vae.likelihood.network.parameters() if p.ndim == 2)
    z = torch.randn(chunk, len(first))
    hidden, out = torch.empty(chunk, first.shape[1]), torch.empty(chunk, second.shape[1])
    for start in range(0, rows, chunk):
        size = min(chunk, rows - start)
        torch.mm(z[:size], first, out=hidden[:size])
        torch.mm(hidden[:size], second, out=out[:size])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=None, help="folder of MNIST, in torchvision's layout")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    x = pyrovae.data.binarize(pyrovae.data.load("mnist", root=options.root).test.x[: options.items], seed=0)
    vae = pyrovae.mlp_vae((1, 28, 28), 20)
    rows, chunk = len(x) * options.particles, 4096
    speeds, shares = [], []
    bare_products(vae, chunk, chunk)
    for _ in range(options.rounds):
        start = time.perf_counter()
        pyrovae.iwae(vae, x, num_particles=options.particles)
        middle = time.perf_counter()
        bare_products(vae, rows, chunk)
        end = time.perf_counter()
        speeds.append(len(x) / (middle - start))
        shares.append((end - middle) / (middle - start))
    words = f"IWAE({options.particles}) of {len(x)} images, {options.rounds} rounds, {torch.get_num_threads()} threads"
    spread = [f"{np.median(v):.3g} ({min(v):.3g} to {max(v):.3g})" for v in (speeds, shares)]
    print(f"{words}: {spread[0]} images/s; {spread[1]} of the speed of its bare matrix products")


if __name__ == "__main__":
    main()
