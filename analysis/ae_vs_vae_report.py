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


# what a contrast of budgets is of; {data} stands for the data alone, or the data and the updates with it
CONTRASTS = {
    "VAE of all - AE of few": "the post's contrast",
    "AE of all - AE of few": "{data}",
    "VAE of all - AE of all": "the model",
    "VAE of all - VAE of few": "{data}, for the VAE",
}


def report(
    options: Any,
    data: Dataset,
    arms: dict[str, Any],
    results: xr.Dataset,
    verdicts: dict[str, xr.Dataset],
    claims: list[Any],
) -> tuple[str, str]:
    """The summary that is printed, and the tables of every arm."""
    lines = _setting(options, data, arms, results)
    if "main" in verdicts:
        lines += _main_verdicts(results.sel(arm="main"), verdicts["main"], claims)
    others = [arm for arm in verdicts if arm != "main"]
    if others:
        lines += _other_verdicts(results, verdicts, others, claims)
    lines += _budget_tables(arms, results)
    lines += _pca_table(results, claims)
    tables = [line for arm in verdicts for line in _arm_table(results.sel(arm=arm), f"[{arm}]")]
    if "main" in verdicts:
        lines += _arm_table(results.sel(arm="main"), "main, every statistic")
    return "\n".join(lines), "\n".join(tables)


def worded(row: xr.Dataset, found: xr.Dataset, claims: list[Any]) -> dict[str, str]:
    """The verdict on each claim, with what it must not be taken for."""
    return {c.says: _words(found.sel(claim=c.says), row, c) for c in claims if c.says in found.claim}


def _setting(options: Any, data: Dataset, arms: dict[str, Any], results: xr.Dataset) -> list[str]:
    pixels = math.prod(data.event_shape)
    lines = [
        str(data),
        f"AE and VAE: {options.network} network, 2-D code, Adam {options.learning_rate:g}, batches of "
        f"{options.batch_size}; {results.sizes['seed']} seeds.",
        f"The judge's accuracy on the real test images is {float(results.judge_real_accuracy):.4f} ± "
        f"{float(results.judge_real_accuracy_se):.4f}.",
        "Intervals are t intervals over seeds, but PCA's, which are over test items: they hold for this split, these",
        "test items and this judge, and verdicts for these budgets:",
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
        lines.append(f"  {'':12s}{_levelled(results.sel(arm=name))}")
        if "active_units" in results and name in ("main", "seed_scale", "learned"):
            collapsed = _collapsed(results.sel(arm=name))
            lines += (
                [f"  {'':12s}the VAE's code has collapsed in {collapsed} of {results.sizes['seed']} seeds"]
                if collapsed
                else []
            )
    return lines


def _collapsed(row: xr.Dataset) -> int:
    return int((row.active_units.sel(model="vae").values < 2).sum())


def _main_verdicts(row: xr.Dataset, found: xr.Dataset, claims: list[Any]) -> list[str]:
    lines = [
        "",
        f"MAIN: the post's claims, each by one metric fixed beforehand; Holm over {found.sizes['claim']} claims sets "
        "each interval's level",
        f"{'claim of the post':44s} {'AE':>8s} {'VAE':>8s}  {'effect, as claimed':46s} {'needs >':>7s}  verdict",
    ]
    for claim in claims:
        if claim.says not in found.claim:
            lines.append(f"{claim.says:44s} not defined: {_undefined(row, claim)}")
            continue
        v = found.sel(claim=claim.says)
        ae, vae = _both(row, claim)
        lines.append(
            f"{claim.says:44s} {ae:>8s} {vae:>8s}  {_interval(v, claim):46s} {float(v.smallest):7g}  "
            f"{_words(v, row, claim)}"
        )
    return lines


def _both(row: xr.Dataset, claim: Any) -> list[str]:
    """The models' means over the seeds that the effect is taken over, empty for a model that it does not need."""
    needed = _needed(claim)
    if not needed:
        return ["", ""]
    value = row[claim.metric].sel(dict(claim.where))
    common = np.isfinite(value.sel(model=needed)).all("model")
    means = value.where(common).mean("seed")
    return [f"{float(means.sel(model=m)):.4f}" if m in needed else "" for m in ("ae", "vae")]


def _needed(claim: Any) -> list[str]:
    """The models that a claim's effect is made of."""
    return {"- VAE": ["vae"], "real - PCA": []}.get(claim.effect, ["ae", "vae"])


def _undefined(row: xr.Dataset, claim: Any) -> str:
    value = row[claim.metric].sel(dict(claim.where))
    absent = {m: int((~np.isfinite(value.sel(model=m).values)).sum()) for m in _needed(claim)}
    return ", ".join(f"the {m.upper()} has no value in {n} of {row.sizes['seed']}" for m, n in absent.items() if n)


def _interval(v: xr.Dataset, claim: Any) -> str:
    interval = f"{float(v['mean']):.4f} {_between(float(v.low), float(v.high))}"
    level = f" at {100 * float(v.level):.3g} %" if np.isfinite(v.low) else ""
    return f"{interval}{level}, {claim.effect}"


def _words(v: xr.Dataset, row: xr.Dataset, claim: Any) -> str:
    """The verdict, and what it must not be taken for."""
    verdict, low, high = str(v.verdict.values), float(v.low), float(v.high)
    words = verdict.upper()
    if verdict == "does not hold" and claim.smallest > 0:
        if low > 0:
            words += " (an effect the claimed way, but smaller than of interest)"
        elif high < 0:
            words += " (the other way round)"
    replicates, seeds = int(v.replicates), row.sizes["seed"]
    if claim.effect == "real - PCA":
        components = int(row.components.max())
        return f"{words} ({components} components, the most tried; interval over {replicates} test items, not seeds)"
    if claim.metric == "hole_fraction":
        failed = int((row.control_fraction <= row.hole_fraction.sel(law="gaussian")).any("model").sum())
        words += f" (void: the control failed in {failed} of {seeds} seeds)" if failed else ""
    if replicates < seeds:
        words += f" (from {replicates} of {seeds} seeds: {_undefined(row, claim)})"
    collapsed = _collapsed(row)
    if collapsed:
        words += f" (collapsed in {collapsed} of {seeds} seeds: says little)"
    return words


def _other_verdicts(
    results: xr.Dataset, verdicts: dict[str, xr.Dataset], others: list[str], claims: list[Any]
) -> list[str]:
    lines = ["", "OTHER ARMS: the same claims, for robustness"]
    for arm in others:
        found, row = verdicts[arm], results.sel(arm=arm)
        lines.append(f"  {arm}: Holm over {found.sizes['claim']} claims")
        for claim in claims:
            if claim.says in found.claim:
                v = found.sel(claim=claim.says)
                lines.append(f"    {claim.says:43s} {_interval(v, claim):46s} {_words(v, row, claim)}")
            elif _needed(claim):  # PCA's stands in main's alone
                lines.append(f"    {claim.says:43s} not defined: {_undefined(row, claim)}")
    return lines


def _budget_tables(arms: dict[str, Any], results: xr.Dataset) -> list[str]:
    """The post set an AE of few images beside a VAE of all: how much of 'crisper' is the data, how much the model."""
    lines: list[str] = []
    for few, says in (("few_updates", "equal updates"), ("few_epochs", "the post's epochs for few images")):
        if few not in arms or "main" not in arms:
            continue
        lines += ["", f"CRISPER BY DATA OR BY MODEL, {says}: variance of the Laplacian / real images', ± sd of seeds"]
        for arm in (few, "main"):
            ratios = {m: results.laplacian_ratio.sel(arm=arm, model=m).values for m in ("ae", "vae")}
            cells = "   ".join(f"{m.upper()} {_spread(v)}" for m, v in ratios.items())
            lines.append(f"  {arms[arm].items:6,} images, {arms[arm].updates:6,} updates: {cells}")
        same = abs(arms[few].updates / arms["main"].updates - 1) < 0.01
        data = "the data" if same else "the data, and with it the updates"
        lines.append("  differences, 95 % t intervals over seeds")
        for contrast, of in CONTRASTS.items():
            at = results.sel(arm=few, contrast=contrast)
            name = f"{of.format(data=data)}: {contrast}"
            interval = _between(float(at.crisper_low), float(at.crisper_high), width=8)
            lines.append(f"    {name:74s} {float(at.crisper_mean):8.4f} {interval}")
    return lines


def _pca_table(results: xr.Dataset, claims: list[Any]) -> list[str]:
    needs = next(c.smallest for c in claims if c.effect == "real - PCA")
    lines = [
        "",
        f"PCA BESIDE THEM. PCA is one fit: ± standard error over test items, R2 without. AE and VAE: ± sd of seeds. "
        f"The claim needs > {needs:g}",
        f"  {'':22s} {'R2':>15s} {'squared error':>18s} {'Laplacian / real':>17s}   judge's accuracy lost, 95 % over "
        "test items",
    ]
    tried = results.components.values
    for k in tried:
        row = results.sel(components=k)
        lost = f"{float(row.pca_lost):.4f} [{float(row.pca_lost_low):.4f}, {float(row.pca_lost_high):.4f}]"
        role = "decides the claim" if k == tried.max() else "the models' own code size" if k == 2 else ""
        beside = "above" if row.pca_lost_low > needs else "below" if row.pca_lost_high < needs else "not told from"
        error = f"{float(row.pca_squared_error):.4f} ± {float(row.pca_squared_error_se):.4f}"
        ratio = f"{float(row.pca_laplacian_ratio):.4f} ± {float(row.pca_laplacian_ratio_se):.4f}"
        lines.append(
            f"  {f'PCA, {k:2d} components':22s} {float(row.pca_r2):7.3f}{'':8s} {error:>18s} {ratio:>17s}   "
            f"{lost}, {beside} {needs:g}{f'; {role}' if role else ''}"
        )
    if "main" in results.arm:
        for model in ("ae", "vae"):
            cells = []
            for name, digits in (("r2", 3), ("squared_error", 4), ("laplacian_ratio", 4)):
                value = results[name].sel(arm="main", model=model).values
                cells.append(_spread(value, digits))
            lines.append(
                f"  {f'{model.upper():3s}, 2-D code, main':22s} {cells[0]:>15s} {cells[1]:>18s} {cells[2]:>17s}"
            )
    return lines


def _arm_table(row: xr.Dataset, title: str) -> list[str]:
    lines = ["", f"{title:50s} {'AE ± sd of seeds':>18s} {'VAE ± sd':>18s}   {'AE - VAE, 95 % t interval':>28s}"]
    for heading, rows in GROUPS.items():
        lines.append(heading)
        for name, label, where in rows:
            if name in row:
                lines.append(f"  {label:48s} {_cells(row[name].sel(where))}")
    lines.append("accuracy of 10 nearest neighbours by class")
    return [
        *lines,
        *(f"  {f'  class {c}':48s} {_cells(row.knn_accuracy_label.sel(label=c))}" for c in row.label.values),
    ]


def _cells(values: xr.DataArray) -> str:
    ae, vae = (values.sel(model=m).values.astype(float) for m in ("ae", "vae"))
    shown = []
    for v in (ae, vae):
        there = v[np.isfinite(v)]
        none = "inf" if np.isposinf(v).all() else "-"
        text = _spread(there) if len(there) else none
        shown.append(text + (f" ({len(there)} seeds)" if 0 < len(there) < len(v) else ""))
    both = np.isfinite(ae) & np.isfinite(vae)
    difference = ""
    if both.all() and not ("law" in values.coords and values.law == "prior"):
        mean, low, high = pyrovae.paired_interval(ae - vae)
        difference = f"{mean:8.4f} {_between(low, high, width=8)}"
    return f"{shown[0]:>18s} {shown[1]:>18s}   {difference:>28s}"


def _levelled(row: xr.Dataset) -> str:
    """In how many seeds the fits of an arm have levelled off, and the mean slope at their end."""
    words = []
    for kind in ("ae", "vae"):
        done, slope = (row[name].sel(model=kind).values for name in ("levelled_off", "slope"))
        if np.isnan(done).any():
            return "not judged whether levelled off: under 10 epochs"
        words.append(
            f"{kind.upper()} levelled off in {int(done.sum())} of {len(done)} seeds, slope {slope.mean():+.3f} nats an "
            "epoch"
        )
    return "; ".join(words)


def _spread(values: np.ndarray, digits: int = 4) -> str:
    """The mean, and the standard deviation over seeds where there are several."""
    mean = f"{values.mean():.{digits}f}"
    return f"{mean} ± {values.std(ddof=1):6.{digits}f}" if len(values) > 1 else mean


def _between(low: float, high: float, *, width: int = 0) -> str:
    return f"[{low:{width}.4f}, {high:{width}.4f}]" if math.isfinite(low) else "(one seed: no interval)"


def write_csv(results: xr.Dataset, file: Path) -> None:
    """Every number and verdict, a row each: seed, arm, model, statistic, where in its own dimensions, value, units.

    A cell is empty where the statistic lacks that dimension. NaN and empty text are left out; infinite is written.
    """
    with file.open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(["seed", "arm", "model", "statistic", "at", "value", "units"])
        for name, array in results.data_vars.items():
            labels = {d: results[d].values for d in array.dims}
            for index in np.ndindex(array.shape):
                value = array.values[index]
                if value == "" if isinstance(value, str) else np.isnan(value):
                    continue
                at = {d: labels[d][i] for d, i in zip(array.dims, index, strict=True)}
                where = ";".join(f"{d}={at[d]}" for d in array.dims if d not in ("seed", "arm", "model"))
                cells = [at.get(d, "") for d in ("seed", "arm", "model")]
                table.writerow([*cells, name, where, value, array.attrs.get("units", "")])
