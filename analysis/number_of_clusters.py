"""How many components? PSIS-LOO of Bayesian mixtures of 1 to 6 components on data of three clusters.

    python analysis/number_of_clusters.py                    # ten data sets by NUTS: an hour on one core
    python analysis/number_of_clusters.py --method svi       # by a full-rank normal guide: 5 minutes

For each data seed 300 items of three clusters in two dimensions, standardised, and a `BayesianGaussianMixture` of K
diagonal components for each K. `to_arviz` hands ArviZ the log-likelihood of each item at each draw of the parameters;
`az.loo` gives the expected log predictive density by leaving one out, `az.compare` the table. Printed for each seed:
the differences to K = 3 with their standard errors, and the largest Pareto k; at the end in how many seeds K = 1 and 2
are worse by over 4 standard errors, none of 4 to 6 is better by over 2, the smallest K within 2 of the best is 3, and k
stays under 0.7: where it does not the fit is made again with four times the draws, and that is said. The exports stay
in --out: another version of ArviZ reads the same numbers (--read).
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import torch

import pyrovae

COMPONENTS = (1, 2, 3, 4, 5, 6)
TRUE = 3
LARGEST = 0.7  # of a Pareto k: a fit with one above it is made again with four times the draws


def clusters(seed: int, n: int) -> np.ndarray:
    """Items of three normal clusters, standardised."""
    rng = np.random.default_rng(seed)
    at = np.array([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.8]])
    x = at[rng.choice(3, size=n, p=[0.3, 0.3, 0.4])] + 0.6 * rng.normal(size=(n, 2))
    return (x - x.mean(0)) / x.std(0)


def exported(x: np.ndarray, k: int, options: argparse.Namespace, draws: int) -> Any:
    """Draws of the parameters of a mixture of k components, for ArviZ."""
    torch.manual_seed(0)
    mixture = pyrovae.BayesianGaussianMixture((2,), k, covariance="diagonal").double()
    how = {"method": "nuts", "num_draws": draws, "num_chains": 2} if options.method == "nuts" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # more components than clusters need not mix: R-hat is kept
        history = pyrovae.fit(mixture, x, progress=False, **how)
    tree = pyrovae.to_arviz(mixture, x, num_draws=2 * draws)
    tree.attrs["r_hat"] = max(history.config["r_hat"].values()) if "r_hat" in history.config else math.nan
    return tree


def opened(path: Path) -> Any:
    """A file of either version, as the installed one has it."""
    return az.from_netcdf(str(path))


def pointwise(found: Any) -> tuple[np.ndarray, float]:
    """Each item's expected log predictive density, and the largest Pareto k."""
    each = found.loo_i if hasattr(found, "loo_i") else found.elpd_i
    return np.asarray(each), float(np.max(found.pareto_k))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--method", choices=("nuts", "svi"), default="nuts")
    parser.add_argument("--draws", type=int, default=500, help="of each of two chains, or half of the guide's")
    parser.add_argument("--out", type=Path, default=Path("out/number-of-clusters"))
    parser.add_argument("--read", action="store_true", help="only read what an earlier run has left in --out")
    options, start = parser.parse_args(), time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the arrays are small
    print(f"ArviZ {az.__version__}, {options.method}; elpd(K) - elpd(3) ± its standard error [largest Pareto k]")
    counts = dict.fromkeys(("1 and 2 worse by > 4 se", "none of 4-6 better by > 2 se", "smallest is 3", "k < 0.7"), 0)
    for seed in range(options.seeds):
        x, found = clusters(seed, options.items), {}
        for k in COMPONENTS:
            for draws in (options.draws, 4 * options.draws):
                path = options.out / f"{options.method}-{options.items}-{draws}-{seed}-{k}.nc"
                if options.read and not path.exists() and k in found:
                    break  # not drawn again
                if not path.exists() and not options.read:
                    exported(x, k, options, draws).to_netcdf(str(path))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # k is printed
                    found[k] = az.loo(opened(path), pointwise=True)
                if (worst := pointwise(found[k])[1]) < LARGEST:
                    break
                print(f"seed {seed}, K = {k}: largest Pareto k {worst:.2f} with 2 x {draws} draws", flush=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            best = int(az.compare({str(k): one for k, one in found.items()}).index[0])
        each = {k: pointwise(one) for k, one in found.items()}

        def difference(k: int, other: int, each: dict[int, Any] = each) -> tuple[float, float]:
            d = each[k][0] - each[other][0]
            return float(d.sum()), float(d.std(ddof=1)) * math.sqrt(len(d))

        to_three = {k: difference(k, TRUE) for k in COMPONENTS if k != TRUE}
        largest = max(k for _, k in each.values())
        within = [k for k in COMPONENTS if k == best or -difference(k, best)[0] <= 2 * difference(k, best)[1]]
        counts["1 and 2 worse by > 4 se"] += all(-d > 4 * se for k, (d, se) in to_three.items() if k < TRUE)
        counts["none of 4-6 better by > 2 se"] += all(d <= 2 * se for k, (d, se) in to_three.items() if k > TRUE)
        counts["smallest is 3"] += min(within) == TRUE
        counts["k < 0.7"] += largest < LARGEST
        words = "  ".join(f"{k}: {d:7.1f} ± {se:4.1f} [{each[k][1]:.2f}]" for k, (d, se) in to_three.items())
        print(f"seed {seed}  {words}  3: [{each[TRUE][1]:.2f}]  smallest within 2 se: {min(within)}", flush=True)
    for name, count in counts.items():
        print(f"{name:30s} {count} of {options.seeds}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
