"""Fragments of HTML: escaped text, numbers that carry all their digits, tables and lists."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "Markup",
    "estimate",
    "interval",
    "joined",
    "left_out",
    "note",
    "number",
    "p_value",
    "paragraph",
    "table",
    "text",
]

MISSING = "none"
MOST_SHOWN = 2  # reasons that stand in the open


class Markup(str):
    """HTML that stands in the page as it is; any other string is text, and is escaped."""


def text(value: Any) -> Markup:
    """A value as HTML: text is escaped, and `Markup` stays as it is.

    >>> from pyrovae.report.markup import text
    >>> text("a < b")
    'a &lt; b'
    """
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def joined(*parts: Any) -> Markup:
    """Several values as one piece of HTML, one after the other."""
    return Markup("".join(text(part) for part in parts))


def number(value: float, form: str = ".3f") -> Markup:
    """A number as it is read, with all its digits in the attribute `value` of a <data> element.

    >>> from pyrovae.report.markup import number
    >>> number(-1.23456)
    '<data value="-1.23456">−1.235</data>'
    """
    value = float(value)
    if math.isnan(value):
        return Markup(f'<data value="nan">{MISSING}</data>')
    shown = "∞" if math.isinf(value) else format(abs(value), form)
    is_zero = not math.isinf(value) and float(shown.replace(",", "").rstrip("%")) == 0
    sign = "−" if value < 0 and not is_zero else ("+" if "+" in form else "")
    return Markup(f'<data value="{value!r}">{sign}{shown.lstrip("+")}</data>')


def estimate(value: float, se: float, form: str = ".3f") -> Markup:
    """A number with its standard error.

    >>> from pyrovae.report.markup import estimate
    >>> estimate(2.0, 0.5, ".1f")
    '<data value="2.0">2.0</data> ± <data value="0.5">0.5</data>'
    """
    if math.isnan(se):
        return number(value, form)
    return joined(number(value, form), " ± ", number(se, form.replace("+", "")))


def interval(value: float, low: float, high: float, form: str = ".3f") -> Markup:
    """A number with the interval that it lies in.

    >>> from pyrovae.report.markup import interval
    >>> interval(2.0, 1.0, 3.0, ".0f")
    '<data value="2.0">2</data> [<data value="1.0">1</data>, <data value="3.0">3</data>]'
    """
    return joined(number(value, form), " [", number(low, form), ", ", number(high, form), "]")


def p_value(value: float) -> Markup:
    """A p-value with three decimals, or that it is smaller.

    >>> from pyrovae.report.markup import p_value
    >>> p_value(1e-9)
    '<data value="1e-09">&lt; 0.001</data>'
    """
    if value < 1e-3:
        return Markup(f'<data value="{float(value)!r}">&lt; 0.001</data>')
    return number(value)


def paragraph(*parts: Any) -> Markup:
    """A paragraph."""
    return joined(Markup("<p>"), *parts, Markup("</p>\n"))


def note(*parts: Any) -> Markup:
    """A paragraph in small type: how a number was obtained."""
    return joined(Markup('<p class="note">'), *parts, Markup("</p>\n"))


def table(caption: Any, head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Markup:
    """A table whose first column names its rows; on a narrow screen each row is a card of its own.

    The roles are stated, since a browser forgets them where CSS changes how a table is laid out.

    >>> from pyrovae.report.markup import table
    >>> "<th" in table("Heights", ["person", "m"], [["Ada", "1.7"]])
    True
    """
    names = [text(name) for name in head]
    lines = [
        '<table class="numbers" role="table">',
        f"<caption>{text(caption)}</caption>",
        '<thead role="rowgroup"><tr role="row">',
        *(f'<th scope="col" role="columnheader">{name}</th>' for name in names),
        '</tr></thead>\n<tbody role="rowgroup">',
    ]
    for first, *cells in rows:
        lines += ['<tr role="row">', f'<th scope="row" role="rowheader">{text(first)}</th>']
        for name, cell in zip(names[1:], cells, strict=True):
            label = html.escape(_plain(name), quote=True)
            lines += [f'<td role="cell" data-label="{label}"><span>{text(cell)}</span></td>']
        lines += ["</tr>"]
    return Markup("\n".join([*lines, "</tbody>\n</table>\n"]))


def left_out(reasons: Iterable[tuple[Any, Any]], what: str = "Left out here") -> Markup:
    """What a section does not show, and why; nothing where nothing is left out, and folded where it is much."""
    lines = [joined(Markup("<li><strong>"), name, Markup("</strong>: "), why, Markup("</li>")) for name, why in reasons]
    if not lines:
        return Markup("")
    body = joined(Markup('<ul class="left-out">\n'), *lines, Markup("\n</ul>\n"))
    if len(lines) > MOST_SHOWN:
        opening = f"<details><summary>{text(what)}, {len(lines)} numbers with their reasons</summary>\n"
        return joined(Markup(opening), body, Markup("</details>\n"))
    return joined(Markup(f'<p class="note">{text(what)}:</p>\n'), body)


def _plain(markup: str) -> str:
    """The text of a piece of HTML without its elements."""
    parts = markup.split("<")
    return html.unescape(parts[0] + "".join(part.partition(">")[2] for part in parts[1:]))
