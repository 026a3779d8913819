"""Options of the commands that take a run folder, in the same words everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyrovae.cli.options import DataName, OneOf, Option, RunFolder
from pyrovae.cli.outputs import FORMATS, Output, require_target

if TYPE_CHECKING:
    from pyrovae.cli.reading import Items, Opened, Source

__all__ = [
    "ALL",
    "Asked",
    "Count",
    "Number",
    "Row",
    "beside_options",
    "binarize_option",
    "data_options",
    "device_option",
    "number_option",
    "output_options",
    "run_argument",
    "runs_argument",
    "seed_option",
    "together",
]

Function = TypeVar("Function", bound=Callable[..., Any])
SEEDS = 2**63 - 1  # the largest
ALL = "all"


class Count(click.ParamType):
    """A number of items, or "all"."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == ALL or isinstance(value, int):
            return value
        if not str(value).isascii() or not str(value).isdigit() or int(value) < 1:
            raise click.UsageError(f"--num-items must be a whole number from 1 on, or all, got {value!r}", ctx)
        return int(value)


class Number(click.ParamType):
    """A number between two ends, which it may not be itself where they are `open`; `whole` numbers alone, or any."""

    name = "number"

    def __init__(
        self, least: float | None = None, most: float | None = None, *, whole: bool = False, is_open: bool = False
    ) -> None:
        self.least, self.most, self.whole, self.is_open = least, most, whole, is_open

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            number = int(value) if self.whole else float(value)
        except ValueError:
            number = math.nan
        below = self.least is not None and (number <= self.least if self.is_open else number < self.least)
        above = self.most is not None and (number >= self.most if self.is_open else number > self.most)
        if math.isnan(number) or below or above:
            name = "the number" if param is None else max(param.opts, key=len)
            raise click.UsageError(f"{name} must be {self.in_words()}, got {value!r}", ctx)
        return number

    def in_words(self) -> str:
        """Which numbers these are."""
        kind = "a whole number" if self.whole else "a number"
        if self.least is None:
            return kind
        if self.most is None or self.most >= SEEDS:
            return f"{kind} {'over' if self.is_open else 'from'} {self.least:g}{'' if self.is_open else ' on'}"
        return f"{kind} between {self.least:g} and {self.most:g}"


class Row(click.ParamType):
    """Numbers with commas, as `0,1,0`."""

    name = "row"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            row = tuple(float(word) for word in value.split(","))
        except ValueError:
            row = (math.nan,)
        if not all(map(math.isfinite, row)):
            name = "the row" if param is None else max(param.opts, key=len)
            raise click.UsageError(f"{name} must be finite numbers with commas, as 0,1,0, got {value!r}", ctx)
        return row


def together(*options: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Several decorators as one; the first is the first in the help."""

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def run_argument(function: Function) -> Function:
    """One folder, RUN."""
    return click.argument("run", metavar="RUN", type=RunFolder())(function)


def runs_argument(*, least: int = 1) -> Callable[[Function], Function]:
    """One folder or more, RUN..."""

    def check(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) < least:
            raise click.UsageError(f"at least {least} run folders are needed, got {len(value)}", ctx)
        return value

    return click.argument("runs", metavar="RUN...", type=RunFolder(), nargs=-1, required=True, callback=check)


@dataclass(frozen=True)
class Asked:
    """Which items a command was asked for, by `data_options`: None where an option was not given."""

    data: str | None = None
    labels: str | None = None
    covariates: str | None = None
    exposure: str | None = None
    part: str | None = None
    num_items: int | str | None = None  # None where it is the command that says how many

    @property
    def of_items(self) -> dict[str, str | None]:
        """What is named beside --data."""
        return {"labels": self.labels, "covariates": self.covariates, "exposure": self.exposure}

    def items_of(
        self,
        opened: Opened,
        binarize: str = "no",
        *,
        missing: bool = False,
        exactly: bool = False,
        whole: bool = False,
    ) -> Items:
        """The items that were asked for; `whole` all of the data where no part was, also of those of the fit."""
        if whole and self.part is None:
            return replace(self, part=ALL).items_of(opened, binarize, missing=missing, exactly=exactly)
        source = self.source_of(opened, missing=missing)
        return source.items(self.num_items or ALL, binarize, exactly=exactly)

    def source_of(self, opened: Opened, *, missing: bool = False) -> Source:
        """The part of the run's data set, or of --data, that was asked for."""
        return opened.source(self.data, self.of_items, part=self.part, missing=missing)


def beside_options(function: Function) -> Function:
    """--covariates and --exposure of the items in --data."""
    return together(
        click.option(
            "--covariates",
            metavar="FILE.npy",
            cls=Option,
            section="Items",
            help="The covariates of the items in --data, (N, D), of a model fitted with some.",
        ),
        click.option(
            "--exposure",
            metavar="FILE.npy",
            cls=Option,
            section="Items",
            help="The exposure of the items in --data, (N,), of a model fitted with one.",
        ),
    )(function)


def data_options(*, count: int | str | None, shown: str | None = None, missing: bool = False) -> Callable[[Any], Any]:
    """Which items, as one argument `asked`: --data and what lies beside it, --part and --num-items.

    `count` is how many by default, and `shown` says what None stands for.
    """
    words = "; NaN is an entry that is missing" if missing else ""
    options = together(
        click.option(
            "--data",
            metavar="DATA",
            type=DataName(),
            cls=Option,
            section="Items",
            help=f"Other items than those of the fit, from anything that `pyrovae fit` takes{words}.",
        ),
        click.option(
            "--labels",
            metavar="FILE.npy",
            cls=Option,
            section="Items",
            help="Labels of the items in --data, a file that has none.",
        ),
        beside_options,
        click.option(
            "--part",
            metavar="test|train|all",
            type=OneOf(["test", "train", ALL]),
            cls=Option,
            section="Items",
            help="The part of the data (default: test; all of a --data file without a test part"
            f"{'' if missing else ', unless the fit has seen it'}).",
        ),
        click.option(
            "--num-items",
            type=Count(),
            default=count,
            metavar="N",
            cls=Option,
            section="Items",
            help="How many items of the part, or all: a random choice that is always the same, in their order "
            f"(default: {shown if count is None else count}).",
        ),
    )

    def decorate(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def with_asked(**given: Any) -> Any:
            asked = Asked(**{each.name: given.pop(each.name) for each in fields(Asked)})
            return function(asked=asked, **given)

        return options(with_asked)

    return decorate


def binarize_option(default: str) -> Callable[[Function], Function]:
    """--binarize: "auto", "no" or how; `default` is one of the first two."""
    words = {
        "auto": "sample where the likelihood takes nothing but 0 and 1",
        "no": "no",
        "mixed": "sample where the likelihood takes nothing but 0 and 1; no for reconstruction and code_space",
    }
    return click.option(
        "--binarize",
        metavar="sample|threshold|no",
        type=OneOf(["sample", "threshold", "no"]),
        default="no" if default == "no" else None,
        cls=Option,
        section="Items",
        help=f"Make grey values 0 or 1, by a draw of seed 0 or as at least 0.5 (default: {words[default]}).",
    )


def seed_option(what: str) -> Callable[[Function], Function]:
    """--seed, of `what`."""
    return click.option(
        "--seed",
        type=Number(0, SEEDS, whole=True),
        default=0,
        metavar="N",
        cls=Option,
        section="Options",
        help=f"Of {what} (default: 0).",
    )


def device_option(function: Function) -> Function:
    """--device."""
    return click.option(
        "--device",
        default="auto",
        metavar="NAME",
        cls=Option,
        section="Options",
        help="auto is a CUDA device where there is one (default: auto).",
    )(function)


def number_option(
    name: str, kind: Number, default: Any, words: str, *, section: str = "Options"
) -> Callable[[Function], Function]:
    """An option that is a number, with its default in the help."""
    return click.option(
        name,
        type=kind,
        default=default,
        metavar="N" if kind.whole else "X",
        cls=Option,
        section=section,
        help=words if default is None else f"{words.rstrip('.')} (default: {default}).",
    )


def output_options(
    *endings: str, what: str = "", required: bool = True, can_print: bool = True
) -> Callable[[Function], Any]:
    """--json, and -o and --force where there are endings, as one argument `output`.

    The target is checked before anything is computed.
    """

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> Path | None:
        if value is not None:
            return require_target(value, endings, force=bool(ctx.params.get("force")))
        if required and not ctx.params.get("as_json"):
            to_screen = can_print and len(endings) > 1
            raise click.UsageError(
                f"name by -o where to write {what}, with one of the endings {', '.join(endings)}"
                f"{'; or take --json' if to_screen else ''}",
                ctx,
            )
        return None

    formats = "; ".join(f"{ending} ({FORMATS[ending]})" for ending in endings)
    json_option = click.option(
        "--json",
        "as_json",
        is_flag=True,
        is_eager=True,  # it is read before --out
        cls=Option,
        section="Output",
        help="Write one JSON object to the standard output, with names, units, settings and protocol. A number that "
        'JSON has no word for is "NaN", "Infinity" or "-Infinity".',
    )
    out_options = [
        click.option(
            "-o",
            "--out",
            metavar="FILE",
            callback=check,
            cls=Option,
            section="Output",
            help=f"Where to write {what}: {formats}.",
        ),
        click.option(
            "--force",
            is_flag=True,
            is_eager=True,
            cls=Option,
            section="Output",
            help="Replace what --out names if it exists.",
        ),
    ]
    options = together(json_option, *(out_options if endings else []))

    def decorate(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def with_output(**given: Any) -> Any:
            its = {each.name: given.pop(each.name) for each in fields(Output) if each.name in given}
            command = str(click.get_current_context().command.name)
            return function(output=Output(command, **its), **given)

        return options(with_output)

    return decorate
