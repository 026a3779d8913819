"""How far is each bound from log p(x)? Every estimator on the same items of the same models, with error and time.

    python analysis/evidence.py                                     # 8x8 digits: some minutes
    python analysis/evidence.py --data mnist --root data            # an hour and more on two cores

Fits a VAE with a code of 2, 10 and (not on digits) 50 dimensions on binarised images, probabilistic PCA on grey ones,
and an autoencoder made a density (a Gaussian on its codes) beside a VAE of the same network, budget and Normal
likelihood: at the VAE's scale, and at each one's own by maximum likelihood on validation items (their bounds are those
of different guides: quadrature and AIS rank them). Then ELBO, IWAE with
10, 100 and 5,000 particles and AIS on --items test items; quadrature where the code has two dimensions, the closed form
where the pair is linear; and bounds from both sides on as many items drawn from each model (BDMC). Where log p(x) is
known: each bound's distance to it, and the gap in its two parts, on training items too. Fits and tables stay in --out.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar

import pyrovae
from pyrovae import plotting
from pyrovae.data import Dataset
from pyrovae.evaluation.estimate import pair_hash

PARTICLES = (10, 100, 5000)
HIDDEN = {"digits": (64,)}
EPOCHS = {"digits": 300}
VALIDATION = 300


@dataclass(frozen=True)
class Subject:
    """A model, the test items it is asked about, and as many of its training items."""

    name: str
    pair: Any
    x: torch.Tensor
    train: torch.Tensor
    binarization: str | None = None
    is_linear: bool = False


def fitted(name: str, make: Callable[[], Any], x: torch.Tensor, options: argparse.Namespace, **fit: Any) -> Any:
    """The fitted pair, from its folder where an earlier run of the same fit left it."""
    torch.manual_seed(0)
    pair = make()
    told = repr((pair_hash(pair), x.numpy().tobytes(), options.epochs, fit, pyrovae.__version__))
    home = options.out / "pairs" / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    if home.exists():
        return pyrovae.load(home)
    pyrovae.fit(pair, x, epochs=options.epochs, batch_size=128, learning_rate=1e-3, schedule="cosine", **fit)
    pyrovae.save(home, pair)
    return pair


def subjects(data: Dataset, options: argparse.Namespace) -> Iterator[Subject]:
    """The models, fitted, each with its items."""
    network = {"hidden_dims": HIDDEN.get(data.name, (400,))}
    train, test = data.train.x[:], data.test.x[: options.items]
    options.items = len(test)
    binary = [pyrovae.data.binarize(part, seed=0) for part in (test, train[: options.items])]
    for size in (2, 10) if data.name == "digits" else (2, 10, 50):
        if not wanted(f"VAE {size}-D Bernoulli", options):
            continue
        make = partial(pyrovae.mlp_vae, data.event_shape, size, **network)
        pair = fitted(f"bernoulli{size}", make, train, options, binarize=True)
        yield Subject(f"VAE {size}-D Bernoulli", pair, *binary, "sampled, seed 0")
    if wanted("PPCA 2-D", options):
        flat = train.flatten(1)
        linear = fitted("ppca2", partial(pyrovae.linear_vae, flat.shape[1], 2), flat, options)
        yield Subject("PPCA 2-D", linear, test.flatten(1), flat[: options.items], is_linear=True)
    if wanted("Normal", options):
        for name, pair in densities(data, network, options):
            yield Subject(name, pair, test, train[: options.items])


def wanted(name: str, options: argparse.Namespace) -> bool:
    return not options.models or any(word in name.split() for word in options.models)


def densities(data: Dataset, network: dict[str, Any], options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """A VAE and an AE of one network and budget as densities: at the VAE's scale, then each at its own."""
    train, validation = data.train.x[:-VALIDATION], data.train.x[-VALIDATION:]
    learned = pyrovae.Normal(initial_scale=0.3, link="sigmoid")
    build = partial(pyrovae.mlp_vae, data.event_shape, 2, **network)
    vae = fitted("normal2", partial(build, likelihood=learned), train, options)
    scale = float(vae.likelihood.family.scale.detach())
    fixed = pyrovae.Normal(scale=scale, link="sigmoid")
    ae = fitted("ae2", partial(pyrovae.mlp_ae, data.event_shape, 2, likelihood=fixed, **network), train, options)
    prior = pyrovae.GaussianPrior.fit(pyrovae.encoded(ae, train))

    def vae_at(value: float) -> Any:
        rescaled = copy.deepcopy(vae)
        rescaled.likelihood.family = pyrovae.Normal(scale=value, link="sigmoid")
        return rescaled

    def ae_at(value: float) -> Any:
        return pyrovae.as_density(ae, prior, scale=value)

    def loss(log_scale: float, at: Callable[[float], Any]) -> float:
        return -pyrovae.quadrature(at(math.exp(log_scale)), validation, tol=1e-2).mean

    start = math.log(scale)
    for name, at in (("VAE", vae_at), ("AE", ae_at)):
        own = math.exp(minimize_scalar(loss, bracket=(start, start + 0.1), args=(at,), tol=1e-2).x)
        yield f"{name} 2-D Normal, the VAE's scale {scale:.3f}", at(scale)
        yield f"{name} 2-D Normal, its own scale {own:.3f}", at(own)


def estimators(subject: Subject, options: argparse.Namespace) -> dict[str, Callable[[Any], pyrovae.Estimate]]:
    """Every estimator that the pair has."""
    pair = subject.pair
    asked: dict[str, Callable[[Any], pyrovae.Estimate]] = {"ELBO": lambda x: pyrovae.elbo(pair, x, num_particles=100)}
    for k in PARTICLES:
        asked[f"IWAE {k:,}"] = lambda x, k=k: pyrovae.iwae(pair, x, num_particles=k)
    asked["AIS"] = lambda x: pyrovae.ais(pair, x, num_steps=options.steps)
    if pair.latent_dim <= 2:
        asked["quadrature"] = lambda x: pyrovae.quadrature(pair, x)
    if subject.is_linear:
        asked["exact"] = lambda x: pyrovae.exact(pair, x)
    return asked


def report(subject: Subject, options: argparse.Namespace) -> tuple[str, xr.Dataset]:
    """One model's table in words, and its numbers per item."""
    x, asked, found = subject.x, estimators(subject, options), {}
    for name, ask in asked.items():
        start = time.perf_counter()
        estimate = ask(x).named(data=options.data, binarization=subject.binarization)
        found[name] = estimate, (time.perf_counter() - start) / len(x)
    errors = {name: estimate.se for name, (estimate, _) in found.items() if estimate.bound == "exact"}
    oracle = min(errors, key=errors.__getitem__, default=None)
    lines = [f"{subject.name}, {len(x)} test items" + (f", {subject.binarization}" if subject.binarization else "")]
    lines.append("  estimator    nats per item  ± Monte Carlo  ± items   below the exact  ms an item  Pareto k > 0.7")
    rows = []
    for name, (estimate, seconds) in found.items():
        gap = found[oracle][0] - estimate if oracle and name != oracle else None
        below = f"{gap.mean:8.4f} ± {gap.se:.4f}" if gap is not None else ""
        k = estimate.pointwise.get("pareto_k")
        heavy = "" if k is None or bool(k.isnull().all()) else f"{int((k > 0.7).sum()):8d}"
        numbers = f"{estimate.mean:14.4f} {estimate.se:14.4f} {estimate.se_items:8.2f} {below:>17s}"
        lines.append(f"  {name:11s} {numbers} {1000 * seconds:11.2f}  {heavy}")
        rows.append(estimate.pointwise[["value", "se"]].assign(seconds=seconds).assign_coords(estimator=name))
        if k is not None:
            rows[-1] = rows[-1].assign(pareto_k=k)
    result = xr.concat(rows, "estimator", combine_attrs="drop_conflicts", join="outer")
    words, both_sides = bounded(subject, asked.get(oracle or ""), options)
    lines += words
    if oracle:
        ledgers = {"test": pyrovae.gaps(subject.pair, x, found[oracle][0])}
        ledgers["train"] = pyrovae.gaps(subject.pair, subject.train, asked[oracle](subject.train))
        fit = pyrovae.overfit(ledgers["train"], ledgers["test"])
        parts = ("approximation", "amortization")
        result = result.assign({f"{p}_{n}": ledger.pointwise[p] for n, ledger in ledgers.items() for p in parts})
        lines += [f"  {name}: {ledger}" for name, ledger in ledgers.items()]
        for part, words in (("encoder", "amortisation gap, test - train"), ("decoder", "log p(x), train - test")):
            lines.append(f"  over-fit of the {part} ({words}): {float(fit[part]):.3f} ± {float(fit[part + '_se']):.3f}")
    lines.append(f"  {pyrovae.calibrate(subject.pair)}")
    return "\n".join(lines), result.assign(both_sides)


def bounded(subject: Subject, oracle: Any, options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """Both bounds on items of the model's own, in words and per item, and log p(x) between where it is known."""
    start = time.perf_counter()
    lower, upper = pyrovae.bdmc(subject.pair, options.items, num_steps=options.steps)
    seconds, gap = (time.perf_counter() - start) / options.items, upper - lower
    numbers = {"bdmc_lower": lower.pointwise["value"], "bdmc_upper": upper.pointwise["value"], "bdmc_seconds": seconds}
    lines = [f"  on {len(lower.pointwise.item)} items of its own, errors over items"]
    for name, one, time_taken in (("BDMC lower", lower, f"{1000 * seconds:11.2f}"), ("BDMC upper", upper, "")):
        lines.append(f"  {name:11s} {one.mean:14.4f} {'':14s} {one.se_items:8.2f} {'':17s} {time_taken:>11s}")
    lines.append(f"  {'upper-lower':11s} {gap.mean:14.4f} {'':14s} {gap.se:8.4f}")
    if oracle is not None:
        truth = oracle(lower.pointwise["obs"].values)
        numbers["bdmc_exact"] = truth.pointwise["value"]
        for name, side in (("exact-lower", truth - lower), ("upper-exact", upper - truth)):
            lines.append(f"  {name:11s} {side.mean:14.4f} {'':14s} {side.se_items:8.4f}")
    return lines, numbers


def reported(subject: Subject, options: argparse.Namespace) -> xr.Dataset:
    """The same, printed; from its file where an earlier run asked the same of the same pair."""
    items = [part.numpy().tobytes() for part in (subject.x, subject.train)]
    settings = (subject.name, options.data, options.items, options.steps, PARTICLES, pyrovae.__version__)
    asked = repr((pair_hash(subject.pair), items, settings))
    home = options.out / "tables" / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.nc"
    if not home.exists():
        words, result = report(subject, options)
        result.assign_attrs(words=words).to_netcdf(home.with_suffix(".part"), engine="h5netcdf")
        home.with_suffix(".part").rename(home)  # a kill leaves no half a table
    with xr.open_dataset(home, engine="h5netcdf") as result:
        print(f"\n{result.attrs['words']}", flush=True)
        return result.load()


def compared(results: dict[str, xr.Dataset]) -> Iterator[str]:
    """The AE's density against the VAE, item by item, by quadrature: at one scale, and each at its own."""
    for scale in ("the VAE's scale", "its own scale"):
        found = {name[:2]: one for name, one in results.items() if scale in name}
        if len(found) == 2:
            difference = (found["AE"].value - found["VA"].value).sel(estimator="quadrature")
            error = float(difference.std(ddof=1)) / math.sqrt(difference.size)
            yield f"log p(x), AE's density - VAE at {scale}: {float(difference.mean()):.3f} ± {error:.3f} over items"


def figures(results: dict[str, xr.Dataset]) -> dict[str, Figure]:
    """Bound against particles with log p(x) as a line, where it is known, and BDMC's gaps for every model."""

    def panels(names: list[str]) -> tuple[Figure, Any]:
        rows = -(-len(names) // 3)
        figure = Figure(figsize=(12.6, 3.7 * rows), layout="constrained")
        axes = figure.subplots(rows, 3, squeeze=False).flat
        for unused in axes[len(names) :]:
            unused.set_axis_off()
        return figure, axes

    drawn = {}
    known = [name for name, one in results.items() if "quadrature" in one.estimator]
    if known:
        drawn["bounds"], axes = panels(known)
        for ax, name in zip(axes, known, strict=False):
            values = results[name].value.mean("item")
            errors = np.sqrt((results[name].se ** 2).sum("item")) / results[name].sizes["item"]
            rows = [f"IWAE {k:,}" for k in PARTICLES]
            curve = {"IWAE ± 2 standard errors": (values.sel(estimator=rows), errors.sel(estimator=rows))}
            plotting.bound_curve(PARTICLES, curve, exact=float(values.sel(estimator="quadrature")), ax=ax, title=name)
            for row, style in (("ELBO", ":"), ("AIS", "--")):
                ax.axhline(float(values.sel(estimator=row)), color="black", linestyle=style, linewidth=1, label=row)
            ax.get_legend().remove()  # one for all, where no curve can pass under it
        drawn["bounds"].legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    drawn["bdmc"], axes = panels(list(results))
    for ax, (name, one) in zip(axes, results.items(), strict=False):
        plotting.gap_histogram((one.bdmc_upper - one.bdmc_lower).values, ax=ax, title=name)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, mnist, fashion-mnist, kmnist, or a path")
    parser.add_argument("--root", default=None, help="folder of the data set, in torchvision's layout")
    parser.add_argument("--items", type=int, default=100, help="test items, and simulated ones")
    parser.add_argument("--steps", type=int, default=1000, help="temperatures of AIS and BDMC")
    parser.add_argument("--epochs", type=int, default=None, help="of each fit (digits 300, others 30)")
    parser.add_argument("--models", nargs="*", default=None, help="only those: Bernoulli, PPCA, Normal, 10-D")
    parser.add_argument("--out", type=Path, default=None, help="folder for results (out/evidence-DATA)")
    options, start = parser.parse_args(), time.perf_counter()
    options.out = options.out or Path("out") / f"evidence-{Path(options.data).name}"
    options.epochs = options.epochs or EPOCHS.get(options.data, 30)
    for folder in ("pairs", "tables"):
        (options.out / folder).mkdir(parents=True, exist_ok=True)
    pyro.enable_validation(False)
    results = {}
    for subject in subjects(pyrovae.data.load(options.data, root=options.root), options):
        results[subject.name] = reported(subject, options)
    if not results:
        parser.error(f"--models {' '.join(options.models)}: no model has one of these words in its name")
    print("", *compared(results), sep="\n")
    everything = xr.concat(
        list(results.values()), xr.Variable("model", list(results)), join="outer", combine_attrs="drop_conflicts"
    )
    everything.to_netcdf(options.out / "results.nc", engine="h5netcdf")
    for name, figure in figures(results).items():
        figure.savefig(options.out / f"{name}.png", dpi=120)
    print(f"\n{time.perf_counter() - start:.0f} s; results.nc and figures are in {options.out}/")


if __name__ == "__main__":
    main()
