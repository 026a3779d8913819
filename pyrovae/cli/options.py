"""Options that several commands have, and the kinds of values that options take."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from pyrovae import choices
from pyrovae.cli.plugins import PLUGINS, plugins_among, run_plugin
from pyrovae.models.part_names import name_and_arguments

__all__ = [
    "DATA_SETS",
    "Command",
    "DataName",
    "OneOf",
    "Option",
    "Registered",
    "RunFolder",
    "Value",
    "data_options",
    "json_option",
]

DATA_SETS = ("digits", "mnist", "fashion-mnist", "kmnist")
SECTIONS = ("Run", "Data", "Model", "Training", "Output", "Other")  # of a command's help, in this order
WITH_ARGUMENTS = ("likelihood", "prior", "posterior")  # kinds of which a name may have arguments in parentheses
WIDTHS = re.compile(r"\d+")


class Option(click.Option):
    """An option with the section of the help that it is in; `takes_several` values may follow it, with blanks."""

    def __init__(self, *args: Any, section: str = "Options", takes_several: bool = False, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section, self.takes_several = section, takes_several


class Command(click.Command):
    """A command that runs `--plugin` files before it reads its options, and whose help has sections.

    `more_options(ctx)` gives options that depend on what is registered, and so on the plugins.
    """

    def __init__(
        self, *args: Any, more_options: Callable[[bool], list[click.Parameter]] | None = None, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self._stated, self._more = list(self.params), more_options
        if more_options is not None:
            self.params = [*self._stated, *more_options(False)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        files = [] if ctx.resilient_parsing else plugins_among(args)
        for file in files:
            run_plugin(file)
        ctx.meta[PLUGINS] = bool(files)
        if self._more is not None:
            self.params = [*self._stated, *self._more(bool(files))]
        return super().parse_args(ctx, self._with_lists_joined(args))

    def _with_lists_joined(self, args: list[str]) -> list[str]:
        """`--hidden-dims 128 64` as `--hidden-dims 128,64`."""
        several = [
            name
            for option in self.params
            if isinstance(option, Option) and option.takes_several
            for name in option.opts
        ]
        joined: list[str] = []
        rest = list(args)
        while rest:
            word = rest.pop(0)
            joined.append(word)
            if word == "--":
                return joined + rest
            if word in several:
                numbers = []
                while rest and WIDTHS.fullmatch(rest[0]):
                    numbers.append(rest.pop(0))
                if numbers:
                    joined.append(",".join(numbers))
        return joined

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and record[1]:  # an argument is in the first line of the help already
                sections.setdefault(getattr(parameter, "section", "Other"), []).append(record)
        for title in sorted(sections, key=lambda title: SECTIONS.index(title) if title in SECTIONS else 0):
            rows = sections[title]
            with formatter.section(title):
                formatter.write_dl(rows)


def _option_name(parameter: click.Parameter | None) -> str:
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return "the argument" if parameter is None else parameter.human_readable_name


def near(value: str, known: Sequence[str]) -> str:
    """A hint at the known word that is nearest to a mistyped one, or nothing."""
    by_lower = {word.lower(): word for word in known}
    close = difflib.get_close_matches(value.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


class OneOf(click.ParamType):
    """One of some words, with a hint at the nearest one."""

    name = "word"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.words:
            return value
        hint = near(str(value), self.words)
        raise click.UsageError(
            f"{_option_name(param)} must be one of {', '.join(self.words)}, got {value!r}{hint}", ctx
        )

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


class Registered(click.ParamType):
    """A registered name of a part, a builder or an optimiser; a builder's in any case, `gaussian-mixture` too.

    A part may have arguments, as in 'student_t(df=4)'.
    """

    name = "name"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def known(self, ctx: click.Context | None) -> list[str]:
        """The package's own names, and those that plugins have registered in this call."""
        has_plugins = ctx is not None and bool(ctx.meta.get(PLUGINS))
        return choices.imported_names(self.kind) if has_plugins else choices.names(self.kind)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        known = self.known(ctx)
        if value in known or self._is_known_with_arguments(value, known, param, ctx):
            return value
        if self.kind == "builder":
            plain = {_letters(word): word for word in known}
            if _letters(value) in plain:
                return plain[_letters(value)]
        raise click.UsageError(
            f"{_option_name(param)} must be one of {', '.join(known)}, or a name that a --plugin registers, "
            f"got {value!r}{near(str(value).partition('(')[0], known)}",
            ctx,
        )

    def _is_known_with_arguments(
        self, value: Any, known: Sequence[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> bool:
        """Whether `value` is a part with arguments, as 'student_t(df=4)', of which the name is known."""
        if self.kind not in WITH_ARGUMENTS or not isinstance(value, str) or "(" not in value:
            return False
        try:
            return name_and_arguments(_option_name(param), value)[0] in known
        except ValueError as error:
            raise click.UsageError(str(error), ctx) from None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in self.known(ctx) if word.startswith(incomplete)]


class Value(click.ParamType):
    """A number, a list of whole numbers with commas, or a word, whichever of them an option may be."""

    name = "value"

    def __init__(self, kinds: Sequence[str], words: Sequence[str] = ()) -> None:
        self.kinds, self.words = list(kinds), list(words)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if value in self.words:
            return value
        if "int" in self.kinds and re.fullmatch(r"[+-]?\d+", value):
            return int(value)
        if "float" in self.kinds:
            try:
                return float(value)
            except ValueError:
                pass
        if "ints" in self.kinds and re.fullmatch(r"\d+(,\d+)*,?", value):
            return tuple(int(number) for number in value.rstrip(",").split(","))
        if "text" in self.kinds:
            return value
        raise click.UsageError(
            f"{_option_name(param)} must be {self.in_words()}, got {value!r}{near(value, self.words)}", ctx
        )

    def in_words(self) -> str:
        """What the option may be, in words."""
        texts = {"int": "a whole number", "float": "a number", "ints": "whole numbers with commas, as 128,64"}
        return " or ".join([*(texts[kind] for kind in self.kinds if kind in texts), *self.words])

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


class DataName(click.ParamType):
    """A data set by its name, or a file or folder."""

    name = "data"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from pyrovae import checks

        if not isinstance(value, str) or value in DATA_SETS or checks.path("DATA", value).exists():
            return value
        raise click.UsageError(
            f"{_option_name(param)} must be {', '.join(DATA_SETS)} or a file or folder, and there is no {value}"
            f"{near(value, DATA_SETS)}",
            ctx,
        )

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        named = [CompletionItem(name, help="data set") for name in DATA_SETS if name.startswith(incomplete)]
        return [*named, CompletionItem(incomplete, type="file")]


class RunFolder(click.ParamType):
    """A run folder, as `pyrovae fit --out` writes it; completed by those that lie here."""

    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        base = Path(incomplete).parent if "/" in incomplete else Path()
        folders = []
        try:
            entries = sorted(base.iterdir())
        except OSError:
            entries = []
        for entry in entries:
            text = str(entry)
            if text.startswith(incomplete) and (entry / "run.json").is_file():
                folders.append(CompletionItem(text))
        return folders or [CompletionItem(incomplete, type="dir")]


def _letters(word: Any) -> str:
    return re.sub(r"[\W_]", "", str(word)).lower()


def json_option(function: Any) -> Any:
    """`--json`: one JSON object on the standard output, and everything else on the standard error."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        cls=Option,
        section="Output",
        help="Write one JSON object to the standard output; everything else goes to the standard error.",
    )(function)


def data_options(function: Any) -> Any:
    """The options of how a data set is read."""
    made = [
        click.option(
            "--labels",
            metavar="FILE.npy|COLUMN",
            help="Labels of a .npy or .npz file that has none, one an item; of a table, the column that has them.",
        ),
        click.option(
            "--covariates",
            metavar="FILE.npy",
            help="What the items are given, (N, D): a row of D columns for each item of DATA, in its order. The "
            "model is then p(x | covariates).",
        ),
        click.option(
            "--exposure",
            metavar="FILE.npy",
            help="What multiplies the mean of each item's counts, (N,): a positive number for each item of DATA.",
        ),
        click.option(
            "--channel-axis",
            type=OneOf(["first", "last"]),
            metavar="first|last",
            help="Where the channels of images of three axes are. By default the order is found from the shape.",
        ),
        click.option(
            "--scale/--no-scale",
            "scale",
            default=None,
            help="Divide bytes by 255 (the default), or keep them as 0 to 255, as counts are.",
        ),
        click.option("--root", metavar="DIR", help="Where the MNIST family lies (default: data)."),
        click.option("--download", is_flag=True, help="Fetch it where it does not."),
    ]
    for decorate in reversed(made):
        function = decorate(function)
    for parameter in function.__click_params__[-len(made) :]:
        parameter.section = "Data"
    return function
