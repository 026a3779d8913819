"""One page on one or several fitted models, with their code plane to touch."""

from __future__ import annotations

from typing import Any

import click

from pyrovae.cli.options import Command, DataName, Option
from pyrovae.cli.outputs import Output
from pyrovae.cli.plugins import plugin_option
from pyrovae.cli.reading_options import (
    Number,
    beside_options,
    device_option,
    number_option,
    output_options,
    runs_argument,
    seed_option,
)

__all__ = ["command"]


@click.command("report", cls=Command, short_help="One page on fitted models, with their code plane to touch.")
@runs_argument()
@click.option(
    "--data",
    metavar="DATA",
    type=DataName(),
    cls=Option,
    section="Items",
    help="Another data set than that of the fits, from anything that `pyrovae fit` takes; its test part is judged.",
)
@beside_options
@number_option("--num-items", Number(2, whole=True), 500, "How many test items are judged.", section="Items")
@number_option(
    "--num-ledger-items",
    Number(1, whole=True),
    20,
    "How many of them for log p(x) itself and the gaps, which take longest.",
    section="Items",
)
@number_option("--num-particles", Number(1, whole=True), 1000, "Draws of q(z | x) for each item, of iwae.")
@click.option("--title", metavar="TEXT", cls=Option, section="Output", help="The title of the page.")
@seed_option("the choice of the items and the draws")
@device_option
@plugin_option
@output_options(".html", what="the page")
def command(
    runs: tuple[str, ...],
    data: str | None,
    covariates: str | None,
    exposure: str | None,
    num_items: int,
    num_ledger_items: int,
    num_particles: int,
    title: str | None,
    seed: int,
    device: str,
    plugin: tuple[str, ...],
    output: Output,
) -> None:
    """Write one page on the fitted models in RUN...: what was fitted on what, and what it is worth.

    The page is one file, which any browser opens without a network. It has curves, reconstructions, rate and
    distortion, evidence, calibration and classification as far as the models have them, side by side, and the code
    plane, in which the point under the pointer is decoded.

    \b
    Examples:
      pyrovae report run -o report.html
      pyrovae report ae vae mixture -o report.html --title "Digits"
    """
    import pyrovae
    from pyrovae.cli.outputs import replacing
    from pyrovae.cli.reading import named_as_classes, names_of, open_run, source_of_all
    from pyrovae.report import Entry

    if output.out is None:
        raise click.UsageError("name by -o where to write the page, a file that ends in .html")
    opened = [open_run(run, device=device) for run in runs]
    names = names_of(opened)
    entries = [_entry(Entry, one, name) for one, name in zip(opened, names, strict=True)]
    of_items = {"covariates": covariates, "exposure": exposure}
    items = named_as_classes(opened, source_of_all(opened, names, data, of_items, part="test").data)
    settings: dict[str, Any] = {"num_items": num_items, "num_ledger_items": num_ledger_items}
    settings |= {"num_particles": num_particles, "seed": seed}
    with replacing(output.out, force=output.force) as temporary:
        pyrovae.report.write(temporary, entries, items, title=title, progress=not output.as_json, **settings)
    output.answer({"out": output.out, "runs": [str(one.path) for one in opened], "settings": settings})
    output.say(f"{', '.join(names)} on {items.name}: {output.out}")


def _entry(kind: Any, one: Any, name: str) -> Any:
    """A pair of the report, with what its run says of itself."""
    if one.run is None:
        return kind(name, one.pair)
    command = one.manifest.get("command")
    protocol = {"seed": str(one.manifest.get("seed"))}
    if command:
        import shlex

        protocol["command"] = shlex.join(map(str, command))
    return kind(name, one.pair, history=one.run.history(), protocol=protocol)
