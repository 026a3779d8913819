"""A fitted model for other programs: draws and evidence for ArviZ, its encoder or decoder for torch alone."""

from __future__ import annotations

from typing import Any

import click

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

__all__ = ["command"]

WHAT = ["inference-data", "encode", "decode"]


@click.command("export", cls=Command, short_help="A fitted model for other programs.")
@run_argument
@click.option(
    "--what",
    metavar="|".join(WHAT),
    type=OneOf(WHAT),
    default=WHAT[0],
    cls=Option,
    help="Draws and evidence for ArviZ, a .nc file; or the encoder or the decoder as a program of torch alone, a .pt2 "
    f"file (default: {WHAT[0]}).",
)
@data_options(count=100)
@binarize_option("auto")
@number_option("--num-draws", Number(1, whole=True), 200, "Draws of q(z | x) and of p(x | z) for each item.")
@seed_option("the draws")
@device_option
@plugin_option
@output_options(".nc", ".pt2", what="it", can_print=False)
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    what: Any,
    asked: Asked,
    binarize: str | None,
    num_draws: int,
    seed: int,
    device: str,
    plugin: tuple[str, ...],
    output: Output,
) -> None:
    """Write the fitted model in RUN for other programs.

    --what inference-data: draws of codes and of items, and the evidence of each item, as netCDF, which ArviZ and
    xarray read: arviz.from_netcdf("run.nc") has the groups posterior, posterior_predictive, prior, prior_predictive,
    observed_data, sample_stats and log_evidence; of a Bayesian mixture the draws of its parameters and log_likelihood.
    Each draw of each item is as large as an item.

    --what encode or decode: a function from items to codes, or from codes to the likelihood's means, which
    torch.export.load("decoder.pt2").module() gives in a process that needs torch alone, for batches of any size. Of a
    model fitted with covariates it takes these too, (N, D), as the second argument; of one fitted with an exposure the
    means are those of an exposure of 1.

    \b
    Examples:
      pyrovae export run -o run.nc
      pyrovae export run --num-items 20 --num-draws 1000 -o run.nc
      pyrovae export run --what decode -o decoder.pt2
    """
    import pyrovae
    from pyrovae.cli.outputs import described, replacing, write_nc
    from pyrovae.cli.reading import open_run

    is_program = what != WHAT[0]
    ending = ".pt2" if is_program else ".nc"
    if output.out is None or output.ending != ending:
        raise click.UsageError(f"--what {what} is written to a file that ends in {ending}: name one by -o")
    if is_program:
        _require_no_items(ctx, what)
        _write_program(run, what, device, output)
        return
    opened = open_run(run, device=device)
    items = asked.items_of(opened, binarize or "auto")
    try:
        tree: Any = pyrovae.to_arviz(opened.pair, items.given, y=items.labels, num_draws=num_draws, seed=seed)
    except ValueError as error:
        why = str(error).replace("to_arviz", "export")
        raise click.UsageError(f"{opened.path} ({type(opened.pair).__name__}) cannot be exported: {why}") from error
    with replacing(output.out, force=output.force) as temporary:
        write_nc(tree, temporary)
    listed = tree.groups() if callable(tree.groups) else tree.groups  # of ArviZ 0.x and of xarray
    groups = {name.strip("/"): _group(tree, name) for name in listed if name.strip("/")}
    record = {
        "out": output.out,
        "settings": {"num_draws": num_draws, "seed": seed},
        "protocol": items.protocol,
        "groups": {name: described(group, values=False) for name, group in groups.items()},
    }
    output.answer(record)
    output.say(f"{', '.join(groups)} of {items}, {num_draws} draws, seed {seed}: {output.out}")


def _require_no_items(ctx: click.Context, what: str) -> None:
    """Refuse options of items and draws, which a program has none of."""
    of_program = ("run", "what", "device", "plugin", "as_json", "out", "force")
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if name not in of_program and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = max(parameter.opts, key=len)
            raise click.UsageError(f"{option} is of --what {WHAT[0]}, and --what is {what}: leave it out")


def _write_program(run: str, what: Any, device: str, output: Output) -> None:
    """The encoder or the decoder as a program, on the CPU unless another device is named."""
    import torch

    import pyrovae
    from pyrovae.cli.outputs import replacing
    from pyrovae.cli.reading import open_run

    opened = open_run(run, device="cpu" if device == "auto" else device)
    pair: Any = opened.pair
    kind = type(pair).__name__
    if not hasattr(pair, "encode") or not hasattr(pair, "decode"):
        raise click.UsageError(
            f"--what {what} is of a VAE or an autoencoder, and {opened.path} is none ({kind}): --what {WHAT[0]} is of "
            "others too"
        )
    try:
        program = pyrovae.export_program(pair, what)
    except (ValueError, TypeError) as error:
        raise click.UsageError(f"{opened.path} ({kind}) cannot be exported: {error}") from error
    assert output.out is not None
    with replacing(output.out, force=output.force) as temporary:
        try:
            torch.export.save(program, temporary)
        except RuntimeError as error:  # torch's writer has no other for a disk that is full
            raise OSError(f"{output.out} could not be written: {error}") from error
    shapes = {"items": list(pair.event_shape), "codes": [pair.latent_dim]}
    takes, gives = ("items", "codes") if what == "encode" else ("codes", "items")
    names = program.graph_signature.user_inputs
    arguments = dict(zip(names, ([*shapes[takes]], [pair.covariate_dim]), strict=False))
    record = {"out": output.out, "settings": {"what": what}, "takes": takes, "gives": gives, "arguments": arguments}
    output.answer({**record, "input_shape": shapes[takes], "output_shape": shapes[gives]})
    ends = [f"{name} of shape (N, {', '.join(map(str, shapes[name]))})" for name in (takes, gives)]
    if "covariates" in arguments:
        ends[0] += f" and covariates of shape (N, {pair.covariate_dim})"
    unit = ", at an exposure of 1" if "exposure" in opened.beside and what == "decode" else ""
    output.say(f"{what} of {opened.name}, {' to '.join(ends)}{unit}: {output.out}")


def _group(tree: Any, name: str) -> Any:
    """A group as a data set, of ArviZ's InferenceData and of a tree of xarray alike."""
    group = tree[name.strip("/")]
    return group.to_dataset() if hasattr(group, "to_dataset") and hasattr(group, "children") else group
