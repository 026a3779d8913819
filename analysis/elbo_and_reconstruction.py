"""How do the ELBO and the reconstruction error trade off over beta, the code's size and the likelihood's scale?

    python analysis/elbo_and_reconstruction.py                               # 8x8 digits, about two minutes
    python analysis/elbo_and_reconstruction.py --data mnist --root data      # hours on two cores

Fits one VAE for each setting and seed: beta from 1/8 to 4 and codes of 1 to 16 dimensions with a learned scale, then
the learned scale against fixed ones; the AE of each size is the end point, all distortion and no rate. Each gets its
ELBO at beta = 1 with rate and distortion (16 particles), its reconstruction error and its active units, on test items.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from matplotlib.figure import Figure

import pyrovae
from pyrovae import plotting

BETAS, SIZES, SCALES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0), (1, 2, 4, 8, 16), (0.1, 0.179, 0.626, 1.0)
NAMES = ("elbo", "elbo_se", "rate", "distortion", "squared_error", "r2", "active_units", "scale")


def measure(
    options: argparse.Namespace, kind: str, beta: float, size: int, scale: float | None, seed: int
) -> xr.Dataset:
    """One fit and what it is worth; for the AE, distortion is -log p(x | its code) and there is no rate."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", pyrovae.PosteriorCollapseWarning)  # the table has the active units
    data = pyrovae.data.load(options.data, root=options.root)
    torch.manual_seed(seed)
    make = pyrovae.mlp_vae if kind == "vae" else pyrovae.mlp_ae
    likelihood = pyrovae.Normal(scale, initial_scale=0.3, link="sigmoid")
    pair = make(data.event_shape, size, hidden_dims=(128, 64), activation="leaky_relu", likelihood=likelihood)
    options_of_fit = {"epochs": options.epochs, "batch_size": 128, "learning_rate": 2e-3, "beta": beta, "seed": seed}
    pyrovae.fit(pair, data.train.x, progress=False, **options_of_fit)
    x = data.test.x[:]
    error = pyrovae.reconstruction_error(
        x, pyrovae.decoded(pair, pyrovae.encoded(pair, x)), mean=data.train.x[:].mean(0)
    )
    found: dict[str, Any] = {"squared_error": float(error.squared_error), "r2": float(error.r2)}
    found["scale"] = float(pair.likelihood.family.scale.detach())
    if pair.is_normalized:
        estimate = pyrovae.elbo(pair, x)
        found |= {"elbo": estimate.mean, "elbo_se": estimate.se}
        found |= {name: float(estimate.pointwise[name].mean()) for name in ("rate", "distortion")}
        found["active_units"] = int(pyrovae.active_units(pyrovae.encoded(pair, x)).active_units)
    else:
        with torch.no_grad():
            found["distortion"] = -float(pair.likelihood(pair.encode(x)).log_prob(x).mean())
    where = {"kind": kind, "beta": beta, "latent_dim": size, "fixed_scale": scale or float("nan"), "fit_seed": seed}
    return xr.Dataset({**{n: float(found.get(n, float("nan"))) for n in NAMES}, **where})


def settings(seeds: int) -> list[tuple[str, float, int, float | None, int]]:
    chosen = [("vae", b, s, None) for s in (2, 8) for b in BETAS] + [
        ("vae", 1.0, s, None) for s in SIZES if s not in (2, 8)
    ]
    chosen += [("vae", 1.0, 2, scale) for scale in SCALES] + [("ae", 1.0, s, None) for s in SIZES]
    return [(*setting, seed) for setting in chosen for seed in range(seeds)]


def print_table(runs: xr.Dataset) -> None:
    frame = runs.to_dataframe().fillna({"fixed_scale": 0.0})
    keys = ["kind", "fixed_scale", "latent_dim", "beta"]
    mean, sd = frame.groupby(keys)[list(NAMES)].mean(), frame.groupby(keys)[list(NAMES)].std()
    print("kind  code  beta   scale            ELBO ± sd of seeds (se)      rate  distortion  sq. error     R2  active")
    for key in mean.index:
        kind, fixed, size, beta = key
        m = mean.loc[key]
        scale = f"{m.scale:.3f} {'fixed' if fixed else 'learned'}"
        bound = f"{m.elbo:9.3f} ± {sd.loc[key].elbo:6.3f} ({m.elbo_se:.3f})" if kind == "vae" else f"{'no p(x)':>27s}"
        rest = f"{m.rate:8.3f}  {m.distortion:10.3f}  {m.squared_error:9.4f}  {m.r2:5.3f}  {m.active_units:6.1f}"
        print(f"{kind:4s}  {size:4d}  {beta:5.3f}  {scale:13s}  {bound}  {rest}".replace("nan", "  -"))


def figure(runs: xr.Dataset) -> Figure:
    drawn = Figure(figsize=(13, 5.5), layout="constrained")
    left, right = drawn.subplots(1, 2)
    frame = runs.to_dataframe()
    learned = frame[(frame.kind == "vae") & frame.fixed_scale.isna()]
    for size in (2, 8):
        rows = (
            learned[learned.latent_dim == size].groupby("beta")[["rate", "distortion"]].agg(["mean", "sem"]).fillna(0)
        )
        plotting.rate_distortion(
            rows[("rate", "mean")].values,
            rows[("distortion", "mean")].values,
            rate_se=rows[("rate", "sem")].values,
            distortion_se=rows[("distortion", "sem")].values,
            label=f"{size}-D code",
            notes=[f"β={b:g}" for b in rows.index] if size == 8 else None,
            ax=left,
            title="rate against distortion over β, learned scale, test items (± se of seeds)",
        )
    for name, mark in (("vae", "o"), ("ae", "s")):
        rows = frame[(frame.kind == name) & (frame.beta == 1) & frame.fixed_scale.isna()].groupby("latent_dim")
        mean, sd = rows.squared_error.mean(), rows.squared_error.std().fillna(0)
        right.errorbar(mean.index, mean, sd, marker=mark, capsize=3, label=name.upper())
    right.set(
        xscale="log", xlabel="dimensions of the code", ylabel="squared error per test item (pixel²), ± sd of seeds"
    )
    right.set_xticks(SIZES, [str(s) for s in SIZES])
    right.set_title("reconstruction error over the code's size, β = 1")
    right.legend()
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--root", default=None)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options, start = parser.parse_args(), time.perf_counter()
    options.out = options.out or Path("out") / f"elbo_and_reconstruction-{Path(options.data).name}"
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(measure, options, *setting) for setting in settings(options.seeds)]
        runs = xr.concat([job.result() for job in jobs], "run")
    print_table(runs)
    runs.to_netcdf(options.out / "results.nc", engine="h5netcdf")
    runs.to_dataframe().to_csv(options.out / "results.csv", index=False)
    figure(runs).savefig(options.out / "rate_distortion.png", dpi=120)
    print(
        f"\n{time.perf_counter() - start:.0f} s; rate_distortion.png, results.nc and results.csv are in {options.out}/"
    )


if __name__ == "__main__":
    main()
