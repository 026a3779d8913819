"""How good fitted models are: estimates of log p(x) and other figures of held-out items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pyrovae.cli.estimators import ESTIMATORS, OPTIONS, estimator_options
from pyrovae.cli.options import Command, OneOf, Option
from pyrovae.cli.outputs import Output
from pyrovae.cli.plugins import plugin_option
from pyrovae.cli.reading_options import (
    Asked,
    binarize_option,
    data_options,
    device_option,
    output_options,
    runs_argument,
    seed_option,
)

if TYPE_CHECKING:
    from pyrovae.cli.outputs import Result

__all__ = ["command"]

MOST_ITEMS = 1000
SMALL = ", ".join(name for name, each in ESTIMATORS.items() if each.most_items is not None)


@click.command("evaluate", cls=Command, short_help="How good fitted models are.")
@runs_argument()
@click.option(
    "-e",
    "--estimator",
    "estimators",
    type=OneOf(list(ESTIMATORS)),
    multiple=True,
    metavar="NAME",
    cls=Option,
    section="Estimators",
    help=f"{', '.join(ESTIMATORS)}; may be given several times (default: elbo and iwae; exact where there is a closed "
    "form; reconstruction of an autoencoder; scores of a classifier; log_prob of a Bayesian mixture).",
)
@data_options(count=None, shown=f"{MOST_ITEMS}; 100 for {SMALL}")
@binarize_option("mixed")
@estimator_options(*OPTIONS)
@seed_option("the draws")
@device_option
@plugin_option
@output_options(".csv", ".npz", ".nc", required=False, what="the values of each item")
def command(
    runs: tuple[str, ...],
    estimators: tuple[str, ...],
    asked: Asked,
    binarize: str | None,
    seed: int,
    device: str,
    plugin: tuple[str, ...],
    output: Output,
    **options: Any,
) -> None:
    """How good the fitted models in RUN... are, on items that they were not fitted on.

    Estimates of log p(x) are in nats per item, with the standard error that their draws leave; whether they are bounds
    is said by their names: elbo, iwae and ais are lower bounds, exact and quadrature are log p(x) itself.

    \b
    Examples:
      pyrovae evaluate run
      pyrovae evaluate run -e iwae --num-particles 5000 --num-items all
      pyrovae evaluate run -e gaps -e calibrate
      pyrovae evaluate run --data more.npy -o values.csv
      pyrovae evaluate run --json > run.json
    """
    import pyrovae
    from pyrovae.cli.estimators import defaults_of, evaluated, require_taken
    from pyrovae.cli.reading import names_of, open_run

    opened = [open_run(run, device=device) for run in runs]
    chosen = [list(dict.fromkeys(estimators)) or defaults_of(one) for one in opened]
    require_taken(options, [name for names in chosen for name in names])
    if output.out is not None and not any(ESTIMATORS[name].is_pointwise for names in chosen for name in names):
        raise click.UsageError("-o writes values of each item, and none of these estimators has such")
    records = []
    tables = []
    for name_of_run, one, names in zip(names_of(opened), opened, chosen, strict=True):
        source = asked.source_of(one)
        evaluations: list[Any] = []
        items_of = _items_of(source, names, asked.num_items, binarize)
        for name in names:
            items = items_of[name]
            if not evaluations:
                output.say(f"{name_of_run}  {type(one.pair).__name__}, {items.of_words}")
            evaluation = evaluated(name, one, items, options, seed=seed)
            evaluations.append((evaluation, items))
            output.say("\n".join(f"  {line}" for line in evaluation.lines))
        results = [{**each.record, "protocol": items.protocol} for each, items in evaluations]
        records.append({"run": str(one.path), "pair": type(one.pair).__name__, "results": results})
        tables.append(evaluations)
    if output.out is not None:
        output.write(_pointwise(names_of(opened), tables))
    settings = {"seed": seed, **{name: value for name, value in options.items() if value is not None}}
    output.answer({"pyrovae": pyrovae.__version__, "settings": settings, "runs": records})


def _items_of(source: Any, names: list[str], num_items: int | str | None, binarize: str | None) -> dict[str, Any]:
    """The items of each estimator; one that takes fewer takes some of those of the others, with the same values."""
    chosen = {
        name: (
            num_items or ESTIMATORS[name].most_items or MOST_ITEMS,
            binarize or ("no" if ESTIMATORS[name].takes_grey else "auto"),
        )
        for name in names
    }
    most: dict[str, Any] = {}
    for how in {how for _, how in chosen.values()}:
        counts = [count for count, its_how in chosen.values() if its_how == how]
        most[how] = source.items(counts[0] if isinstance(counts[0], str) else max(counts), how)
    return {name: most[how].fewer(count) for name, (count, how) in chosen.items()}


def _pointwise(names: list[str], tables: list[Any]) -> Result:
    """The values of all items, runs and estimators in one data set; NaN where an estimator took fewer items."""
    import xarray as xr

    from pyrovae.cli.outputs import Result

    of_runs = []
    for evaluations in tables:
        parts = []
        for evaluation, items in evaluations:
            pointwise = evaluation.pointwise
            if pointwise is None:
                continue
            first = [name for name in ("value", "se") if name in pointwise]
            ordered = pointwise[[*first, *(name for name in pointwise.data_vars if name not in first)]]
            renamed = {name: _column(evaluation.name, str(name)) for name in ordered.data_vars}
            parts.append(ordered.rename(renamed).assign_coords(item=items.numbers))
        of_runs.append(xr.merge(parts, join="outer", compat="override", combine_attrs="drop"))
    if len(of_runs) == 1:
        whole = of_runs[0]
    else:
        whole = xr.concat(of_runs, xr.Variable("run", names), join="outer", combine_attrs="drop")
    return Result(whole, main=str(next(iter(whole.data_vars))))


def _column(estimator: str, variable: str) -> str:
    return estimator if variable == "value" else f"{estimator}_{variable}"
