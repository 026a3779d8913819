"""What a console and a notebook show of a pair or a result: one line, and a small table."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

__all__ = ["HasSummary", "Rows", "in_words", "table"]

Rows = Mapping[str, Callable[[], Any]]  # each value on request, so that one that fails takes no other along

LONGEST_LINE = 600
LONGEST_VALUE = 160


class HasSummary:
    """An object whose `repr` is one line and that a notebook shows as a small table; neither ever raises.

    A class states `_summary_line()`, what stands between the brackets of its `repr`, and `_summary_rows()`, the names
    and the values of its table. A value that is None, or that raises, is left out. Both read what is there and compute
    nothing heavy.
    """

    def _summary_line(self) -> str:
        return str(self)

    def _summary_rows(self) -> Rows:
        return {}

    def __repr__(self) -> str:
        line = "..."
        with suppress(Exception):  # half-built, or changed by hand
            line = _short(self._summary_line(), LONGEST_LINE)
        return f"{type(self).__name__}({line})"

    def _repr_html_(self) -> str:
        rows: Rows = {}
        with suppress(Exception):
            rows = self._summary_rows()
        return table(type(self).__name__, in_words(rows))


def in_words(rows: Rows) -> dict[str, str]:
    """The rows that have a value, each on one line."""
    words = {}
    for name, value in rows.items():
        with suppress(Exception):  # an object may raise whatever it is asked
            given = value()
            if given is not None:
                words[name] = _short(str(given), LONGEST_VALUE)
    return words


def table(title: str, rows: Mapping[str, str]) -> str:
    """A small HTML table of escaped words, in the colours of the page that it stands in."""
    left = 'style="text-align: left"'
    lines = [
        f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(words)}</td></tr>"
        for name, words in rows.items()
    ]
    return f"<div><strong>{html.escape(title)}</strong><table><tbody>{''.join(lines)}</tbody></table></div>"


def _short(text: str, longest: int) -> str:
    one_line = text.replace("\n", " ")
    return one_line if len(one_line) <= longest else f"{one_line[: longest - 3]}..."
