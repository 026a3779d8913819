"""Evaluation of a classifier's p(y | x): scores with intervals, reliability, and detection of unusual items."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrovae import checks
from pyrovae.labelled import Variable, labelled

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Auroc", "Scores", "auroc", "classification_scores", "predictions", "reliability"]

BINS = 15
MOST_BINS = 10_000  # more bins than this would nearly all be empty
RESAMPLES = 1000


def predictions(classifier: Any, x: Any, y: Any = None, **options: Any) -> xr.Dataset:
    """log p(y | x) of every class for each of N labelled items, as a labelled Dataset.

    The variables over "item" and "label", whose coordinate has the classes, are "log_proba" in nats
    and "se", its Monte Carlo standard error, which is 0 if the classifier knows its densities. Those
    over "item" are the true label "y", the most probable label "predicted", and "log_proba_y" of the
    true label with its error "log_proba_y_se". If the classifier's estimator flags errors that are
    unreliable, as `iwae` does, "unreliable" and "log_proba_y_unreliable" are these flags (see
    `GenerativeClassifier.with_reliability`).

    `x` may be a split of a data set, which includes the labels. `options` are passed to the
    classifier, such as `missing=True`. Raises ValueError for labels that are not among the
    classifier's classes.

    >>> import pyrovae
    >>> digits = pyrovae.data.load("digits")
    >>> classifier = pyrovae.gaussian_classifier((1, 8, 8), 10, floor=1e-3)
    >>> history = pyrovae.fit(classifier, digits.train.x, digits.train.y)
    >>> dict(pyrovae.predictions(classifier, digits.test.x, digits.test.y).sizes)
    {'item': 360, 'label': 10}
    """
    checks.having("classifier", classifier, "numbers", "predict_log_proba", what="a classifier of this package")
    given = checks.split_of(x, takes=("missing",), what="predictions")
    x, labels_of_split = checks.with_missing(given.x, given.missing), given.y
    if given.missing is not None:
        options = {"missing": True, **options}
    if (y is None) == (labels_of_split is None):
        raise ValueError("predictions judges labelled items: give x and y, or a split that has both")
    count = len(checks.having("x", x, "__len__", what="items, an array of shape (N, *event) or a split"))
    y = labels_of_split if y is None else y
    number = classifier.numbers(y, count).cpu().numpy()
    with torch.no_grad():
        flagged = None
        if hasattr(classifier, "with_reliability"):
            log_proba, error, flagged = classifier.with_reliability(x, **options)
        elif hasattr(classifier, "with_standard_error"):
            log_proba, error = classifier.with_standard_error(x, **options)
        else:
            log_proba = classifier.predict_log_proba(x, **options)
            error = torch.zeros_like(log_proba)
    table, spread = (t.double().cpu().numpy() for t in (log_proba, error))
    item, names = np.arange(count), classifier.names
    variables: dict[str, Variable] = {
        "log_proba": (table, None, "nats", "item", "label"),
        "se": (spread, None, "nats", "item", "label"),
        "y": (names[number], None, None, "item"),
        "predicted": (names[table.argmax(1)], None, None, "item"),
        "log_proba_y": (table[item, number], None, "nats", "item"),
        "log_proba_y_se": (spread[item, number], None, "nats", "item"),
    }
    if flagged is not None:
        unreliable = flagged.cpu().numpy()
        variables["unreliable"] = (unreliable, None, None, "item", "label")
        variables["log_proba_y_unreliable"] = (unreliable[item, number], None, None, "item")
    return labelled(variables, {"item": item, "label": names}, {"classifier": type(classifier).__name__})


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of N predictions: `metrics`, an xarray.Dataset over "metric" with value, se, lower and upper.

    The metrics are "accuracy", a share; "log_loss", the mean of -log p(y | x) in nats; "brier", the
    mean of the sum over classes of (p - 1[y])^2, from 0 to 2; and "ece", the expected calibration
    error of the probability of the most probable class. `ece_calibrated` is the mean and the upper
    limit of the calibration error that calibrated predictions of this number would have, which is
    not 0. `unreliable` is the number of items whose Monte Carlo error of log p(y | x), and so its
    share in the log-loss, is unreliable. `str()` has one line per metric.
    """

    metrics: xr.Dataset
    ece_calibrated: tuple[float, float]
    level: float
    unreliable: int = 0

    def __getitem__(self, metric: str) -> float:
        return float(self.metrics["value"].sel(metric=metric))

    def __str__(self) -> str:
        lines = []
        for name in self.metrics.metric.values.tolist():
            row = self.metrics.sel(metric=name)
            more = ""
            if name == "ece":
                more = f"; calibrated ones would show {self.ece_calibrated[0]:.4f}, up to {self.ece_calibrated[1]:.4f}"
            if name == "log_loss" and float(row.monte_carlo):
                more = f"; Monte Carlo ± {float(row.monte_carlo):.4f} of it"
                if self.unreliable:
                    more += f", {self.unreliable} items' unreliable"
            unit = " nats" if name == "log_loss" else ""
            span = f"[{float(row.lower):.4f}, {float(row.upper):.4f}]"
            if name == "ece":
                span = f"± {float(row.se):.4f}"
            lines.append(f"{name:9s} {float(row.value):.4f} {span}{unit}{more}")
        count = int(self.metrics.attrs["items"])
        return "\n".join([*lines, f"({count} items, intervals at {100 * self.level:.4g} %)"])


def classification_scores(table: xr.Dataset, *, level: float = 0.95, bins: int = BINS, seed: int = 0) -> Scores:
    """Accuracy, log-loss, Brier score and expected calibration error of `predictions`, each with its interval.

    The accuracy has Wilson's interval (Wilson 1927). The log-loss and the Brier score have the normal
    interval of their mean over items, which is too narrow if a few wrong items dominate the mean and
    too few of them were seen. The calibration error (Guo et al. 2017, section 2), in `bins` bins of
    equal width of the probability of the most probable class, is biased upwards and has no
    interval. It is reported with its standard error over 1,000 resamples, and with the calibration
    error of the same probabilities if labels are drawn from them (Broecker and Smith 2007).

    Raises ValueError for an empty table, for labels that are not among its classes and for a level
    outside (0, 1).

    >>> import numpy as np
    >>> import xarray as xr
    >>> from pyrovae import classification_scores
    >>> p = np.log([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> table = {"log_proba": (("item", "label"), p), "y": ("item", [0, 1, 1]), "log_proba_y_se": ("item", np.zeros(3))}
    >>> scores = classification_scores(xr.Dataset(table, {"label": [0, 1]}))
    >>> round(scores["accuracy"], 3), round(scores["log_loss"], 3)
    (0.667, 0.415)
    """
    from scipy import stats

    checks.whole("bins", bins, most=MOST_BINS)
    quantile = float(stats.norm.ppf(0.5 + checks.probability("level", level) / 2))
    log_proba, number = _table(table)
    count = len(number)
    hit = log_proba.argmax(1) == number
    of_label = log_proba[np.arange(count), number]  # log p(y | x) of the true label
    proba = np.exp(log_proba)
    brier = ((proba - np.eye(proba.shape[1])[number]) ** 2).sum(1)
    rows = {"accuracy": (float(hit.mean()), math.sqrt(hit.mean() * (1 - hit.mean()) / count), *_wilson(hit, quantile))}
    for name, each in (("log_loss", -of_label), ("brier", brier)):
        mean, finite = float(each.mean()), bool(np.isfinite(each).all()) and count > 1
        # equal losses, as of few items that are all classified correctly, have no spread to estimate an error from
        se = float(each.std(ddof=1)) / math.sqrt(count) if finite and float(np.ptp(each)) > 0 else math.nan
        rows[name] = (mean, se, mean - quantile * se, mean + quantile * se)
    confidence, rng = proba.max(1), np.random.default_rng(checks.seed(seed))
    bin_of = _bin(confidence, bins)
    value = _calibration_error(confidence, hit, bin_of, bins)
    again = np.array([_calibration_error(confidence[i], hit[i], bin_of[i], bins) for i in _resamples(rng, count)])
    null = np.array(
        [_calibration_error(confidence, rng.random(count) < confidence, bin_of, bins) for _ in range(RESAMPLES)]
    )
    rows["ece"] = (value, float(again.std(ddof=1)), math.nan, math.nan)
    columns = dict(zip(("value", "se", "lower", "upper"), np.array(list(rows.values())).T, strict=True))
    spread = table["log_proba_y_se"].values if "log_proba_y_se" in table else np.zeros(count)
    monte_carlo = math.sqrt(float((spread**2).sum())) / count
    columns["monte_carlo"] = np.array([monte_carlo if name == "log_loss" else 0.0 for name in rows])
    units = {"accuracy": "1", "log_loss": "nats per item", "brier": "1", "ece": "1"}
    metrics = labelled(
        {name: (values, None, None, "metric") for name, values in columns.items()},
        {"metric": list(rows), "units": ("metric", list(units.values()))},
        {"items": count, "level": level, "bins": bins},
    )
    unreliable = int(table["log_proba_y_unreliable"].sum()) if "log_proba_y_unreliable" in table else 0
    return Scores(metrics, (float(null.mean()), float(np.quantile(null, level))), level, unreliable)


def reliability(table: xr.Dataset, *, bins: int = BINS, level: float = 0.95) -> xr.Dataset:
    """The accuracy of the most probable class against its predicted probability, in bins of equal width.

    Returns a Dataset over "bin", without empty bins: "confidence", the mean probability, "accuracy"
    with Wilson's interval "lower" and "upper" at `level`, and "count", the number of items.

    >>> import numpy as np
    >>> import xarray as xr
    >>> from pyrovae import reliability
    >>> p = np.log([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> table = {"log_proba": (("item", "label"), p), "y": ("item", [0, 1, 1])}
    >>> curve = reliability(xr.Dataset(table, {"label": [0, 1]}))
    >>> curve["count"].values.tolist(), curve.accuracy.values.tolist()
    ([1, 1, 1], [0.0, 1.0, 1.0])
    """
    from scipy import stats

    quantile = float(stats.norm.ppf(0.5 + checks.probability("level", level) / 2))
    log_proba, number = _table(table)
    hit, confidence = log_proba.argmax(1) == number, np.exp(log_proba.max(1))
    bin_of = _bin(confidence, checks.whole("bins", bins, most=MOST_BINS))
    rows = []
    for b in np.unique(bin_of):
        inside = bin_of == b
        lower, upper = _wilson(hit[inside], quantile)
        rows.append((confidence[inside].mean(), hit[inside].mean(), lower, upper, inside.sum()))
    names = ("confidence", "accuracy", "lower", "upper", "count")
    columns = dict(zip(names, np.array(rows).T, strict=True))
    columns["count"] = columns["count"].astype(int)
    return labelled({name: (values, None, None, "bin") for name, values in columns.items()}, {"bin": np.unique(bin_of)})


@dataclass(frozen=True)
class Auroc:
    """The area under a receiver operating characteristic, with its standard error and interval."""

    value: float
    se: float
    lower: float
    upper: float
    level: float

    def __str__(self) -> str:
        return f"AUROC {self.value:.4f} [{self.lower:.4f}, {self.upper:.4f}] at {100 * self.level:.4g} %"


def auroc(usual: Any, strange: Any, *, level: float = 0.95) -> Auroc:
    """The area under the ROC curve: the probability that a usual item scores higher than a strange one.

    `usual` and `strange` are scores of shape (N,) and (M,), such as log p(x) or the largest p(y | x).
    Ties count as half. A score that does not separate the two has 0.5; below 0.5 it ranks strange
    items as the more usual ones. The standard error is that of DeLong et al. (1988) and the interval
    is on the logit scale. Raises ValueError for scores that are NaN or empty.

    >>> from pyrovae import auroc
    >>> print(auroc([2.0, 3.0, 4.0], [0.0, 1.0, 2.5]))
    AUROC 0.8889 [0.2614, 0.9945] at 95 %
    """
    from scipy import stats
    from sklearn.metrics import roc_auc_score

    inside, outside = (_scores(name, value) for name, value in (("usual", usual), ("strange", strange)))
    quantile = float(stats.norm.ppf(0.5 + checks.probability("level", level) / 2))
    truth = np.repeat([1, 0], [len(inside), len(outside)])
    # ranks exist for infinite scores too, which roc_auc_score refuses
    rank = stats.rankdata(np.concatenate([inside, outside]))
    value = float(roc_auc_score(truth, rank))
    # for each item, the share of its pairs in which it scores higher, and lower
    wins = (rank[: len(inside)] - stats.rankdata(inside)) / len(outside)
    losses = 1 - (rank[len(inside) :] - stats.rankdata(outside)) / len(inside)
    if min(len(inside), len(outside)) < 2:
        return Auroc(value, math.nan, 0.0, 1.0, level)
    se = math.sqrt(wins.var(ddof=1) / len(inside) + losses.var(ddof=1) / len(outside))
    if not 0 < value < 1:
        return Auroc(value, se, *_end(value, len(inside), len(outside), level), level)
    logit, half = math.log(value / (1 - value)), quantile * se / (value * (1 - value))
    lower, upper = (1 / (1 + math.exp(-(logit + side * half))) for side in (-1, 1))
    return Auroc(value, se, lower, upper, level)


def _end(value: float, n: int, m: int, level: float) -> tuple[float, float]:
    """The interval for an AUROC of 0 or 1, which has no spread: the Clopper-Pearson limit for the smaller sample."""
    far = ((1 - level) / 2) ** (1 / min(n, m))
    return (far, 1.0) if value == 1 else (0.0, 1 - far)


def _table(table: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """log p(y | x), shape (N, C), and the index of each true label, shape (N,)."""
    checks.having("table", table, "data_vars", "variables", what="the dataset that predictions gives")
    if absent := {"log_proba", "label", "y"} - set(table.variables):
        raise ValueError(f"table must be the dataset that predictions gives, and has no {sorted(absent)[0]}")
    log_proba = table["log_proba"].transpose("item", "label").values
    if not len(log_proba):
        raise ValueError("the predictions are empty: no item to score")
    if np.isnan(log_proba).any():
        raise ValueError(
            f"log_proba has {int(np.isnan(log_proba).sum())} NaN values: the classifier says nothing there"
        )
    place = {name: number for number, name in enumerate(table["label"].values.tolist())}
    unknown = sorted({repr(name) for name in table["y"].values.tolist() if name not in place})
    if unknown:
        raise ValueError(f"y has labels that are no class of the table: {', '.join(unknown[:5])}")
    return log_proba, np.array([place[name] for name in table["y"].values.tolist()])


def _scores(name: str, values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        array = checks.numbers(values, name).detach().double().cpu().numpy()
    else:
        array = np.asarray(values, float)
    if array.ndim != 1 or not len(array) or np.isnan(array).any():
        raise ValueError(
            f"{name} must hold scores of shape (N,), N of at least 1 and none NaN, got shape {array.shape} with "
            f"{int(np.isnan(array).sum())} NaN"
        )
    return array


def _wilson(hit: np.ndarray, quantile: float) -> tuple[float, float]:
    n, share, q = len(hit), float(hit.mean()), quantile**2
    centre = (share + q / (2 * n)) / (1 + q / n)
    half = quantile / (1 + q / n) * math.sqrt(share * (1 - share) / n + q / (4 * n**2))
    # rounding may move an end past the share
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def _bin(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.clip((confidence * bins).astype(int), 0, bins - 1)


def _calibration_error(confidence: np.ndarray, hit: np.ndarray, bin_of: np.ndarray, bins: int) -> float:
    gap = np.bincount(bin_of, hit - confidence, minlength=bins)
    return float(np.abs(gap).sum()) / len(hit)


def _resamples(rng: np.random.Generator, count: int) -> Any:
    return (rng.integers(0, count, size=count) for _ in range(RESAMPLES))
