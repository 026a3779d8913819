"""The table that `pyrovae fit` reads from a .csv, .tsv or .parquet file: its kinds, and which columns are left out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyrovae.cli.options import near
from pyrovae.cli.table_options import drop_of, kinds_of, require_no_kind
from pyrovae.listed import listed

if TYPE_CHECKING:
    from pyrovae.choices import Builder
    from pyrovae.data import Dataset

__all__ = ["OF_OTHERS", "read_table", "refuse_options_of_others", "what_is_missing"]

OF_OTHERS = {"channel_axis": "images", "scale": "bytes", "root": "the MNIST family"}  # options, and what they are for
NUMBERS = ("positive", "count", "binary")  # kinds that a model of real numbers can take


def read_table(parameters: Mapping[str, Any], model: str, builder: Builder) -> Dataset:
    """The table that the options name, as this model takes it: one that knows no kinds takes all numbers as real."""
    from pyrovae.data.beside import BESIDE, with_beside
    from pyrovae.data.sources import read_rows
    from pyrovae.data.tables.frames import opened
    from pyrovae.data.tables.making import found_in, made_of
    from pyrovae.data.tables.recorded import as_dataset

    path = Path(str(parameters["data"]))
    refuse_options_of_others(parameters)
    read = opened(path)
    names = [column.name for column in read.columns]
    kinds: dict[str, Any] = dict(kinds_of(parameters["kinds"], names) or {})
    aside = {name: _column(parameters[name], name, names) for name in ("labels", "weight")}
    taken = tuple(name for name in aside.values() if name is not None)
    for option, name in aside.items():
        if name in kinds:
            raise click.UsageError(f"--kind states a kind of {name!r}, which is the column of --{option}: leave it out")
    findings = [each for each in found_in(read, kinds) if each.name not in taken]
    refused = [each for each in findings if each.column is None]
    dropped = drop_of(parameters["drop"], names, [each.name for each in refused])
    require_no_kind(kinds, dropped)
    _require_kinds(path, [each for each in refused if each.name not in dropped])
    left = [each.column for each in findings if each.column is not None and each.name not in dropped]
    if "columns" not in builder.arguments:
        kinds |= _as_real(left, kinds, model)
    table = made_of(read, kinds, drop=[name for name in dropped if name not in taken], aside=taken)
    data = as_dataset(table, path, labels=aside["labels"], weight=aside["weight"])
    beside = {name: parameters[name] and read_rows(name, parameters[name]) for name in BESIDE}
    return with_beside(data, **beside)


def refuse_options_of_others(parameters: Mapping[str, Any]) -> None:
    """Refuse options of how images and bytes are read, of a table."""
    for name, words in OF_OTHERS.items():
        if parameters[name] is not None:
            raise click.UsageError(
                f"--{name.replace('_', '-')} is for {words}, and {parameters['data']} is a table: leave it out"
            )


def what_is_missing(data: Dataset) -> str:
    """How many entries of a table are missing, and in which columns, the emptiest first."""
    table = data.table
    if table.missing is None or not bool(table.missing.any()):
        return "missing: nothing"
    count = table.missing.sum(0)
    order = sorted(range(len(count)), key=lambda place: -int(count[place]))
    counts = [f"{table.columns[place].name} {int(count[place]):,}" for place in order if count[place]]
    named = listed(counts, what="columns")
    total = int(count.sum())
    empty = table.missing.all(1).nonzero()[:, 0].tolist()
    rows = f"; {_empty_rows(empty)}" if empty else ""
    return (
        f"missing: {total:,} of {table.missing.numel():,} entries ({named}), taken as missing at random given what "
        f"is seen{rows}"
    )


def _empty_rows(rows: Sequence[int]) -> str:
    """Rows without an entry by their numbers in the file, the first below the names being 1."""
    named = listed([f"{row + 1:,}" for row in rows])
    return (
        f"{'row' if len(rows) == 1 else 'rows'} {named} below the names {'has' if len(rows) == 1 else 'have'} no entry"
    )


def _column(given: str | None, option: str, names: Sequence[str]) -> str | None:
    if given is None or given in names:
        return given
    raise click.UsageError(f"--{option} names the column {given!r}, which is not there{near(given, names)}")


def _require_kinds(path: Path, refused: Sequence[Any]) -> None:
    if not refused:
        return
    named = listed([f"{each.name} ({each.rule})" for each in refused], 10, sign="; ")
    drops = " ".join(f"--drop {shlex.quote(each.name)}" for each in refused) if len(refused) < 4 else "--drop refused"
    it = "it" if len(refused) == 1 else "them"
    raise click.UsageError(
        f"{path} has {'a column' if len(refused) == 1 else 'columns'} of no kind: {named}. Leave {it} out by "
        f"{drops}, or state a kind by --kind NAME=KIND; `pyrovae data {path}` says more"
    )


def _as_real(columns: Sequence[Any], stated: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The columns that a model of numbers takes as real; refused where one has categories, whose codes are none."""
    of_codes = []
    for column in columns:
        is_number = all(isinstance(value, int | float) for value in column.categories or ())
        if column.kind in ("categorical", "ordinal") or not is_number:
            of_codes.append(column.name)
    if of_codes:
        drops = " ".join(f"--drop {shlex.quote(name)}" for name in of_codes[:5])
        raise click.UsageError(
            f"--model {model} is of numbers, and the codes of {listed(of_codes)} are names of categories: take --model "
            f"table_vae or ColumnMixture, or leave {'them' if len(of_codes) > 1 else 'it'} out by {drops}"
        )
    return {column.name: "real" for column in columns if column.kind in NUMBERS and column.name not in stated}
