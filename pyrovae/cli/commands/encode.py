"""Codes of items; of a mixture and a classifier, their probabilities."""

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


@click.command("encode", cls=Command, short_help="Codes of items; probabilities of a mixture or a classifier.")
@run_argument
@data_options(count="all")
@binarize_option("no")
@device_option
@plugin_option
@output_options(".csv", ".parquet", ".npy", ".npz", ".nc", ".png", what="them")
def command(
    run: str,
    asked: Asked,
    binarize: str,
    device: str,
    plugin: tuple[str, ...],
    output: Output,
) -> None:
    """What the fitted model in RUN makes of each item.

    The code of each item, which is the mean of q(z | x), of a VAE or an autoencoder; p(component | x) of a mixture;
    p(label | x) of a classifier. A .csv has a row for each item, with its number and its label where it has one; a .png
    shows codes in the plane. Of a table it is every row, by its number in the file from 0 on, and codes are z1, z2, ...

    \b
    Examples:
      pyrovae encode run -o codes.csv
      pyrovae encode run --data more.npy -o codes.npy
      pyrovae encode run --data more.csv -o codes.csv
      pyrovae encode run -o codes.png
    """
    from pyrovae.cli.outputs import Result
    from pyrovae.cli.reading import open_run
    from pyrovae.labelled import labelled

    opened = open_run(run, device=device)
    items = asked.items_of(opened, binarize, whole=opened.encoding is not None)
    name, what, dim, names, values = _encoded(opened, items)
    if output.ending == ".png" and (name != "latent" or values.shape[1] < 2):
        raise click.UsageError(
            f"-o {output.out}: a picture is of codes of two dimensions or more; name a .csv or .npy file"
        )
    variables = items.label_variable
    variables[name] = (values, what, "1", "item", dim)
    coords: dict[str, Any] = {"item": items.numbers}
    if names is not None:
        coords[dim] = names
    attributes = {**opened.attributes, **items.protocol}

    def figure() -> Any:
        from pyrovae import plotting

        return plotting.latent_scatter(values, items.labels).figure

    def frame() -> Any:
        return _frame(name, names, values, items)

    of_rows = None if opened.encoding is None else frame
    result = Result(labelled(variables, coords, attributes), main=name, figure=figure, frame=of_rows)
    line = f"{what} of {items}, shape {values.shape}"
    settings = {"part": items.part, "num_items": len(items.numbers)}
    output.emit(result, line, settings=settings)


def _frame(name: str, names: Any, values: Any, items: Any) -> dict[str, Any]:
    """The columns of a table's codes: the row in the file, from 0 on, its label, and z1, z2, ... or the classes."""
    count = values.shape[1]
    if name == "latent":
        called = [f"z{place}" for place in range(1, count + 1)]
    else:
        called = [f"{name}_{each}" for each in (range(count) if names is None else names.tolist())]
    label = {} if items.labels is None else {"label": items.labels}
    return {"row": items.rows, **label, **dict(zip(called, values.T, strict=True))}


def _encoded(opened: Any, items: Any) -> tuple[str, str, str, Any, Any]:
    """Name, description, dimension, the names along it (or None), and the numbers, (N, D)."""
    import torch

    import pyrovae
    from pyrovae.models.pair import takes_labels

    pair, x = opened.pair, items.given
    missing = {} if items.missing is None else {"missing": True}
    with torch.no_grad():
        if takes_labels(pair):
            log_proba = pair.predict_log_proba(items.x, **missing)
            return "probability", "p(label | x)", "class", pair.names, log_proba.exp().cpu().numpy()
        if hasattr(pair, "responsibilities"):
            shares = pair.responsibilities(items.x, **missing)
            return "component", "p(component | x)", "component_", None, shares.cpu().numpy()
        if not hasattr(pair, "encode"):
            raise click.UsageError(f"{opened.path} ({type(pair).__name__}) has no codes to be read off")
        return "latent", "codes", "latent_dim", None, pyrovae.encoded(pair, x).numpy()
