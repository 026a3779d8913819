"""The figures of `ae_vs_vae.py`: the post's own, from seed 0's main arm, and the study's."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

import pyrovae
from pyrovae import plotting
from pyrovae.data import Dataset


def figures(
    out: Path,
    data: Dataset,
    pairs: dict[str, Any],
    main: xr.Dataset,
    verdicts: xr.Dataset,
    claims: list[Any],
    words: dict[str, str],
) -> None:
    """Draw and save every figure; `words` is the verdict on each claim with its reservations."""
    x, y = data.test.x[:], data.test.y
    codes = {name: pyrovae.encoded(pair, x) for name, pair in pairs.items()}
    train_codes = {name: pyrovae.encoded(pair, data.train.x) for name, pair in pairs.items()}
    sheets = {
        **_of_items(pairs, codes, x, y),
        "latent": _latent(codes, y),
        **_grids(pairs, codes, train_codes, y),
        "samples": _samples(pairs, train_codes),
        "post_draws": _post_draws(pairs["VAE"], codes["AE"], x, y),
        "per_class": _per_class(main),
        "learning_curves": _learning_curves(out),
    }
    bounded = verdicts.claim.values[np.isfinite(verdicts.low.values)]  # one seed has no interval
    shown = [c for c in claims if c.smallest > 0 and c.says in bounded]
    if shown:
        sheets["claims"] = _claims(verdicts.sel(claim=[c.says for c in shown]), words)
    for name, figure in sheets.items():
        figure.savefig(out / f"{name}.png", dpi=120)


def _decoded(pair: Any, codes: Any) -> Tensor:
    return pyrovae.decoded(pair, torch.as_tensor(codes, dtype=torch.float32))


def _of_items(pairs: dict[str, Any], codes: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Figure]:
    first = np.concatenate([np.flatnonzero(y.numpy() == c)[:1] for c in np.unique(y.numpy())])[:10]
    rows = {name: _decoded(pair, codes[name][first]) for name, pair in pairs.items()}
    seen = {name: codes[name][first] for name in pairs}
    ends, ways = first[: len(first) // 2 * 2].reshape(-1, 2), torch.linspace(0, 1, 11)[None, :, None]
    walks = Figure(figsize=(13, 3.6), layout="constrained")
    titles = [f"{y[a]} to {y[b]}" for a, b in ends]
    for ax, (name, pair) in zip(walks.subplots(1, 2), pairs.items(), strict=True):
        a, b = codes[name][ends[:, 0]][:, None], codes[name][ends[:, 1]][:, None]
        walk = a + ways * (b - a)
        images = _decoded(pair, walk.flatten(0, 1)).unflatten(0, walk.shape[:2])
        plotting.interpolations(images, titles=titles, ax=ax, title=f"{name}: straight line between two codes")
    return {"reconstructions": plotting.reconstructions(x[first], rows, seen, labels=y[first]), "interpolations": walks}


def _three_scatters(
    y: Tensor, left: tuple[Tensor, str], middle: tuple[Tensor, str], right: tuple[Tensor, str]
) -> Figure:
    """Codes, codes, and the normal CDF of codes, each with its title."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    axes = figure.subplots(1, 3)
    look = {"size": 14.0, "alpha": 0.8} if len(y) < 2000 else {"size": 5.0, "alpha": 0.5}
    for ax, (codes, title) in zip(axes, (left, middle), strict=False):
        plotting.latent_scatter(codes, y, ax=ax, title=title, legend=False, **look)
    plotting.cdf_scatter(right[0], y, ax=axes[2], title=right[1], **look)
    return figure


def _latent(codes: dict[str, Tensor], y: Tensor) -> Figure:
    ae, vae = ((codes[name], f"{name}: codes of the test items") for name in ("AE", "VAE"))
    return _three_scatters(y, ae, vae, (codes["VAE"], "VAE: normal CDF of the codes"))


def _grids(
    pairs: dict[str, Any], codes: dict[str, Tensor], train_codes: dict[str, Tensor], y: Tensor
) -> dict[str, Figure]:
    """Each model's own grid; the VAE's box too, so that both can be seen under one law; and the post's for the AE."""
    boxes = {name: plotting.box_grid(train_codes[name]) for name in pairs}
    wanted = {
        "grid_ae": ("AE", boxes["AE"], "AE: grid over the box of its codes"),
        "grid_vae_box": ("VAE", boxes["VAE"], "VAE: grid over the box of its codes"),
        "grid_vae": ("VAE", plotting.normal_quantile_grid(), "VAE: grid on the normal quantiles, as the post's"),
        "post_grid_ae": ("AE", plotting.post_ae_grid(), "AE: the post's grid, -5..10 by -5..6, whatever the codes are"),
    }
    return {
        file: plotting.grid_over_scatter(codes[name], y, grid, _decoded(pairs[name], grid), title=title)
        for file, (name, grid, title) in wanted.items()
    }


def _samples(pairs: dict[str, Any], train_codes: dict[str, Tensor]) -> Figure:
    figure = Figure(figsize=(12, 6), layout="constrained")
    for ax, (name, pair) in zip(figure.subplots(1, 2), pairs.items(), strict=True):
        fitted = np.random.default_rng(0).multivariate_normal(
            train_codes[name].mean(0).numpy(), np.cov(train_codes[name].T), size=100
        )
        title = f"{name}: codes drawn from the Gaussian fitted to its codes"
        plotting.sample_sheet(_decoded(pair, fitted), n_cols=10, ax=ax, title=title)
    return figure


def _post_draws(vae: Any, ae_codes: Tensor, x: Tensor, y: Tensor) -> Figure:
    """What the post plotted, named as such: one random draw of the encoder where a mean would do."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        draws = torch.cat([vae.posterior(part).sample() for part in x.split(1024)])
    titles = ("as the post: AE codes", "as the post: random draws, VAE", "as the post: their normal CDF")
    ae, vae, cdf = zip((ae_codes, draws, draws), titles, strict=True)
    return _three_scatters(y, ae, vae, cdf)


def _per_class(main: xr.Dataset) -> Figure:
    values = {m.upper(): main.knn_accuracy_label.sel(model=m) for m in ("ae", "vae")}
    seeds = main.sizes["seed"]
    half = stats.t.ppf(0.975, seeds - 1) / math.sqrt(seeds) if seeds > 1 else 0.0
    figure = Figure(figsize=(9, 5), layout="constrained")
    plotting.per_class(
        {name: v.mean("seed").values for name, v in values.items()},
        errors={name: half * v.std("seed", ddof=1).values for name, v in values.items()} if seeds > 1 else None,
        classes=[str(c) for c in main.label.values],
        ax=figure.subplots(),
        ylabel="accuracy, 10 nearest neighbours",
        title=f"which classes each code separates (mean and 95 % t interval over {seeds} seeds)",
    )
    return figure


def _learning_curves(out: Path) -> Figure:
    found = {
        kind: xr.load_dataset(out / "pairs" / f"seed0-main-{kind}.nc", engine="h5netcdf") for kind in ("ae", "vae")
    }
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    curves = {
        "AE: log p(x | its code)": found["ae"].validation_elbo.values,
        "VAE: ELBO": found["vae"].validation_elbo.values,
    }
    title = "test items during training, seed 0 (the AE pays no rate: levels do not compare)"
    plotting.learning_curve(found["ae"].epoch.values + 1, curves, ax=figure.subplots(), title=title)
    return figure


def _claims(found: xr.Dataset, words: dict[str, str]) -> Figure:
    names = []
    for claim, level in zip(found.claim.values, found.level.values, strict=True):
        lines = textwrap.wrap(f"{words[claim]}; {100 * level:.3g} % interval", 46)
        names.append("\n".join([claim, *lines]))
    height = 1.4 + max(0.62, 0.2 * max(name.count("\n") + 1 for name in names)) * len(names)
    figure = Figure(figsize=(12, height), layout="constrained")
    ax = plotting.interval_plot(
        names,
        found["mean"].values,
        found.low.values,
        found.high.values,
        margins=found.smallest.values,
        normalize=True,
        ax=figure.subplots(),
        xlabel="difference between AE and VAE in the claim's direction / smallest difference of interest\n"
        "bars: t intervals over seeds, each at the level that Holm's procedure gives it (named beside the claim)",
        title="main: holds where wholly right of the shade, does not hold where wholly left of its right edge",
    )
    ax.tick_params(axis="y", labelsize=9)
    return figure
