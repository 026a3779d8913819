"""What is each model of a table worth: as a density of its rows, and where entries are missing?

    python analysis/tables.py --tables wine penguins     # hours; finished fits are kept
    python analysis/tables.py --only density --steps 300 --masks 2
    python analysis/tables.py --only miwae --tables breast

Tables that packages ship: breast cancer and wine (scikit-learn; all columns taken as real), penguins (palmerpenguins;
mixed) and 2,000 rows of the RAND health insurance experiment (statsmodels; counts and codes, no density).

Density: each row is held out once in --folds folds; log p in nats per row, in the units as given, and the mean of the
paired differences to the best with its 95 % t interval over rows, the fits held fixed. Sizes (classes, components,
codes) are chosen on the training rows of the fold alone. Floors: each column its family; where all columns are real
also kernel densities, alone and joined by a Gaussian copula, whose normal scores codes do not have. Values of two
tables are never compared: kinds and units differ. A VAE's value is a bound of --particles, below log p.

Imputation: entries are missing completely at random, in several masks; models are fitted to what is left and see
nothing else. Error: root mean square of numbers in standard deviations of their column, and share of wrong categories;
log-score: log p(missing | seen) in nats per missing entry, where there is a density, that of a VAE the difference of
two bounds; coverage: how often the interval between the 10th smallest and the 10th largest of 199 draws has the true
number, 0.9 if draws are right (by chained equations, least and largest of 19). Intervals are t intervals over masks.

MIWAE: the protocol of Mattei and Frellsen (2019, section 5), half of all entries missing: mean squared error of
standardised entries, beside the paper's. Results stay in --out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import tables_methods as methods
import tables_report as report
import torch
from stored import Store
from tables_data import SOURCES, Source, hidden, sources
from torch import Tensor

PARTS = ("density", "imputation", "miwae")


def wanted(source: Source, names: Any, args: argparse.Namespace) -> list[str]:
    return [
        name
        for name in names
        if (args.methods is None or name in args.methods) and (source.is_real or name not in methods.FOR_REAL)
    ]


def densities(source: Source, args: argparse.Namespace, store: Store) -> dict[str, np.ndarray]:
    """log p of each row, held out once, by method."""
    order = np.random.default_rng(args.seed).permutation(len(source.table))
    parts = np.array_split(order, args.folds)
    values = {}
    for name in wanted(source, methods.DENSITIES, args):
        value = np.full(len(order), np.nan)
        for fold, part in enumerate(parts):
            rest = np.setdiff1d(order, part)

            def run(part: np.ndarray = part, rest: np.ndarray = rest, name: str = name) -> dict[str, Any]:
                train, test = (source.table[torch.from_numpy(rows)] for rows in (rest, part))
                found, chosen = methods.DENSITIES[name](source, train, test, args, args.seed)
                return {"log_prob": found.detach().double().tolist(), "chosen": chosen}

            value[part] = store.get(f"{source.name}, {name}, fold {fold} of {args.folds}", run)["log_prob"]
        values[name] = value
    return values


def imputations(source: Source, names: list[str], share: float, args: argparse.Namespace, store: Store) -> list[Any]:
    """Scores of each method with each mask, at one share of missing entries."""
    truth = source.complete()
    found = []
    for mask in range(args.masks):
        gone = hidden(tuple(truth.shape), share, mask)
        for name in names:

            def run(name: str = name, gone: Tensor = gone, mask: int = mask) -> dict[str, Any]:
                method = methods.by_miwae if name == "MIWAE" else methods.IMPUTATIONS[name]
                filled = method(source, truth.masked_fill(gone, torch.nan), truth, args, mask)
                return scores(source, filled, truth, gone)

            length = f", {args.miwae_epochs} epochs" if name == "MIWAE" else ""
            key = f"{source.name}, {share:.0%} missing, mask {mask}, {name}{length}"
            found.append({"method": name, "mask": mask, "share": share, **store.get(key, run)})
    return found


@torch.no_grad()
def scores(source: Source, filled: methods.Filled, truth: Tensor, gone: Tensor) -> dict[str, Any]:
    """Errors, log-score and coverage of the entries that were hidden."""
    numbers, codes = gone & source.numeric, gone & ~source.numeric
    made: dict[str, Any] = {"chosen": filled.chosen}
    if numbers.any():
        off = ((filled.point - truth) / truth.std(0, correction=0))[numbers]
        made["squared_error"] = float(off.square().mean())
    if codes.any():
        made["wrong"] = float((filled.point != truth)[codes].double().mean())
    if filled.log_prob is not None:
        made["log_score"] = float(filled.log_prob.double().sum() / gone.sum())
    if filled.draws is not None and numbers.any():
        rank = (len(filled.draws) + 1) // 20
        ordered = filled.draws[:, numbers].sort(0).values
        inside = (ordered[rank - 1] <= truth[numbers]) & (truth[numbers] <= ordered[-rank])
        made["coverage"] = float(inside.double().mean())
    return made


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tables", nargs="*", default=list(SOURCES), choices=list(SOURCES))
    made.add_argument("--only", nargs="*", default=list(PARTS), choices=PARTS)
    made.add_argument("--methods", nargs="*", default=None, help="these alone, as 'ColumnMixture'")
    made.add_argument("--shares", nargs="*", type=float, default=[0.1, 0.3, 0.5], help="of entries that are missing")
    made.add_argument("--masks", type=int, default=5)
    made.add_argument("--folds", type=int, default=5)
    made.add_argument("--inner-folds", type=int, default=3, help="by which sizes are chosen")
    made.add_argument("--classes", nargs="*", type=int, default=[1, 2, 4, 8, 12], help="of a ColumnMixture")
    made.add_argument("--components", nargs="*", type=int, default=[1, 2, 3], help="of a GaussianMixture")
    made.add_argument("--latent", nargs="*", type=int, default=[1, 2, 4], help="of a VAE; the last one for imputation")
    made.add_argument("--hidden", type=int, default=64, help="units of a VAE's layer")
    made.add_argument("--steps", type=int, default=2000, help="of a VAE's fit")
    made.add_argument("--restarts", type=int, default=3, help="of EM")
    made.add_argument("--particles", type=int, default=1000)
    made.add_argument("--rounds", type=int, default=10, help="of chained equations")
    made.add_argument("--chained-draws", action="store_true", help="19 more runs of chained equations, for intervals")
    made.add_argument("--miwae-epochs", type=int, default=601)
    made.add_argument("--compile", action="store_true", help="compile the steps of MIWAE")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, default=Path("out") / "tables")
    return made


def main() -> None:
    args = parser().parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.only:
        for source in sources(args.tables):
            store = Store(args.out / f"{part}-{source.name}.json")
            if part == "density":
                values = densities(source, args, store)
                print(f"\n{report.density_table(source.name, values)}\n")
                report.density_figure(source.name, values).savefig(args.out / f"density-{source.name}.png", dpi=120)
            elif part == "imputation":
                names = wanted(source, methods.IMPUTATIONS, args)
                rows = [row for share in args.shares for row in imputations(source, names, share, args, store)]
                print(f"\n{report.imputation_table(source.name, rows)}\n")
                report.imputation_figure(source.name, rows).savefig(args.out / f"imputation-{source.name}.png", dpi=120)
            elif source.is_real:
                names = wanted(source, [*report.BESIDE_MIWAE, "MIWAE"], args)
                rows = imputations(source, names, 0.5, args, store)
                print(f"\n{report.miwae_table(source.name, rows)}\n")


if __name__ == "__main__":
    main()
