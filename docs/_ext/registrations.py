"""Tables of what is registered: parts, builders, methods of `fit`, optimisers, commands, and what is public.

    ```{registered} likelihood
    ```

A table is made at build from the registrations themselves, so that a new part shows up by itself.
"""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from plain_docstrings import public_names
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pyrovae import choices, methods
from pyrovae.inference.method import every_method, options_of
from pyrovae.models import registry

Row = tuple[str, ...]


def parts(kind: str) -> Iterator[Row]:
    yield "name", "class", "what it is", "arguments"
    skipped = len(registry.CONTRACTS[kind])
    for name, part in registry.registered(kind).items():
        parameters = list(inspect.signature(part).parameters.values())[skipped:]
        arguments = ", ".join(f"`{parameter.name}={parameter.default!r}`" for parameter in parameters)
        yield f'`"{name}"`', link(part.__name__), first_sentence(part), arguments or "none"


def builders() -> Iterator[Row]:
    yield "name", "what it builds"
    for name, builder in registry.registered("builder").items():
        yield link(name, builder.__name__), first_sentence(builder)


def fit_methods() -> Iterator[Row]:
    yield "method", "name", "what it does", "options"
    for method in every_method():
        if method.is_shown:
            kind = type(method).__name__
            options = ", ".join(f"`{name}`" for name in options_of(method))
            yield link(f"methods.{kind}"), f'`"{method.name}"`', first_sentence(type(method)), options


def svi_options() -> Iterator[Row]:
    yield "option", "default", "words"
    for field in dataclasses.fields(methods.SVI):
        option = choices.svi_options()[field.name]
        yield f"`{field.name}`", f"`{option.default!r}`", ", ".join(f'`"{word}"`' for word in option.words)


def optimizers() -> Iterator[Row]:
    from pyrovae.compile.optimizers import kinds_by_name, rule_of

    yield "name", "class", "what it is"
    for name, kind in sorted(kinds_by_name().items()):
        yield f'`"{name}"`', f"`{kind.__module__}.{kind.__name__}`", first_sentence(type(rule_of(kind)))


def commands() -> Iterator[Row]:
    import pyrovae.cli

    yield "command", "what it does"
    folder = import_module("pyrovae.cli.commands") if hasattr(pyrovae.cli, "__path__") else None
    for module in pkgutil.iter_modules(folder.__path__) if folder else ():
        command = getattr(import_module(f"{folder.__name__}.{module.name}"), "command", None)
        if command is not None:
            yield f"`pyrovae {command.name}`", " ".join(command.get_short_help_str(200).split())


def sections() -> Iterator[Row]:
    import pyrovae.report.sections as folder

    yield "order", "what the section shows"
    for module in pkgutil.iter_modules(folder.__path__):
        made = import_module(f"{folder.__name__}.{module.name}")
        if hasattr(made, "ORDER"):
            yield f"{made.ORDER}", first_sentence(made)


TABLES: dict[str, Callable[[], Iterator[Row]]] = {
    "likelihood": lambda: parts("likelihood"),
    "prior": lambda: parts("prior"),
    "posterior": lambda: parts("posterior"),
    "builder": builders,
    "method": fit_methods,
    "svi-option": svi_options,
    "optimizer": optimizers,
    "command": commands,
    "section": lambda: by_number(sections()),
}


def by_number(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows after the first, in the order of the numbers that they begin with."""
    yield next(rows)
    yield from sorted(rows, key=lambda row: float(row[0]))


def link(name: str, shown: str | None = None) -> str:
    """Markdown that leads to the page of a public name, or the name as code where it has none."""
    shown = shown or name.rpartition(".")[2]
    target = public_names().get(name)
    return f"`{shown}`" if target is None else f"{{py:obj}}`{shown} <{target}>`"


def first_sentence(thing: Any) -> str:
    return str(inspect.getdoc(thing)).partition("\n")[0]


class Registered(SphinxDirective):
    """`{registered} KIND`: a table of all that is registered of a kind."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        kind = self.arguments[0]
        if kind not in TABLES:
            raise self.error(f"no table {kind!r}; there are: {', '.join(TABLES)}")
        rows = [[cell.replace("|", r"\|") for cell in row] for row in TABLES[kind]()]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        lines.insert(1, "|---" * len(rows[0]) + "|")
        parent = nodes.Element()
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), self.content_offset, parent)
        return parent.children


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("registered", Registered)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
