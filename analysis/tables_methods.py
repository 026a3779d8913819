"""What tables.py compares: densities of rows, and ways to fill missing entries, each a function of the rows."""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from scipy import special, stats
from tables_data import Source
from torch import Tensor, nn
from torch.distributions import constraints

import pyrovae

DRAWS = 199  # of each missing entry: from the 10th smallest to the 10th largest is an interval of 90 %
FEW_DRAWS = 19  # of chained equations, each of which is a run: from the smallest to the largest
BANDWIDTHS = np.geomspace(0.1, 1.0, 10)  # of a kernel, in those of Scott's rule


# densities ------------------------------------------------------------------------------------------
# (source, training rows, test rows, options, seed) to log p of each test row in nats, and what was chosen

Density = Callable[[Source, Any, Any, argparse.Namespace, int], tuple[Tensor, str]]


def independent(source: Source, train: Any, test: Any, args: argparse.Namespace, seed: int) -> tuple[Tensor, str]:
    """Each column its family, at the maximum of the likelihood."""
    return mixture_of_columns(source, train, args, seed, sizes=[1])[0].log_prob(test.x[:], missing=True), ""


def columns(source: Source, train: Any, test: Any, args: argparse.Namespace, seed: int) -> tuple[Tensor, str]:
    pair, chosen = mixture_of_columns(source, train, args, seed)
    return pair.log_prob(test.x[:], missing=True), chosen


def gaussian(source: Source, train: Any, test: Any, args: argparse.Namespace, seed: int) -> tuple[Tensor, str]:
    return gaussians(source, train, args, seed, sizes=[1])[0].log_prob(test.x[:], missing=True), ""


def mixture(source: Source, train: Any, test: Any, args: argparse.Namespace, seed: int) -> tuple[Tensor, str]:
    pair, chosen = gaussians(source, train, args, seed)
    return pair.log_prob(test.x[:], missing=True), chosen


def vae(source: Source, train: Any, test: Any, args: argparse.Namespace, seed: int) -> tuple[Tensor, str]:
    """The importance-weighted bound, which is below log p(x)."""
    pair, chosen = table_vae(source, train, args, seed, sizes=args.latent)
    bound = pyrovae.iwae(pair, test, num_particles=args.particles, seed=seed)
    return torch.from_numpy(bound.pointwise["value"].to_numpy()), chosen


def kernels(source: Source, train: Any, test: Any, args: argparse.Namespace, seed: int) -> tuple[Tensor, str]:
    """Independent columns, each a kernel density: the copula's margins."""
    parts = margins(train.x[:])
    x = test.x[:].double().numpy()
    return torch.from_numpy(sum(each.log_density(x[:, j]) for j, each in enumerate(parts))), ""


def copula(source: Source, train: Any, test: Any, args: argparse.Namespace, seed: int) -> tuple[Tensor, str]:
    """A Gaussian copula between the kernel densities: log p(x) = sum_j log f_j(x_j) + log N(s; 0, R) - log N(s; 0, I)
    at the normal scores s_j = Phi^-1(F_j(x_j)), whose correlation R is that of the training rows.
    """
    parts = margins(train.x[:])
    x = test.x[:].double().numpy()
    scores = np.stack([each.score(column) for each, column in zip(parts, train.x[:].double().numpy().T, strict=True)])
    law = stats.multivariate_normal(cov=np.corrcoef(scores))
    s = np.stack([each.score(x[:, j]) for j, each in enumerate(parts)], 1)
    joint = law.logpdf(s) - stats.norm.logpdf(s).sum(1)
    return torch.from_numpy(joint + sum(each.log_density(x[:, j]) for j, each in enumerate(parts))), ""


DENSITIES: dict[str, Density] = {
    "independent": independent,
    "independent, kernels": kernels,
    "Gaussian copula": copula,
    "Gaussian": gaussian,
    "GaussianMixture": mixture,
    "ColumnMixture": columns,
    "table_vae": vae,
}
FOR_REAL = {"independent, kernels", "Gaussian copula", "Gaussian", "GaussianMixture", "MIWAE"}


class Kernel:
    """A density of one column from normal kernels at its values; the width has the best leave-one-out likelihood."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        scott = x.std() * len(x) ** -0.2
        square = -0.5 * (x[:, None] - x) ** 2
        np.fill_diagonal(square, -np.inf)

        def left_out(width: float) -> float:
            return float(special.logsumexp(square / width**2, axis=1).mean() - math.log(width))

        self.width = max(scott * BANDWIDTHS, key=left_out)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        kernels = stats.norm.logpdf(x[:, None], self.x, self.width)
        return np.asarray(special.logsumexp(kernels, axis=1)) - math.log(len(self.x))

    def score(self, x: np.ndarray) -> np.ndarray:
        """The normal score; in the upper tail by the survival function, which keeps its digits there."""
        t = (x[:, None] - self.x) / self.width
        below, above = (special.logsumexp(special.log_ndtr(each), axis=1) - math.log(len(self.x)) for each in (t, -t))
        return np.where(below < above, special.ndtri_exp(below), -special.ndtri_exp(above))


def margins(x: Tensor) -> list[Kernel]:
    return [Kernel(column) for column in x.double().numpy().T]


# the package's models -------------------------------------------------------------------------------


def mixture_of_columns(
    source: Source, rows: Any, args: argparse.Namespace, seed: int, sizes: list[int] | None = None
) -> tuple[Any, str]:
    def build(num_components: int) -> Any:
        return pyrovae.ColumnMixture(source.table.columns, num_components, families=source.families).double()

    return chosen(build, rows, args, seed, {"num_restarts": args.restarts}, num_components=sizes or args.classes)


def gaussians(
    source: Source, rows: Any, args: argparse.Namespace, seed: int, sizes: list[int] | None = None
) -> tuple[Any, str]:
    def build(num_components: int) -> Any:
        return pyrovae.GaussianMixture(source.table.event_shape, num_components).double()

    sizes = sizes or args.components
    how = {
        "num_restarts": args.restarts if max(sizes) > 1 else 1,
        "tol": 1e-4,
    }  # further iterations go towards a singular covariance
    return chosen(build, rows, args, seed, how, num_components=sizes)


def table_vae(source: Source, rows: Any, args: argparse.Namespace, seed: int, sizes: list[int]) -> tuple[Any, str]:
    def build(latent_dim: int) -> Any:
        return pyrovae.table_vae(source.table.columns, latent_dim, hidden_dims=(args.hidden,))

    count = len(rows.x if hasattr(rows, "x") else rows)
    how = {
        "epochs": math.ceil(args.steps / math.ceil(count / 64)),
        "batch_size": 64,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "objective": "iwae",
    }
    return chosen(build, rows, args, seed, how, latent_dim=sizes)


def chosen(
    build: Callable[..., Any], rows: Any, args: argparse.Namespace, seed: int, how: dict[str, Any], **grid: list[int]
) -> tuple[Any, str]:
    """The pair of the chosen size, fitted to all rows, and the size in words; one size is fitted as it is."""
    ((name, sizes),) = grid.items()
    missing = None if isinstance(rows, pyrovae.data.Split) else True  # a split says so itself
    common: dict[str, Any] = {"missing": missing, "progress": False, "seed": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of runs that have not converged, and of variances at their floor
        if len(sizes) > 1:
            choice = pyrovae.choose(build, rows, folds=args.inner_folds, options=how, **common, **grid)
            return choice.pair, f"{name}={choice.chosen[name]}"
        torch.manual_seed(seed)
        pair = build(sizes[0])
        pyrovae.fit(pair, rows, **common, **how)
    return pair, f"{name}={sizes[0]}"


# imputation -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filled:
    """Rows without missing entries: one value each, draws (n, N, D), and log p(missing | seen) of the true rows."""

    point: Tensor
    draws: Tensor | None = None
    log_prob: Tensor | None = None
    chosen: str = ""


Imputation = Callable[[Source, Tensor, Tensor, argparse.Namespace, int], Filled]


def by_mean(source: Source, x: Tensor, truth: Tensor, args: argparse.Namespace, seed: int) -> Filled:
    """The mean of a number, the most frequent code of a category."""
    fill = torch.where(source.numeric, x.nanmean(0), x.nan_to_num(torch.inf).mode(0).values)
    for j in (~source.numeric).nonzero()[:, 0].tolist():
        fill[j] = x[~x[:, j].isnan(), j].mode().values
    return Filled(torch.where(x.isnan(), fill, x))


def by_neighbours(source: Source, x: Tensor, truth: Tensor, args: argparse.Namespace, seed: int) -> Filled:
    from sklearn.impute import KNNImputer

    return Filled(Coding(source, x).by(KNNImputer(n_neighbors=10), x))


def by_chained_equations(source: Source, x: Tensor, truth: Tensor, args: argparse.Namespace, seed: int) -> Filled:
    """scikit-learn's IterativeImputer with Bayesian ridge regression: its means, and draws, each from a run."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    coding = Coding(source, x, reference=True)
    runs = partial(IterativeImputer, max_iter=args.rounds, skip_complete=True)
    point = coding.by(runs(random_state=seed), x)
    count = FEW_DRAWS if args.chained_draws else 0
    draws = [coding.by(runs(sample_posterior=True, random_state=i), x) for i in range(count)]
    return Filled(point, torch.stack(draws) if draws else None)


def by_independence(source: Source, x: Tensor, truth: Tensor, args: argparse.Namespace, seed: int) -> Filled:
    return _of_columns(source, x, truth, mixture_of_columns(source, x, args, seed, sizes=[1]), seed)


def by_columns(source: Source, x: Tensor, truth: Tensor, args: argparse.Namespace, seed: int) -> Filled:
    return _of_columns(source, x, truth, mixture_of_columns(source, x, args, seed), seed)


@torch.no_grad()
def _of_columns(source: Source, x: Tensor, truth: Tensor, fitted: tuple[Any, str], seed: int) -> Filled:
    pair, words = fitted
    given = pair.conditional(x)
    point = given.mean
    for j, column in enumerate(source.table.columns):
        if column.categories is not None:
            point[:, j] = given.probabilities(column.name).argmax(-1).to(point)
    return Filled(point, pair.impute(x, num_draws=DRAWS, seed=seed), given.log_prob(truth), words)


def by_gaussian(source: Source, x: Tensor, truth: Tensor, args: argparse.Namespace, seed: int) -> Filled:
    return _of_gaussians(x, truth, gaussians(source, x, args, seed, sizes=[1]), seed)


def by_gaussians(source: Source, x: Tensor, truth: Tensor, args: argparse.Namespace, seed: int) -> Filled:
    return _of_gaussians(x, truth, gaussians(source, x, args, seed), seed)


@torch.no_grad()
def _of_gaussians(x: Tensor, truth: Tensor, fitted: tuple[Any, str], seed: int) -> Filled:
    pair, words = fitted
    given = pair.conditional(x)
    torch.manual_seed(seed)
    return Filled(given.mean, given.sample((DRAWS,)), given.log_prob(truth), words)


def by_vae(source: Source, x: Tensor, truth: Tensor, args: argparse.Namespace, seed: int) -> Filled:
    pair, words = table_vae(source, x.float(), args, seed, sizes=args.latent[-1:])
    point, draws = _drawn(source, pair, x, seed)
    bounds = [
        pyrovae.iwae(pair, each.float(), missing=True, num_particles=args.particles, seed=seed) for each in (truth, x)
    ]
    whole, seen = (torch.from_numpy(bound.pointwise["value"].to_numpy()) for bound in bounds)
    return Filled(point, draws, whole - seen, words)


def by_miwae(source: Source, x: Tensor, truth: Tensor, args: argparse.Namespace, seed: int) -> Filled:
    """The protocol of Mattei and Frellsen (2019, section 5), as far as their published notebooks tell it.

    10-dimensional codes, two layers of 128 tanh units, Student's t with a location, a scale and degrees of freedom from
    the code, 20 particles, Adam at 0.001, batches of 64; columns are standardised by all of their values, and about
    10,000 candidates are weighed for each item. Theirs sees zeros for missing entries; here it sees the mask as well.
    """
    loc, scale = truth.mean(0), truth.std(0, correction=0)
    own = ((x - loc) / scale).float()
    torch.manual_seed(seed)
    pair = pyrovae.mlp_vae(
        source.table.event_shape,
        10,
        hidden_dims=(128, 128),
        activation="tanh",
        likelihood=StudentTOfCode(),
        missing=True,
    )
    pyrovae.fit(
        pair,
        own,
        missing=True,
        epochs=args.miwae_epochs,
        batch_size=64,
        learning_rate=1e-3,
        objective="iwae",
        num_particles=20,
        compile=args.compile,
        progress=False,
        seed=seed,
    )
    point, draws = _drawn(source, pair, own, seed, num_steps=50)
    return Filled(point * scale + loc, draws * scale + loc)


def _drawn(source: Source, pair: Any, x: Tensor, seed: int, num_steps: int = 10) -> tuple[Tensor, Tensor]:
    """Draws of the missing entries, and their means, or the most frequent code of a category."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of small effective sample sizes
        draws = pair.impute(x.float(), num_draws=DRAWS, num_steps=num_steps, method="sir", seed=seed).double()
    point = torch.where(source.numeric, draws.mean(0), draws.mode(0).values)
    return torch.where(x.isnan(), point, x.double()), draws


class StudentTOfCode(nn.Module):
    """x = loc(z) + scale(z) t, t of Student's distribution with 3 + softplus(.) degrees of freedom."""

    support = constraints.real
    num_parameters = 3

    def forward(self, loc: Tensor, raw_scale: Tensor, raw_df: Tensor) -> Any:
        softplus = nn.functional.softplus
        return dist.StudentT(3 + softplus(raw_df), loc, 1e-3 + softplus(raw_scale))


IMPUTATIONS: dict[str, Imputation] = {
    "mean or mode": by_mean,
    "nearest neighbours": by_neighbours,
    "chained equations": by_chained_equations,
    "independent": by_independence,
    "Gaussian": by_gaussian,
    "GaussianMixture": by_gaussians,
    "ColumnMixture": by_columns,
    "table_vae": by_vae,
}


class Coding:
    """Rows as scikit-learn's imputers take them: numbers standardised by the seen ones, a column for each category.

    With `reference` the first category has none, since it follows from the others: a regression that sees them all
    repeats what it began with.
    """

    def __init__(self, source: Source, x: Tensor, *, reference: bool = False) -> None:
        self.columns, self.reference = source.table.columns, reference
        mean = x.nanmean(0)
        self.loc, self.scale = mean, ((x - mean) ** 2).nanmean(0).sqrt()

    def by(self, imputer: Any, x: Tensor) -> Tensor:
        """The rows that an imputer fills, in the table's units; of a category the code with the largest number."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rounds that have not converged
            done = torch.from_numpy(imputer.fit_transform(self.coded(x).numpy()))
        filled, start = x.clone(), 0
        for j, column in enumerate(self.columns):
            width = 1 if column.categories is None else column.num_categories - self.reference
            part = done[:, start : start + width]
            start += width
            if column.categories is None:
                value = part[:, 0] * self.scale[j] + self.loc[j]
            else:
                first = 1 - part.sum(1, keepdim=True)
                value = (torch.cat([first, part], 1) if self.reference else part).argmax(1).double()
            filled[:, j] = torch.where(x[:, j].isnan(), value, x[:, j])
        return filled

    def coded(self, x: Tensor) -> Tensor:
        parts = []
        for j, column in enumerate(self.columns):
            own = x[:, j : j + 1]
            if column.categories is None:
                parts.append((own - self.loc[j]) / self.scale[j])
            else:
                codes = (own == torch.arange(int(self.reference), column.num_categories)).double()
                parts.append(codes.masked_fill(own.isnan(), math.nan))
        return torch.cat(parts, 1)
