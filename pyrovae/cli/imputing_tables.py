"""What `pyrovae impute` does with a table: one completed file, or one for each draw, with all columns of the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from pyrovae.cli.frames import TABLES, best_guess, with_columns, write_frame
from pyrovae.cli.outputs import Output, replacing

if TYPE_CHECKING:
    from pyrovae.cli.reading import Items, Opened

__all__ = ["drawing", "impute_table", "require_files"]

GROUP = 256  # rows that are imputed together


def require_files(output: Output, num_files: int | None, interval: float | None) -> list[Path]:
    """The files to write, one, or one for each draw; refused before anything is computed where there are some."""
    if output.out is None or output.ending not in TABLES:
        what = "nothing is named" if output.out is None else f"{output.out} is none"
        raise click.UsageError(f"a table is completed as a {' or '.join(TABLES)} file, and {what}: name one by -o")
    if num_files is None:
        return [output.out]
    if interval is not None:
        raise click.UsageError("--interval is of one completed file, and --draws writes one for each draw: give one")
    width = len(str(num_files))
    files = [output.out.with_stem(f"{output.out.stem}-{number:0{width}d}") for number in range(1, num_files + 1)]
    there = [file for file in files if os.path.lexists(file)]
    if there and not output.force:
        raise click.UsageError(f"-o {output.out}: {there[0]} exists: name another, or replace it by --force")
    return files


def impute_table(
    opened: Opened,
    items: Items,
    files: list[Path],
    how: Mapping[str, Any],
    interval: float | None,
    seed: int,
    output: Output,
) -> None:
    """Write the completed rows; what was seen, and columns that the model does not know, are as they were."""
    columns = opened.encoding.columns
    x = items.x.numpy()
    gone = np.isnan(x)
    if not gone.any():
        raise click.UsageError(f"nothing is missing of the {items}: an empty cell is an entry that is missing")
    rows = items.table
    guess, draws, beside = _completed(opened, x, gone, how, len(files) > 1, interval, seed)
    frames = rows.frame(draws, with_dropped=True) if draws is not None else [rows.frame(guess, with_dropped=True)]
    if beside:
        frames = [with_columns(frames[0], beside)]
    for frame, file in zip(frames, files, strict=True):
        with replacing(file, force=output.force) as temporary:
            write_frame(frame, temporary)
    settings = {**how, "seed": seed, **({} if interval is None else {"interval": interval})}
    counts = {column.name: int(gone[:, place].sum()) for place, column in enumerate(columns) if gone[:, place].any()}
    record = {"out": files[0] if len(files) == 1 else files, "settings": settings, "protocol": items.protocol}
    output.answer({**record, "filled": counts})
    words = "by the mean, the median of a count, the most probable category"
    if draws is not None:
        words = f"{len(files)} draws of p(missing | seen), seed {seed}"
    last = "" if len(files) == 1 else f" to {files[-1]}"
    output.say(f"{int(gone.sum()):,} missing entries of {items}, {words}: {files[0]}{last}")


def _completed(
    opened: Opened,
    x: np.ndarray,
    gone: np.ndarray,
    how: Mapping[str, Any],
    with_draws: bool,
    interval: float | None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray | None, dict[str, np.ndarray]]:
    """Rows with the best guess, the draws where they are asked for, and columns that say how sure the guess is."""
    from tqdm import tqdm

    from pyrovae.seeding import stream

    columns = opened.encoding.columns
    draw = drawing(opened, how)
    guess, drawn = x.copy(), []
    ends = np.full((2, *x.shape), np.nan)
    share = np.full(x.shape, np.nan)
    wanting = np.flatnonzero(gone.any(1))
    with tqdm(total=len(wanting), desc="impute", unit="row", disable=None if len(wanting) > GROUP else True) as bar:
        for start in range(0, len(wanting), GROUP):
            rows = wanting[start : start + GROUP]
            draws = draw(x[rows], seed if start == 0 else stream(seed, "group", start), {}).astype(float)
            here = _exact_where_known(opened, x[rows], best_guess(columns, draws))
            guess[rows] = np.where(gone[rows], here, x[rows])
            if interval is not None:
                ends[:, rows] = np.quantile(draws, [(1 - interval) / 2, (1 + interval) / 2], axis=0)
                share[rows] = (draws == here).mean(0)
            if with_draws:
                drawn.append(draws)
            bar.update(len(rows))
    beside: dict[str, np.ndarray] = {}
    for place, column in enumerate(columns) if interval is not None else ():
        if not gone[:, place].any():
            continue
        if column.categories is not None:
            beside[f"{column.name} probability"] = np.where(gone[:, place], share[:, place], np.nan)
            continue
        for name, values in zip(("lower", "upper"), ends, strict=True):
            beside[f"{column.name} {name}"] = np.where(gone[:, place], values[:, place], np.nan)
    if not with_draws:
        return guess, None, beside
    whole = np.repeat(x[None], how["num_draws"], axis=0)
    whole[:, wanting] = np.concatenate(drawn, axis=1)
    return guess, np.where(gone, whole, x), beside


def _exact_where_known(opened: Opened, x: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The guess with the mean and the most probable category themselves, in place of those of draws, of a mixture."""
    import torch

    pair: Any = opened.pair
    if not hasattr(pair, "conditional"):
        return guess
    exact = guess.copy()
    with torch.no_grad():
        given = pair.conditional(x)
        mean = given.mean.double().cpu().numpy()
        for place, column in enumerate(opened.encoding.columns):
            if column.categories is not None:
                exact[:, place] = given.probabilities(column.name).argmax(-1).cpu().numpy()
            elif column.kind != "count":
                exact[:, place] = mean[:, place]
    return exact


def drawing(opened: Opened, how: Mapping[str, Any]) -> Callable[[Any, int, Mapping[str, Any]], np.ndarray]:
    """A function from items, a seed and what lies beside them to draws, (num_draws, N, *event_shape).

    Of the options in `how` a pair takes those that its `impute` has.
    """
    import inspect

    pair: Any = opened.pair
    if not hasattr(pair, "impute"):
        raise click.UsageError(
            f"{opened.path} ({type(pair).__name__}) gives no p(missing | seen): fit a VAE or a mixture"
        )
    takes = inspect.signature(pair.impute).parameters
    options = {name: value for name, value in how.items() if name in takes}

    def of_items(x: Any, seed: int, beside: Mapping[str, Any]) -> np.ndarray:
        drawn: np.ndarray = pair.impute(x, **options, **beside, seed=seed).cpu().numpy()
        return drawn

    return of_items
