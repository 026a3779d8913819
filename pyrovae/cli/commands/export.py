"""A fitted model's draws and evidence, for ArviZ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pyrovae.cli.options import Command
from pyrovae.cli.plugins import plugin_option
from pyrovae.cli.reading_options import (
    Number,
    binarize_option,
    data_options,
    device_option,
    json_option,
    number_option,
    out_options,
    run_argument,
    seed_option,
)

__all__ = ["command"]


@click.command("export", cls=Command, short_help="A fitted model's draws and evidence, for ArviZ.")
@run_argument
@data_options(count=100)
@binarize_option("auto")
@number_option("--num-draws", Number(1, whole=True), 200, "Draws of q(z | x) and of p(x | z) for each item.")
@seed_option("the draws")
@device_option
@plugin_option
@json_option
@out_options(".nc", what="it")
def command(
    run: str,
    data: str | None,
    labels: str | None,
    part: str | None,
    num_items: int | str,
    binarize: str | None,
    num_draws: int,
    seed: int,
    device: str,
    plugin: tuple[str, ...],
    as_json: bool,
    out: Path | None,
    force: bool,
) -> None:
    """Write draws of codes and of items, and the evidence of each item, of the fitted model in RUN as netCDF.

    ArviZ and xarray read the file: arviz.from_netcdf("run.nc") has the groups posterior, posterior_predictive, prior,
    prior_predictive, observed_data, sample_stats and log_evidence; of a Bayesian mixture the draws of its parameters
    and log_likelihood. Each draw of each item is as large as an item.

    \b
    Examples:
      pyrovae export run -o run.nc
      pyrovae export run --num-items 20 --num-draws 1000 -o run.nc
    """
    import pyrovae
    from pyrovae.cli.outputs import described, json_text, replacing, write_nc
    from pyrovae.cli.reading import open_run

    if out is None:
        raise click.UsageError("name a file that ends in .nc by -o")
    opened = open_run(run, device=device)
    items = opened.source(data, labels=labels, part=part).items(num_items, binarize or "auto")
    try:
        tree: Any = pyrovae.to_arviz(opened.pair, items.x, y=items.labels, num_draws=num_draws, seed=seed)
    except ValueError as error:
        why = str(error).replace("to_arviz", "export")
        raise click.UsageError(f"{opened.path} ({type(opened.pair).__name__}) cannot be exported: {why}") from error
    with replacing(out, force=force) as temporary:
        write_nc(tree, temporary)
    listed = tree.groups() if callable(tree.groups) else tree.groups  # of ArviZ 0.x and of xarray
    groups = {name.strip("/"): _group(tree, name) for name in listed if name.strip("/")}
    if as_json:
        record = {
            "command": "export",
            "out": out,
            "settings": {"num_draws": num_draws, "seed": seed},
            "protocol": items.protocol,
            "groups": {name: described(group, values=False) for name, group in groups.items()},
        }
        click.echo(json_text(record))
    else:
        click.echo(f"{', '.join(groups)} of {items}, {num_draws} draws, seed {seed}: {out}")


def _group(tree: Any, name: str) -> Any:
    """A group as a data set, of ArviZ's InferenceData and of a tree of xarray alike."""
    group = tree[name.strip("/")]
    return group.to_dataset() if hasattr(group, "to_dataset") and hasattr(group, "children") else group
