"""Items as a fitted model gives them back."""

from __future__ import annotations

from typing import Any

import click

from pyrovae.cli.options import Command
from pyrovae.cli.outputs import Output
from pyrovae.cli.plugins import plugin_option
from pyrovae.cli.reading_options import (
    Asked,
    binarize_option,
    data_options,
    device_option,
    output_options,
    run_argument,
)

__all__ = ["command"]


@click.command("reconstruct", cls=Command, short_help="Items as a fitted model gives them back.")
@run_argument
@data_options(count=None, shown="16 for a picture, else all")
@binarize_option("no")
@device_option
@plugin_option
@output_options(".png", ".npy", ".npz", ".csv", ".nc", "/", what="them")
def command(
    run: str,
    asked: Asked,
    binarize: str,
    device: str,
    plugin: tuple[str, ...],
    output: Output,
) -> None:
    """Encode items with the fitted model in RUN, and decode their codes.

    A .png has the items in rows and their reconstructions below; a .npz or .nc file has both; a .npy or .csv file and
    a folder have the reconstructions.

    \b
    Examples:
      pyrovae reconstruct run -o reconstructions.png
      pyrovae reconstruct run --num-items 32 -o reconstructions.png
      pyrovae reconstruct run --data more.npy -o reconstructions.npy
    """
    import pyrovae
    from pyrovae.cli.outputs import Result
    from pyrovae.cli.pictures import require_picture, rows, shades
    from pyrovae.cli.reading import open_run
    from pyrovae.labelled import labelled

    opened = open_run(run, device=device)
    pair: Any = opened.pair
    if not hasattr(pair, "encode") or not hasattr(pair, "decode"):
        raise click.UsageError(f"{opened.path} ({type(pair).__name__}) has no codes that could be decoded")
    require_picture(output.out, tuple(pair.event_shape))
    is_picture = output.ending == ".png"
    items = asked.source_of(opened).items(asked.num_items or (16 if is_picture else "all"), binarize)
    values = pyrovae.decoded(pair, pyrovae.encoded(pair, items.given), **items.beside).numpy()
    x = items.x.cpu().numpy()
    dims = [f"event_{i}" for i in range(values.ndim - 1)]
    variables = items.label_variable
    variables["reconstruction"] = (values, "mean of p(x | z) at the code of the item", "1", "item", *dims)
    if output.ending in (None, ".npz", ".nc"):
        variables["x"] = (x, "item", "1", "item", *dims)
    attributes = {**opened.attributes, **items.protocol}
    result = Result(
        labelled(variables, {"item": items.numbers}, attributes),
        main="reconstruction",
        figure=lambda: rows({name: shades(y, opened.limits) for name, y in (("items", x), ("reconstructed", values))}),
        limits=opened.limits,
    )
    settings = {"part": items.part, "num_items": len(items.numbers)}
    line = f"reconstructions of {items}, shape {values.shape}"
    output.emit(result, line, settings=settings)
