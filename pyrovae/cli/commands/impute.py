"""Missing entries of items, filled in by a fitted model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pyrovae import choices
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

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["command"]

GROUP = 256  # items that are imputed together
NUM_FILES = 5  # of draws of a table, unless it is said
MISSING = (0.25, 0.56, 0.85)  # the colour of a missing entry in a picture, which no grey value has


@click.command("impute", cls=Command, short_help="Missing entries of items, filled in.")
@run_argument
@data_options(count="all", missing=True)
@click.option(
    "--mask",
    metavar="FILE.npy",
    cls=Option,
    section="Items",
    help="An array of the items' shape, or of one item's, that is true where an entry is missing: for items that hold "
    "no NaN, as images do not.",
)
@binarize_option("no")
@number_option(
    "--num-draws",
    Number(1, whole=True),
    None,
    f"Draws of p(missing | seen) for each item (default: 100; {NUM_FILES} files of --draws of a table).",
)
@click.option(
    "--method",
    metavar="|".join(choices.imputations()),
    type=OneOf(choices.imputations()),
    default="mcmc",
    cls=Option,
    help="How the codes behind the draws come about: a Markov chain each (mcmc), candidates of the encoder resampled "
    "(sir), or Pyro's No-U-Turn sampler (nuts); default mcmc. A mixture needs none.",
)
@number_option(
    "--num-steps",
    Number(1, whole=True),
    100,
    "Steps of the Markov chain behind each draw, candidates for each draw (sir), or steps of warm-up (nuts).",
)
@click.option(
    "--draws",
    is_flag=True,
    cls=Option,
    section="Output",
    help="Write every draw and not their mean: shape (draws, items, ...); of a table done-1.csv, done-2.csv and so on.",
)
@number_option(
    "--interval",
    Number(0, 1, is_open=True),
    None,
    "Also write the ends between which this share of the draws lies: .npz, .csv, .parquet and .nc; of a category the "
    "probability.",
    section="Output",
)
@seed_option("the draws")
@device_option
@plugin_option
@output_options(".npy", ".npz", ".csv", ".parquet", ".png", ".nc", "/", what="the filled items")
def command(
    run: str,
    asked: Asked,
    mask: str | None,
    binarize: str,
    num_draws: int | None,
    method: str,
    num_steps: int,
    draws: bool,
    interval: float | None,
    seed: int,
    device: str,
    plugin: tuple[str, ...],
    output: Output,
) -> None:
    """Fill in what is missing of items, given what is seen of them, by the fitted model in RUN.

    An entry is missing where it is NaN, or where --mask is true. Each becomes the mean of draws of p(missing | seen);
    of a mixture, the mean itself. What was seen comes back as it is. --draws keeps the draws, whose spread says how
    sure the model is, and --interval states it.

    Of a table, a .csv or .parquet file, an empty cell is missing, and the file is completed with all of its columns:
    a number by the mean, a count by the median, a category by the most probable one. One completed file looks more
    certain than it is; --draws writes several, which differ as far as the fitted model leaves open.

    \b
    Examples:
      pyrovae impute run --data holes.npy -o filled.npy
      pyrovae impute run --data holes.npy --interval 0.9 -o filled.npz
      pyrovae impute run --data people.csv -o done.csv
      pyrovae impute run --data people.csv --draws --num-draws 20 -o done.csv
      pyrovae impute run --mask lower-half.npy --num-items 16 -o filled.png
    """
    import numpy as np

    from pyrovae.cli.imputing_tables import impute_table, require_files
    from pyrovae.cli.outputs import Result
    from pyrovae.cli.pictures import require_picture, shades
    from pyrovae.cli.reading import open_run
    from pyrovae.labelled import labelled

    opened = open_run(run, device=device)
    pair: Any = opened.pair
    ending = output.ending
    if opened.encoding is not None:
        if mask is not None:
            raise click.UsageError("--mask is of arrays, and of a table empty cells say what is missing: leave it out")
        num_draws = num_draws or (NUM_FILES if draws else 100)
        files = require_files(output, num_draws if draws else None, interval)
        how = {"num_draws": num_draws, "num_steps": num_steps, "method": method}
        impute_table(opened, asked.items_of(opened, missing=True), files, how, interval, seed, output)
        return
    num_draws = num_draws or 100
    require_picture(output.out, tuple(pair.event_shape))
    if interval is not None and ending not in (None, ".npz", ".csv", ".parquet", ".nc"):
        raise click.UsageError("--interval needs more than one array: name a .npz, .csv or .nc file by -o")
    if draws and ending in (".png", ""):
        raise click.UsageError("--draws are no picture: name a .npy, .npz, .csv or .nc file by -o")
    items = asked.items_of(opened, binarize, missing=True, exactly=True)
    x = _with_missing(items, mask)
    absent = np.isnan(x.numpy())
    if not absent.any():
        raise click.UsageError(
            f"nothing is missing of the {items}: an entry is missing where it is NaN, or where --mask is true"
        )
    how = {"num_draws": num_draws, "num_steps": num_steps, "method": method}
    filled = _filled(opened, x, items.beside, how, interval, draws, seed)
    dims = [f"event_{i}" for i in range(x.ndim - 1)]
    variables = items.label_variable
    variables["x"] = (filled["mean"], "item, missing entries by the mean of p(missing | seen)", "1", "item", *dims)
    if interval is not None:
        for name in ("lower", "upper"):
            words = f"{name} end of the {100 * interval:g} % interval of the draws"
            variables[name] = (filled[name], words, "1", "item", *dims)
    if draws:
        variables["draws"] = (filled["draws"], "item, missing entries drawn", "1", "draw", "item", *dims)
    if ending in (None, ".npz", ".nc"):
        variables["missing"] = (absent.astype(np.int8), "1 where the entry was missing", "1", "item", *dims)
    settings: dict[str, Any] = {**how, "seed": seed}
    if interval is not None:
        settings["interval"] = interval
    attributes = {**opened.attributes, **settings, **items.protocol}
    coords: dict[str, Any] = {"item": items.numbers}
    if draws:
        coords["draw"] = np.arange(num_draws)
        if ending in (".csv", ".parquet"):
            del variables["x"]
    result = Result(
        labelled(variables, coords, attributes),
        main="draws" if draws else "x",
        figure=lambda: _picture(shades(x.numpy(), opened.limits), absent, shades(filled["mean"], opened.limits)),
        limits=opened.limits,
    )
    is_exact = hasattr(pair, "conditional") and not draws and interval is None
    words = "by the mean of p(missing | seen) itself" if is_exact else f"{num_draws} draws each, seed {seed}"
    line = f"{int(absent.sum()):,} missing entries of {items}, {words}"
    output.emit(result, line, settings=settings)


def _with_missing(items: Any, mask: str | None) -> torch.Tensor:
    """The items as floats, NaN where an entry is missing."""
    import numpy as np
    import torch

    from pyrovae import checks
    from pyrovae.data.numpy_files import read_array

    x: torch.Tensor = items.x if items.x.dtype.is_floating_point else items.x.float()
    if mask is None:
        return x
    where = read_array("mask", checks.path("mask", mask), "true and false, or 1 and 0")
    if where.dtype.kind not in "bui" or not np.isin(where, (0, 1)).all():
        raise click.UsageError(f"--mask {mask} must hold true and false, or 1 and 0")
    event = tuple(x.shape[1:])
    of_one, of_all = _as_the_items(where, event), _as_the_items(where, event, items.count)
    if of_all is not None:
        where = of_all[items.numbers]
    elif of_one is not None:
        where = of_one
    else:
        raise click.UsageError(
            f"--mask {mask} has shape {where.shape}, and must have that of an item, {event}, or of all items, "
            f"{(items.count, *event)}"
        )
    return torch.where(torch.from_numpy(np.broadcast_to(where.astype(bool), x.shape).copy()), torch.nan, x)


def _as_the_items(mask: np.ndarray, event: tuple[int, ...], count: int | None = None) -> np.ndarray | None:
    """A mask with the axes that the items are read with, from those that their file may have; None for another shape.

    Grey images may lie there as (H, W), and colours last, as (H, W, C). With `count`, the mask of so many items.
    """
    import numpy as np

    first = () if count is None else (count,)
    if mask.shape == (*first, *event):
        return mask
    if len(event) == 3 and event[0] == 1 and mask.shape == (*first, *event[1:]):
        return mask.reshape(*first, *event)
    if len(event) == 3 and mask.shape == (*first, *event[1:], event[0]):
        return np.moveaxis(mask, -1, len(first))
    return None


def _filled(
    opened: Any,
    x: torch.Tensor,
    beside: dict[str, torch.Tensor],
    how: dict[str, Any],
    interval: float | None,
    keep: bool,
    seed: int,
) -> dict[str, np.ndarray]:
    """The mean, the ends of the interval and the draws themselves, as far as they are asked for."""
    import numpy as np
    from tqdm import tqdm

    from pyrovae.seeding import stream

    parts: dict[str, list[np.ndarray]] = {}
    bar = tqdm(total=len(x), desc="impute", unit="item", disable=None if len(x) > GROUP else True)
    with bar:
        for start in range(0, len(x), GROUP):
            rows = x[start : start + GROUP]
            of_group = seed if start == 0 else stream(seed, "group", start)
            its = {name: value[start : start + GROUP] for name, value in beside.items()}
            mean, draws = _imputed(opened, rows, its, how, of_group, keep or interval is not None)
            columns = {"mean": mean}
            if interval is not None:
                ends = np.quantile(draws, [(1 - interval) / 2, (1 + interval) / 2], axis=0)
                columns |= {"lower": ends[0], "upper": ends[1]}
            if keep:
                columns["draws"] = draws
            for name, values in columns.items():
                # what was seen comes back in all of its digits
                seen = rows.numpy()
                part = np.where(np.isnan(seen), values, seen).astype(seen.dtype)
                parts.setdefault(name, []).append(part)
            bar.update(len(rows))
    return {name: np.concatenate(values, axis=1 if name == "draws" else 0) for name, values in parts.items()}


def _imputed(
    opened: Any, x: torch.Tensor, beside: dict[str, torch.Tensor], how: dict[str, Any], seed: int, with_draws: bool
) -> Any:
    """The mean of p(missing | seen), and draws of it, (num_draws, N, *event_shape)."""
    import torch

    from pyrovae.cli.imputing_tables import drawing

    pair, draw = opened.pair, drawing(opened, how)
    if not hasattr(pair, "conditional"):
        draws = draw(x, seed, beside)
        return torch.from_numpy(draws).mean(0).numpy(), draws
    with torch.no_grad():
        given = pair.conditional(x)
        # of a table's row, the most probable category stands for the mean that a column of categories has none of
        filled = given.filled if hasattr(given, "filled") else given.mean
    return filled.cpu().numpy(), draw(x, seed, beside) if with_draws else None


def _picture(x: np.ndarray, absent: np.ndarray, filled: np.ndarray) -> Any:
    """What was given, with missing entries in a colour, above what they were filled with."""
    import numpy as np

    from pyrovae.cli.pictures import rows

    given = np.where(absent, 0.0, x)
    if given.shape[1] == 1:
        given, filled = (np.repeat(images, 3, axis=1) for images in (given, filled))
    hole = absent.any(axis=1, keepdims=True)
    given = np.where(hole, np.reshape(MISSING, (1, 3, 1, 1)), given)
    return rows({"given": given, "filled": filled})
