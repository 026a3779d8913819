"""Which of several fitted models is better: differences on the same items, with intervals."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import click

from pyrovae.cli.estimators import (
    ESTIMATORS,
    advice_on_weights,
    estimator_options,
    unreliable_items,
)
from pyrovae.cli.options import Command, OneOf, Option
from pyrovae.cli.outputs import Output
from pyrovae.cli.plugins import plugin_option
from pyrovae.cli.reading_options import (
    Asked,
    Number,
    binarize_option,
    data_options,
    device_option,
    number_option,
    output_options,
    runs_argument,
    seed_option,
)

__all__ = ["command"]

COMPARABLE = tuple(name for name, each in ESTIMATORS.items() if each.is_comparable)
OPTIONS = tuple(dict.fromkeys(option for name in COMPARABLE for option in ESTIMATORS[name].options))


@click.command("compare", cls=Command, short_help="Which of several fitted models is better.")
@runs_argument(least=2)
@click.option(
    "-e",
    "--estimator",
    type=OneOf(COMPARABLE),
    metavar="NAME",
    cls=Option,
    section="Estimators",
    help=f"{', '.join(COMPARABLE)} (default: exact where all have a closed form, else iwae; scores of classifiers; "
    "reconstruction of autoencoders).",
)
@data_options(count=None, shown="1000; 100 for quadrature and ais")
@binarize_option("mixed")
@estimator_options(*OPTIONS)
@number_option("--confidence", Number(0, 1, is_open=True), 0.95, "Of all intervals together, by Holm's procedure.")
@seed_option("the draws")
@device_option
@plugin_option
@output_options()
def command(
    runs: tuple[str, ...],
    estimator: str | None,
    asked: Asked,
    binarize: str | None,
    confidence: float,
    seed: int,
    device: str,
    plugin: tuple[str, ...],
    output: Output,
    **options: Any,
) -> None:
    """Which of the fitted models in RUN RUN... is better, by one estimator on the same items.

    For each two, the mean of the differences per item and its Student t interval over the items. What is not comparable
    is refused: other items, a density and a probability, an autoencoder's reconstruction and a log p(x).

    \b
    Examples:
      pyrovae compare run-a run-b
      pyrovae compare run-a run-b run-c -e elbo --num-items all
      pyrovae compare vae ae -e reconstruction
    """
    import pyrovae
    from pyrovae.cli.estimators import evaluated, require_taken
    from pyrovae.cli.reading import names_of, open_run, source_of_all

    opened = [open_run(run, device=device) for run in runs]
    names = names_of(opened)
    chosen = estimator or _default(opened, names)
    require_taken(options, [chosen])
    its = ESTIMATORS[chosen]
    _require_one_shape(opened, names)
    source = source_of_all(opened, names, asked.data, asked.of_items, part=asked.part)
    items = source.items(asked.num_items or its.most_items or 1000)
    how = binarize or _binarization(opened, names, its.takes_grey, items)
    items = items if how == "no" else items.binarized(how)
    output.say(f"{chosen} of {items}")
    evaluations = []
    for one, name in zip(opened, names, strict=True):
        evaluation = evaluated(chosen, one, items, options, seed=seed)
        evaluations.append(evaluation)
        output.say(f"{name}\n" + "\n".join(f"  {line}" for line in evaluation.lines))
    differences = _differences(names, evaluations, confidence)
    for record in differences:
        output.say(_line(record))
    settings = {"seed": seed, "confidence": confidence}
    settings |= {key: value for key, value in options.items() if value is not None}
    record = {
        "pyrovae": pyrovae.__version__,
        "settings": settings,
        "protocol": items.protocol,
        "runs": [
            {"run": str(one.path), "name": name, **each.record}
            for one, name, each in zip(opened, names, evaluations, strict=True)
        ],
        "differences": differences,
    }
    output.answer(record)


def _require_one_shape(opened: list[Any], names: list[str]) -> None:
    """Refuse pairs of items of different shapes, which no items are of."""
    first = tuple(opened[0].pair.event_shape)
    for one, name in zip(opened, names, strict=True):
        if tuple(one.pair.event_shape) != first:
            raise click.UsageError(
                f"{names[0]} is of items of shape {first}, and {name} of shape {tuple(one.pair.event_shape)}: they "
                "cannot be compared"
            )


def _default(opened: list[Any], names: list[str]) -> str:
    """The estimator that suits all of the pairs."""
    from pyrovae.cli.estimators import defaults_of

    of_each = [defaults_of(one) for one in opened]
    kinds = {each[-1] for each in of_each}
    if len(kinds) == 1:
        return kinds.pop()
    if kinds == {"iwae", "exact"}:
        return "iwae"
    described = ", ".join(f"{name} ({type(one.pair).__name__})" for name, one in zip(names, opened, strict=True))
    hint = "; --estimator reconstruction compares what they make of an item" if "reconstruction" in kinds else ""
    raise click.UsageError(f"no one estimator suits all of {described}{hint}")


def _binarization(opened: list[Any], names: list[str], takes_grey: bool, items: Any) -> str:
    """How grey items are made binary for all of the pairs; refused where only some of these take grey ones."""
    from pyrovae.report.chosen import takes_binary

    binary = [name for one, name in zip(opened, names, strict=True) if takes_binary(one.pair)]
    if takes_grey or not binary or not items.is_grey:
        return "no"
    if len(binary) < len(opened):
        grey = next(name for name in names if name not in binary)
        reconstruct = all(hasattr(one.pair, "encode") for one in opened)
        hint = ": --estimator reconstruction compares what they make of an item" if reconstruct else ""
        raise click.UsageError(
            f"{binary[0]} gives a probability of binary items and {grey} a density of grey ones, which are not "
            f"comparable{hint}"
        )
    return "sample"


def _differences(names: list[str], evaluations: list[Any], confidence: float) -> list[dict[str, Any]]:
    """The differences of each two, with intervals that hold together."""
    import pyrovae

    signs = {}
    values = {}
    estimates = {}
    for first, second in combinations(range(len(names)), 2):
        a, b = evaluations[first], evaluations[second]
        claim = f"{names[first]} - {names[second]}"
        if isinstance(a.estimate, pyrovae.Estimate):
            try:
                estimates[claim] = a.estimate - b.estimate
            except ValueError as error:
                raise click.UsageError(f"{names[first]} and {names[second]} are not comparable: {error}") from error
            values[claim] = estimates[claim].pointwise["value"].values
        else:
            values[claim] = a.values - b.values
        signs[claim] = (first, second)
    table = pyrovae.verdicts(values, dict.fromkeys(values, 0.0), confidence=confidence)
    records = []
    for claim, (first, second) in signs.items():
        row = table.sel(claim=claim)
        low, high = float(row.low), float(row.high)
        upper = second if evaluations[first].lower_is_better else first
        lower = first + second - upper
        better = names[upper] if low > 0 else names[lower] if high < 0 else None
        its = estimates.get(claim)
        record = {
            "difference": claim,
            "quantity": evaluations[first].record.get("quantity"),
            "units": evaluations[first].record.get("units"),
            "mean": float(row["mean"]),
            "se": None if its is None else its.se,
            "low": low,
            "high": high,
            "level": float(row.level),
            "p_value": float(row.p_value),
            "num_items": int(row.replicates),
            "better": better,
            "unreliable_items": 0 if its is None else unreliable_items(its),
            "line": None if its is None else str(its),
        }
        records.append(record)
    return records


def _line(record: dict[str, Any]) -> str:
    plain = f"difference in {record['quantity']}  {record['mean']:.3f} {record['units']}  ({record['num_items']} items)"
    what = record["line"] or plain
    verdict = "cannot tell" if record["better"] is None else f"{record['better']} is better"
    unreliable = advice_on_weights(record["unreliable_items"], record["num_items"])
    return (
        f"{record['difference']}\n  {what}, over items [{record['low']:.3f}, {record['high']:.3f}] "
        f"at {100 * record['level']:.4g} %: {verdict}" + "".join(f"\n  {line}" for line in unreliable)
    )
