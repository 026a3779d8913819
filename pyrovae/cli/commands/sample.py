"""New items drawn from a fitted model."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import click

from pyrovae.cli.options import Command, Option
from pyrovae.cli.outputs import Output
from pyrovae.cli.plugins import plugin_option
from pyrovae.cli.reading_options import Number, device_option, output_options, run_argument, seed_option

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["command"]


@click.command("sample", cls=Command, short_help="New items drawn from a fitted model.")
@run_argument
@click.option(
    "-n",
    "--num-items",
    "n",
    type=Number(1, whole=True),
    metavar="N",
    cls=Option,
    section="Items",
    help="How many items to draw; of a classifier, for each label (default: 16, or one for each row of --covariates).",
)
@click.option(
    "--mean",
    is_flag=True,
    cls=Option,
    section="Items",
    help="The likelihood's mean at each code, which is what pictures usually show; of a VAE or a SemiSupervisedVAE.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="LABEL",
    cls=Option,
    section="Items",
    help="Of a classifier with densities or a SemiSupervisedVAE, the label to draw items of; may be given several "
    "times (default: every one).",
)
@click.option(
    "--covariates",
    metavar="X,X,...|FILE.npy",
    cls=Option,
    section="Items",
    help="Of a model fitted with covariates, those of the items to draw: a row of numbers with commas for all of them, "
    "or an array (N, D) of a row for each.",
)
@click.option(
    "--exposure",
    metavar="X|FILE.npy",
    cls=Option,
    section="Items",
    help="Of a model fitted with an exposure, that of the items to draw: a number for all, or an array (N,).",
)
@seed_option("the draws")
@device_option
@plugin_option
@output_options(".png", ".npy", ".npz", ".csv", ".parquet", ".nc", "/", what="them")
def command(
    run: str,
    n: int | None,
    mean: bool,
    labels: tuple[str, ...],
    covariates: str | None,
    exposure: str | None,
    seed: int,
    device: str,
    plugin: tuple[str, ...],
    output: Output,
) -> None:
    """Draw new items from p(x) of the fitted model in RUN.

    A code is drawn from the prior and an item from the likelihood at that code. Of a table a .csv or .parquet file has
    rows with the names, the categories and the types of the file of the fit.

    \b
    Examples:
      pyrovae sample run -o samples.png --mean
      pyrovae sample run -n 1000 --seed 1 -o samples.npy
      pyrovae sample run -n 100 -o samples/
      pyrovae sample run -n 100 -o rows.csv
      pyrovae sample classifier --label 3 --label 8 -o threes-and-eights.png
      pyrovae sample run --covariates 0,1,0 -n 100 -o samples.npy
    """
    import numpy as np

    from pyrovae.cli.outputs import Result
    from pyrovae.cli.pictures import require_picture, shades, sheet
    from pyrovae.cli.reading import open_run
    from pyrovae.labelled import labelled

    opened = open_run(run, device=device)
    pair: Any = opened.pair
    require_picture(output.out, tuple(pair.event_shape))
    if mean and opened.encoding is not None:
        raise click.UsageError(
            "--mean is of images and numbers, and the mean of a row of categories and counts is no row: leave it out"
        )
    beside = _beside(opened, {"covariates": covariates, "exposure": exposure})
    n = _number(n, beside)
    x, its_labels = _drawn(opened, n, mean, labels, beside, seed)
    values = x.cpu().numpy()
    count = len(values)
    dims = [f"event_{i}" for i in range(values.ndim - 1)]
    y = ", y" if its_labels is not None else ""
    what = f"mean of p(x | z{y}) at a draw of the prior" if mean else "draw of p(x | y)" if y else "draw of p(x)"
    variables: dict[str, Any] = {"x": (values, what, "1", "item", *dims)}
    if its_labels is not None:
        variables["label"] = (np.asarray(its_labels), "label that it was drawn for", "1", "item")
    settings: dict[str, Any] = {"num_items": n, "mean": int(mean), "seed": seed}
    for name, text in (("covariates", covariates), ("exposure", exposure)):
        if text is not None:
            settings[name] = text
    attributes = {**opened.attributes, **settings}
    result = Result(
        labelled(variables, {"item": np.arange(count)}, attributes),
        main="x",
        figure=lambda: sheet(shades(values, opened.limits)),
        limits=opened.limits,
        frame=None if opened.encoding is None else lambda: _frame(opened, values, its_labels),
    )
    density = "p(x | y)" if y else f"p(x{_given_in_words(beside)})"
    line = f"{count:,} {'means of ' if mean else ''}draws of {density}, seed {seed}, shape {values.shape}"
    output.emit(result, line, settings=settings)


def _frame(opened: Any, values: np.ndarray, labels: Any) -> Any:
    """Rows of a table with the names, the categories and the types of the file of the fit."""
    import numpy as np

    from pyrovae.cli.frames import with_columns

    frame = opened.encoding.frame(values)
    return frame if labels is None else with_columns(frame, {"label": np.asarray(labels)})


def _beside(opened: Any, asked: dict[str, str | None]) -> dict[str, torch.Tensor]:
    """What the items are drawn given: covariates (D,) or (N, D), and an exposure () or (N,)."""
    from pyrovae.models.pair import covariate_dim_of, takes_beside

    beside = {name: _rows(name, text) for name, text in asked.items() if text is not None}
    size = covariate_dim_of(opened.pair)
    takes = takes_beside(opened.pair)
    for name in asked:
        if name in beside and not takes[name]:
            raise click.UsageError(f"{opened.path} ({type(opened.pair).__name__}) takes no {name}: leave --{name} out")
        if name in beside and opened.run is not None and name not in opened.beside:
            raise click.UsageError(f"{opened.path} was fitted without {name}: leave --{name} out")
        if name not in beside and name in opened.beside:
            how = f"a row of {size} numbers with commas" if name == "covariates" else "a number"
            raise click.UsageError(
                f"{opened.path} is of items given {name}: name those of the items to draw by --{name}, {how} or a "
                ".npy file"
            )
    if "covariates" in beside and beside["covariates"].shape[-1] != size:
        raise click.UsageError(
            f"--covariates must have the {size} columns that the model was fitted with, got "
            f"{beside['covariates'].shape[-1]}"
        )
    return beside


def _rows(name: str, text: str) -> torch.Tensor:
    """Numbers that were typed, or those in a file, checked as those of a data set are."""
    import numpy as np

    from pyrovae.data.beside import checked_rows
    from pyrovae.data.sources import read_rows

    if text.lower().endswith(".npy"):
        rows = read_rows(name, text)
        return checked_rows(name, rows, len(rows) if rows.ndim else 1, text)
    try:
        numbers = np.array([float(word) for word in text.split(",")])
    except ValueError:
        raise click.UsageError(f"--{name} must be numbers with commas, or a .npy file, got {text!r}") from None
    if name == "exposure" and len(numbers) > 1:
        raise click.UsageError(f"--exposure must be one number, or a .npy file, got {text!r}")
    return checked_rows(name, numbers[None] if name == "covariates" else numbers, 1, text)[0]


def _number(n: int | None, beside: dict[str, torch.Tensor]) -> int:
    """How many items to draw: one for each row of a file, else as many as are asked for."""
    of_one = {"covariates": 1, "exposure": 0}
    counts = {f"--{name} has {len(rows)} rows": len(rows) for name, rows in beside.items() if rows.ndim > of_one[name]}
    if n is not None:
        counts[f"--num-items is {n}"] = n
    if len(set(counts.values())) > 1:
        raise click.UsageError(f"{' and '.join(counts)}: one item is drawn for each row of a file")
    return next(iter(counts.values()), 16)


def _given_in_words(beside: dict[str, torch.Tensor]) -> str:
    return f" | {', '.join(beside)}" if beside else ""


def _drawn(opened: Any, n: int, mean: bool, labels: tuple[str, ...], beside: dict[str, torch.Tensor], seed: int) -> Any:
    """The items, and the label of each of a classifier."""
    import torch

    from pyrovae.cli.reading import class_named
    from pyrovae.models.pair import takes_labels

    pair = opened.pair
    kind = type(pair).__name__
    if takes_labels(pair):
        if not hasattr(pair, "sample"):
            raise click.UsageError(f"{opened.path} ({kind}) is p(y | x) alone, and has no items to draw")
        options = {"mean": True} if mean else {}
        if mean and "mean" not in inspect.signature(pair.sample).parameters:
            raise click.UsageError(f"--mean is of a VAE, and {opened.path} is none ({kind}): leave it out")
        chosen = [class_named(opened, label) for label in labels] or pair.names.tolist()
        drawn = [pair.sample(label, n, seed=seed, **options) for label in chosen]
        return torch.cat(drawn).detach(), [label for label in chosen for _ in range(n)]
    if labels:
        raise click.UsageError(f"--label is of a classifier, and {opened.path} is none ({kind}): leave it out")
    if not hasattr(pair, "sample") or not pair.is_normalized:
        raise click.UsageError(
            f"{opened.path} ({kind}) has no p(x), and so nothing to draw: fit a VAE, or look at codes by "
            "`pyrovae encode`"
        )
    if not mean:
        return pair.sample(n, seed=seed, **beside), None
    if pair.latent_dim == 0:
        raise click.UsageError(f"--mean is of a VAE, and {opened.path} is none ({kind}): leave it out")
    return pair.sample(n, seed=seed, mean=True, **beside).detach(), None
