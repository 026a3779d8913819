"""Which of some items are unlike those that a model was fitted on."""

from __future__ import annotations

from typing import Any

import click

from pyrovae.cli.options import Command, DataName, OneOf, Option
from pyrovae.cli.outputs import Output
from pyrovae.cli.plugins import plugin_option
from pyrovae.cli.reading_options import (
    Number,
    beside_options,
    binarize_option,
    device_option,
    number_option,
    output_options,
    run_argument,
    seed_option,
)

__all__ = ["command"]

SHOWN = 10  # of the strangest items
SCORES = ["likelihood_ratio", "log_prob", "typicality"]


@click.command("strange", cls=Command, short_help="Which items are unlike those of the fit.")
@run_argument
@click.argument("data", metavar="DATA", type=DataName())
@click.option(
    "--score",
    metavar="|".join(SCORES),
    type=OneOf(SCORES),
    default=SCORES[0],
    cls=Option,
    help="log p(x) beside that of independent entries, log p(x) alone, or its distance from the mean of usual items "
    "(default: likelihood_ratio).",
)
@beside_options
@binarize_option("auto")
@number_option("--level", Number(0, 1, is_open=True), 0.05, "The rate of false alarms among usual items.")
@number_option("--num-particles", Number(1, whole=True), 100, "Draws of the code for each log p(x).")
@seed_option("the draws")
@device_option
@plugin_option
@output_options(".csv", ".npz", ".nc", required=False, what="the score of each item")
def command(
    run: str,
    data: str,
    covariates: str | None,
    exposure: str | None,
    score: str,
    binarize: str | None,
    level: float,
    num_particles: int,
    seed: int,
    device: str,
    plugin: tuple[str, ...],
    output: Output,
) -> None:
    """Which of the items in DATA are unlike those that the model in RUN was fitted on.

    The threshold is calibrated with the test part of the fit's own data, so that the rate of false alarms among items
    like these is exact. Each item has a score, higher for stranger ones, and a p-value.

    \b
    Examples:
      pyrovae strange run more.npy
      pyrovae strange run more.npy --score typicality --level 0.01
      pyrovae strange run more.npy -o scores.csv
    """
    import pyrovae
    from pyrovae.cli.outputs import Result
    from pyrovae.cli.reading import open_run
    from pyrovae.labelled import labelled

    opened = open_run(run, device=device)
    how = binarize or "auto"
    usual, reference = (opened.source(part=part).items("all", how) for part in ("test", "train"))
    of_items = {"covariates": covariates, "exposure": exposure}
    items = opened.source(data, of_items, part="all").items("all", how)
    asked: dict[str, Any] = {"score": score, "level": level, "num_particles": num_particles, "seed": seed}
    detector = pyrovae.NoveltyDetector(opened.pair, usual.given, reference=reference.given, **asked)
    novelty = detector.detect(items.given)
    variables: dict[str, Any] = items.label_variable
    for name, values in novelty.pointwise.data_vars.items():
        numbers = values.values.astype("int8") if name == "strange" else values.values
        variables[str(name)] = (numbers, values.attrs["long_name"], values.attrs["units"], "item")
    attributes = {**opened.attributes, **items.protocol, **novelty.pointwise.attrs}
    result = Result(labelled(variables, {"item": items.numbers}, attributes), "score")
    if output.as_json:
        output.write(result)
        output.describe(result, asked)
        return
    click.echo(f"{opened.name}  {type(opened.pair).__name__}, {detector}")
    click.echo(str(novelty))
    strangest = novelty.p_value.argsort(kind="stable")[:SHOWN]
    for number in strangest[novelty.strange[strangest]]:
        value = float(novelty.pointwise["score"][number])
        click.echo(f"  item {items.numbers[number]:>6}  score {value:10.3f}  p {novelty.p_value[number]:.3g}")
    output.write(result)
