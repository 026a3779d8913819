"""Do the importance-weighted bound's standard errors cover, and are the items flagged whose errors do not?

    python analysis/standard_errors.py                            # twelve cells, 1,000 seeds of 200 items: 6 to 15 min
    python analysis/standard_errors.py --seeds 200                # 3 minutes
    python analysis/standard_errors.py --shifts 4 5 6             # beyond, where the bias is over the error
    python analysis/standard_errors.py --shifts 0 --scale 0.7 --latent-dim 10     # a guide that is too narrow

The pair is z ~ N(0, I), x ~ N(z, I), so that p(z | x) = N(x / 2, I / 2) and log p(x) are known. The guide is that
posterior with its mean moved by --shifts of its standard deviations along one axis: the log-weights are then exactly
normal, of that standard deviation. --scale multiplies the guide's standard deviations: below 1 the weights have a
heavier tail than a lognormal's, above 1 they are bounded.

Each cell runs `iwae` with K draws on the same items under every seed. An item's *spread* is the standard deviation of
its estimates over seeds, its *stated* error the root mean square of theirs, its *bias* their mean less log p(x).
Printed: over all items, the spread over the delta method's error, the spread over the stated one, and the bias over the
stated one; the spread over the stated error of the estimates that are not flagged, each estimate's distance taken from
its item's mean over all seeds; then, of items that need a flag (spread over 1.2 times, or bias over once the stated
error) the share of estimates that have one, and of the others the share that have one though they need none.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import pyro
import torch
from pyro.distributions import Normal
from torch import Tensor, nn

import pyrovae


class Shifted(nn.Module):
    """z ~ N(0, I), x ~ N(z, I), and a guide that is off by `shift` posterior sds, and `scale` times as wide."""

    is_normalized = True

    def __init__(self, latent_dim: int, shift: float, scale: float) -> None:
        super().__init__()
        self.event_shape, self.latent_dim = (latent_dim,), latent_dim
        root = math.sqrt(0.5)
        self.offset = nn.Parameter(torch.eye(1, latent_dim, dtype=torch.float64)[0] * shift * root)
        self.scale = scale * root

    def model(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("latent", Normal(torch.zeros_like(self.offset), 1.0).to_event(1))
            return pyro.sample("obs", Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, *, size: int = 1) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("latent", Normal(x / 2 + self.offset, self.scale).to_event(1))

    def log_prob(self, x: Tensor) -> Tensor:
        return Normal(0.0, math.sqrt(2)).log_prob(x).sum(-1)


def estimates(pair: Shifted, x: Tensor, particles: int, seeds: int) -> dict[str, np.ndarray]:
    """Values, stated errors, the delta method's and flags, each (seeds, items)."""
    rows = [pyrovae.iwae(pair, x, num_particles=particles, seed=seed).pointwise for seed in range(seeds)]
    found = {name: np.stack([row[name].values for row in rows]) for name in ("value", "se", "unreliable", "ess")}
    found["delta"] = np.sqrt((particles / found["ess"] - 1) / (particles - 1))  # sd(w) / mean(w), by the sums of ess
    return found


def cell(table: dict[str, np.ndarray], log_p: np.ndarray) -> list[float]:
    """The columns that are printed, as the module's text says."""
    value, se, flagged = table["value"], table["se"], table["unreliable"]
    off, freedom = value - value.mean(0), len(value) / (len(value) - 1)
    stated, spread = np.sqrt((se**2).mean(0)), value.std(0, ddof=1)
    bias = value.mean(0) - log_p
    needs = (spread / stated > 1.2) | (np.abs(bias) / stated > 1)

    def ratio(error: np.ndarray, some: np.ndarray) -> float:
        return math.sqrt(freedom * (off[some] ** 2).mean() / (error[some] ** 2).mean()) if some.any() else math.nan

    everything = np.ones_like(flagged)
    return [
        ratio(table["delta"], everything),
        ratio(se, everything),
        float(bias.mean() / np.sqrt((stated**2).mean())),
        ratio(se, ~flagged),
        float(needs.mean()),
        float(flagged[:, needs].mean()) if needs.any() else math.nan,
        float(flagged[:, ~needs].mean()) if not needs.all() else math.nan,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--particles", type=int, nargs="*", default=[16, 100, 1000])
    parser.add_argument("--shifts", type=float, nargs="*", default=[0.5, 1, 2, 3], help="of the guide, in sds")
    parser.add_argument("--scale", type=float, default=1.0, help="of the guide, 1 being the posterior's")
    parser.add_argument("--latent-dim", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the arrays are small
    x = math.sqrt(2) * torch.randn(
        options.items, options.latent_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    print("    K  shift  spread/delta  spread/stated  bias/stated  unflagged  need a flag  caught  false flags")
    for particles in options.particles:
        for shift in options.shifts:
            start = time.perf_counter()
            pair = Shifted(options.latent_dim, shift, options.scale)
            row = cell(estimates(pair, x, particles, options.seeds), pair.log_prob(x).numpy())
            numbers = f"{row[0]:12.3f}  {row[1]:13.3f}  {row[2]:11.3f}  {row[3]:9.3f}"
            shares = f"{row[4]:11.1%}  {row[5]:6.1%}  {row[6]:11.1%}"
            seconds = f"({time.perf_counter() - start:.0f} s)"
            print(f"{particles:5d}  {shift:5.1f}  {numbers}  {shares}  {seconds}", flush=True)


if __name__ == "__main__":
    main()
