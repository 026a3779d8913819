"""What does a VAE's N(0, I) code buy over a plain autoencoder's, on the same data, network and budget?

    python analysis/ae_vs_vae.py                                        # 8x8 digits, 10 seeds, about two minutes
    python analysis/ae_vs_vae.py --data mnist --root data --seeds 3     # the seed's convolutions, hours on two cores

Six claims of the post this project starts from, each with one primary metric and a smallest difference of interest,
both fixed here. AE and VAE share split, network, first weights, batch order, updates and likelihood; the unit of
replication is the seed. The main arm has the post's loss, 1,000 times the pixel-mean squared error: a Normal with scale
sqrt(pixels / 2000), which is 0.626 for 784 pixels. Other arms: that same 0.626 where there are fewer pixels, a learned
scale, and the post's own budget of few training images. A finished seed is kept in --out and not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from ae_vs_vae_report import figures, print_report
from sklearn.decomposition import PCA

import pyrovae
from pyrovae.data import Dataset, Split


@dataclass(frozen=True)
class Claim:
    """What the post says, the statistic that decides it, and how large the difference AE - VAE must be."""

    says: str
    metric: str
    sign: int  # of AE - VAE, where the claim is true
    smallest: float
    where: tuple[tuple[str, str], ...] = ()


CLAIMS = [
    Claim("the VAE's code separates the labels better", "knn_accuracy", -1, 0.02),
    Claim("the VAE draws crisper digits", "laplacian_ratio", -1, 0.02),
    Claim("near codes decode alike in the VAE only", "largest_step_share_median", +1, 0.005),
    Claim("the AE has codes that decode to no digit", "hole_fraction", +1, 0.02, (("law", "gaussian"),)),
]
FOLLOWS_PRIOR = "the VAE's codes follow N(0, I)"  # sliced W2 of its draws above the null's 97.5 % quantile, at most:
FOLLOWS_PRIOR_MARGIN = 0.05
PCA_CLAIM = "PCA cannot reconstruct"  # the judge's accuracy lost on reconstructions from 32 components, at least:
PCA_MARGIN = 0.5
COMPONENTS = (2, 10, 32)
DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"network": "mlp", "seeds": 10, "epochs": 60, "batch_size": 128, "learning_rate": 2e-3},
    "other": {"network": "conv", "seeds": 3, "epochs": 10, "batch_size": 128, "learning_rate": 5e-4},
}


@dataclass(frozen=True)
class Budget:
    """What one fit is given; the same for AE and VAE."""

    data: str
    network: str
    arm: str
    scale: float | None  # None: learned
    items: int
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


def budgets(options: argparse.Namespace, data: Dataset, seed: int) -> list[Budget]:
    """The arms of one seed. `few_updates` has as many updates as `main`, `few_epochs` the post's 200 epochs."""
    pixels, count = math.prod(data.event_shape), len(data.train)
    scale = round(math.sqrt(pixels / 2000), 3)
    per_epoch = math.ceil(count / options.batch_size)
    few_per_epoch = math.ceil(options.few / options.batch_size)
    few_epochs = math.ceil(options.epochs * per_epoch / few_per_epoch)
    arms = {
        "main": (scale, count, options.epochs),
        "seed_scale": (0.626, count, options.epochs),
        "learned": (None, count, options.epochs),
        "few_updates": (scale, options.few, few_epochs),
        "few_epochs": (scale, options.few, options.post_epochs),
    }
    if scale == 0.626:
        del arms["seed_scale"]
    chosen = {name: arms[name] for name in arms if name in options.arms}
    return [
        Budget(data.name, options.network, name, s, n, e, options.batch_size, options.learning_rate, seed)
        for name, (s, n, e) in chosen.items()
    ]


def build(kind: str, budget: Budget, event_shape: tuple[int, ...]) -> pyrovae.VAE | pyrovae.AE:
    """Both kinds start from the same weights: they are built from the same state of torch's generator."""
    torch.manual_seed(budget.seed)
    likelihood = pyrovae.Normal(budget.scale, initial_scale=0.626, link="sigmoid")
    if budget.network == "conv":
        return {"ae": pyrovae.conv_ae, "vae": pyrovae.conv_vae}[kind](event_shape, 2, likelihood=likelihood)
    make = {"ae": pyrovae.mlp_ae, "vae": pyrovae.mlp_vae}[kind]
    return make(event_shape, 2, hidden_dims=(128, 64), activation="leaky_relu", likelihood=likelihood)


def trained(kind: str, budget: Budget, data: Dataset, folder: Path) -> pyrovae.VAE | pyrovae.AE:
    """The fitted pair, from its folder where an earlier run of the same budget left it."""
    home = folder / "pairs" / f"seed{budget.seed}-{budget.arm}-{kind}"
    note = home.with_suffix(".json")
    if note.exists() and json.loads(note.read_text()) == asdict(budget):
        return pyrovae.load(home)
    pair = build(kind, budget, data.event_shape)
    history = pyrovae.fit(
        pair,
        data.train.x[: budget.items],
        validation=data.test.x if budget.items == len(data.train) else None,  # watched, nothing is chosen by it
        epochs=budget.epochs,
        batch_size=budget.batch_size,
        learning_rate=budget.learning_rate,
        seed=budget.seed,
    )
    pyrovae.save(home, pair)
    history.epochs.to_netcdf(home.with_suffix(".nc"), engine="h5netcdf")
    note.write_text(json.dumps(asdict(budget)))
    return pair


def run_seed(options: argparse.Namespace, seed: int, judge: pyrovae.Judge) -> Path:
    """All arms and both kinds of one seed: every statistic into one file."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", pyrovae.PosteriorCollapseWarning)  # the table has the active units
    data = pyrovae.data.load(options.data, root=options.root)
    file, arms = options.out / f"seed{seed}.nc", budgets(options, data, seed)
    stamp = json.dumps([asdict(b) for b in arms])
    if file.exists() and xr.open_dataset(file, engine="h5netcdf").attrs.get("budgets") == stamp:
        return file
    rows = []
    for budget in arms:
        train = Split(data.train.x[: budget.items], data.train.y[: budget.items])
        kinds = []
        for kind in ("ae", "vae"):
            pair = trained(kind, budget, data, options.out)
            kinds.append(pyrovae.code_space(pair, train, data.test, judge, seed=seed))
            if pair.is_normalized:
                estimate = pyrovae.elbo(pair, data.test.x, num_particles=16, seed=seed)
                kinds[-1] = kinds[-1].assign(elbo=estimate.mean, elbo_se=estimate.se)
            kinds[-1] = kinds[-1].assign(scale=float(pair.likelihood.family.scale.detach()))
        rows.append(xr.concat(kinds, xr.Variable("model", ["ae", "vae"]), join="outer", data_vars="all"))
    result = xr.concat(rows, xr.Variable("arm", [b.arm for b in arms]), join="outer", data_vars="all")
    result.attrs["budgets"] = stamp
    result.to_netcdf(file.with_suffix(".part"), engine="h5netcdf")
    os.replace(file.with_suffix(".part"), file)
    return file


def judged(results: xr.Dataset, pca_lost: np.ndarray) -> dict[str, xr.Dataset]:
    """The verdict on every claim, arm by arm; Holm over the claims of an arm."""
    found = {}
    for arm in results.arm.values:
        if str(arm).startswith("few"):
            continue
        row, effects, smallest = results.sel(arm=arm), {}, {}
        for claim in CLAIMS:
            value = row[claim.metric].sel(dict(claim.where))
            effect = claim.sign * (value.sel(model="ae") - value.sel(model="vae")).values
            if np.isfinite(effect).sum() > 1:  # a collapsed code has no way between two decodings
                effects[claim.says], smallest[claim.says] = effect[np.isfinite(effect)], claim.smallest
        w2 = row.sliced_w2.sel(codes="raw", model="vae").values
        null = row.sliced_w2_null.sel(codes="raw", model="vae").sel(edge="high").values
        effects[FOLLOWS_PRIOR], smallest[FOLLOWS_PRIOR] = null - w2, -FOLLOWS_PRIOR_MARGIN
        effects[PCA_CLAIM], smallest[PCA_CLAIM] = pca_lost, PCA_MARGIN
        found[str(arm)] = pyrovae.verdicts(effects, smallest)
    return found


def principal_components(data: Dataset, judge: pyrovae.Judge) -> tuple[xr.Dataset, np.ndarray]:
    """R2 and the judge's accuracy on reconstructions by PCA; and, per item, what 32 components lose of the latter."""
    train, test = data.train.x[:].flatten(1).numpy(), data.test.x[:]
    y, parts, hits = data.test.y.numpy(), [], {}
    for k in (c for c in COMPONENTS if c <= train.shape[1]):
        pca = PCA(k, random_state=0).fit(train)
        images = torch.from_numpy(pca.inverse_transform(pca.transform(test.flatten(1).numpy()))).reshape(test.shape)
        error = pyrovae.reconstruction_error(test, images, mean=data.train.x[:].mean(0))
        hits[k] = judge.predict(images.float()) == y
        ratio = pyrovae.crispness(images.float(), test).laplacian_ratio
        parts.append(
            xr.Dataset({"r2": error.r2, "rmse": error.rmse, "judge_accuracy": hits[k].mean(), "laplacian_ratio": ratio})
        )
    lost = (judge.predict(test) == y).astype(float) - hits[max(hits)]
    return xr.concat(parts, xr.Variable("components", list(hits))), lost


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, mnist, fashion-mnist, kmnist, or a path")
    parser.add_argument("--root", default=None, help="folder of the data set, in torchvision's layout")
    parser.add_argument("--out", type=Path, default=None, help="folder for results (out/ae_vs_vae-DATA)")
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--learning-rate", type=float, default=None)
    parser.add_argument("--network", choices=["mlp", "conv"], default=None)
    parser.add_argument(
        "--few", type=int, default=None, help="images of the post's small budget (1,000; a tenth of digits)"
    )
    parser.add_argument("--post-epochs", type=int, default=200, help="epochs over them")
    parser.add_argument("--arms", nargs="+", default=["main", "seed_scale", "learned", "few_updates", "few_epochs"])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds at a time, one thread each")
    options = parser.parse_args()
    for name, value in DEFAULTS["digits" if options.data == "digits" else "other"].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.out = options.out or Path("out") / f"ae_vs_vae-{Path(options.data).name}"
    return options


def main() -> None:
    start, options = time.perf_counter(), arguments()
    (options.out / "pairs").mkdir(parents=True, exist_ok=True)
    data = pyrovae.data.load(options.data, root=options.root)
    if options.few is None:
        options.few = 1000 if len(data.train) >= 10_000 else len(data.train) // 10
    judge = pyrovae.Judge.fit(data.train.x, data.train.y)
    jobs = min(options.jobs, options.seeds)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(run_seed, options, seed, judge) for seed in range(options.seeds)]
        files = [run.result() for run in runs]
    results = xr.concat([xr.open_dataset(f, engine="h5netcdf") for f in files], xr.Variable("seed", range(len(files))))
    results.attrs = {"data": data.name, "options": json.dumps({k: str(v) for k, v in vars(options).items()})}
    pca, lost = principal_components(data, judge)
    verdicts = judged(results, lost)
    results.to_netcdf(options.out / "results.nc", engine="h5netcdf")
    figures(options, data, results, verdicts, trained, budgets)
    print_report(options, data, judge, results, pca, verdicts, CLAIMS)
    print(f"\n{time.perf_counter() - start:.0f} s; figures, results.nc and results.csv are in {options.out}/")


if __name__ == "__main__":
    main()
