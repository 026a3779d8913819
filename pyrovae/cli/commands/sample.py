"""New items drawn from a fitted model."""

from __future__ import annotations

from typing import Any

import click

from pyrovae.cli.options import Command, Option
from pyrovae.cli.plugins import plugin_option
from pyrovae.cli.reading_options import Number, device_option, json_option, out_options, run_argument, seed_option

__all__ = ["command"]


@click.command("sample", cls=Command, short_help="New items drawn from a fitted model.")
@run_argument
@click.option(
    "-n",
    "--num-items",
    "n",
    type=Number(1, whole=True),
    default=16,
    metavar="N",
    cls=Option,
    section="Items",
    help="How many items to draw; of a classifier, for each label (default: 16).",
)
@click.option(
    "--mean",
    is_flag=True,
    cls=Option,
    section="Items",
    help="The likelihood's mean at each code, which is what pictures usually show.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="LABEL",
    cls=Option,
    section="Items",
    help="Of a classifier with densities, the label to draw items of; may be given several times (default: every one).",
)
@seed_option("the draws")
@device_option
@plugin_option
@json_option
@out_options(".png", ".npy", ".npz", ".csv", ".nc", "/", what="them")
def command(
    run: str,
    n: int,
    mean: bool,
    labels: tuple[str, ...],
    seed: int,
    device: str,
    plugin: tuple[str, ...],
    as_json: bool,
    out: Any,
    force: bool,
) -> None:
    """Draw new items from p(x) of the fitted model in RUN.

    A code is drawn from the prior and an item from the likelihood at that code.

    \b
    Examples:
      pyrovae sample run -o samples.png --mean
      pyrovae sample run -n 1000 --seed 1 -o samples.npy
      pyrovae sample run -n 100 -o samples/
      pyrovae sample classifier --label 3 --label 8 -o threes-and-eights.png
    """
    import numpy as np

    from pyrovae.cli.outputs import Result, emit
    from pyrovae.cli.pictures import require_picture, shades, sheet
    from pyrovae.cli.reading import open_run
    from pyrovae.labelled import labelled

    opened = open_run(run, device=device)
    pair: Any = opened.pair
    require_picture(out, tuple(pair.event_shape))
    x, its_labels = _drawn(opened, n, mean, labels, seed)
    values = x.cpu().numpy()
    count = len(values)
    dims = [f"event_{i}" for i in range(values.ndim - 1)]
    what = "mean of p(x | z) at a draw of the prior" if mean else "draw of p(x)"
    variables: dict[str, Any] = {"x": (values, what, "1", "item", *dims)}
    if its_labels is not None:
        variables["label"] = (np.asarray(its_labels), "label that it was drawn for", "1", "item")
    settings = {"num_items": n, "mean": int(mean), "seed": seed}
    attributes = {**opened.attributes, **settings}
    result = Result(
        labelled(variables, {"item": np.arange(count)}, attributes),
        main="x",
        figure=lambda: sheet(shades(values, opened.limits)),
        limits=opened.limits,
    )
    line = f"{count:,} {'means of ' if mean else ''}draws of p(x), seed {seed}, shape {values.shape}"
    emit(result, line, command="sample", out=out, force=force, as_json=as_json, settings=settings)


def _drawn(opened: Any, n: int, mean: bool, labels: tuple[str, ...], seed: int) -> Any:
    """The items, and the label of each of a classifier."""
    import torch

    from pyrovae.models.pair import takes_labels

    pair = opened.pair
    kind = type(pair).__name__
    if takes_labels(pair):
        if not hasattr(pair, "sample"):
            raise click.UsageError(f"{opened.path} ({kind}) is p(y | x) alone, and has no items to draw")
        if mean:
            raise click.UsageError(f"--mean is of a VAE, and {opened.path} is none ({kind}): leave it out")
        chosen = [_label(pair, label) for label in labels] or pair.names.tolist()
        drawn = [pair.sample(label, n, seed=seed) for label in chosen]
        return torch.cat(drawn), [label for label in chosen for _ in range(n)]
    if labels:
        raise click.UsageError(f"--label is of a classifier, and {opened.path} is none ({kind}): leave it out")
    if not hasattr(pair, "sample") or not pair.is_normalized:
        raise click.UsageError(
            f"{opened.path} ({kind}) has no p(x), and so nothing to draw: fit a VAE, or look at codes by "
            "`pyrovae encode`"
        )
    if not mean:
        return pair.sample(n, seed=seed), None
    if pair.latent_dim == 0:
        raise click.UsageError(f"--mean is of a VAE, and {opened.path} is none ({kind}): leave it out")
    return pair.sample(n, seed=seed, mean=True).detach(), None


def _label(pair: Any, text: str) -> Any:
    """A label of the classifier, from what was typed."""
    known = {str(name): name for name in pair.names.tolist()}
    if text not in known:
        raise click.UsageError(f"--label {text} is no class of the classifier: {', '.join(known)}")
    return known[text]
