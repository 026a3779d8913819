"""Whether a fitted model draws sets that look like the items, by statistics of both."""

from __future__ import annotations

from typing import Any

import click

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
    run_argument,
    seed_option,
)

__all__ = ["command"]

MOST_ITEMS = 1000


@click.command("check", cls=Command, short_help="Whether a model draws sets that look like the items.")
@run_argument
@click.option(
    "--kind",
    metavar="prior|posterior|split",
    type=OneOf(["prior", "posterior", "split"]),
    default="prior",
    cls=Option,
    help="Sets of draws from p(x), of draws at the items' own codes, or with half of each item's entries drawn given "
    "the other half (default: prior).",
)
@click.option(
    "--statistic",
    "statistics",
    multiple=True,
    metavar="NAME",
    cls=Option,
    help="A statistic of a set, such as mean, sd, max, zeros, dispersion, correlation or q95; may be given several "
    "times (default: those that suit the likelihood).",
)
@data_options(count=MOST_ITEMS)
@binarize_option("auto")
@number_option("--draws", Number(1, whole=True), 999, "Sets that are drawn from the model.")
@number_option("--level", Number(0, 1, is_open=True), 0.05, "The rate of false alarms over all statistics.")
@seed_option("the draws")
@device_option
@plugin_option
@output_options(".npz", ".nc", required=False, what="the statistics of items and sets")
def command(
    run: str,
    kind: Any,
    statistics: tuple[str, ...],
    asked: Asked,
    binarize: str | None,
    draws: int,
    level: float,
    seed: int,
    device: str,
    plugin: tuple[str, ...],
    output: Output,
) -> None:
    """Whether the fitted model in RUN draws sets of items that look like the held-out ones.

    Named statistics of the items are compared with those of as many items that the model draws, in many sets. A small
    p-value says that the model has another value than the items; Holm's correction is over the statistics.

    \b
    Examples:
      pyrovae check run
      pyrovae check run --kind split --draws 199 --num-items 100
      pyrovae check run --statistic zeros --statistic max
    """
    import pyrovae
    from pyrovae.cli.outputs import Result
    from pyrovae.cli.reading import open_run

    opened = open_run(run, device=device)
    items = asked.items_of(opened, binarize or "auto")
    settings: dict[str, Any] = {"kind": kind, "draws": draws, "level": level, "seed": seed}
    checks = pyrovae.predictive_checks(opened.pair, items.given, statistics=list(statistics) or None, **settings)
    result = Result(checks.table.assign_attrs({**checks.table.attrs, **opened.attributes, **items.protocol}), "p_value")
    if output.as_json:
        output.write(result)
        output.describe(result, settings)
        return
    click.echo(f"{opened.name}  {type(opened.pair).__name__}, {items.of_words}")
    click.echo(str(checks))
    output.write(result)
