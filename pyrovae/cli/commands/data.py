"""Say what is in a data set, and what `fit` would do with it."""

from __future__ import annotations

from typing import Any

import click

from pyrovae.cli.options import Command, DataName, data_options, json_option
from pyrovae.cli.plugins import plugin_option

__all__ = ["command"]

HELP = """Say what is in DATA: shape, type, range, missing entries, labels, memory; and what `pyrovae fit` would do with
it: how it is split, and which model and likelihood it would take. Nothing is written.

\b
  pyrovae data x.npy
  pyrovae data x.npy --labels y.npy
  pyrovae data images/
  pyrovae data mnist --root ~/data --json
"""


@click.command(cls=Command, name="data", help=HELP)
@click.argument("data", metavar="DATA", type=DataName())
@data_options
@plugin_option
@json_option
@click.pass_context
def command(ctx: click.Context, **parameters: Any) -> None:
    from pyrovae.cli.describing import describe

    describe(ctx, parameters)
