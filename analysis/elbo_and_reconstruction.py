"""How do the ELBO and the reconstruction error trade off over beta, the code's size and the likelihood's scale?

    python analysis/elbo_and_reconstruction.py                               # 8x8 digits, about two minutes
    python analysis/elbo_and_reconstruction.py --data mnist --root data      # hours on two cores

Fits one VAE for each setting and seed: beta from 1/8 to 4 and codes of 1 to 16 dimensions with a learned scale, then
the learned scale against fixed ones; the AE of each size is the end point, all distortion and no rate. Each gets its
ELBO at beta = 1 with rate and distortion (16 particles), its reconstruction error and its active units, on test items.
"""

from __future__ import annotations

import argparse
import math
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import pyrovae
from pyrovae import plotting

BETAS, SIZES, SCALES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0), (1, 2, 4, 8, 16), (0.1, 0.179, 0.626, 1.0)
PURPLE, ORANGE = "#832db6", "#e76300"  # kinds, told apart with any colour vision; not the colours of the code sizes
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
    groups = frame.groupby(["kind", "fixed_scale", "latent_dim", "beta"])
    mean, sd = groups[list(NAMES)].mean(), groups[list(NAMES)].std()
    noise = groups.elbo_se.agg(lambda se: math.sqrt((se**2).sum()) / len(se))
    print(
        "Means over seeds ± their sd, on test items; Monte Carlo: standard error of the mean ELBO from its particles."
    )
    print("ELBO, rate and distortion in nats per item, squared error in pixel² per item, scale in pixel units.")
    print(
        f"kind  code  beta   {'scale':13s}  {'ELBO ± sd (Monte Carlo)':>27s}  {'rate':>15s}  {'distortion':>18s}  "
        f"{'sq. error':>16s}  {'R2':>14s}  active"
    )
    for key in mean.index:
        kind, fixed, size, beta = key
        m, s = mean.loc[key], sd.loc[key]
        scale = f"{m.scale:.3f} {'fixed' if fixed else 'learned'}"
        bound = f"{m.elbo:9.3f} ± {s.elbo:6.3f} ({noise[key]:.3f})" if kind == "vae" else f"{'no p(x)':>27s}"
        rate = f"{m.rate:6.3f} ± {s.rate:6.3f}" if kind == "vae" else f"{'-':>15s}"
        rest = f"{m.distortion:9.3f} ± {s.distortion:6.3f}  {m.squared_error:7.4f} ± {s.squared_error:6.4f}"
        units = f"{m.active_units:6.1f}" if kind == "vae" else f"{'-':>6s}"
        rest += f"  {m.r2:6.3f} ± {s.r2:5.3f}  {units}"
        print(f"{kind:4s}  {size:4d}  {beta:5.3f}  {scale:13s}  {bound}  {rate}  {rest}".replace("nan", "  -"))


def figure(runs: xr.Dataset) -> Figure:
    drawn = Figure(figsize=(13, 10.5), layout="constrained")
    axes = drawn.subplots(2, 2)
    frame = runs.to_dataframe()
    learned = frame[frame.fixed_scale.isna()]
    _rate_against_distortion(axes[0, 0], learned)
    at_one = learned[learned.beta == 1]
    for name, mark, colour in (("vae", "o", PURPLE), ("ae", "s", ORANGE)):
        _over_size(axes[0, 1], at_one[at_one.kind == name], "squared_error", name.upper(), mark, colour)
    axes[0, 1].set(ylabel="squared error per test item (pixel²)", title="reconstruction error, β = 1, learned scale")
    axes[0, 1].legend()
    _over_size(axes[1, 0], at_one[at_one.kind == "vae"], "elbo", "VAE", "o", PURPLE)
    axes[1, 0].set(ylabel="ELBO (nats per test item)", title="ELBO, β = 1, learned scale")
    _over_scale(axes[1, 1], frame[(frame.kind == "vae") & (frame.beta == 1) & (frame.latent_dim == 2)])
    drawn.supxlabel("test items; means over seeds, bars ± sd of seeds", fontsize="medium")
    return drawn


def _rate_against_distortion(ax: Axes, learned: Any) -> None:
    """A curve over beta for each code size, and the AE of that size: all distortion and no rate."""
    levels = []
    for size in (2, 8):
        sized = learned[learned.latent_dim == size]
        rows = sized[sized.kind == "vae"].groupby("beta")[["rate", "distortion"]].agg(["mean", "std"]).fillna(0)
        plotting.rate_distortion(
            rows[("rate", "mean")].values,
            rows[("distortion", "mean")].values,
            rate_se=rows[("rate", "std")].values,
            distortion_se=rows[("distortion", "std")].values,
            label=f"VAE, {size}-D code",
            notes=[f"β={b:g}" for b in rows.index] if size == 8 else None,
            ax=ax,
            title="rate against distortion over β, learned scale",
        )
        curve = [line for line in ax.lines if line.get_gid() == "rate-distortion"][-1]
        levels.append((size, float(sized[sized.kind == "ae"].distortion.mean()), curve.get_color()))
    for size, level, colour in levels:
        ax.axhline(
            level, color=colour, linestyle=(0, (6, 3)), linewidth=1.2, label=f"AE, {size}-D code: it has no rate"
        )
    low, high = ax.get_ylim()
    reach = [level for _, level, _ in levels]
    pad = 0.04 * (high - low)
    ax.set_ylim(min(low, min(reach) - pad), max(high, max(reach) + pad))
    ax.legend(fontsize=8, framealpha=0.9)


def _over_size(ax: Axes, rows: Any, name: str, label: str, mark: str, colour: str) -> None:
    grouped = rows.groupby("latent_dim")[name]
    mean, sd = grouped.mean(), grouped.std().fillna(0)
    ax.errorbar(mean.index, mean, sd, marker=mark, color=colour, capsize=3, label=label)
    ax.set(xscale="log", xlabel="dimensions of the code")
    ax.set_xticks(SIZES, [str(s) for s in SIZES])
    ax.minorticks_off()


def _over_scale(ax: Axes, rows: Any) -> None:
    """The ELBO at fixed scales, and at the scale that the likelihood learns."""
    fixed, learned = rows[rows.fixed_scale.notna()].groupby("fixed_scale").elbo, rows[rows.fixed_scale.isna()]
    mean = fixed.mean()
    ax.errorbar(mean.index, mean, fixed.std().fillna(0), marker="o", color=PURPLE, capsize=3, label="fixed")
    across, up = (learned[name].std() if len(learned) > 1 else 0.0 for name in ("scale", "elbo"))
    at, bound = learned.scale.mean(), learned.elbo.mean()
    ax.errorbar(
        at, bound, up, across, marker="D", color="black", capsize=3, linestyle="none", label=f"learned: {at:.3f}"
    )
    ax.set(xscale="log", xlabel="scale of the likelihood (pixel units)", ylabel="ELBO (nats per test item)")
    ax.set_xticks(SCALES, [f"{s:g}" for s in SCALES])
    ax.minorticks_off()
    ax.set_title("ELBO over the likelihood's scale, 2-D code, β = 1")
    ax.legend()


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
