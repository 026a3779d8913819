"""What `pyrovae data` says of a table: of each column what it is taken for, by which rule, and how to change that."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pyrovae.cli.outputs import json_text
from pyrovae.cli.table_options import drop_of, kinds_of, require_no_kind
from pyrovae.cli.tables import refuse_options_of_others

__all__ = ["describe_table"]


def describe_table(parameters: Mapping[str, Any]) -> None:
    """Print what the columns of a table are, as lines or as one JSON object."""
    from pyrovae.data.tables.codes import encoded
    from pyrovae.data.tables.frames import opened
    from pyrovae.data.tables.making import found_in
    from pyrovae.data.tables.words import aligned, contents

    path = str(parameters["data"])
    refuse_options_of_others(parameters)
    read = opened(path)
    names = [column.name for column in read.columns]
    kinds = kinds_of(parameters["kinds"], names) or {}
    findings = found_in(read, kinds)
    refused = [each.name for each in findings if each.column is None]
    dropped = drop_of(parameters["drop"], names, refused)
    require_no_kind(kinds, dropped)
    by_name = {column.name: column for column in read.columns}
    entries: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    for each in findings:
        missing = int(by_name[each.name].missing.sum())
        entry: dict[str, Any] = {"name": each.name, "kind": None, "rule": each.rule, "missing": missing}
        if each.name in dropped:
            words = f"left out ({each.rule})"
        elif each.column is None:
            words = f"{each.rule}; {each.advice}"
        else:
            entry |= {"kind": each.column.kind, "categories": each.column.categories}
            has = contents(each.column, encoded(each.column, by_name[each.name]))
            words = f"{each.rule}: {has}{f'; {each.advice}' if each.advice else ''}"
        entry |= {"advice": each.advice, "dropped": each.name in dropped}
        entries.append(entry)
        rows.append((each.name, entry["kind"] or ("dropped" if each.name in dropped else "refused"), words))
    if parameters["as_json"]:
        facts = {"name": Path(path).stem, "items": read.num_rows, "columns": entries}
        click.echo(json_text(facts, indent=None))
        return
    count, gone = read.num_rows * len(names), sum(entry["missing"] for entry in entries)
    missing_words = f"{gone:,} of {count:,} entries missing" if gone else "nothing missing"
    click.echo(f"{Path(path).stem}: {read.num_rows:,} rows, {len(names)} columns, {missing_words}")
    for line in aligned(rows):
        click.echo(line)
    for line in _advice(
        [each for each in findings if each.name not in dropped], [each for each in refused if each not in dropped]
    ):
        click.echo(line)


def _advice(findings: Sequence[Any], refused: Sequence[str]) -> list[str]:
    """How to have other kinds, and what to do with columns of none, as options."""
    from pyrovae.data.tables.words import another_kind, without_order

    lines = []
    if refused:
        drops = " ".join(f"--drop {shlex.quote(name)}" for name in refused) if len(refused) < 4 else "--drop refused"
        is_one = len(refused) == 1
        lines.append(f"{'1 column is' if is_one else f'{len(refused)} columns are'} of no kind: {drops}, or state one")
    if (number := another_kind(findings)) is not None:
        lines.append(f"another kind: --kind {shlex.quote('='.join(number))}")
    if (unordered := without_order(findings)) is not None:
        columns, name, categories = unordered
        listed = ",".join("..." if value is ... else str(value) for value in categories)
        option = f"--kind {shlex.quote(f'{name}=ordinal:{listed}')}"
        lines.append(f"if {columns} has an order: {option}, with the categories rearranged, the lowest first")
    return ["", *lines] if lines else []
