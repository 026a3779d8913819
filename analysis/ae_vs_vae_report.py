"""The tables and figures of `ae_vs_vae.py`: numbers in, text and PNG files out. Nothing is trained or measured here."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

import pyrovae
from pyrovae import plotting
from pyrovae.data import Dataset

# statistic, its own label, its unit, and where it has a dimension
ROWS = [
    ("knn_accuracy", "10 nearest neighbours, accuracy", {}),
    ("silhouette", "silhouette of the codes", {}),
    ("draws_knn_accuracy", "the same accuracy, random draws of q(z|x)", {}),
    ("laplacian_ratio", "variance of Laplacian / real, reconstructions", {}),
    ("samples_laplacian_ratio", "variance of Laplacian / real, samples", {}),
    ("high_frequency_share", "high-frequency power share, reconstructions", {"source": "images"}),
    ("squared_error", "squared error per item, pixel^2", {}),
    ("r2", "R2 of reconstructions", {}),
    ("judge_accuracy", "judge's accuracy on reconstructions", {}),
    ("largest_step_share_median", "largest step / path (1/64 is even)", {}),
    ("path_ratio_median", "path length / end-to-end distance", {}),
    ("label_switches_mean", "label switches on the way", {}),
    ("displacement_ratio", "small moves, 95 % quantile / median", {}),
    ("hole_fraction", "holes, law (i) fitted Gaussian", {"law": "gaussian"}),
    ("hole_fraction", "holes, law (ii) box", {"law": "box"}),
    ("hole_fraction", "holes, law (iii) N(0, I); AE: shown, no verdict", {"law": "prior"}),
    ("control_fraction", "control: averages of two digits that are holes", {}),
    ("coverage", "coverage, law (i)", {"law": "gaussian"}),
    ("coverage", "coverage, law (ii)", {"law": "box"}),
    ("coverage", "coverage, law (iii); AE: shown, no verdict", {"law": "prior"}),
    ("pixel_hole_fraction", "holes in pixel RMSE, law (i)", {"law": "gaussian"}),
    ("sliced_w2", "sliced W2 to N(0, I), raw", {"codes": "raw"}),
    ("sliced_w2", "sliced W2 to N(0, I), whitened", {"codes": "whitened"}),
    ("energy_distance", "energy distance to N(0, I), whitened", {"codes": "whitened"}),
    ("ks_max", "KS of the normal CDF of raw codes", {"codes": "raw"}),
    ("rate", "rate, nats per item", {}),
    ("mutual_information", "I(x; z), nats", {}),
    ("kl_aggregate", "KL(q(z) || p(z)), nats; AE: infinite", {}),
    ("elbo", "ELBO on the test items, nats per item", {}),
    ("active_units", "active units of 2", {}),
    ("scale", "likelihood's scale", {}),
]


def print_report(
    options: Any,
    data: Dataset,
    judge: pyrovae.Judge,
    results: xr.Dataset,
    pca: xr.Dataset,
    verdicts: dict[str, xr.Dataset],
    claims: list[Any],
) -> None:
    """Every table of the study."""
    accuracy = judge.accuracy(data.test.x, data.test.y)
    seeds = results.sizes["seed"]
    print(
        f"{data}\n{options.network} networks with a 2-D code, {options.epochs} epochs, batches of {options.batch_size},"
    )
    print(
        f"Adam {options.learning_rate:g}; {seeds} seeds. Judge: accuracy {float(accuracy.accuracy):.4f} on test images."
    )
    for arm in results.arm.values:
        _arm_table(options, results.sel(arm=arm), str(arm))
        if arm in verdicts:
            _verdict_table(verdicts[str(arm)], results.sel(arm=arm), str(arm), claims)
    _budget_table(results, options)
    print("\nPCA                 R2    RMSE   judge's accuracy   Laplacian / real")
    for k in pca.components.values:
        row = pca.sel(components=k)
        print(
            f"{k:4d} components  {float(row.r2):6.3f}  {float(row.rmse):6.4f}  {float(row.judge_accuracy):12.4f}"
            f"  {float(row.laplacian_ratio):17.3f}"
        )


def _arm_table(options: Any, row: xr.Dataset, arm: str) -> None:
    print(f"\n[{arm}]  {_levelled(options.out, arm, row.seed.values)}")
    print(f"{'mean over seeds ± sd':50s} {'AE':>18s} {'VAE':>18s}   {'AE - VAE, 95 % t interval':>28s}")
    for name, label, where in ROWS:
        if name not in row:
            continue
        ae, vae = (row[name].sel({**where, "model": m}).values.astype(float) for m in ("ae", "vae"))
        shown = [f"{v.mean():9.4f} ± {_sd(v):6.4f}" if np.isfinite(v).all() else "-" for v in (ae, vae)]
        difference = ""
        if np.isfinite(ae).all() and np.isfinite(vae).all() and "no verdict" not in label:
            mean, low, high = pyrovae.paired_interval(ae - vae)
            difference = f"{mean:8.4f} [{low:8.4f}, {high:8.4f}]"
        print(f"{label:50s} {shown[0]:>18s} {shown[1]:>18s}   {difference:>28s}")
    if "sliced_w2_null" in row:
        band = row.sliced_w2_null.sel(codes="raw", model="vae").isel(seed=0).values
        print(f"{'  null band of sliced W2, 200 Gaussian samples':50s} {band[0]:.4f} to {band[1]:.4f}")
    print("accuracy by class, " + "; ".join(f"{label}: {_by_class(row, label)}" for label in row.label.values))


def _by_class(row: xr.Dataset, label: Any) -> str:
    values = row.knn_accuracy_label.sel(label=label).mean("seed")
    return f"{float(values.sel(model='ae')):.2f} / {float(values.sel(model='vae')):.2f}"


def _verdict_table(found: xr.Dataset, row: xr.Dataset, arm: str, claims: list[Any]) -> None:
    print(f"verdicts [{arm}], effect signed so that the claim says it is large, intervals at Holm's levels:")
    for name in found.claim.values:
        v = found.sel(claim=name)
        units = "items" if int(v.replicates) > row.sizes["seed"] else "seeds"
        print(
            f"  {str(v.verdict.values).upper():14s} {name}: {float(v['mean']):.4f} "
            f"[{float(v.low):.4f}, {float(v.high):.4f}] against {float(v.smallest):g} "
            f"(level {float(v.level):.3f}, {int(v.replicates)} {units})"
        )


def _budget_table(results: xr.Dataset, options: Any) -> None:
    """The post set an AE of few images beside a VAE of all: how much of 'crisper' is the data, how much the model."""
    crisp = results.laplacian_ratio
    for few, says in (
        ("few_updates", "equal numbers of updates"),
        ("few_epochs", f"the post's {options.post_epochs} epochs"),
    ):
        if few not in results.arm or "main" not in results.arm:
            continue

        def cell(arm: str, model: str) -> np.ndarray:
            return crisp.sel(arm=arm, model=model).values

        print(f"\ncrispness by budget, {options.few:,} images at {says}, all images at {options.epochs} epochs")
        for arm in (few, "main"):
            text = "  ".join(f"{m.upper()} {cell(arm, m).mean():.4f} ± {_sd(cell(arm, m)):.4f}" for m in ("ae", "vae"))
            print(f"  {'few' if arm == few else 'all'} images: {text}")
        parts = {
            "the post's contrast, VAE of all - AE of few": cell("main", "vae") - cell(few, "ae"),
            "  of it the data, AE of all - AE of few": cell("main", "ae") - cell(few, "ae"),
            "  of it the model, VAE of all - AE of all": cell("main", "vae") - cell("main", "ae"),
            "the data for the VAE, VAE of all - VAE of few": cell("main", "vae") - cell(few, "vae"),
        }
        for name, values in parts.items():
            mean, low, high = pyrovae.paired_interval(values)
            print(f"  {name:48s} {mean:8.4f} [{low:8.4f}, {high:8.4f}]")


def _levelled(folder: Path, arm: str, seeds: np.ndarray) -> str:
    words = []
    for kind in ("ae", "vae"):
        slopes, settled = [], []
        for seed in seeds:
            epochs = xr.load_dataset(folder / "pairs" / f"seed{seed}-{arm}-{kind}.nc", engine="h5netcdf")
            if "validation_elbo" not in epochs or epochs.sizes["epoch"] < 5:
                continue
            done, slope = pyrovae.History(epochs).levelled_off()
            settled.append(done)
            slopes.append(slope)
        if settled:
            words.append(
                f"{kind.upper()} levelled off in {sum(settled)} of {len(settled)} seeds "
                f"({np.mean(slopes):+.3f} nats an epoch)"
            )
    return "; ".join(words)


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def write_csv(results: xr.Dataset, file: Path) -> None:
    """Every number, a row each: seed, arm, model, statistic, where in its own dimensions, value, units."""
    with file.open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["seed", "arm", "model", "statistic", "at", "value", "units"])
        for name, array in results.data_vars.items():
            own = [d for d in array.dims if d not in ("seed", "arm", "model")]
            flat = array.stack(cell=array.dims)
            for value, cell in zip(flat.values, flat.cell.values, strict=True):
                if np.isfinite(value):
                    at = dict(zip(array.dims, cell, strict=True))
                    where = ";".join(f"{d}={at[d]}" for d in own)
                    table.writerow(
                        [at["seed"], at["arm"], at["model"], name, where, value, array.attrs.get("units", "")]
                    )


def figures(
    options: Any,
    data: Dataset,
    results: xr.Dataset,
    verdicts: dict[str, xr.Dataset],
    trained: Callable[..., Any],
    budgets: Callable[..., Any],
) -> None:
    """The post's figures from seed 0's main arm, and the study's own."""
    budget = next(b for b in budgets(options, data, 0) if b.arm == "main")
    pairs = {kind.upper(): trained(kind, budget, data, options.out) for kind in ("ae", "vae")}
    x, y = data.test.x[:], data.test.y
    classes = np.unique(y.numpy())
    first = np.concatenate([np.flatnonzero(y.numpy() == c)[:1] for c in classes])[:10]
    with torch.no_grad():
        codes = {name: pyrovae.encoded(pair, x) for name, pair in pairs.items()}
        sheets: dict[str, Figure] = {}
        sheets["reconstructions"] = plotting.reconstructions(
            x[first],
            {name: pairs[name].decode(codes[name][first]) for name in pairs},
            {name: codes[name][first] for name in pairs},
            labels=y[first],
        )
        latent = Figure(figsize=(15, 5), layout="constrained")
        panels = latent.subplots(1, 3)
        for ax, name in zip(panels, pairs, strict=False):
            plotting.latent_scatter(codes[name], y, ax=ax, title=f"{name}: codes of the test items", legend=False)
        plotting.cdf_scatter(codes["VAE"], y, ax=panels[2], title="VAE: normal CDF of the codes", legend=True)
        sheets["latent"] = latent
        grids = {"AE": plotting.box_grid(codes["AE"]), "VAE": plotting.normal_quantile_grid()}
        titles = {"AE": "AE: grid over its codes' box", "VAE": "VAE: grid on the normal quantiles"}
        for name, pair in pairs.items():
            sheets[f"grid_{name.lower()}"] = plotting.grid_over_scatter(
                codes[name], y, grids[name], pair.decode(torch.as_tensor(grids[name])), title=titles[name]
            )
        walks = Figure(figsize=(12, 5), layout="constrained")
        ends = np.array([(first[i], first[i + 1]) for i in range(0, len(first) - 1, 2)])
        steps = torch.linspace(0, 1, 11)[None, :, None]
        for ax, (name, pair) in zip(walks.subplots(1, 2), pairs.items(), strict=True):
            a, b = codes[name][ends[:, 0]][:, None], codes[name][ends[:, 1]][:, None]
            plotting.interpolations(
                pair.decode(a + steps * (b - a)), ax=ax, title=f"{name}: from one test item to another"
            )
        sheets["interpolations"] = walks
        samples = Figure(figsize=(12, 6), layout="constrained")
        for ax, (name, pair) in zip(samples.subplots(1, 2), pairs.items(), strict=True):
            drawn = torch.distributions.MultivariateNormal(codes[name].mean(0), codes[name].T.cov())
            with torch.random.fork_rng():
                torch.manual_seed(0)
                images = pair.decode(drawn.sample((100,)))
            plotting.sample_sheet(
                images, n_cols=10, ax=ax, title=f"{name}: codes from the Gaussian fitted to its codes"
            )
        sheets["samples"] = samples
        sheets |= _posts_own(pairs, codes, x, y)
    sheets["claims"] = _claims_figure(verdicts["main"]) if "main" in verdicts else Figure()
    by_class = {m.upper(): results.sel(arm="main", model=m).knn_accuracy_label for m in ("ae", "vae")}
    spread = {name: 1.96 * v.std("seed", ddof=1).values / math.sqrt(v.sizes["seed"]) for name, v in by_class.items()}
    sheets["per_class"] = plotting.per_class(
        {name: v.mean("seed").values for name, v in by_class.items()},
        errors=spread if results.sizes["seed"] > 1 else None,
        classes=[str(c) for c in classes],
        ylabel="accuracy of 10 nearest neighbours (± 1.96 se over seeds)",
        title="which digits each code separates",
    ).figure
    curves = Figure(figsize=(7, 4.5), layout="constrained")
    history = {
        name: xr.load_dataset(options.out / "pairs" / f"seed0-main-{name.lower()}.nc", engine="h5netcdf")
        for name in pairs
    }
    plotting.learning_curve(
        history["AE"].epoch.values + 1,
        {
            "AE: E log p(x | z)": history["AE"].validation_elbo.values,
            "VAE: ELBO": history["VAE"].validation_elbo.values,
        },
        ax=curves.subplots(),
        title="test items during training, seed 0",
    )
    sheets["learning_curves"] = curves
    for name, figure in sheets.items():
        figure.savefig(options.out / f"{name}.png", dpi=120)
    write_csv(results, options.out / "results.csv")


def _claims_figure(found: xr.Dataset) -> Figure:
    paired = found.isel(claim=slice(0, 4))
    names = [f"{n}\n({v})" for n, v in zip(paired.claim.values, paired.verdict.values, strict=True)]
    figure = Figure(figsize=(11, 4), layout="constrained")
    plotting.interval_plot(
        names,
        paired["mean"].values,
        paired.low.values,
        paired.high.values,
        margins=paired.smallest.values,
        ax=figure.subplots(),
        xlabel="difference in the claim's direction / smallest of interest",
        title="main arm: a claim holds where its interval lies to the right of the shade",
    )
    return figure


def _posts_own(pairs: dict[str, Any], codes: dict[str, Any], x: Any, y: Any) -> dict[str, Figure]:
    """What the post plotted, named as such: random draws instead of means, and a different grid for each model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = torch.cat([pairs["VAE"].posterior(part).sample() for part in x.split(1024)])
    figure = Figure(figsize=(15, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    plotting.latent_scatter(draws, y, ax=left, title="as the post: random draws of the VAE's encoder", legend=False)
    plotting.cdf_scatter(draws, y, ax=middle, title="as the post: their normal CDF", legend=False)
    plotting.latent_scatter(codes["AE"], y, ax=right, title="as the post: AE codes", legend=False)
    grid = plotting.post_ae_grid()
    return {
        "post_draws": figure,
        "post_grid_ae": plotting.grid_over_scatter(
            codes["AE"],
            y,
            grid,
            pairs["AE"].decode(torch.as_tensor(grid)),
            title="as the post: -5..10 by -5..6 for the AE",
        ),
    }
