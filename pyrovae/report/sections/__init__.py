"""The sections of a report, one a file: a new section is a new file of this folder, and no other file changes.

A file has `ORDER`, a number by which the sections follow one another, and `section(measurements)`, which gives a
`Section`, or `LeftOut` with the reason why these entries have none. `add_section` registers a section of one's own.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pyrovae.report.measurements import Measurements
from pyrovae.report.section import Section

__all__ = ["LeftOut", "Maker", "add_section", "makers"]


@dataclass(frozen=True)
class LeftOut:
    """A section that a report does not have, and why."""

    title: str
    reason: str

    @classmethod
    def of(cls, title: str, reasons: Iterable[tuple[str, Any]]) -> LeftOut:
        """A section that no entry has anything for, with the name of each and its reason."""
        return cls(title, "; ".join(f"{name}: {reason}" for name, reason in reasons))


Maker = Callable[[Measurements], Section | LeftOut]

_ADDED: dict[str, tuple[float, Maker]] = {}


def add_section(*, order: float = 1000) -> Callable[[Maker], Maker]:
    """Decorate a function of one's own, so that each report has the section that it makes.

    It receives the `Measurements` of a report and gives a `Section` or `LeftOut`. The package's own sections have the
    orders 10, 20, ..., so that 25 comes after the second. A function of the same name replaces an earlier one.

    >>> from pyrovae.report import Section
    >>> from pyrovae.report.sections import add_section, makers
    >>> @add_section(order=25)
    ... def names(measurements):
    ...     return Section("Names", "What is compared.", f"<p>{len(measurements.entries)} pairs</p>")
    >>> names in makers()
    True
    >>> from pyrovae.report import sections
    >>> sections._ADDED.clear()  # as before this example
    """

    def decorate(maker: Maker) -> Maker:
        _ADDED[maker.__name__] = (order, maker)
        return maker

    return decorate


def makers() -> list[Maker]:
    """The functions that make the sections, in the order in which a page shows them."""
    found: list[tuple[float, str, Maker]] = []
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        module = import_module(info.name)
        found.append((module.ORDER, info.name, module.section))
    found += [(order, name, maker) for name, (order, maker) in _ADDED.items()]
    return [maker for _, _, maker in sorted(found, key=lambda one: one[:2])]
