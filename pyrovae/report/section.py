"""A section of a report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Section"]


@dataclass(frozen=True)
class Section:
    """A section of a page: its title, one sentence on how to read it, and its body.

    `title` and `how_to_read` are plain text, which the page escapes. `html` is a fragment that stands in the page as it
    is: whoever makes it escapes all text from outside by `html.escape`. It can hold no script and no `style` attribute,
    neither of which the page's policy lets through; colours and layout come from the page's classes.

    >>> from pyrovae.report import Section
    >>> Section("Curves", "Higher is better.", "<p>None.</p>").title
    'Curves'
    """

    title: str
    how_to_read: str
    html: str
