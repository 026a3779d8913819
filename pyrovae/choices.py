"""The names of the package's own parts, for a command line that shows them before torch is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

__all__ = ["names"]

PARTS = Path(__file__).parent / "models" / "parts"


def names(kind: str) -> list[str]:
    """The names under which parts of this kind are registered, sorted; read from their source, and nothing is imported.

    `pyrovae.models.registry.registered(kind)` has a user's own too.

    >>> from pyrovae.choices import names
    >>> "bernoulli" in names("likelihood")
    True
    """
    files = sorted(PARTS.glob("*.py"))
    if not files:  # a package without its source
        from pyrovae.models.registry import registered

        return list(registered(kind))
    return sorted(name for file in files for name, its_kind in _registrations(file) if its_kind == kind)


def _registrations(file: Path) -> Iterator[tuple[str, str]]:
    """Name and kind of each `@register(name, kind=kind)` in a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "register":
                kind = next(keyword.value for keyword in call.keywords if keyword.arg == "kind")
                yield ast.literal_eval(call.args[0]), ast.literal_eval(kind)
