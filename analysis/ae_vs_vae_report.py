"""The tables of `ae_vs_vae.py`: numbers in, text and CSV out. Nothing is trained or measured here."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import pyrovae
from pyrovae.data import Dataset

# heading, then statistic, label, and where it has dimensions of its own; * marks a claim's primary metric
GROUPS: dict[str, list[tuple[str, str, dict[str, str]]]] = {
    "separation (codes whitened by the model's own training codes)": [
        ("knn_accuracy", "* accuracy of 10 nearest neighbours", {}),
        ("silhouette", "  silhouette", {}),
        ("draws_knn_accuracy", "  accuracy, one random draw of q(z|x) an item", {}),
        ("draws_silhouette", "  silhouette, one random draw an item", {}),
    ],
    "crispness (of test reconstructions)": [
        ("laplacian_ratio", "* variance of the Laplacian / real images'", {}),
        ("samples_laplacian_ratio", "  the same for samples, law (i)", {}),
        ("high_frequency_share", "  high-frequency power share", {"source": "images"}),
        ("samples_high_frequency_share", "  the same for samples, law (i)", {"source": "images"}),
        ("high_frequency_share", "  the same for the real images", {"source": "reference"}),
        ("squared_error", "  squared error per item, pixel^2", {}),
        ("r2", "  R2", {}),
        ("judge_accuracy", "  the judge's accuracy", {}),
    ],
    "smoothness (500 pairs of test items, 64 steps)": [
        ("largest_step_share_median", "* largest step / path, median (1/64 = 0.0156)", {}),
        ("largest_step_share_mean", "  the same, mean", {}),
        ("path_ratio_median", "  path / end-to-end distance, median", {}),
        ("label_switches_mean", "  label switches on the way, by the judge", {}),
        ("displacement_ratio", "  moved by 0.05: 95 % quantile / median", {}),
        ("num_dropped", "  pairs dropped, ends closer than 1e-3", {}),
    ],
    "holes (law (i) fitted Gaussian, (ii) box, (iii) N(0, I): for the AE shown, no verdict)": [
        ("hole_fraction", "* hole fraction, law (i)", {"law": "gaussian"}),
        ("hole_fraction", "  hole fraction, law (ii)", {"law": "box"}),
        ("hole_fraction", "  hole fraction, law (iii)", {"law": "prior"}),
        ("base_rate", "  base rate: test reconstructions", {}),
        ("control_fraction", "  control: averages of two digits", {}),
        ("coverage", "  coverage, law (i)", {"law": "gaussian"}),
        ("coverage", "  coverage, law (ii)", {"law": "box"}),
        ("coverage", "  coverage, law (iii)", {"law": "prior"}),
        ("pixel_hole_fraction", "  hole fraction in pixel RMSE, law (i)", {"law": "gaussian"}),
        ("pixel_hole_fraction", "  hole fraction in pixel RMSE, law (ii)", {"law": "box"}),
        ("pixel_hole_fraction", "  hole fraction in pixel RMSE, law (iii)", {"law": "prior"}),
        ("pixel_control_fraction", "  control in pixel RMSE", {}),
    ],
    "aggregate code against N(0, I) (VAE: one draw an item; AE: its codes)": [
        ("sliced_w2_excess", "* sliced W2, the sample's size taken out, raw", {"codes": "raw"}),
        ("sliced_w2_excess", "  the same, whitened", {"codes": "whitened"}),
        ("sliced_w2", "  sliced W2, raw", {"codes": "raw"}),
        ("sliced_w2_null", "    up to this in 97.5 % of Gaussian samples", {"codes": "raw", "edge": "high"}),
        ("sliced_w2", "  sliced W2, whitened", {"codes": "whitened"}),
        ("sliced_w2_null", "    up to this in 97.5 % of Gaussian samples", {"codes": "whitened", "edge": "high"}),
        ("energy_distance", "  energy distance, raw", {"codes": "raw"}),
        ("energy_distance", "  energy distance, whitened", {"codes": "whitened"}),
        ("ks_max", "  normal CDF of raw codes: KS to uniform", {"codes": "raw"}),
        ("ks_max_null", "    up to this in 97.5 % of Gaussian samples", {"codes": "raw", "edge": "high"}),
        ("rate", "  rate, nats per item", {}),
        ("mutual_information", "  I(x; z), nats", {}),
        ("kl_aggregate", "  KL(q(z) || p(z)), nats; infinite for an AE", {}),
        ("elbo", "  ELBO, nats per item", {}),
        ("active_units", "  active units of 2", {}),
        ("scale", "  the likelihood's scale", {}),
    ],
}


def report(
    options: Any,
    data: Dataset,
    judge: pyrovae.Judge,
    arms: dict[str, Any],
    results: xr.Dataset,
    pca: xr.Dataset,
    verdicts: dict[str, xr.Dataset],
    claims: list[Any],
) -> tuple[str, str]:
    """The summary that is printed, and the tables of every arm."""
    lines = _setting(options, data, judge, arms, results)
    if "main" in verdicts:
        lines += _main_verdicts(results.sel(arm="main"), verdicts["main"], claims)
    others = [arm for arm in verdicts if arm != "main"]
    if others:
        lines += _other_verdicts(results, verdicts, others, claims)
    lines += _budget_tables(arms, results)
    lines += _pca_table(pca, results)
    tables = [line for arm in verdicts for line in _arm_table(results.sel(arm=arm), f"[{arm}]")]
    if "main" in verdicts:
        lines += _arm_table(results.sel(arm="main"), "main, every statistic")
    return "\n".join(lines), "\n".join(tables)


def _setting(options: Any, data: Dataset, judge: pyrovae.Judge, arms: dict[str, Any], results: xr.Dataset) -> list[str]:
    accuracy, pixels = judge.accuracy(data.test.x[:], data.test.y), math.prod(data.event_shape)
    lines = [
        str(data),
        f"AE and VAE: {options.network} network, 2-D code, Adam {options.learning_rate:g}, batches of "
        f"{options.batch_size}; {results.sizes['seed']} seeds.",
        f"The judge's accuracy on the real test images is {float(accuracy.accuracy):.4f} ± "
        f"{float(accuracy.accuracy_se):.4f}.",
        "Intervals are t intervals over seeds: they hold for this split, these test items and this judge, and verdicts",
        "for these budgets:",
    ]
    says = {
        "main": f"Normal(scale {{scale}}) = sqrt({pixels} / 2000): the post's 1,000 x pixel-mean squared error",
        "seed_scale": f"Normal(scale 0.626), the post's at 784 pixels; at {pixels} it weighs the image "
        f"{784 / pixels:.0f} times less",
        "learned": "Normal with a learned scale",
        "few_updates": "main with few images, as many updates",
        "few_epochs": "main with few images, the post's epochs",
    }
    for name, budget in arms.items():
        text = says[name].format(scale=budget.scale)
        lines.append(f"  {name:12s}{text}; {budget.items:,} images, {budget.epochs} epochs, {budget.updates:,} updates")
        settled = _levelled(options.out, name, results.seed.values)
        lines += [f"  {'':12s}{settled}"] if settled else []
        if "active_units" in results and name in ("main", "seed_scale", "learned"):
            collapsed = _collapsed(results.sel(arm=name))
            lines += [f"  {'':12s}the VAE's code has collapsed in {collapsed} seeds"] if collapsed else []
    return lines


def _collapsed(row: xr.Dataset) -> int:
    return int((row.active_units.sel(model="vae").values < 2).sum())


def _main_verdicts(row: xr.Dataset, found: xr.Dataset, claims: list[Any]) -> list[str]:
    header = f"{'claim of the post':44s} {'AE':>8s} {'VAE':>8s}  {'effect, as claimed':36s} {'needs >':>7s}  verdict"
    lines = ["", "MAIN: the post's claims, each by one metric fixed beforehand; Holm over the six", header]
    for claim in claims:
        if claim.says not in found.claim:
            lines.append(f"{claim.says:44s} not defined: the VAE's code collapsed")
            continue
        v = found.sel(claim=claim.says)
        values = ["", ""]
        if claim.metric in row and claim.effect != "real - PCA":
            value = row[claim.metric].sel(dict(claim.where)).mean("seed")
            alone = claim.effect == "- VAE"
            values = ["" if alone and m == "ae" else f"{float(value.sel(model=m)):.4f}" for m in ("ae", "vae")]
        interval = f"{float(v['mean']):.4f} [{float(v.low):.4f}, {float(v.high):.4f}] {claim.effect}"
        needs = f"{float(v.smallest):g}"
        lines.append(
            f"{claim.says:44s} {values[0]:>8s} {values[1]:>8s}  {interval:36s} {needs:>7s}  {_words(v, row, claim)}"
        )
    return lines


def _words(v: xr.Dataset, row: xr.Dataset, claim: Any) -> str:
    """The verdict, and what it must not be taken for."""
    verdict, low, high = str(v.verdict.values), float(v.low), float(v.high)
    words = verdict.upper()
    if verdict == "does not hold" and claim.smallest > 0:
        if low > 0:
            words += " (an effect the claimed way, but smaller than of interest)"
        elif high < 0:
            words += " (the other way round)"
    if claim.metric == "hole_fraction":
        failed = int((row.control_fraction.values <= row.hole_fraction.sel(law="gaussian").values).any(axis=-1).sum())
        words += f" (void: the control failed in {failed} seeds)" if failed else ""
    collapsed = _collapsed(row)
    if collapsed and claim.effect != "real - PCA":
        words += f" (collapsed in {collapsed} of {row.sizes['seed']} seeds: says little)"
    return words


def _other_verdicts(
    results: xr.Dataset, verdicts: dict[str, xr.Dataset], others: list[str], claims: list[Any]
) -> list[str]:
    lines = ["", "OTHER ARMS: the same claims, for robustness"]
    for arm in others:
        for claim in claims:
            if claim.says in verdicts[arm].claim:
                v = verdicts[arm].sel(claim=claim.says)
                words = _words(v, results.sel(arm=arm), claim)
                interval = f"{float(v['mean']):.4f} [{float(v.low):.4f}, {float(v.high):.4f}] {claim.effect}"
                lines.append(f"  {arm:11s} {claim.says:43s} {interval:40s} {words}")
    return lines


def _budget_tables(arms: dict[str, Any], results: xr.Dataset) -> list[str]:
    """The post set an AE of few images beside a VAE of all: how much of 'crisper' is the data, how much the model."""
    lines: list[str] = []
    for few, says in (("few_updates", "equal updates"), ("few_epochs", "the post's epochs for few images")):
        if few not in arms or "main" not in arms:
            continue
        crisp = {
            (arm, m): results.laplacian_ratio.sel(arm=arm, model=m).values
            for arm in (few, "main")
            for m in ("ae", "vae")
        }
        lines += ["", f"CRISPER BY DATA OR BY MODEL, {says}: variance of the Laplacian / real images'"]
        for arm in (few, "main"):
            cells = "   ".join(
                f"{m.upper()} {crisp[arm, m].mean():.4f} ± {_sd(crisp[arm, m]):.4f}" for m in ("ae", "vae")
            )
            lines.append(f"  {arms[arm].items:6,} images, {arms[arm].updates:6,} updates: {cells}")
        same = abs(arms[few].updates / arms["main"].updates - 1) < 0.01
        data = "the data" if same else "the data, and with it the updates"
        for name, values in {
            "the post's contrast: VAE of all - AE of few": crisp["main", "vae"] - crisp[few, "ae"],
            f"{data}: AE of all - AE of few": crisp["main", "ae"] - crisp[few, "ae"],
            "the model: VAE of all - AE of all": crisp["main", "vae"] - crisp["main", "ae"],
            f"{data}, for the VAE: VAE of all - VAE of few": crisp["main", "vae"] - crisp[few, "vae"],
        }.items():
            mean, low, high = pyrovae.paired_interval(values)
            lines.append(f"    {name:74s} {mean:8.4f} [{low:8.4f}, {high:8.4f}]")
    return lines


def _pca_table(pca: xr.Dataset, results: xr.Dataset) -> list[str]:
    lines = ["", "PCA beside them             R2   squared error   Laplacian / real   judge's accuracy lost"]
    for k in pca.components.values:
        row = pca.sel(components=k)
        lost = f"{float(row.lost):.4f} [{float(row.lost_low):.4f}, {float(row.lost_high):.4f}] over test items"
        lines.append(
            f"  PCA, {k:2d} components    {float(row.r2):7.3f} {float(row.squared_error):15.4f} "
            f"{float(row.laplacian_ratio):18.4f}   {lost}"
        )
    if "main" in results.arm:
        for model in ("ae", "vae"):
            row = results.sel(arm="main", model=model).mean("seed")
            lines.append(
                f"  {model.upper():3s}, 2-D code, main    {float(row.r2):7.3f} {float(row.squared_error):15.4f} "
                f"{float(row.laplacian_ratio):18.4f}"
            )
    return lines


def _arm_table(row: xr.Dataset, title: str) -> list[str]:
    lines = ["", f"{title:50s} {'AE ± sd of seeds':>18s} {'VAE ± sd':>18s}   {'AE - VAE, 95 % t interval':>28s}"]
    for heading, rows in GROUPS.items():
        lines.append(heading)
        for name, label, where in rows:
            if name in row:
                lines.append(f"  {label:48s} {_cells(row[name].sel(where))}")
    lines.append("accuracy of 10 nearest neighbours by class, AE / VAE")
    by_class = row.knn_accuracy_label.mean("seed")
    cells = [
        f"{c}: {float(by_class.sel(label=c, model='ae')):.2f} / {float(by_class.sel(label=c, model='vae')):.2f}"
        for c in row.label.values
    ]
    return [*lines, *(f"  {'   '.join(cells[i : i + 5])}" for i in range(0, len(cells), 5))]


def _cells(values: xr.DataArray) -> str:
    ae, vae = (values.sel(model=m).values.astype(float) for m in ("ae", "vae"))
    shown = []
    for v in (ae, vae):
        there = v[np.isfinite(v)]
        text = f"{there.mean():9.4f} ± {_sd(there):6.4f}" if len(there) else "-"
        shown.append(text + (f" ({len(there)} seeds)" if 0 < len(there) < len(v) else ""))
    both = np.isfinite(ae) & np.isfinite(vae)
    difference = ""
    if both.all() and not ("law" in values.coords and values.law == "prior"):
        mean, low, high = pyrovae.paired_interval(ae - vae)
        difference = f"{mean:8.4f} [{low:8.4f}, {high:8.4f}]"
    return f"{shown[0]:>18s} {shown[1]:>18s}   {difference:>28s}"


def _levelled(folder: Path, arm: str, seeds: np.ndarray) -> str:
    words = []
    for kind in ("ae", "vae"):
        slopes, settled = [], []
        for seed in seeds:
            epochs = xr.load_dataset(folder / "pairs" / f"seed{seed}-{arm}-{kind}.nc", engine="h5netcdf")
            if "validation_elbo" in epochs and epochs.sizes["epoch"] >= 10:
                done, slope = pyrovae.History(epochs).levelled_off()
                settled.append(done)
                slopes.append(slope)
        if settled:
            words.append(
                f"{kind.upper()} levelled off in {sum(settled)} of {len(settled)} seeds, "
                f"rising {np.mean(slopes):.3f} nats an epoch"
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
                    units = array.attrs.get("units", "")
                    table.writerow([at["seed"], at["arm"], at["model"], name, where, value, units])
