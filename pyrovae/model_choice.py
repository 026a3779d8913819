"""Which of several models is large enough: held-out log p(x) by cross-validation, compared item by item."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrovae import checks
from pyrovae.data.dataset import Split
from pyrovae.data.mapped import MappedArray
from pyrovae.evaluation.estimate import Estimate
from pyrovae.evaluation.evidence import exact, iwae
from pyrovae.inference.training import fit
from pyrovae.labelled import labelled
from pyrovae.models.items import require_columns
from pyrovae.models.pair import as_module
from pyrovae.progress import progress_bar
from pyrovae.seeding import forked, stream
from pyrovae.summary import HasSummary, Rows

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Choice", "choose"]


@dataclass(frozen=True, eq=False, repr=False)
class Choice(HasSummary):
    """What `choose` has found.

    Attributes:
        candidates: the arguments of each candidate, in the order that they were asked for.
        chosen: those of the smallest candidate that is not shown to be worse than the best.
        best: those of the candidate with the highest mean.
        pair: a pair built with `chosen` and fitted to all items; None where it was not asked for.
        pointwise: the held-out log p(x) of each item under each candidate, "value", over "candidate" and "item".
        table: over "candidate": mean and se_items in nats per item, num_parameters, and the paired difference from the
            best, "difference", with its interval, "low" and "high".
    """

    candidates: list[dict[str, Any]]
    chosen: dict[str, Any]
    best: dict[str, Any]
    pair: Any
    pointwise: xr.Dataset
    table: xr.Dataset

    def __str__(self) -> str:
        rows = [("", "log p(x)", "less the best", "parameters")]
        for number, candidate in enumerate(self.candidates):
            row = self.table.isel(candidate=number)
            mean, low, high = (float(row[name]) for name in ("difference", "low", "high"))
            paired = "" if candidate == self.best else f"{mean:.3f} ({low:.3f} to {high:.3f})"
            mark = " *" if candidate == self.chosen else ""
            mean_of_items = f"{float(row['mean']):.3f} ± {float(row['se_items']):.3f}"
            rows.append((_in_words(candidate) + mark, mean_of_items, paired, f"{int(row['num_parameters']):,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, "* the smallest that is not shown to be worse than the best; nats per held-out item"])

    def _summary_rows(self) -> Rows:
        return {
            "chosen": lambda: _in_words(self.chosen),
            "best": lambda: _in_words(self.best),
            "candidates": lambda: len(self.candidates),
            "held-out items": lambda: f"{self.pointwise.sizes['item']:,}",
        }


@checks.flags
def choose(
    build: Callable[..., Any],
    x: Any,
    *,
    folds: int = 5,
    options: Mapping[str, Any] | None = None,
    estimator: Callable[..., Estimate] | None = None,
    confidence: float = 0.95,
    refit: bool = True,
    covariates: Any = None,
    exposure: Any = None,
    weight: Any = None,
    missing: Any = None,
    seed: int = 0,
    progress: bool = True,
    **grid: Sequence[Any],
) -> Choice:
    """Compare models of several sizes by their log p(x) of items that they were not fitted to.

    `grid` names arguments of `build` with the values to be tried, as `latent_dim=[1, 2, 4]`; of several, every
    combination is a candidate. The items are divided at random into `folds` parts. For each part and candidate a pair
    `build(**arguments)` is fitted to the other parts, by `fit(pair, items, **options)`, and log p(x) of the part is
    estimated: so each item has one held-out value under each candidate.

    The best candidate has the highest mean. For each other one, the mean of the paired differences has a t interval
    over items; with m candidates these have a confidence of 1 - (1 - `confidence`) / (m - 1) each, so that all of them
    hold together (Bonferroni). The candidate with the fewest parameters whose interval reaches 0 is chosen: the data do
    not show that it is worse than the best. The intervals are over items, and do not include that a fit from another
    start, or to other folds, would be another.

    Args:
        build: a function that makes a pair, as `functools.partial(pyrovae.mlp_vae, (13,), likelihood="normal")`.
        x: items, an array, a tensor, a data frame or a split; the four keywords below stand for those of `x`.
        folds: the number of parts, at least 2.
        options: the arguments of each `fit`, as `{"epochs": 100}`.
        estimator: called as `estimator(pair, items)`, it gives an `Estimate` of log p(x). None takes `exact` for a pair
            that has no code, as a mixture, and `iwae` with 1,000 particles for others.
        confidence: that of all intervals together.
        refit: whether the chosen candidate is fitted to all items at the end.
        covariates, exposure, weight, missing: as in `fit`.
        seed: of the folds, the initial weights and the fits.
        progress: a bar in a terminal or a notebook.

    Returns a `Choice`; `print` shows its table. Raises ValueError for a grid without candidates, for fewer than 2 folds
    or fewer items than folds.

    >>> from sklearn.datasets import load_iris
    >>> import pyrovae
    >>> x = load_iris().data
    >>> def build(num_components):
    ...     return pyrovae.GaussianMixture((4,), num_components, covariance="tied")
    >>> choice = pyrovae.choose(build, x, num_components=[1, 3], folds=2, options={"num_restarts": 1}, progress=False)
    >>> choice.best, choice.pair.num_components
    ({'num_components': 3}, 3)
    """
    checks.function("build", build, "a function that makes a pair")
    candidates = _candidates(grid)
    folds = checks.whole("folds", folds, least=2)
    confidence = checks.probability("confidence", confidence)
    seed = checks.seed(seed)
    options = checks.options("options", options)
    if estimator is not None:
        checks.function("estimator", estimator, "a function such as pyrovae.iwae, or None")
    if unusual := [name for name in ("seed", "progress", "resume", "checkpoint") if name in options]:
        raise ValueError(f"options are those of fit, and choose gives {unusual[0]} itself: leave it out")
    given = checks.split_of(
        x, covariates=covariates, exposure=exposure, weight=weight, missing=missing, takes=("weight", "missing")
    )
    items = _as_split(given)
    count = len(items)
    if count < folds:
        raise ValueError(f"x has {count} items for {folds} folds: give more items, or take fewer folds")
    weights = None if given.weight is None else checks.weights(given.weight, count).numpy()
    if weights is not None and float(weights.sum()) <= 1 + 1e-9:
        raise ValueError(
            f"weight sums up to {float(weights.sum()):.3g} items, of which no interval can be had: weights say how "
            "many times each item counts"
        )
    parts = np.array_split(np.random.default_rng(stream(seed, "folds") % 2**63).permutation(count), folds)
    values, sizes = np.full((len(candidates), count), np.nan), []
    with progress_bar(show=progress, total=len(candidates) * folds + refit, desc="choose", unit="fit") as bar:
        for number, candidate in enumerate(candidates):
            for fold, part in enumerate(parts):
                pair = _built(build, candidate, seed, fold)
                require_columns(pair, given.columns)
                rest = np.sort(np.concatenate([other for other in parts if other is not part]))
                fit(pair, items[torch.from_numpy(rest)], **options, seed=seed, progress=False)
                held_out = items[torch.from_numpy(np.sort(part))]
                found = _estimator_of(pair, estimator)(pair, held_out)
                checks.having("what estimator returns", found, "pointwise", what="an Estimate, as pyrovae.elbo gives")
                values[number, np.sort(part)] = found.pointwise["value"].to_numpy()
                bar.update()
            sizes.append(_size(pair))
        table, best, chosen = _compared(values, weights, sizes, confidence)
        final = None
        if refit:
            final = _built(build, candidates[chosen], seed, folds)
            fit(final, items, **options, seed=seed, progress=False)
            bar.update()
    names = [_in_words(candidate) for candidate in candidates]
    pointwise = labelled(
        {"value": (values, "held-out log p(x)", "nats", "candidate", "item")},
        {"candidate": names, "item": np.arange(count)},
        {"folds": folds, "seed": seed},
    )
    columns = {name: (column, None, UNITS.get(name, "nats"), "candidate") for name, column in table.items()}
    return Choice(
        candidates,
        candidates[chosen],
        candidates[best],
        final,
        pointwise,
        labelled(columns, {"candidate": names}, {"confidence": confidence, "folds": folds, "seed": seed}),
    )


UNITS = {"num_parameters": "1"}
PARTICLES = 1000
MOST_CANDIDATES = 10_000  # each of which is fitted several times


def _candidates(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not grid:
        raise ValueError("choose needs values to choose among, as latent_dim=[1, 2, 4]")
    for name, values in grid.items():
        if isinstance(values, np.ndarray) and values.ndim != 1:
            raise ValueError(f"{name} must be a list of the values to be tried, got an array of shape {values.shape}")
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray) or not len(values):
            raise ValueError(
                f"{name} must be a list of the values to be tried, as {name}=[1, 2, 4], got {values!r}; an argument "
                "that is the same for all candidates belongs into build, and one of fit into options"
            )
    if (count := math.prod(map(len, grid.values()))) > MOST_CANDIDATES:
        raise ValueError(
            f"{', '.join(grid)} have {count:,} combinations, and at most {MOST_CANDIDATES:,} are tried: give fewer"
        )
    rows = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if len({_in_words(row) for row in rows}) < len(rows):
        raise ValueError(f"each candidate must come once, and {[_in_words(row) for row in rows]} has one twice")
    return rows


def _as_split(given: checks.Gathered) -> Split:
    """The items as a split whose index takes rows; a memory-mapped view as it is."""
    # a memory-mapped view without a mask of its own is read row by row
    is_view = isinstance(given.x, MappedArray) and given.missing in (None, True)
    x = given.x if is_view else checks.array(checks.with_missing(given.x, given.missing), "x")
    if not x.shape:
        raise ValueError("x must have shape (N, *event), got a single number")
    rows = {name: checks.array(value, name) for name, value in given.carried.items() if name != "missing"}
    for name, value in rows.items():
        if not value.ndim or len(value) != len(x):
            raise ValueError(f"{name} must have a row for each of the {len(x)} items, got shape {tuple(value.shape)}")
    labels = None if given.y is None else torch.as_tensor(checks.labels(given.y, len(x)))
    return Split(x, labels, **rows, missing=None if given.missing is None else True)


def _built(build: Callable[..., Any], candidate: Mapping[str, Any], seed: int, fold: int) -> Any:
    """A pair whose initial weights depend on the seed and the fold alone; the caller's generator goes on as it was."""
    with forked(stream(seed, "build", fold), torch.device("cpu")):
        return as_module(build(**candidate))


def _estimator_of(pair: Any, estimator: Callable[..., Estimate] | None) -> Callable[..., Estimate]:
    if estimator is not None:
        return estimator
    if pair.latent_dim == 0:
        return exact
    return lambda of, items: iwae(of, items, num_particles=PARTICLES)


def _size(pair: Any) -> int:
    """The number of free parameters, as the pair says it or by its tensors."""
    stated = getattr(pair, "num_parameters", None)
    return stated if isinstance(stated, int) else sum(p.numel() for p in pair.parameters() if p.requires_grad)


def _compared(
    values: np.ndarray, weights: np.ndarray | None, sizes: Sequence[int], confidence: float
) -> tuple[dict[str, np.ndarray], int, int]:
    """The columns of the table, and the numbers of the best and of the chosen candidate."""
    from scipy import stats

    weight = np.ones(values.shape[1]) if weights is None else weights
    counted, total = weight > 0, float(weight.sum())

    def moments(rows: np.ndarray) -> tuple[float, float]:
        if not np.isfinite(rows[counted]).all():
            return (math.nan if np.isnan(rows[counted]).any() else -math.inf), math.nan
        mean = float(weight[counted] @ rows[counted]) / total
        squares = float(weight[counted] @ (rows[counted] - mean) ** 2)
        return mean, math.sqrt(squares / (total - 1) / total) if total > 1 else math.nan

    each = [moments(row) for row in values]
    best = int(np.argmax([-math.inf if math.isnan(mean) else mean for mean, _ in each]))
    if not math.isfinite(each[best][0]):
        raise ValueError(
            "no candidate gives every held-out item a density: its log p(x) is not finite; give more items, or models "
            "whose densities are positive everywhere"
        )
    share = (1 - confidence) / max(1, len(values) - 1)
    factor = float(stats.t.ppf(1 - share / 2, max(1.0, total - 1)))
    difference, low, high = (np.zeros(len(values)) for _ in range(3))
    for number, row in enumerate(values):
        if number == best:
            continue
        mean, se = moments(np.where(np.isfinite(row), row - values[best], -math.inf))
        difference[number] = mean
        low[number], high[number] = (mean, mean) if math.isinf(mean) else (mean - factor * se, mean + factor * se)
    among = [number for number in range(len(values)) if high[number] >= 0]
    chosen = min(among, key=lambda number: (sizes[number], -each[number][0]))
    columns = {
        "mean": np.array([mean for mean, _ in each]),
        "se_items": np.array([se for _, se in each]),
        "difference": difference,
        "low": low,
        "high": high,
        "num_parameters": np.array(sizes),
    }
    return columns, best, chosen


def _in_words(candidate: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in candidate.items())
