"""Files of the user's own that register parts, builders or optimisers, run before the options are read."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

__all__ = ["PLUGINS", "PluginError", "plugin_option", "plugins_among", "run_plugin"]

PLUGINS = "pyrovae.plugins"  # in a context's meta: whether any was run


class PluginError(click.ClickException):
    """A plugin that did not run; its words are those of the user's own Python."""


plugin_option = click.option(
    "--plugin",
    metavar="FILE.py",
    multiple=True,
    help="Run a file that registers parts, builders or optimisers of your own; may be given several times.",
)


def plugins_among(arguments: Sequence[str]) -> list[str]:
    """The files that `--plugin` names among the words of a command."""
    files = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            break
        if word == "--plugin":
            files += [next(words, "")]
        elif word.startswith("--plugin="):
            files.append(word.removeprefix("--plugin="))
    return files


def run_plugin(file: str) -> None:
    """Run a user's file; whatever it raises is a line that says where."""
    path = Path(file)
    if path.suffix != ".py":
        raise click.UsageError(f"--plugin {file} is no .py file")
    if not path.is_file():
        raise click.UsageError(f"--plugin {file} does not exist")
    whole = str(path.resolve())
    name = f"pyrovae_plugin_{path.stem}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
    spec: Any = importlib.util.spec_from_file_location(name, whole)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # what lies beside it may be imported
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == whole]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = "" if line is None else f", line {line}"
        words = " ".join(str(error).split())
        raise PluginError(f"--plugin {file}{where}: {type(error).__name__}: {words}") from error
