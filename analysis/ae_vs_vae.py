"""What does a VAE's N(0, I) code buy over a plain autoencoder's, on the same data, network and budget?

    python analysis/ae_vs_vae.py                                        # 8x8 digits, 10 seeds, about four minutes
    python analysis/ae_vs_vae.py --data mnist --root data               # the post's convolutions, hours on two cores

Six claims of the post this project starts from, each with one primary metric and a smallest difference of interest,
both fixed here. AE and VAE share split, network, first weights, batch order, updates and likelihood; the unit of
replication is the seed. The main arm has the post's loss, 1,000 times the pixel-mean squared error: a Normal with scale
sqrt(pixels / 2000), which is 0.626 for 784 pixels. Other arms: that same 0.626 where there are fewer pixels, a learned
scale, and the post's own budget of few training images. A finished seed is kept in --out and not run again. At the
end it writes report.html there: the main arm's first AE and VAE side by side, with their codes to explore.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from ae_vs_vae_figures import figures
from ae_vs_vae_report import report, worded, write_csv
from sklearn.decomposition import PCA

import pyrovae
from pyrovae.data import Dataset

# raised when what is measured changes: seeds with earlier numbers are then measured again
STATISTICS = 2


@dataclass(frozen=True)
class Claim:
    """What the post says, the statistic that decides it, and how large the effect must be to matter."""

    says: str
    metric: str
    effect: str  # "AE - VAE", "VAE - AE", or of one model alone
    smallest: float
    where: tuple[tuple[str, str], ...] = ()


CLAIMS = [
    # 2 of 100 test items more given their neighbours' label
    Claim("the VAE's code separates the labels better", "knn_accuracy", "VAE - AE", 0.02),
    # 2 % of the real images' own crispness
    Claim("the VAE draws crisper digits", "laplacian_ratio", "VAE - AE", 0.02),
    # a third of an even step, 1/64: a way between two codes whose worst step is that much worse
    Claim("near codes decode alike in the VAE only", "largest_step_share_median", "AE - VAE", 0.005),
    # twice the base rate of 1 %
    Claim("more AE than VAE codes decode to no digit", "hole_fraction", "AE - VAE", 0.02, (("law", "gaussian"),)),
    # less than a tenth of the prior's standard deviation, the size of the sample taken out
    Claim("the VAE's codes follow N(0, I)", "sliced_w2_excess", "- VAE", -0.1, (("codes", "raw"),)),
]
# the judge's accuracy lost on reconstructions from the most components tried: half of it would be "cannot"
PCA_CLAIM = Claim("PCA cannot reconstruct", "judge_accuracy", "real - PCA", 0.5)
COMPONENTS = (2, 10, 32)
FEW_ARMS = ("few_updates", "few_epochs")  # of few images
ARMS = ("main", "seed_scale", "learned", *FEW_ARMS)
# crispness, first minus second: which fit's images, and whose; "few" stands for either arm of few images
CONTRASTS = {
    "VAE of all - AE of few": (("main", "vae"), ("few", "ae")),
    "AE of all - AE of few": (("main", "ae"), ("few", "ae")),
    "VAE of all - AE of all": (("main", "vae"), ("main", "ae")),
    "VAE of all - VAE of few": (("main", "vae"), ("few", "vae")),
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"network": "mlp", "seeds": 10, "epochs": 200, "batch_size": 256, "learning_rate": 3e-3, "few": 128},
    "other": {"network": "conv", "seeds": 3, "epochs": 10, "batch_size": 128, "learning_rate": 5e-4, "few": 1000},
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
    data_sha256: str  # a name says little: another file may bear it

    @property
    def updates(self) -> int:
        return self.epochs * math.ceil(self.items / self.batch_size)


def budgets(options: argparse.Namespace, data: Dataset, seed: int) -> dict[str, Budget]:
    """The arms of one seed. `few_updates` has as many updates as `main`, `few_epochs` the post's 200 epochs."""
    count, few = len(data.train), min(options.few, len(data.train))
    scale = round(math.sqrt(math.prod(data.event_shape) / 2000), 3)
    per_epoch, few_per_epoch = (math.ceil(n / options.batch_size) for n in (count, few))
    arms = {
        "main": (scale, count, options.epochs),
        "seed_scale": (0.626, count, options.epochs),
        "learned": (None, count, options.epochs),
        "few_updates": (scale, few, math.ceil(options.epochs * per_epoch / few_per_epoch)),
        "few_epochs": (scale, few, options.post_epochs),
    }
    fixed = (data.name, options.network)
    rest = (options.batch_size, options.learning_rate, seed, fingerprint(data))
    chosen = [name for name in arms if name in options.arms and not (name == "seed_scale" and scale == 0.626)]
    return {name: Budget(*fixed, name, *arms[name], *rest) for name in chosen}


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
    if noted(note) == asdict(budget):
        return pyrovae.load(home)
    # the note is written last: a run that is killed before leaves none, and so nothing to reuse
    note.unlink(missing_ok=True)
    pair = build(kind, budget, data.event_shape)
    history = pyrovae.fit(
        pair,
        data.train.x[: budget.items],
        # nothing is chosen by the test items; no more of them than are fitted, or looking would take most of the time
        validation=data.test.x[: budget.items],
        epochs=budget.epochs,
        batch_size=budget.batch_size,
        learning_rate=budget.learning_rate,
        seed=budget.seed,
    )
    pyrovae.save(home, pair)
    history.epochs.to_netcdf(home.with_suffix(".nc"), engine="h5netcdf")
    part = note.with_suffix(".json.part")
    part.write_text(json.dumps(asdict(budget)), encoding="utf-8")
    os.replace(part, note)
    return pair


def noted(note: Path) -> Any:
    """What a note says; None where there is none, or none that can be read."""
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def measured(pair: Any, budget: Budget, data: Dataset, judge: pyrovae.Judge) -> xr.Dataset:
    """Every statistic of one fit; of few images only what the table of budgets needs."""
    if budget.arm in FEW_ARMS:
        images = pyrovae.decoded(pair, pyrovae.encoded(pair, data.test.x))
        error = pyrovae.reconstruction_error(data.test.x[:], images, mean=data.train.x[:].mean(0))
        return pyrovae.crispness(images, data.test.x[:])[["laplacian_ratio", "squared_error"]].assign(r2=error.r2)
    found = pyrovae.code_space(pair, data.train, data.test, judge, seed=budget.seed)
    if pair.is_normalized:
        estimate = pyrovae.elbo(pair, data.test.x, seed=budget.seed)
        found["elbo"] = named(estimate.mean, "evidence lower bound on test items", "nats per item")
        found["elbo_se"] = named(estimate.se, "Monte Carlo standard error of the ELBO", "nats per item")
    else:
        found["kl_aggregate"] = named(math.inf, "KL(q(z) || p(z)); infinite where codes are points", "nats")
    found["scale"] = named(float(pair.likelihood.family.scale.detach()), "the likelihood's scale", "pixel units")
    return found


def settled(history: xr.Dataset) -> xr.Dataset:
    """Whether a fit has levelled off, and how fast its validation ELBO still rises; NaN for under 10 epochs."""
    enough = history.sizes["epoch"] >= 10
    done, slope = pyrovae.History(history).levelled_off() if enough else (math.nan, math.nan)
    return xr.Dataset(
        {
            "levelled_off": named(float(done), "1 where the fit has levelled off, else 0", "1"),
            "slope": named(slope, "rise of the best validation ELBO at the end", "nats per item per epoch"),
        }
    )


def named(value: Any, long_name: str, units: str, *dims: str) -> xr.Variable:
    return xr.Variable(dims, value, {"long_name": long_name, "units": units})


def start_worker() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", pyrovae.PosteriorCollapseWarning)  # the report has the active units


@cache
def loaded(name: str, root: str | None) -> Dataset:
    """The data, read once in a process however many fits it makes."""
    return pyrovae.data.load(name, root=root)


@cache
def fingerprint(data: Dataset) -> str:
    """SHA-256 of the pixels and labels of both parts, taken once in a process."""
    digest = hashlib.sha256()
    for part in (data.train, data.test):
        digest.update(f"{part.x.dtype} {tuple(part.x.shape)} {part.y is not None};".encode())
        for first in range(0, len(part), 4096):  # a memory-mapped view is not read as a whole
            digest.update(part.x[first : first + 4096].contiguous().numpy().data)
        if part.y is not None:
            digest.update(part.y.contiguous().numpy().data)
    return digest.hexdigest()


def run_fit(options: argparse.Namespace, seed: int, arm: str, kind: str) -> None:
    """One fit, left in its folder."""
    data = loaded(options.data, options.root)
    trained(kind, budgets(options, data, seed)[arm], data, options.out)


def run_seed(options: argparse.Namespace, seed: int, judge: pyrovae.Judge) -> Path:
    """All arms and both kinds of one seed, fitted before: every statistic into one file."""
    data = loaded(options.data, options.root)
    file, arms = options.out / f"seed{seed}.nc", budgets(options, data, seed)
    stamp = json.dumps([pyrovae.__version__, STATISTICS, *(asdict(b) for b in arms.values())])
    if stamped(file) == stamp:
        return file
    rows = []
    for budget in arms.values():
        kinds = []
        for kind in ("ae", "vae"):
            found = measured(trained(kind, budget, data, options.out), budget, data, judge)
            history = options.out / "pairs" / f"seed{seed}-{budget.arm}-{kind}.nc"
            kinds.append(found.merge(settled(xr.load_dataset(history, engine="h5netcdf"))))
        rows.append(xr.concat(kinds, xr.Variable("model", ["ae", "vae"]), join="outer", data_vars="all"))
    result = xr.concat(rows, xr.Variable("arm", list(arms)), join="outer", data_vars="all", coords="minimal")
    result.attrs["stamp"] = stamp
    result.to_netcdf(file.with_suffix(".part"), engine="h5netcdf")
    os.replace(file.with_suffix(".part"), file)
    return file


def stamped(file: Path) -> str | None:
    """What the numbers of a seed were measured with; None where there are none, or none that can be read."""
    try:
        return xr.load_dataset(file, engine="h5netcdf").attrs.get("stamp")
    except (OSError, ValueError, RuntimeError, KeyError):  # h5py has no one error for a damaged file
        return None


def effect(claim: Claim, row: xr.Dataset) -> np.ndarray:
    """One number a seed, signed so that the claim says it is large; NaN where a seed has none (a collapsed code)."""
    value = row[claim.metric].sel(dict(claim.where))
    ae, vae = value.sel(model="ae").values, value.sel(model="vae").values
    return {"AE - VAE": ae - vae, "VAE - AE": vae - ae, "- VAE": -vae}[claim.effect]


def judged(results: xr.Dataset, pca_lost: np.ndarray) -> dict[str, xr.Dataset]:
    """The verdict on every claim, arm by arm; Holm over the claims of an arm. The claim on PCA stands in main's."""
    found = {}
    for arm in [a for a in results.arm.values if a not in FEW_ARMS]:
        effects = {c.says: effect(c, results.sel(arm=arm)) for c in CLAIMS}
        effects = {says: e[np.isfinite(e)] for says, e in effects.items() if np.isfinite(e).any()}
        smallest = {c.says: c.smallest for c in CLAIMS if c.says in effects}
        if arm == "main":
            effects[PCA_CLAIM.says], smallest[PCA_CLAIM.says] = pca_lost, PCA_CLAIM.smallest
        found[str(arm)] = pyrovae.verdicts(effects, smallest)
    return found


def contrasts(results: xr.Dataset) -> xr.Dataset:
    """How much of "crisper" is the data and how much the model: 95 % t intervals over seeds, by arm of few images."""
    found = []
    few = [str(arm) for arm in results.arm.values if arm in FEW_ARMS] if "main" in results.arm else []
    for arm in few:
        crisp = {
            (name, m): results.laplacian_ratio.sel(arm=arm if name == "few" else name, model=m).values
            for name in ("few", "main")
            for m in ("ae", "vae")
        }
        rows = np.array([pyrovae.paired_interval(crisp[a] - crisp[b]) for a, b in CONTRASTS.values()])
        says = "difference in the Laplacian's ratio"
        columns = {"mean": says, "low": f"{says}, 95 % t interval, low", "high": f"{says}, 95 % t interval, high"}
        variables = {
            f"crisper_{c}": named(v, text, "1", "contrast")
            for (c, text), v in zip(columns.items(), rows.T, strict=True)
        }
        found.append(xr.Dataset(variables, {"contrast": list(CONTRASTS)}))
    return xr.concat(found, xr.Variable("arm", few)) if found else xr.Dataset()


def principal_components(data: Dataset, judge: pyrovae.Judge) -> tuple[xr.Dataset, np.ndarray]:
    """PCA's reconstructions, measured; and what the most components lose of the judge's accuracy, item by item."""
    train, test, y = data.train.x[:].flatten(1).numpy(), data.test.x[:], data.test.y.numpy()
    parts, lost = [], np.zeros(len(y))
    tried = [k for k in COMPONENTS if k <= train.shape[1]]
    for k in tried:
        pca = PCA(k, random_state=0).fit(train)
        images = torch.from_numpy(pca.inverse_transform(pca.transform(test.flatten(1).numpy()))).float()
        images = images.reshape(test.shape)
        error = pyrovae.reconstruction_error(test, images, mean=data.train.x[:].mean(0))
        se = float(error.squared_error_items.std(ddof=1)) / math.sqrt(len(y))
        right = judge.predict(images) == y
        lost = (judge.predict(test) == y).astype(float) - right
        mean, low, high = pyrovae.paired_interval(lost)
        says = "judge's accuracy on the real images less that on these"
        found = xr.merge(
            [
                error[["r2", "squared_error"]],
                pyrovae.crispness(images, test)[["laplacian_ratio", "laplacian_ratio_se"]],
            ],
            combine_attrs="drop_conflicts",
        )
        found["squared_error_se"] = named(se, "standard error of the squared error over items", "pixel units^2")
        found["judge_accuracy"] = named(float(right.mean()), "accuracy of the judge", "1")
        found["lost"] = named(mean, says, "1")
        found["lost_low"] = named(low, f"{says}: 95 % t interval over items, low", "1")
        found["lost_high"] = named(high, f"{says}: 95 % t interval over items, high", "1")
        parts.append(found)
    return xr.concat(parts, xr.Variable("components", tried)), lost


def everything(
    results: xr.Dataset, data: Dataset, judge: pyrovae.Judge, pca: xr.Dataset, found: dict[str, xr.Dataset]
) -> xr.Dataset:
    """The seeds' statistics with all that is said of them: PCA's, the verdicts, the judge's accuracy, the contrasts."""
    accuracy = judge.accuracy(data.test.x[:], data.test.y)[["accuracy", "accuracy_se"]]
    parts = [
        results,
        pca.rename({name: f"pca_{name}" for name in pca.data_vars}),
        accuracy.rename(accuracy="judge_real_accuracy", accuracy_se="judge_real_accuracy_se"),
        contrasts(results),
    ]
    if found:
        parts.append(_verdict_table(found))
    # on the arms of `results`, in their order: a merge would sort them
    parts = [p.reindex(arm=results.arm, fill_value={"verdict": ""}) if "arm" in p.dims else p for p in parts]
    merged = xr.merge(parts, combine_attrs="drop_conflicts", compat="no_conflicts", join="outer")
    return merged.assign_attrs(results.attrs)


def write_page(folder: Path, data: Dataset, pairs: dict[str, Any], budget: Budget) -> Path:
    """The fitted AE and VAE of a budget as a page to explore, with their curves."""
    entries = []
    for name, pair in pairs.items():
        curves = folder / "pairs" / f"seed{budget.seed}-{budget.arm}-{name.lower()}.nc"
        epochs = xr.load_dataset(curves, engine="h5netcdf")
        history = pyrovae.History(epochs, {"method": "svi", **asdict(budget)})
        entries.append(pyrovae.report.Entry(name, pair, history))
    title = f"AE and VAE on {data.name}"
    return pyrovae.report.write(folder / "report.html", entries, data, title=title, progress=True)


def _verdict_table(found: dict[str, xr.Dataset]) -> xr.Dataset:
    """The verdicts of all arms on all claims, NaN (or no words) where an arm has none."""
    metric = "units of the claim's metric"
    says = {
        "mean": ("mean effect, signed as claimed", metric),
        "low": ("interval at the Holm level, low", metric),
        "high": ("interval at the Holm level, high", metric),
        "smallest": ("smallest difference of interest", metric),
        "p_value": ("two-sided p-value of effect = smallest", "1"),
        "level": ("confidence of the interval, by Holm", "1"),
        "replicates": ("seeds, or test items for PCA", "replicates"),
        "verdict": ("verdict on the claim", ""),
    }
    claims = [*CLAIMS, PCA_CLAIM]
    names = [c.says for c in claims]
    table = xr.concat(
        [f.reindex(claim=names, fill_value={"verdict": ""}) for f in found.values()], xr.Variable("arm", list(found))
    )
    for name, (long_name, units) in says.items():
        table[name].attrs = {"long_name": long_name, "units": units}
    table = table.rename({name: f"verdict_{name}" for name in says if name != "verdict"})
    table["claim_metric"] = named([c.metric for c in claims], "primary metric of the claim", "", "claim")
    table["claim_effect"] = named([c.effect for c in claims], "effect that is claimed to be large", "", "claim")
    return table


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
    parser.add_argument("--few", type=int, default=None, help="images of the post's small budget")
    parser.add_argument("--post-epochs", type=int, default=200, help="epochs over them")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="fits at a time, one thread each")
    options = parser.parse_args()
    for name, value in DEFAULTS["digits" if options.data == "digits" else "other"].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name in ("seeds", "epochs", "batch_size", "few", "post_epochs", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    options.out = options.out or Path("out") / f"ae_vs_vae-{Path(options.data).name}"
    return options


def main() -> None:
    start, options = time.perf_counter(), arguments()
    (options.out / "pairs").mkdir(parents=True, exist_ok=True)
    data = loaded(options.data, options.root)
    judge, arms = pyrovae.Judge.fit(data.train.x[:], data.train.y), budgets(options, data, 0)
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), start_worker) as pool:
        wanted = [(seed, arm, kind) for seed in range(options.seeds) for arm in arms for kind in ("ae", "vae")]
        print(f"fitting {len(wanted)} models to {data.name}, {options.jobs} at a time", flush=True)
        for number, fitted in enumerate([pool.submit(run_fit, options, *one) for one in wanted], 1):
            fitted.result()
            if number % (len(wanted) // options.seeds) == 0:
                seconds = time.perf_counter() - start
                print(f"fitted {number} of {len(wanted)} models, {seconds:.0f} s", flush=True)
        print("measuring their code spaces", flush=True)
        measured_seeds = [pool.submit(run_seed, options, seed, judge) for seed in range(options.seeds)]
        files = [seed.result() for seed in measured_seeds]
    results = xr.concat([xr.load_dataset(f, engine="h5netcdf") for f in files], xr.Variable("seed", range(len(files))))
    results.attrs = {"data": data.name, "options": json.dumps({k: str(v) for k, v in vars(options).items()})}
    print("judging the claims, and drawing what is found", flush=True)
    pca, lost = principal_components(data, judge)
    verdicts = judged(results, lost)
    results = everything(results, data, judge, pca, verdicts)
    results.to_netcdf(options.out / "results.nc", engine="h5netcdf")
    write_csv(results, options.out / "results.csv")
    summary, tables = report(options, data, arms, results, verdicts, [*CLAIMS, PCA_CLAIM])
    (options.out / "tables.txt").write_text(f"{summary}\n\n{tables}\n", encoding="utf-8")
    print(summary)
    if "main" in arms:
        pairs = {kind.upper(): trained(kind, arms["main"], data, options.out) for kind in ("ae", "vae")}
        main_arm = results.sel(arm="main")
        words = worded(main_arm, verdicts["main"], CLAIMS)
        figures(options.out, data, pairs, main_arm, verdicts["main"], CLAIMS, words)
        page = write_page(options.out, data, pairs, arms["main"])
    print(f"\n{time.perf_counter() - start:.0f} s. In {options.out}/: figures (.png), tables.txt (every statistic of")
    print("every arm), results.nc and results.csv (every number), pairs/ (the fitted models)")
    if "main" in arms:
        print(f"\nOpen {page} in a browser: move over the codes of AE and VAE, and see what they decode to")


if __name__ == "__main__":
    main()
