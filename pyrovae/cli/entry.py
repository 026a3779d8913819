"""The entry point: commands found by listing a folder, one exit status for each kind of end."""

from __future__ import annotations

import ast
import contextlib
import difflib
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from pyrovae.cli.errors import Terminated, as_sentence, where_to_report
from pyrovae.cli.plugins import PluginError
from pyrovae.cli.words import Words
from pyrovae.interruption import postponed
from pyrovae.warned import told

__all__ = ["Commands", "group", "main"]

FOLDER = Path(__file__).parent / "commands"
HELP = """Latent-variable models: fit one to an array or a folder of images, and see what it is worth.

\b
  pyrovae data x.npy                  what is in a file, and what `fit` would do with it
  pyrovae fit x.npy --out run         fit a model, chosen by what the items are
  pyrovae fit --resume --out run      go on with a run that was interrupted
  pyrovae evaluate run                what it is worth, on items that it was not fitted on
  pyrovae impute run --data x.npy -o filled.npy
                                      what is NaN in x.npy, filled in
  pyrovae report run -o report.html   one page on it, with its code plane to touch

Each command has its own --help, with examples.
"""
EPILOG = """Exit status: 0; 2 for input or usage that does not fit; 130 or 143 where the command was interrupted; 1 for
a fault of pyrovae itself.

\b
Completion by the Tab key, for bash, zsh and fish; put the line into the file that your shell reads at its start:
  bash   eval "$(_PYROVAE_COMPLETE=bash_source pyrovae)"     # ~/.bashrc
  zsh    eval "$(_PYROVAE_COMPLETE=zsh_source pyrovae)"      # ~/.zshrc
  fish   _PYROVAE_COMPLETE=fish_source pyrovae | source      # ~/.config/fish/config.fish
"""


class Commands(click.Group):
    """The commands whose files lie in a folder; a command's file is imported where that command is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.asked: click.Command | None = None  # the command of this call
        self.began = time.perf_counter()  # before torch is imported, which reading the options does

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_files())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _files():
            return None
        command: click.Command = import_module(f"pyrovae.cli.commands.{_files()[name]}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _files():
            close = difflib.get_close_matches(args[0].lower(), _files(), n=1)
            hint = f"; did you mean {close[0]}?" if close else f". Commands: {', '.join(sorted(_files()))}"
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx)
        name, command, rest = super().resolve_command(ctx, args)
        self.asked = command
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, _first_line(file)) for name, file in sorted(_files().items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def group() -> Commands:
    """The group of all commands."""
    made = Commands(
        name="pyrovae",
        help=HELP,
        epilog=EPILOG,
        no_args_is_help=False,
        invoke_without_command=False,
        subcommand_metavar="COMMAND ...",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    version = click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show versions."
    )
    made.params.append(version)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    0; 2 for input or usage that does not fit; 130 or 143 where it was interrupted or told to end; 141 where nobody
    reads its output any more; 1 for a fault of the package, with a traceback.
    """
    commands = group()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        given = ["--help"]
    with _signals_as_exceptions() as end, _warnings_in_one_line(commands):
        try:
            status = commands.main(given, prog_name="pyrovae", standalone_mode=False)
        except click.UsageError as error:
            words = Words.of(commands.asked)
            _print(words.translated(error.format_message()) + _hint(error, words))
            if error.ctx is not None:
                click.echo(f"`{error.ctx.command_path} --help` says how it is used.", err=True)
            return 2
        except PluginError as error:
            _print(error.message)
            return 2
        except click.ClickException as error:
            _print(Words.of(commands.asked).translated(error.format_message()))
            return 2
        except (click.Abort, KeyboardInterrupt) as error:
            end()
            was_terminated = isinstance(error.__cause__ or error, Terminated)
            _print(("ended by a signal" if was_terminated else "interrupted") + _how_to_resume(given))
            return 143 if was_terminated else 130
        except SystemExit:  # of click: after completion, and where nobody reads the output, as behind `| head`
            if "_PYROVAE_COMPLETE" in os.environ:
                raise
            return 141
        except Exception as error:
            sentence = as_sentence(error)
            if sentence is None:
                traceback.print_exc()
                _print(where_to_report())
                return 1
            _print(Words.of(commands.asked).translated(sentence))
            return 2
    return status if isinstance(status, int) else 0


def _hint(error: click.UsageError, words: Words) -> str:
    """What a file that stands after the run folder is meant for."""
    is_extra = "unexpected extra argument" in error.format_message()
    return ": items are named by --data" if is_extra and "--data" in words.options.values() else ""


def _how_to_resume(given: Sequence[str]) -> str:
    """What becomes of a run whose `fit --resume` did not come as far as to train, which says so itself."""
    if given[:1] != ["fit"] or "--resume" not in given:
        return ""
    words = [word for argument in given for word in argument.split("=", 1)]
    out = next((value for name, value in pairwise(words) if name == "--out"), None)
    if out is None or not os.path.isfile(os.path.join(out, "run.json")):
        return ""
    return f"; what {out} holds of the run is kept, and `pyrovae fit --resume --out {out}` goes on with it"


def _print(text: str) -> None:
    click.echo(f"pyrovae: {text}", err=True)


@cache
def _files() -> dict[str, str]:
    """The commands by name, and the modules that hold them: `fit` is in `fit.py`."""
    stems = [file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("_")]
    return {stem.replace("_", "-"): stem for stem in stems}


def _first_line(stem: str) -> str:
    """The first line of a command's file, read and not imported."""
    file = FOLDER / f"{stem}.py"
    documentation = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return documentation.partition("\n")[0].rstrip(".")


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    import importlib.metadata
    import platform

    import pyrovae

    parts = [f"pyrovae {pyrovae.__version__}", f"Python {platform.python_version()}"]
    for package in ("torch", "pyro-ppl", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{package} {importlib.metadata.version(package)}")
    click.echo(", ".join(parts))
    ctx.exit()


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM end a command by an exception, and never within an import, which might hide or print it.

    What it yields is called once the command is at its end: from there on neither raises anything. Only the main thread
    can be asked for that. A SIGINT that is ignored, as in the background of a script, stays so.
    """

    is_over = False

    def raised(number: int, frame: Any) -> None:
        if not is_over and not postponed(number, frame):
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def end() -> None:
        nonlocal is_over
        is_over = True

    if threading.current_thread() is not threading.main_thread():
        yield end
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = {
        number: handler
        for number, handler in before.items()
        if callable(handler) or (number == signal.SIGTERM and handler is not None)
    }
    try:
        for number in before:
            signal.signal(number, raised)
        yield end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _warnings_in_one_line(commands: Commands) -> Iterator[None]:
    """Warnings of the package, as one line in the command line's words, and of a plugin; a library's are hidden."""
    printed, package = set[str](), os.path.join(os.path.dirname(os.path.dirname(__file__)), "")

    def tell(warning: Any) -> None:
        if warning.message not in printed:
            printed.add(warning.message)
            _print(f"warning: {Words.of(commands.asked).translated(warning.message)}")

    def show(message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        if issubclass(category, UserWarning) and not filename.startswith(package) and "site-packages" not in filename:
            _print(f"warning: {message}")

    with told(tell), warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield
