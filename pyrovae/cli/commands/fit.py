"""Fit a model to a data set, and leave a run folder.

The model, the likelihood and the split are chosen by written rules where nothing is asked for; each choice is a line on
the standard error. `--out` is a folder that is complete or is refused by whatever reads it.
"""

from __future__ import annotations

from typing import Any

import click

from pyrovae import choices
from pyrovae.cli.model_options import NETWORKS, in_order, model_options
from pyrovae.cli.options import (
    Command,
    DataName,
    OneOf,
    Option,
    Registered,
    RunFolder,
    Value,
    data_options,
    json_option,
)
from pyrovae.cli.plugins import plugin_option
from pyrovae.cli.table_options import table_options, weight_option

__all__ = ["command"]

HELP = """Fit a model to DATA, its test part for validation, and write the run folder --out.

\b
DATA is one of
  x.npy or x.npz      an array (N, ...), a .npz with x and y, or x_train, y_train, x_test and y_test, and with
                      covariates and exposure, or covariates_train and so on
  people.csv          a table, or .tsv or .parquet: a line of names, and a row for each item; empty cells are missing
  a folder            of images, a sub-folder for each class if there are any, or of IDX files
  a name              digits, mnist, fashion-mnist, kmnist

Without a test part, as a .npy file has none, it is split 80 / 20 by a fixed permutation. uint8 is divided by 255,
unless the likelihood is one of whole numbers. `pyrovae data DATA` says what is in it and what would be done.

\b
  pyrovae fit digits --out run
  pyrovae fit x.npy --latent-dim 8 --epochs 50 --out run
  pyrovae fit people.csv --out run
  pyrovae fit people.csv --kind age=count --drop name --num-components 4 --out run
  pyrovae fit images/ --model conv_ae --out run
  pyrovae fit x.npy --model GaussianMixture --num-components 5 --out run
  pyrovae fit x.npy --labels y.npy --model gaussian_classifier --out run
  pyrovae fit x.npy --labels y.npy --unlabeled more.npy --model SemiSupervisedVAE --out run
  pyrovae fit x.npy --likelihood 'student_t(df=4)' --out run
  pyrovae fit x.npy --covariates c.npy --out run
  pyrovae fit counts.npy --exposure months.npy --likelihood poisson --out run
  pyrovae fit x.npy --plugin my_parts.py --likelihood my_likelihood --out run
  pyrovae fit --resume --out run
  torchrun --nproc-per-node 2 -m pyrovae fit mnist --binarize --out run

A run that is interrupted keeps its last two states, within an epoch too, and --resume goes on from there to the same
digits; it needs no other argument. A run whose loss did not stay finite is marked as diverged and is no result.
"""


@click.command(
    cls=Command,
    name="fit",
    help=HELP,
    short_help="Fit a model to a data set, and leave a run folder.",
    more_options=model_options,
)
@click.argument("data", metavar="DATA", type=DataName(), required=False)
@click.option(
    "--out",
    metavar="RUN",
    type=RunFolder(),
    cls=Option,
    section="Run",
    help="The folder to be made: run.json, model/, history.nc, checkpoint/.",
)
@click.option(
    "--resume",
    is_flag=True,
    cls=Option,
    section="Run",
    help="Go on with the run in --out under its own arguments. Only --epochs, which is the total, where the data lie, "
    "and how the steps run (--device, --compile) may be given anew.",
)
@click.option(
    "--checkpoint-every",
    metavar="N",
    type=Value(["int"]),
    cls=Option,
    section="Run",
    help="Write the state into checkpoint/ after every N batches too (default: as often as takes under 1 % of the "
    "time, after five minutes at the latest, and at the end).",
)
@click.option(
    "--seed",
    metavar="N",
    type=Value(["int"]),
    cls=Option,
    section="Run",
    help="Of weights, batches and noise (default: 0).",
)
@click.option(
    "--device",
    metavar="NAME",
    cls=Option,
    section="Run",
    help="auto is a CUDA device where there is one (default: auto).",
)
@json_option
@data_options
@table_options
@weight_option
@click.option(
    "--unlabeled",
    metavar="DATA",
    type=DataName(),
    cls=Option,
    section="Data",
    help="More items, whose labels are not known or not used, for --model SemiSupervisedVAE and for classifiers whose "
    "densities are Gaussian; in whatever form DATA may have, without the test part of a source that has one.",
)
@plugin_option
@click.option(
    "--model",
    metavar="NAME",
    type=Registered("builder"),
    cls=Option,
    section="Model",
    help=f"{', '.join(in_order(choices.names('builder')))}, or a --plugin's (default: by the items, as `pyrovae data` "
    "says).",
)
@click.option(
    "--network",
    metavar="NAME",
    type=OneOf(tuple(NETWORKS)),
    cls=Option,
    section="Model",
    help="mlp, conv or linear: short for --model mlp_vae, conv_vae, linear_vae.",
)
@click.option(
    "--method",
    metavar="NAME",
    type=Registered("method"),
    cls=Option,
    section="Training",
    help=f"{', '.join(choices.names('method'))} (default: the model's own).",
)
@click.pass_context
def command(ctx: click.Context, **parameters: Any) -> int:
    from pyrovae.cli.fitting import fit

    return fit(ctx, parameters)
