"""Items as a fitted model gives them back."""

from __future__ import annotations

from typing import Any

import click

from pyrovae.cli.options import Command, Option
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
@click.option(
    "--label",
    metavar="LABEL",
    cls=Option,
    section="Items",
    help="Of a SemiSupervisedVAE, the label to encode and decode all items with (default: the likeliest of each item).",
)
@device_option
@plugin_option
@output_options(".png", ".npy", ".npz", ".csv", ".nc", "/", what="them")
def command(
    run: str,
    asked: Asked,
    binarize: str,
    label: str | None,
    device: str,
    plugin: tuple[str, ...],
    output: Output,
) -> None:
    """Encode items with the fitted model in RUN, and decode their codes.

    A .png has the items in rows and their reconstructions below; a .npz or .nc file has both; a .npy or .csv file and
    a folder have the reconstructions.

    A SemiSupervisedVAE encodes and decodes an item with its likeliest label, by the network of q(y | x), which the file
    has too, or with --label.

    \b
    Examples:
      pyrovae reconstruct run -o reconstructions.png
      pyrovae reconstruct run --num-items 32 -o reconstructions.png
      pyrovae reconstruct run --data more.npy -o reconstructions.npy
      pyrovae reconstruct half-the-labels --label 8 -o as-eights.png
    """
    import numpy as np

    from pyrovae.cli.outputs import Result
    from pyrovae.cli.pictures import require_picture, rows, shades
    from pyrovae.cli.reading import class_named, open_run
    from pyrovae.evaluation.code_space.codes import reconstructed
    from pyrovae.labelled import labelled
    from pyrovae.models.pair import takes_labels

    opened = open_run(run, device=device)
    pair: Any = opened.pair
    if not hasattr(pair, "encode") or not (hasattr(pair, "decode") or hasattr(pair, "reconstruct")):
        raise click.UsageError(f"{opened.path} ({type(pair).__name__}) has no codes that could be decoded")
    if opened.encoding is not None:
        raise click.UsageError(
            f"{opened.path} is of a table, whose rows have no picture: `pyrovae impute` fills in what is missing of "
            "them, and `pyrovae encode` gives their codes"
        )
    with_label = takes_labels(pair)
    if label is not None and not with_label:
        raise click.UsageError(
            f"--label is of a SemiSupervisedVAE, and {opened.path} is none ({type(pair).__name__}): leave it out"
        )
    chosen = None if label is None else class_named(opened, label)
    require_picture(output.out, tuple(pair.event_shape))
    is_picture = output.ending == ".png"
    items = asked.source_of(opened).items(asked.num_items or (16 if is_picture else "all"), binarize)
    values = reconstructed(pair, items.given, label=chosen).numpy()
    x = items.x.cpu().numpy()
    dims = [f"event_{i}" for i in range(values.ndim - 1)]
    variables = items.label_variable
    density = "p(x | y, z)" if with_label else "p(x | z)"
    variables["reconstruction"] = (values, f"mean of {density} at the code of the item", "1", "item", *dims)
    if with_label:
        likeliest = pair.predict_log_proba(items.x).argmax(-1).cpu().numpy()
        labels = pair.names[likeliest] if label is None else np.full(len(x), chosen)
        variables["decoded_label"] = (labels, "label that it was encoded and decoded with", "1", "item")
    if output.ending in (None, ".npz", ".nc"):
        variables["x"] = (x, "item", "1", "item", *dims)
    attributes = {**opened.attributes, **items.protocol}
    result = Result(
        labelled(variables, {"item": items.numbers}, attributes),
        main="reconstruction",
        figure=lambda: rows({name: shades(y, opened.limits) for name, y in (("items", x), ("reconstructed", values))}),
        limits=opened.limits,
    )
    settings: dict[str, Any] = {"part": items.part, "num_items": len(items.numbers)}
    line = f"reconstructions of {items}, shape {values.shape}"
    if label is not None:
        settings["label"] = label
        line += f", with label {label}"
    output.emit(result, line, settings=settings)
