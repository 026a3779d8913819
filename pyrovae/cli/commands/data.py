"""Say what is in a data set, and what `fit` would do with it."""

from __future__ import annotations

from typing import Any

import click

from pyrovae.cli.options import Command, DataName, data_options, json_option
from pyrovae.cli.plugins import plugin_option
from pyrovae.cli.table_options import table_options

__all__ = ["command"]

HELP = """Say what is in DATA: shape, type, range, missing entries, labels, memory; and what `pyrovae fit` would do with
it: how it is split, and which model and likelihood it would take. Of a table, a .csv, .tsv or .parquet file, say what
each column is taken for, by which rule, and how to change that. Nothing is written.

\b
  pyrovae data x.npy
  pyrovae data x.npy --labels y.npy
  pyrovae data images/
  pyrovae data mnist --root ~/data --json
  pyrovae data people.csv
  pyrovae data people.csv --kind age=count --kind size=ordinal:S,M,L --drop name
"""


@click.command(cls=Command, name="data", help=HELP)
@click.argument("data", metavar="DATA", type=DataName())
@data_options
@table_options
@plugin_option
@json_option
@click.pass_context
def command(ctx: click.Context, **parameters: Any) -> None:
    from pyrovae.data.tables.files import is_table_file

    if is_table_file(parameters["data"]):
        from pyrovae.cli.describing_tables import describe_table

        describe_table(parameters)
        return
    for name in ("kinds", "drop"):
        if parameters.pop(name):
            option = "--kind" if name == "kinds" else "--drop"
            raise click.UsageError(f"{option} is for tables (.csv, .tsv, .parquet), and {parameters['data']} is none")
    from pyrovae.cli.describing import describe

    describe(ctx, parameters)
