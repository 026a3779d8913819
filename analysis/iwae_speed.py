"""How fast is the importance-weighted bound, and what share of the speed of its bare matrix products is that?

    python analysis/iwae_speed.py --root data                                     # 200 MNIST images, 5 rounds
    python analysis/iwae_speed.py --root data --items 10000 --rounds 1            # the whole test set

IWAE with --particles draws an image under a 784-400-20-400-784 softplus network, Bernoulli likelihood, in float32.
Each round times the estimator, the same with torch's own softplus and log-probabilities in place of the package's, and
then the decoder's two matrix products alone, 4,096 rows at a time, so that ratios are taken within one round; medians
and the range over rounds are printed, and the root mean square error of log p(x | z) against float64, over the draws
of 20 images, both ways. The weights are untrained: they do not change the time.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import numpy as np
import torch

import pyrovae
from pyrovae.models import elementary
from pyrovae.models.particles import scored


def bare_products(vae: pyrovae.VAE, rows: int, chunk: int) -> None:
    """The decoder's matrix products for `rows` codes, `chunk` at a time, and nothing else."""
    first, second = (p.detach().T for p in vae.likelihood.network.parameters() if p.ndim == 2)
    z = torch.randn(chunk, len(first))
    hidden, out = torch.empty(chunk, first.shape[1]), torch.empty(chunk, second.shape[1])
    for start in range(0, rows, chunk):
        size = min(chunk, rows - start)
        torch.mm(z[:size], first, out=hidden[:size])
        torch.mm(hidden[:size], second, out=out[:size])


def by_torch(function: Callable[[], object]) -> object:
    """What a function gives with torch's own softplus and log-probabilities."""
    least, elementary.LEAST = elementary.LEAST, 2**62
    try:
        return function()
    finally:
        elementary.LEAST = least


def errors(vae: pyrovae.VAE, x: torch.Tensor) -> list[float]:
    """Root mean square errors of log p(x | z) against float64, at 200 codes of each item: ours, and by torch."""
    z = torch.randn(200, len(x), vae.latent_dim, generator=torch.Generator().manual_seed(0))
    wide = copy.deepcopy(vae).double()

    def table(pair: pyrovae.VAE, dtype: torch.dtype) -> torch.Tensor:
        return scored(pair, x.to(dtype), z.to(dtype), guide=False).log_likelihood.double()

    with torch.no_grad():
        right = table(wide, torch.float64)
        found = [table(vae, torch.float32), by_torch(lambda: table(vae, torch.float32))]
    return [float((one - right).square().mean().sqrt()) for one in found]


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

    def estimate() -> object:
        return pyrovae.iwae(vae, x, num_particles=options.particles)

    def seconds(function: Callable[[], object]) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    bare_products(vae, chunk, chunk)
    times = np.array(
        [
            [seconds(estimate), seconds(lambda: by_torch(estimate)), seconds(lambda: bare_products(vae, rows, chunk))]
            for _ in range(options.rounds)
        ]
    )
    print(f"IWAE({options.particles}) of {len(x)} images, {options.rounds} rounds, {torch.get_num_threads()} threads")
    of_round = {
        "images/s": len(x) / times[:, 0],
        "of the speed of its bare matrix products": times[:, 2] / times[:, 0],
        "of it with torch's own softplus and log-probabilities": times[:, 2] / times[:, 1],
    }
    for words, values in of_round.items():
        print(f"  {np.median(values):.3g} ({min(values):.3g} to {max(values):.3g}) {words}")
    print("  errors of log p(x | z) in nats: {:.3g}, and {:.3g} by torch".format(*errors(vae, x[:20])))


if __name__ == "__main__":
    main()
