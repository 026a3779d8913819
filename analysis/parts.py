"""What is each likelihood, posterior and prior worth? Nats per item over the default, within one base measure.

    python analysis/parts.py                                        # 8x8 digits and the counts: some minutes
    python analysis/parts.py --data mnist --root data --epochs 20   # an hour and more on two cores

Four comparisons, each of one network, budget and seed, in which one part is changed at a time. Binary mass: pixels
made 0 or 1 by a draw, a Bernoulli likelihood, every registered posterior and prior. Integer mass: the pixels as they
are in the file. Density: the same integers with uniform noise added, divided by the number of levels; a Normal,
Student-t or Laplace scale has a floor of 0.001 of that range, which is also shown at 0.1 and 10 times. Counts: visits
to a doctor of the RAND health insurance experiment (statsmodels' randhie), alone and given the nine other columns of
the table; beside them stand the two regressions of statsmodels on these columns, which have no code. log p(x) of test
items is the importance-weighted bound of --particles; the gain is the mean of the paired differences to the first
row, with its 95 % t interval over the items, the fits held fixed. Values of two base measures are never subtracted. A
bound is looser for a poorer encoder, so a posterior's gain is that of the bound. Seconds are those of the fit.
Results stay in --out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

import pyrovae
from pyrovae.models.registry import registered

FLOOR = 1e-3
# the likelihoods of each base measure; the first one is the row that the others are compared with
LIKELIHOODS = {
    "binary mass": ["bernoulli"],
    "integer mass": [
        "discretized_logistic",
        "categorical",
        "ordinal",
        "poisson",
        "negative_binomial",
        "zero_inflated_poisson",
        "zero_inflated_negative_binomial",
    ],
    "density": [
        "normal",
        "heteroscedastic_normal",
        "student_t",
        "laplace",
        "continuous_bernoulli",
        "gamma",
        "log_normal",
    ],
    "counts": ["poisson", "negative_binomial", "zero_inflated_poisson", "zero_inflated_negative_binomial"],
}
FLOORED = ("normal", "heteroscedastic_normal", "laplace")
GIVEN_COVARIATES = ("conditional",)  # a prior that has a part only where items have covariates
GIVEN = " given covariates"
OUTPUTS = 50_000  # of a decoder: a class for each of 256 levels and 784 pixels is beyond it


@dataclass(frozen=True)
class Items:
    """Items under one base measure, what the likelihoods are told of them, and covariates of both where there are."""

    measure: str
    train: torch.Tensor
    test: torch.Tensor
    levels: int = 0
    covariates: tuple[torch.Tensor, torch.Tensor] | None = None


def arms(items: Items) -> Iterator[tuple[str, dict[str, str]]]:
    """Names of rows and the parts that they change; the first changes none."""
    first, *others = LIKELIHOODS[items.measure]
    yield f"{first}, diagonal, standard", {"likelihood": told(first, items)}
    for name in others:
        classes = items.levels if name == "categorical" else 1
        if items.train[0].numel() * classes <= OUTPUTS:
            yield name, {"likelihood": told(name, items)}
    if items.measure == "density":
        for name in FLOORED:
            for times in (0.1, 10):
                yield f"{name}, floor x {times:g}", {"likelihood": f"{name}(floor={times * FLOOR})"}
    if items.measure == "counts":
        for name in LIKELIHOODS["counts"]:
            yield f"{name}{GIVEN}", {"likelihood": name}
        return
    for kind, default in (("posterior", "diagonal"), ("prior", "standard")):
        for name in registered(kind):
            if name != default and name not in GIVEN_COVARIATES:
                yield f"{kind} {name}", {"likelihood": told(first, items), kind: name}


def told(name: str, items: Items) -> str:
    """A likelihood with the arguments that these items ask for."""
    options = {"discretized_logistic": "levels", "categorical": "num_classes", "ordinal": "num_classes"}
    if name in options:
        return f"{name}({options[name]}={items.levels})"
    return f"{name}(floor={FLOOR})" if items.measure == "density" and name in FLOORED else name


def images(options: argparse.Namespace) -> Iterator[Items]:
    """The images under three base measures."""
    whole = pyrovae.data.load(options.data, root=options.root, scale=False)
    generator = torch.Generator().manual_seed(0)

    def some(split: Any, n: int) -> torch.Tensor:
        return split.x[torch.randperm(len(split.x), generator=generator)[:n]].float()

    train, test = some(whole.train, options.train), some(whole.test, options.items)
    levels = int(max(train.max(), test.max())) + 1
    binary = [pyrovae.data.binarize(x / (levels - 1), seed=0) for x in (train, test)]
    yield Items("binary mass", *binary)
    yield Items("integer mass", train, test, levels)
    yield Items("density", *((x + torch.rand(x.shape, generator=generator)) / levels for x in (train, test)))


def counts(options: argparse.Namespace) -> Iterator[Items]:
    """Visits to a doctor, where statsmodels is installed."""
    try:
        from statsmodels.datasets import randhie
    except ImportError:
        print("\ncounts: left out, since statsmodels is not installed (pip install statsmodels)")
        return
    table = randhie.load_pandas()
    order = torch.randperm(len(table.endog), generator=torch.Generator().manual_seed(0))
    visits = torch.tensor(table.endog.to_numpy(), dtype=torch.float32)[order, None]
    columns = torch.tensor(table.exog.to_numpy(), dtype=torch.float32)[order]
    columns = (columns - columns[4000:].mean(0)) / columns[4000:].std(0)
    yield Items("counts", visits[4000:], visits[:4000], covariates=(columns[4000:], columns[:4000]))


def regressions(items: Items) -> Iterator[tuple[str, np.ndarray, float]]:
    """log p of each test count by statsmodels' regressions on the covariates, and the seconds of the fit."""
    import statsmodels.api as sm
    from scipy import stats

    assert items.covariates is not None
    train, test = (sm.add_constant(c.double().numpy()) for c in items.covariates)
    y, held_out = (x[:, 0].double().numpy() for x in (items.train, items.test))
    start = time.perf_counter()
    rate = sm.Poisson(y, train).fit(disp=0).predict(test)
    yield f"Poisson regression{GIVEN}", stats.poisson.logpmf(held_out, rate), time.perf_counter() - start
    start = time.perf_counter()
    fitted = sm.NegativeBinomial(y, train).fit(disp=0, maxiter=500)
    rate, size = fitted.predict(test), 1 / fitted.params[-1]
    value = stats.nbinom.logpmf(held_out, size, size / (size + rate))
    yield f"negative binomial regression{GIVEN}", value, time.perf_counter() - start


def priced(items: Items, options: argparse.Namespace) -> xr.Dataset:
    """log p(x) of each test item under each arm, with the seconds of its fit."""
    rows: dict[str, np.ndarray] = {}
    errors, seconds = [], []
    print(f"\n{items.measure}: {len(items.train):,} training items, {len(items.test):,} test items")
    print(f"  {'':46s} {'log p(x)':>10s} {'gain':>9s}   {'95 % interval':22s} {'fit, s':>7s}")
    first, *others = arms(items)

    def keep(name: str, value: np.ndarray, error: float, taken: float) -> None:
        rows[name] = value
        errors.append(error)
        seconds.append(taken)
        gain = ("", "") if len(rows) == 1 else interval(value - rows[first[0]])
        print(f"  {name:46s} {value.mean():10.3f} {gain[0]:>9s}   {gain[1]:22s} {taken:7.1f}", flush=True)

    for name, parts in [first, *(row for row in others if options.rows is None or row[0] in options.rows)]:
        torch.manual_seed(options.seed)
        train, test, size = items.train, items.test, {}
        if name.endswith(GIVEN) and items.covariates is not None:
            train, test = (
                pyrovae.data.Split(x, covariates=c) for x, c in zip((train, test), items.covariates, strict=True)
            )
            size = {"covariate_dim": items.covariates[0].shape[1]}
        pair = pyrovae.mlp_vae(items.train.shape[1:], options.latent, hidden_dims=(options.width,), **parts, **size)
        start = time.perf_counter()
        pyrovae.fit(
            pair,
            train,
            epochs=options.epochs,
            batch_size=128,
            warmup=max(1, options.epochs // 10),
            schedule="cosine",
            compile=False,
            progress=False,
            seed=options.seed,
        )
        taken = time.perf_counter() - start
        found = pyrovae.iwae(pair, test, num_particles=options.particles)
        keep(name, found.pointwise["value"].values, found.se, taken)
    if items.measure == "counts" and options.rows is None:
        for name, value, taken in regressions(items):
            keep(name, value, 0.0, taken)  # exact
    return xr.Dataset(
        {
            "log_prob": (("arm", "item"), np.stack(list(rows.values())), {"units": "nats per item"}),
            "se": ("arm", errors, {"units": "nats per item"}),
            "seconds": ("arm", seconds, {"units": "s"}),
        },
        {"arm": list(rows)},
        {"measure": items.measure},
    )


def interval(difference: np.ndarray) -> tuple[str, str]:
    """The mean of paired differences and its interval, in words."""
    mean, low, high = pyrovae.paired_interval(difference)
    return f"{mean:.3f}", f"[{low:.3f}, {high:.3f}]"


def figure(results: dict[str, xr.Dataset]) -> Figure:
    """Gains over each comparison's first row, a panel a base measure: they have no common axis."""
    heights = [max(2, len(one.arm) - 1) for one in results.values()]
    drawn = Figure(figsize=(8, 0.9 * len(heights) + 0.27 * sum(heights)), layout="constrained")
    axes = drawn.subplots(len(results), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (measure, one) in zip(axes, results.items(), strict=True):
        differences = (one.log_prob - one.log_prob[0]).values[1:]
        for row, each in enumerate(differences):
            mean, low, high = pyrovae.paired_interval(each)
            ax.errorbar(mean, row, xerr=[[mean - low], [high - mean]], fmt="o", color="C0", markersize=4)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_yticks(range(len(differences)), one.arm.values[1:])
        ax.invert_yaxis()
        if np.abs(differences.mean(1)).max() > 3:
            ax.set_xscale("symlog", linthresh=1.0)
            ax.xaxis.set_major_formatter("{x:g}")
        ax.set_title(f"{measure}: gain over {one.arm.values[0]}", loc="left", fontsize=10)
        ax.grid(axis="x", alpha=0.3)
    axes[-1].set_xlabel(
        "nats per test item, with 95 % intervals\n(a wide axis is linear from -1 to 1, logarithmic beyond)"
    )
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, mnist, fashion-mnist or kmnist")
    parser.add_argument("--root", default=None, help="folder of the data set, in torchvision's layout")
    parser.add_argument("--only", nargs="*", default=None, choices=list(LIKELIHOODS), help="these base measures alone")
    parser.add_argument("--rows", nargs="*", default=None, help="these alone, beside the first: 'prior vamp'")
    parser.add_argument("--train", type=int, default=50_000, help="training images at most")
    parser.add_argument("--items", type=int, default=500, help="test images")
    parser.add_argument("--epochs", type=int, default=100, help="of each fit of images")
    parser.add_argument("--latent", type=int, default=8)
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="folder for results (out/parts-DATA)")
    options, start = parser.parse_args(), time.perf_counter()
    known = {
        name for measure in LIKELIHOODS for name, _ in arms(Items(measure, torch.zeros(1, 1), torch.zeros(1, 1), 2))
    }
    if not set(options.rows or ()) <= known:
        parser.error(f"--rows must be of {', '.join(sorted(known))}")
    options.out = options.out or Path("out") / f"parts-{Path(options.data).name}"
    options.out.mkdir(parents=True, exist_ok=True)
    priceless = (
        set(registered("likelihood"))
        - {"from_distribution"}
        - {name for names in LIKELIHOODS.values() for name in names}
    )
    if priceless:
        print(f"in no comparison: {', '.join(sorted(priceless))}")
    results = {}
    for items in images(options):
        if options.only is None or items.measure in options.only:
            results[items.measure] = priced(items, options)
    if options.only is None or "counts" in options.only:
        options.epochs, options.latent, options.width = max(1, options.epochs // 10), 2, 32
        results |= {items.measure: priced(items, options) for items in counts(options)}
    for measure, one in results.items():
        one.to_netcdf(options.out / f"{measure.replace(' ', '-')}.nc", engine="h5netcdf")
    if results:
        figure(results).savefig(options.out / "parts.png", dpi=120)
    print(f"\n{time.perf_counter() - start:.0f} s; results and figure are in {options.out}/")


if __name__ == "__main__":
    main()
