"""The estimators that `evaluate` and `compare` know by name: one table, and what each prints and records."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pyrovae.cli.options import OneOf, Option
from pyrovae.cli.reading import Items, Opened, class_labels, part_items
from pyrovae.cli.reading_options import Number, Row, together

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = [
    "ESTIMATORS",
    "OPTIONS",
    "Estimator",
    "Evaluation",
    "advice_on_weights",
    "defaults_of",
    "estimator_options",
    "evaluated",
    "require_taken",
    "unreliable_items",
]

TRAINING_ITEMS = 10  # that code_space takes for each test item
WHOLE = Number(1, whole=True)
SHARE = Number(0, 1, is_open=True)
# options of estimators: what they may be, and what they are; the defaults are those of the Python functions
OPTIONS: dict[str, tuple[Any, str]] = {
    "num_particles": (WHOLE, "Draws of q(z | x) for each item: elbo (default: 16), iwae (1000)."),
    "analytic": (bool, "The elbo of a linear pair in closed form."),
    "num_chains": (WHOLE, "Chains for each item: ais (16)."),
    "num_steps": (WHOLE, "Temperatures of a chain: ais (1000)."),
    "base": (OneOf(["prior", "guide"]), "Where chains start: ais (prior)."),
    "tol": (Number(0, is_open=True), "Error in nats that the grid is refined to: quadrature (0.0001)."),
    "max_evaluations": (WHOLE, "Decodings of a batch after which the grid stays as it is: quadrature (4000000)."),
    "evidence": (
        OneOf(["exact", "quadrature", "ais", "iwae"]),
        "Which log p(x) is split: gaps (exact where it can be had, quadrature for codes of one or two dimensions, else "
        "iwae of 5,000 draws).",
    ),
    "num_starts": (Number(4, whole=True), "Starts of the search for each item: gaps (4)."),
    "num_simulations": (Number(20, whole=True), "Items that are drawn: calibrate (10000)."),
    "num_draws": (WHOLE, "Draws: of q(z | x) for calibrate (99), of the parameters for log_prob (1000)."),
    "level": (SHARE, "Confidence of the intervals: scores (0.95)."),
    "bins": (WHOLE, "Bins of the calibration error: scores (15)."),
    "decoded_at": (
        Row(),
        "The covariates, numbers with commas, that codes are decoded with: code_space of a model fitted with some.",
    ),
}


@dataclass(frozen=True)
class Evaluation:
    """What an estimator found of one pair.

    Attributes:
        name: the name under which it was asked for.
        lines: for a report, one or several.
        record: numbers at full precision, names, units and settings.
        pointwise: what it gives for each item or simulation; None where there is nothing such.
        estimate: the object that the Python function returns.
        values: a number per item by which two pairs are compared, where the estimate is no `Estimate`.
        lower_is_better: whether a pair with smaller values is the better one.
    """

    name: str
    lines: list[str]
    record: dict[str, Any]
    pointwise: xr.Dataset | None = None
    estimate: Any = None
    values: np.ndarray | None = None
    lower_is_better: bool = False


@dataclass(frozen=True)
class Estimator:
    """An estimator of the table.

    Attributes:
        words: what it gives.
        run: the function that runs it on a pair and items.
        options: those of `OPTIONS` that it takes.
        most_items: how many items it takes unless the user says so; None for the number of all others.
        is_pointwise: whether it has a value for each item.
        is_comparable: whether two pairs can be compared by it.
        takes_grey: whether it takes grey items as they are, also of a pair that was fitted on binary ones.
    """

    words: str
    run: Callable[..., Evaluation]
    options: tuple[str, ...] = ()
    most_items: int | None = None
    is_pointwise: bool = True
    is_comparable: bool = True
    takes_grey: bool = False


def estimator_options(*names: str) -> Callable[[Any], Any]:
    """An option of the command line for each of these options of estimators."""

    def option(name: str) -> Callable[[Any], Any]:
        kind, words = OPTIONS[name]
        flag = f"--{name.replace('_', '-')}"
        shared: dict[str, Any] = {"cls": Option, "section": "Estimators", "default": None, "help": words}
        if kind is bool:
            return click.option(flag, is_flag=True, **shared)
        if isinstance(kind, OneOf):
            return click.option(flag, type=kind, metavar="|".join(kind.words), **shared)
        if isinstance(kind, Row):
            return click.option(flag, type=kind, metavar="0,1,0", **shared)
        return click.option(flag, type=kind, metavar="N" if kind.whole else "X", **shared)

    return together(*map(option, names))


def require_taken(options: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse an option that none of the estimators of these names takes."""
    for option, value in options.items():
        takers = [name for name, each in ESTIMATORS.items() if option in each.options]
        if value is not None and not set(takers) & set(names):
            raise click.UsageError(
                f"--{option.replace('_', '-')} is of {' and '.join(takers)}, and what is estimated is "
                f"{' and '.join(names)}: add -e {takers[0]}, or leave it out"
            )


def evaluated(
    name: str, opened: Opened, items: Items, options: Mapping[str, Any], *, seed: int, progress: bool = True
) -> Evaluation:
    """Run an estimator by name, with the options of it that are not None."""
    estimator = ESTIMATORS[name]
    chosen = {key: options[key] for key in estimator.options if options.get(key) is not None}
    return estimator.run(opened, items, chosen, seed, progress)


def defaults_of(opened: Opened) -> list[str]:
    """The estimators that say most of a pair in little time."""
    from pyrovae.models.bayesian import BayesianGaussianMixture
    from pyrovae.models.column_mixture import ColumnMixture
    from pyrovae.models.mixture import GaussianMixture
    from pyrovae.models.pair import takes_labels

    pair: Any = opened.pair
    if takes_labels(pair):
        return ["scores"]
    if isinstance(pair, BayesianGaussianMixture):
        return ["log_prob"]
    if not pair.is_normalized:
        return ["reconstruction"]
    if isinstance(pair, GaussianMixture | ColumnMixture):
        return ["exact"]
    return ["elbo", "exact"] if _has_closed_form(pair) else ["elbo", "iwae"]


def _has_closed_form(pair: Any) -> bool:
    """Whether `exact` takes the pair."""
    import pyrovae
    from pyrovae.models.pair import stand_ins

    try:
        some = stand_ins(pair, 2)
        pyrovae.exact(pair, pair.sample(2, seed=0, **some), **some)
    except (ValueError, TypeError, AttributeError):
        return False
    return True


# estimates of log p(x) ----------------------------------------------------------------------------


def _estimate(function: str) -> Callable[..., Evaluation]:
    """An estimator whose function returns an `Estimate`."""

    def run(opened: Opened, items: Items, options: dict[str, Any], seed: int, progress: bool) -> Evaluation:
        estimate = _estimated(function, opened, items, options, seed, progress)
        advice = advice_on_weights(unreliable_items(estimate), len(estimate.pointwise["value"]))
        return Evaluation(function, [str(estimate), *advice], _record(estimate), estimate.pointwise, estimate)

    return run


def _estimated(
    function: str, opened: Opened, items: Items, options: Mapping[str, Any], seed: int, progress: bool
) -> Any:
    """The `Estimate` of a function of the package, with the names of the data in its protocol."""
    import pyrovae

    estimator = getattr(pyrovae, function)
    takes = inspect.signature(estimator).parameters
    if "seed" in takes:
        options = {**options, "seed": seed}
    if "progress" in takes:
        options = {**options, "progress": progress}
    estimate = estimator(opened.pair, items.given, **options)
    return estimate.named(data=items.data.name, binarization=items.binarization)


def _record(estimate: Any) -> dict[str, Any]:
    attributes = estimate.pointwise.attrs
    what = {"mass": "log mass", "mixed": "log mixed density"}.get(attributes.get("base_measure"), "log density")
    rest = {}
    for name, values in estimate.pointwise.data_vars.items():
        if values.dims != ("item",) or values.dtype.kind != "f" or name in ("value", "se") or name.endswith("_se"):
            continue
        rest[str(name)] = {"mean": float(values.mean(skipna=False)), "units": values.attrs.get("units")}
        if f"{name}_se" in estimate.pointwise:
            se = estimate.pointwise[f"{name}_se"]
            rest[str(name)]["se"] = float((se**2).sum(skipna=False)) ** 0.5 / len(se)
    return {
        "estimator": estimate.kind,
        "quantity": what,
        "units": "nats per item",
        "bound": estimate.bound,
        "mean": estimate.mean,
        "se": estimate.se,
        "se_of": attributes.get("errors"),
        "se_items": estimate.se_items,
        "bits_per_dimension": estimate.bits_per_dimension if estimate.is_code_length else None,
        "unreliable_items": unreliable_items(estimate) if "unreliable" in estimate.pointwise else None,
        "means": rest,
        "settings": dict(attributes),
    }


def unreliable_items(estimate: Any) -> int:
    """How many items of an estimate have importance weights that are too heavy for a standard error."""
    pointwise = estimate.pointwise
    return int(pointwise["unreliable"].sum()) if "unreliable" in pointwise else 0


def advice_on_weights(unreliable: int, count: int) -> list[str]:
    """A line on items whose importance weights are too heavy, and what to do; none where there are no such items."""
    if not unreliable:
        return []
    return [
        f"{unreliable:,} of {count:,} items are unreliable: a few draws carry their weights, and the value is further "
        "below log p(x) than its error says. Take more --num-particles, or -e ais"
    ]


# other figures ------------------------------------------------------------------------------------


def _gaps(opened: Opened, items: Items, options: dict[str, Any], seed: int, progress: bool) -> Evaluation:
    import pyrovae

    pair: Any = opened.pair
    how = options.pop("evidence", None)
    if how is None:
        small = pair.latent_dim in (1, 2)
        how = "exact" if _has_closed_form(pair) else "quadrature" if small else "iwae"
    its_options = {"num_particles": 5000} if how == "iwae" else {}
    evidence = _estimated(how, opened, items, its_options, seed, progress)
    gaps = pyrovae.gaps(pair, items.given, evidence, seed=seed, progress=progress, **options)
    record: dict[str, Any] = {"estimator": "gaps", "units": "nats per item", "settings": dict(gaps.pointwise.attrs)}
    for name in ("gap", "approximation", "amortization"):
        mean, se = gaps.mean(name)
        record[name] = {"mean": mean, "se": se}
    return Evaluation("gaps", [str(gaps)], record, gaps.pointwise, gaps)


def _calibrate(opened: Opened, items: Items, options: dict[str, Any], seed: int, progress: bool) -> Evaluation:
    import pyrovae

    calibration = pyrovae.calibrate(opened.pair, seed=seed, **options, **items.beside)
    tests = calibration.tests
    record = {
        "estimator": "calibrate",
        "passed": calibration.passed,
        "quantities": {
            str(name): {key: tests[key].sel(quantity=name).item() for key in tests.data_vars}
            for name in tests.quantity.values
        },
        "settings": dict(tests.attrs),
    }
    return Evaluation("calibrate", [str(calibration)], record, None, calibration)


def _reconstruction(opened: Opened, items: Items, options: dict[str, Any], seed: int, progress: bool) -> Evaluation:
    import pyrovae
    from pyrovae.evaluation.code_space.codes import reconstructed
    from pyrovae.labelled import labelled

    pair: Any = opened.pair
    if items.data.columns is not None:
        raise click.UsageError(
            "reconstruction sums squared errors over entries of one unit, and the columns of a table have units of "
            "their own or none: take iwae or elbo"
        )
    error = pyrovae.reconstruction_error(items.x, reconstructed(pair, items.given))
    each = error["squared_error_items"].values
    count = len(each)
    se = float(each.std(ddof=1)) / count**0.5 if count > 1 else float("nan")
    words = error["squared_error"].attrs
    record = {
        "estimator": "reconstruction",
        "quantity": words["long_name"],
        "units": words["units"],
        "mean": float(error["squared_error"]),
        "se_items": se,
        "rmse": float(error["rmse"]),
        "r2": float(error["r2"]),
        "settings": {"num_items": count},
    }
    line = (
        f"reconstruction  squared error {record['mean']:.3f} ± {se:.3f} (over items), summed over the entries of an "
        f"item; rmse {record['rmse']:.4f}, R2 {record['r2']:.4f}  ({count} items)"
    )
    pointwise = labelled({"value": (each, words["long_name"], words["units"], "item")}, {"item": range(count)})
    return Evaluation("reconstruction", [line], record, pointwise, error, values=each, lower_is_better=True)


def _scores(opened: Opened, items: Items, options: dict[str, Any], seed: int, progress: bool) -> Evaluation:
    import pyrovae

    y = _class_labels(opened, items)
    table = pyrovae.predictions(opened.pair, items.x, y)
    scores = pyrovae.classification_scores(table, seed=seed, **options)
    metrics = scores.metrics
    record: dict[str, Any] = {"estimator": "scores", "settings": {**metrics.attrs, "seed": seed}}
    for name in metrics.metric.values.tolist():
        row = metrics.sel(metric=name)
        record[name] = {key: row[key].item() for key in (*metrics.data_vars, "units")}
    record["ece_calibrated"] = list(scores.ece_calibrated)
    record["unreliable_items"] = scores.unreliable
    record |= {"quantity": "log p(y | x) of the label", "units": "nats per item"}
    return Evaluation("scores", str(scores).split("\n"), record, table, scores, values=table["log_proba_y"].values)


def _class_labels(opened: Opened, items: Items) -> Any:
    """The labels by the names that the classifier has, whether these are words or numbers."""
    if items.labels is None:
        raise click.UsageError(
            f"scores judges labelled items, and those of {items.data.name} have no labels: name them by --labels"
        )
    return class_labels(opened, items.labels, items.data.name)


def _log_prob(opened: Opened, items: Items, options: dict[str, Any], seed: int, progress: bool) -> Evaluation:
    import numpy as np

    from pyrovae.labelled import labelled

    pair: Any = opened.pair
    if not hasattr(pair, "with_standard_error") or pair.is_normalized is False:
        raise click.UsageError("log_prob is of a Bayesian mixture: take elbo, iwae or exact")
    value, se = (each.double().cpu().numpy() for each in pair.with_standard_error(items.x, seed=seed, **options))
    count = len(value)
    mean, error = float(value.mean()), float(np.sqrt((se**2).sum()) / count)
    spread = float(value.std(ddof=1)) / count**0.5 if count > 1 else float("nan")
    record = {
        "estimator": "log_prob",
        "quantity": "log predictive density",
        "units": "nats per item",
        "mean": mean,
        "se": error,
        "se_of": "draws of the parameters",
        "se_items": spread,
        "settings": {"num_items": count, "seed": seed, **options},
    }
    line = f"log_prob  {mean:.3f} ± {error:.3f} (draws of the parameters) nats, log predictive density  ({count} items)"
    variables = {
        "value": (value, "log predictive density", "nats", "item"),
        "se": (se, "standard error of the log predictive density", "nats", "item"),
    }
    pointwise = labelled(variables, {"item": np.arange(count)})
    return Evaluation("log_prob", [line], record, pointwise, values=value)


def _code_space(opened: Opened, items: Items, options: dict[str, Any], seed: int, progress: bool) -> Evaluation:
    import pyrovae
    from pyrovae.data import Split

    data = items.data
    if data.train.y is None or data.test.y is None or len(data.event_shape) != 3:
        raise click.UsageError(
            f"code_space is of labelled images with a training part, and {data.name} is none such: take reconstruction"
        )
    row = _row_of(opened, options.get("decoded_at"))
    if items.part != "test":
        raise click.UsageError("code_space compares the test part with the training part: add --part test")
    parts = []
    for part, count in (("train", TRAINING_ITEMS * len(items.x)), ("test", len(items.x))):
        chosen = part_items(data, part, count)
        if items.binarization is not None:
            chosen = chosen.binarized(items.binarization.partition(",")[0])
        parts.append(Split(chosen.x, chosen.y, **chosen.beside))
    train, test = parts
    judge = pyrovae.Judge.fit(train.x, train.y, seed=seed)
    # no more codes than there are items to compare them with
    statistics = pyrovae.code_space(
        opened.pair,
        train,
        test,
        judge,
        covariates=row,
        num_codes=min(4000, len(test)),
        num_pairs=min(500, len(test) // 2),
        seed=seed,
    )
    record: dict[str, Any] = {"estimator": "code_space", "settings": {**statistics.attrs, "seed": seed, **options}}
    at = "" if row is None else f"; decoded at {', '.join(f'{value:g}' for value in row)}"
    lines = [f"code_space  ({len(train)} training and {len(test)} test items{at})"]
    for name, value in statistics.data_vars.items():
        about = {"units": value.attrs.get("units"), "description": value.attrs.get("long_name")}
        record[str(name)] = {"value": value.values, "dims": list(map(str, value.dims)), **about}
        if not value.dims:
            unit = "" if about["units"] in (None, "1") else f" {about['units']}"
            number = f"{value.item():.4f}" if value.dtype.kind == "f" else str(value.item())
            lines.append(f"  {name}  {number}{unit}")
    return Evaluation("code_space", lines, record, None, statistics)


def _row_of(opened: Opened, row: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """The covariates that codes are decoded with, of as many columns as the pair is given."""
    from pyrovae.models.pair import covariate_dim_of

    size = covariate_dim_of(opened.pair)
    if size and row is None:
        raise click.UsageError(
            f"{opened.path} is of items given covariates, and has one code space for each value: name that which codes "
            f"are decoded with by --decoded-at, {size} number{'s with commas' if size > 1 else ''}"
        )
    if row is not None and not size:
        raise click.UsageError(
            f"{opened.path} ({type(opened.pair).__name__}) takes no covariates: leave --decoded-at out"
        )
    if row is not None and len(row) != size:
        raise click.UsageError(
            f"--decoded-at must have the {size} columns that {opened.path} was fitted with, got {len(row)}"
        )
    return row


ESTIMATORS: dict[str, Estimator] = {
    "elbo": Estimator("a lower bound on log p(x)", _estimate("elbo"), ("num_particles", "analytic")),
    "iwae": Estimator("a tighter lower bound", _estimate("iwae"), ("num_particles",)),
    "exact": Estimator("log p(x) of linear pairs and mixtures", _estimate("exact")),
    "quadrature": Estimator(
        "log p(x), codes of one or two dimensions", _estimate("quadrature"), ("tol", "max_evaluations"), 100
    ),
    "ais": Estimator("a lower bound by annealing", _estimate("ais"), ("num_chains", "num_steps", "base"), 100),
    "gaps": Estimator("where an ELBO is lost", _gaps, ("evidence", "num_starts"), 100, is_comparable=False),
    "calibrate": Estimator(
        "whether q(z | x) is the posterior",
        _calibrate,
        ("num_simulations", "num_draws"),
        is_pointwise=False,
        is_comparable=False,
    ),
    "reconstruction": Estimator("the squared error of reconstructions", _reconstruction, takes_grey=True),
    "code_space": Estimator(
        "the codes of labelled images in numbers",
        _code_space,
        ("decoded_at",),
        is_pointwise=False,
        is_comparable=False,
        takes_grey=True,
    ),
    "scores": Estimator("accuracy, log-loss, Brier score and calibration of a classifier", _scores, ("level", "bins")),
    "log_prob": Estimator("log p(x) of a Bayesian mixture", _log_prob, ("num_draws",)),
}
