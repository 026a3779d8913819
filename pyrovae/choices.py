"""Names and defaults that the command line shows before torch is imported: they are read from the source."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["Option", "imported_names", "imported_svi_options", "names", "svi_options"]

PACKAGE = Path(__file__).parent
PARTS = PACKAGE / "models" / "parts"
RULES = PACKAGE / "compile" / "optimizers.py"
SVI = PACKAGE / "inference" / "svi" / "options.py"


@dataclass(frozen=True)
class Option:
    """An option of a method: its default, and the words that it may be, none where it is no word."""

    default: Any
    words: tuple[str, ...]


def names(kind: str) -> list[str]:
    """The names under which parts of this kind, or optimisers, are registered, sorted; nothing is imported.

    `kind` is "likelihood", "prior", "posterior" or "optimizer"; `imported_names(kind)` has a user's own too.

    >>> from pyrovae.choices import names
    >>> "bernoulli" in names("likelihood"), "adamw" in names("optimizer")
    (True, True)
    """
    if not SVI.is_file():
        return imported_names(kind)
    if kind == "optimizer":
        return sorted(_optimizers(_parsed(RULES)))
    files = sorted(PARTS.glob("*.py"))
    return sorted(name for file in files for name, its_kind in _registrations(file) if its_kind == kind)


def svi_options() -> dict[str, Option]:
    """The options of `pyrovae.methods.SVI` by name.

    >>> from pyrovae.choices import svi_options
    >>> svi_options()["epochs"].default, svi_options()["objective"].words
    (20, ('elbo', 'iwae'))
    """
    if not SVI.is_file():
        return imported_svi_options()
    svi = next(node for node in _parsed(SVI).body if isinstance(node, ast.ClassDef) and node.name == "SVI")
    options = {}
    for field in svi.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name) or field.value is None:
            continue
        if "ClassVar" not in ast.unparse(field.annotation):
            options[field.target.id] = Option(_default(field.value), _literal_words(field.annotation))
    return options


def imported_names(kind: str) -> list[str]:
    """The same as `names`, from the registers themselves: a user's own too, and what a package without source has."""
    if kind == "optimizer":
        from pyrovae.compile.optimizers import kinds_by_name

        return sorted(kinds_by_name())
    from pyrovae.models.registry import registered

    return list(registered(kind))


def imported_svi_options() -> dict[str, Option]:
    """The same as `svi_options`, from the class itself."""
    from pyrovae import methods

    options = {}
    for field in dataclasses.fields(methods.SVI):
        annotation = ast.parse(str(field.type), mode="eval").body
        options[field.name] = Option(field.default, _literal_words(annotation))
    return options


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _registrations(file: Path) -> Iterator[tuple[str, str]]:
    """Name and kind of each `@register(name, kind=kind)` in a file."""
    for node in ast.walk(_parsed(file)):
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "register":
                kind = next(keyword.value for keyword in call.keywords if keyword.arg == "kind")
                yield ast.literal_eval(call.args[0]), ast.literal_eval(kind)


def _optimizers(module: ast.Module) -> Iterator[str]:
    """The name of the class that each rule is for: `optimizer_class = torch.optim.Adam` in a class is "adam"."""
    for rule in module.body:
        for field in rule.body if isinstance(rule, ast.ClassDef) else []:
            targets = field.targets if isinstance(field, ast.Assign) else [getattr(field, "target", None)]
            is_stated = any(isinstance(target, ast.Name) and target.id == "optimizer_class" for target in targets)
            if is_stated and isinstance(value := getattr(field, "value", None), ast.Attribute):
                yield value.attr.lower()


def _default(value: ast.expr) -> Any:
    """A plain value, or the one that a call wraps, as `DefaultRate(1e-3)` does."""
    return ast.literal_eval(value.args[0] if isinstance(value, ast.Call) else value)


def _literal_words(annotation: ast.expr) -> tuple[str, ...]:
    """The words of each `Literal[...]` in an annotation."""
    words: list[str] = []
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            chosen = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            words += [ast.literal_eval(each) for each in chosen]
    return tuple(words)
