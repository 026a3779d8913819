"""What helps against a collapsed posterior: warm-up or free bits?

    python analysis/collapse.py                       # three seeds on the digits: 3 minutes on one core
    python analysis/collapse.py --seeds 1 --epochs 20

A VAE with more dimensions of the code than it uses is fitted to the digits (8 x 8, binarised anew in each epoch), with
the same budget in five ways: as it is, with the weight of the KL term raised from 0 over the first half of the epochs,
and with free bits of 0.1, 0.25 and 0.5 nats a dimension (Kingma et al. 2016, appendix C.8). Printed for each, as the
mean over seeds with its standard deviation: the dimensions whose posterior mean varies over the training items
(variance over 0.01), the rate E_q[log q(z | x) - log p(z)] and the ELBO of the test items, and their log p(x) by
importance weights (500 draws), all in nats per item; at the end the gain of log p(x) over the plain fit of the same
seed, with the 95 % interval of the paired differences over seeds. The test items are binarised once and are the same
for all.
"""

from __future__ import annotations

import argparse
import math
import warnings

import numpy as np
import torch
from scipy import stats

import pyrovae

ARMS = ("plain", "warm-up", "free bits 0.1", "free bits 0.25", "free bits 0.5")


def fitted(arm: str, train: torch.Tensor, seed: int, options: argparse.Namespace) -> tuple[pyrovae.VAE, int]:
    """A VAE fitted in one of the ways, and the number of its active units."""
    torch.manual_seed(seed)
    vae = pyrovae.mlp_vae((1, 8, 8), options.latent_dim, hidden_dims=(200, 200), activation="tanh")
    more = {}
    if arm == "warm-up":
        more["warmup"] = options.epochs // 2
    elif arm.startswith("free bits"):
        more["free_bits"] = float(arm.split()[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pyrovae.PosteriorCollapseWarning)
        history = pyrovae.fit(
            vae, train, epochs=options.epochs, batch_size=128, binarize=True, seed=seed, progress=False, **more
        )
    return vae, history.config["active_units"]


def measured(vae: pyrovae.VAE, test: torch.Tensor, seed: int) -> list[float]:
    """The rate, the ELBO and log p(x) of the test items."""
    elbo = pyrovae.elbo(vae, test, seed=seed)
    log_p = pyrovae.iwae(vae, test, num_particles=500, seed=seed)
    return [float(elbo.pointwise["rate"].mean()), elbo.mean, log_p.mean]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--latent-dim", type=int, default=16)
    options = parser.parse_args()
    digits = pyrovae.data.load("digits")
    test = pyrovae.data.binarize(digits.test.x)
    results = np.empty((len(ARMS), options.seeds, 4))
    for seed in range(options.seeds):
        for number, arm in enumerate(ARMS):
            vae, active = fitted(arm, digits.train.x, seed, options)
            results[number, seed] = [active, *measured(vae, test, seed)]
    print(f"{options.latent_dim} dimensions, {options.epochs} epochs, {options.seeds} seeds: mean ± sd over seeds")
    print(f"{'fit':<16}{'active units':>14}{'rate':>16}{'ELBO':>18}{'log p(x)':>18}{'gain of log p(x)':>26}")
    for number, arm in enumerate(ARMS):
        means = results[number].mean(0)
        spreads = results[number].std(0, ddof=1) if options.seeds > 1 else np.full(4, math.nan)
        cells = [f"{mean:.2f} ± {sd:.2f}" for mean, sd in zip(means, spreads, strict=True)]
        gain = results[number, :, 3] - results[0, :, 3]
        words = ""
        if number and options.seeds > 1:
            half = stats.t(options.seeds - 1).ppf(0.975) * gain.std(ddof=1) / math.sqrt(options.seeds)
            words = f"{gain.mean():+.2f} [{gain.mean() - half:+.2f}, {gain.mean() + half:+.2f}]"
        print(f"{arm:<16}{cells[0]:>14}{cells[1]:>16}{cells[2]:>18}{cells[3]:>18}{words:>26}")


if __name__ == "__main__":
    main()
