"""Options that say what the columns of a table are: --kind and --drop."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import click

from pyrovae.cli.options import Option, near

__all__ = ["KINDS", "drop_of", "kinds_of", "require_no_kind", "table_options", "weight_option"]

KINDS = ("real", "positive", "count", "binary", "categorical", "ordinal")  # of pyrovae.columns, which imports torch


def table_options(function: Any) -> Any:
    """--kind and --drop, of a DATA that is a table."""
    made = [
        click.option(
            "--kind",
            "kinds",
            multiple=True,
            metavar="COLUMN=KIND",
            cls=Option,
            section="Data",
            help=f"What a column of a table is, in place of what it is taken for: {', '.join(KINDS)}; with its "
            "categories in their order as COLUMN=ordinal:low,mid,high. May be given several times.",
        ),
        click.option(
            "--drop",
            multiple=True,
            metavar="COLUMN",
            cls=Option,
            section="Data",
            help="Leave a column of a table out; may be given several times. --drop refused leaves out all that are "
            "of no kind.",
        ),
    ]
    for decorate in reversed(made):
        function = decorate(function)
    return function


def weight_option(function: Any) -> Any:
    """--weight, a column of a table."""
    return click.option(
        "--weight",
        metavar="COLUMN",
        cls=Option,
        section="Data",
        help="The column of a table that says how many times each row counts: a weight of 3 is three copies of the "
        "row, 0 its absence. Means over rows are over the sum of the weights.",
    )(function)


def kinds_of(given: Sequence[str], names: Sequence[str]) -> dict[str, Any] | None:
    """The kinds that --kind states, as `data.table` takes them, of a table with columns of these names."""
    kinds: dict[str, Any] = {}
    for text in given:
        # a name may hold "=" itself, and a category ":"
        name = next((name for name in sorted(names, key=len, reverse=True) if text.startswith(f"{name}=")), None)
        if name is None:
            asked, equals, _ = text.rpartition("=")
            if not equals:
                raise click.UsageError(f"--kind must be COLUMN=KIND, as age=count, got {text!r}")
            raise click.UsageError(f"--kind names the column {asked!r}, which is not there{near(asked, names)}")
        if name in kinds:
            raise click.UsageError(f"--kind is given twice for the column {name!r}: give it once")
        kind, _, categories = text[len(name) + 1 :].partition(":")
        if kind not in KINDS:
            raise click.UsageError(
                f"--kind of {name!r} must be one of {', '.join(KINDS)}, got {kind!r}{near(kind, KINDS)}"
            )
        kinds[name] = (kind, tuple(map(_value, categories.split(",")))) if categories else kind
    return kinds or None


def drop_of(given: Sequence[str], names: Sequence[str], refused: Sequence[str]) -> list[str]:
    """The columns that --drop leaves out; "refused" is all that are of no kind, unless a column is called that."""
    dropped: list[str] = []
    for name in given:
        if name in names:
            dropped.append(name)
        elif name == "refused":
            dropped += refused
        else:
            raise click.UsageError(f"--drop names the column {name!r}, which is not there{near(name, names)}")
    return list(dict.fromkeys(dropped))


def require_no_kind(kinds: Iterable[str], dropped: Collection[str]) -> None:
    """Refuse a kind that is stated of a column that is left out."""
    for name in kinds:
        if name in dropped:
            raise click.UsageError(f"--kind states a kind of {name!r}, and --drop leaves it out: give one of the two")


def _value(word: str) -> int | float | str:
    """A category as a number where it is one."""
    for read in (int, float):
        try:
            return read(word)
        except ValueError:
            continue
    return word
