"""Charts as inline SVG in the page's own colours, drawn for a width of 340 px so that a phone shows them at full size.

matplotlib's SVG would have its own fonts and fixed colours, and text that shrinks with the figure. These charts follow
the theme, their text can be selected, and they take a few kilobytes. Series differ by colour, by dash and by mark, so
that none is known by colour alone. Whoever cannot see a chart has its name and, beside it, the table of its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyrovae.report.markup import Markup, joined, text

__all__ = [
    "Line",
    "Row",
    "curves",
    "distribution",
    "figure",
    "histogram",
    "intervals",
    "legend",
    "legend_of_parts",
    "scatter",
    "stacked",
]

WIDTH = 340
LEFT = 50
RIGHT = 328
TOP = 10
UNDER_LABEL = (
    26  # the top of a plot whose vertical axis has its name above it: beside it, wide numbers would lie over it
)
SERIES = 10  # colours of the page
NEUTRAL = 4  # of them the grey one
MARKS = ("circle", "square", "triangle", "diamond")
DASHES = ("none", "7 3", "2 3", "9 3 2 3")
MOST_POINTS = 400  # of a line, which is 340 px wide


@dataclass(frozen=True)
class Line:
    """A series of a chart: points (x, y), joined by a line or not, each with an interval where there is one.

    `place` is the number of the entry that it is of, which has one colour and one mark in all charts of a page; several
    lines of one entry differ by their `dash`.
    """

    name: str
    x: Any
    y: Any
    low: Any = None
    high: Any = None
    place: int = 0
    dash: int = 0


@dataclass(frozen=True)
class Row:
    """A row of a chart of intervals: a value with an interval, of the entry of this number."""

    name: str
    value: float
    low: float
    high: float
    place: int = 0


class _Scale:
    """A linear map from values to pixels, with ticks at round numbers."""

    def __init__(self, low: float, high: float, start: float, end: float, *, most_ticks: int = 5) -> None:
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"a chart needs finite values, got {low} to {high}")
        if high <= low:
            room = abs(low) * 0.05 or 0.5
            low, high = low - room, high + room
        self.low, self.high, self.start, self.end = low, high, start, end
        self.step = _round_step((high - low) / most_ticks)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [number * self.step for number in range(first, last + 1)]

    def label(self, value: float) -> str:
        places = max(0, -math.floor(math.log10(self.step) + 1e-9))
        if places > 5 or abs(value) >= 1e6:
            return f"{value:.2g}"
        return f"{value + 0.0:.{places}f}".replace("-", "−")


def curves(lines: Sequence[Line], *, label: str, xlabel: str, ylabel: str, height: int = 220) -> Markup:
    """Lines over a common axis, such as the loss over epochs; values that are not finite are left out."""
    shown = [_finite(line) for line in lines]
    shown = [line for line in shown if len(line.x)]
    if not shown:
        return Markup("")
    across, up = _axes(shown, height)
    parts = [_frame(across, up, xlabel, ylabel, height)]
    for line in shown:
        keep = np.unique(np.linspace(0, len(line.x) - 1, MOST_POINTS).round().astype(int))
        points = [(across(x), up(y)) for x, y in zip(line.x[keep], line.y[keep], strict=True)]
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        parts += [_group(line.place)]
        if len(points) > 1:
            dashes = DASHES[line.dash % len(DASHES)]
            parts += [f'<polyline class="line" stroke-dasharray="{dashes}" points="{path}"/>']
        parts += [_mark(line.place, *points[-1]), "</g>"]
    return _svg(parts, label, height)


def scatter(
    lines: Sequence[Line],
    *,
    label: str,
    xlabel: str,
    ylabel: str,
    guides: Iterable[tuple[tuple[float, float], tuple[float, float]]] = (),
    square: bool = False,
    limits: tuple[float, float] | None = None,
    small: bool = False,
) -> Markup:
    """Points with their intervals; `guides` are straight lines to compare with, as pairs of points.

    Both axes have the same `limits` where they are given; else they hold the points and the guides.
    """
    guides = list(guides)
    shown = [_finite(line) for line in lines]
    shown = [line for line in shown if len(line.x)]
    if not shown:
        return Markup("")
    height = 320 if square else 240
    ends = [end for guide in guides for end in guide]
    of_guides = Line("", [x for x, _ in ends], [y for _, y in ends])
    across, up = _axes([*shown, _finite(of_guides)], height, limits=limits)
    parts = [_frame(across, up, xlabel, ylabel, height)]
    for (x0, y0), (x1, y1) in guides:
        from_to = f'x1="{across(x0):g}" y1="{up(y0):g}" x2="{across(x1):g}" y2="{up(y1):g}"'
        parts += [f'<line class="axis guide" {from_to}/>']
    for line in shown:
        parts += [_group(line.place)]
        if line.low is not None:
            for x, low, high in zip(line.x, line.low, line.high, strict=True):
                from_to = f'x1="{across(x):g}" x2="{across(x):g}" y1="{up(low):g}" y2="{up(high):g}"'
                parts += [f'<line class="whisker" {from_to}/>']
        radius = 1.6 if small else 4.0
        parts += [_mark(line.place, across(x), up(y), radius) for x, y in zip(line.x, line.y, strict=True)]
        parts += ["</g>"]
    return _svg(parts, label, height)


def intervals(rows: Sequence[Row], *, label: str, xlabel: str, zero: float | None = None) -> Markup:
    """A value with its interval in each row, the row's name above it; a line at `zero` where it is given."""
    finite = [row for row in rows if math.isfinite(row.value)]
    if not finite:
        return Markup("")
    ends = [end for row in finite for end in (row.low, row.value, row.high) if math.isfinite(end)]
    ends += [] if zero is None else [zero]
    across = _padded(min(ends), max(ends), 12, RIGHT)
    each = 36
    bottom = TOP + each * len(finite)
    parts = [_bottom_axis(across, bottom, xlabel, TOP)]
    if zero is not None:
        parts += [f'<line class="axis" x1="{across(zero):g}" x2="{across(zero):g}" y1="{TOP}" y2="{bottom}"/>']
    for place, row in enumerate(finite):
        y = TOP + each * place + 24
        low = row.low if math.isfinite(row.low) else across.low
        high = row.high if math.isfinite(row.high) else across.high
        parts += [
            f'<text class="strong" x="12" y="{y - 10}">{text(row.name)}</text>',
            _group(row.place),
            f'<line class="whisker" x1="{across(low):g}" x2="{across(high):g}" y1="{y}" y2="{y}"/>',
            _mark(row.place, across(row.value), y),
            "</g>",
        ]
    return _svg(parts, label, bottom + 40)


def stacked(rows: Mapping[str, Mapping[str, float]], *, label: str, xlabel: str, places: Mapping[str, int]) -> Markup:
    """A bar of several parts in each row, the row's name above it; a part below 0 goes to the left of 0.

    `places` are the numbers of the entries that the rows are of.
    """
    kept = {name: parts for name, parts in rows.items() if all(map(math.isfinite, parts.values()))}
    if not kept:
        return Markup("")
    highest = max(sum(max(part, 0.0) for part in parts.values()) for parts in kept.values())
    lowest = min(sum(min(part, 0.0) for part in parts.values()) for parts in kept.values())
    across = _Scale(lowest, highest or 1.0, 12, RIGHT)
    each = 40
    bottom = TOP + each * len(kept)
    drawn = [_bottom_axis(across, bottom, xlabel, TOP)]
    for row, (name, parts) in enumerate(kept.items()):
        y = TOP + each * row
        drawn += [f'<text class="strong" x="12" y="{y + 13}">{text(name)}</text>']
        right, left = 0.0, 0.0
        for number, part in enumerate(parts.values()):
            start = right if part >= 0 else left + part
            width = abs(across(start + abs(part)) - across(start))
            box = f'x="{across(start):g}" y="{y + 18}" width="{width:g}" height="16"'
            drawn += [f'<rect class="bar series s{places[name] % SERIES} fill{number % 4}" {box}/>']
            right += max(part, 0.0)
            left += min(part, 0.0)
    if lowest < 0:
        drawn += [f'<line class="axis" x1="{across(0.0):g}" x2="{across(0.0):g}" y1="{TOP}" y2="{bottom}"/>']
    return _svg(drawn, label, bottom + 40)


def histogram(counts: Sequence[float], *, label: str, xlabel: str, band: tuple[float, float], place: int = 0) -> Markup:
    """Counts in bins of equal width, with the band in which a calibrated count would lie."""
    height = 130
    bottom = height - 36
    up = _Scale(0.0, 1.1 * max(*counts, band[1]), bottom, TOP, most_ticks=3)
    across = _Scale(0, len(counts), LEFT, RIGHT)
    low, high = up(band[0]), up(band[1])
    box = f'x="{LEFT}" width="{RIGHT - LEFT}" y="{high:g}" height="{low - high:g}"'
    parts = [f'<rect class="expected" {box}/>', f'<g class="series s{place % SERIES}">']
    for number, count in enumerate(counts):
        x, top = across(number), up(count)
        width = across(number + 1) - x - 1
        parts += [f'<rect class="bar" x="{x:g}" width="{width:g}" y="{top:g}" height="{bottom - top:g}"/>']
    parts += ["</g>"]
    for tick in up.ticks:
        parts += [f'<text x="{LEFT - 6}" y="{up(tick) + 4:g}" text-anchor="end">{up.label(tick)}</text>']
    parts += [f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{bottom}" y2="{bottom}"/>']
    middle = (LEFT + RIGHT) / 2
    parts += [f'<text x="{middle:g}" y="{bottom + 20}" text-anchor="middle">{text(xlabel)}</text>']
    return _svg(parts, label, height)


def distribution(values: Any, mark: float, *, label: str, xlabel: str, place: int = 0, bins: int = 25) -> Markup:
    """Values as bars of equal width over an axis, with an upright line at `mark`, which may lie far outside."""
    shown = np.asarray(values, float)
    shown = shown[np.isfinite(shown)]
    if not len(shown) or not math.isfinite(mark):
        return Markup("")
    height = 140
    bottom = height - 40
    counts, edges = np.histogram(shown, bins=bins if np.ptp(shown) > 0 else 1)
    across = _padded(min(float(edges[0]), mark), max(float(edges[-1]), mark), LEFT, RIGHT)
    up = _Scale(0.0, 1.1 * float(counts.max()), bottom, TOP, most_ticks=3)
    parts = [f'<g class="series s{place % SERIES}">']
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        x, top = across(low), up(float(count))
        width = max(0.8, across(high) - x - 0.6)
        parts += [f'<rect class="bar" x="{x:g}" width="{width:g}" y="{top:g}" height="{bottom - top:g}"/>']
    parts += ["</g>", _bottom_axis(across, bottom, xlabel, None)]
    parts += [f'<line class="mark" x1="{across(mark):g}" x2="{across(mark):g}" y1="{TOP}" y2="{bottom}"/>']
    for tick in up.ticks:
        parts += [f'<text x="{LEFT - 6}" y="{up(tick) + 4:g}" text-anchor="end">{up.label(tick)}</text>']
    return _svg(parts, label, height)


def legend(lines: Iterable[Line]) -> Markup:
    """The names of lines or points beside what they look like."""
    items = []
    for line in lines:
        dashes = f'stroke-dasharray="{DASHES[line.dash % len(DASHES)]}"'
        joining = f'<line class="line" {dashes} x1="0" x2="26" y1="7" y2="7"/>' if np.size(line.x) > 1 else ""
        items += [_key(line.name, line.place, joining + _mark(line.place, 13, 7))]
    return _keys(items)


def legend_of_parts(names: Iterable[str], place: int | None = None) -> Markup:
    """The names of the parts of stacked bars beside what they look like, in the colour of the one entry at `place`."""
    box, colour = 'width="26" height="14"', NEUTRAL if place is None else place
    return _keys([_key(name, colour, f'<rect class="bar fill{part % 4}" {box}/>') for part, name in enumerate(names)])


def _keys(items: Iterable[Markup]) -> Markup:
    return joined(Markup('<ul class="legend">\n'), *items, Markup("</ul>\n"))


def _key(name: str, place: int, sign: str) -> Markup:
    swatch = f'<svg class="chart swatch" viewBox="0 0 26 14" aria-hidden="true">{sign}</svg>'
    return joined(Markup(f'<li class="series s{place % SERIES}">{swatch}'), name, Markup("</li>\n"))


def figure(chart: Markup, *, caption: Any = "", names: Markup | None = None) -> Markup:
    """A chart with its legend above and a caption below; nothing where there is no chart."""
    if not chart:
        return Markup("")
    told = joined(Markup("<figcaption>"), caption, Markup("</figcaption>\n")) if caption else ""
    return joined(Markup('<figure class="plot">\n'), names or "", chart, told, Markup("</figure>\n"))


def _svg(parts: Sequence[str], label: str, height: int) -> Markup:
    head = f'<svg class="chart drawn" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{text(label)}">'
    return Markup("\n".join([head, *parts, "</svg>\n"]))


def _group(place: int) -> str:
    return f'<g class="series s{place % SERIES}">'


def _finite(line: Line) -> Line:
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    keep = np.isfinite(x) & np.isfinite(y)
    ends = [None if end is None else np.asarray(end, float)[keep] for end in (line.low, line.high)]
    return replace(line, x=x[keep], y=y[keep], low=ends[0], high=ends[1])


def _axes(lines: Sequence[Line], height: int, *, limits: tuple[float, float] | None = None) -> tuple[_Scale, _Scale]:
    xs = np.concatenate([line.x for line in lines])
    ys = np.concatenate([end for line in lines for end in (line.y, line.low, line.high) if end is not None])
    of_x = limits or (float(xs.min()), float(xs.max()))
    of_y = limits or (float(ys.min()), float(ys.max()))
    bottom = height - 40
    if limits is not None:
        return _Scale(*of_x, LEFT, RIGHT), _Scale(*of_y, bottom, UNDER_LABEL)
    return _padded(*of_x, LEFT, RIGHT), _padded(*of_y, bottom, UNDER_LABEL)


def _padded(low: float, high: float, start: float, end: float) -> _Scale:
    room = 0.05 * (high - low)
    return _Scale(low - room, high + room, start, end)


def _frame(across: _Scale, up: _Scale, xlabel: str, ylabel: str, height: int) -> str:
    bottom = height - 40
    parts = []
    for tick in up.ticks:
        y = up(tick)
        parts += [f'<line class="gridline" x1="{LEFT}" x2="{RIGHT}" y1="{y:g}" y2="{y:g}"/>']
        parts += [f'<text x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end">{up.label(tick)}</text>']
    parts += [f'<text x="0" y="12">{text(ylabel)}</text>', _bottom_axis(across, bottom, xlabel, None)]
    return "\n".join(parts)


def _bottom_axis(across: _Scale, bottom: float, xlabel: str, grid_from: float | None) -> str:
    parts = []
    for tick in across.ticks:
        x = across(tick)
        if grid_from is not None:
            parts += [f'<line class="gridline" x1="{x:g}" x2="{x:g}" y1="{grid_from}" y2="{bottom:g}"/>']
        anchor = "end" if x > WIDTH - 16 else "middle"
        parts += [f'<text x="{x:g}" y="{bottom + 16:g}" text-anchor="{anchor}">{across.label(tick)}</text>']
    start, end = min(across.start, across.end), max(across.start, across.end)
    parts += [f'<line class="axis" x1="{start:g}" x2="{end:g}" y1="{bottom:g}" y2="{bottom:g}"/>']
    middle = (start + end) / 2
    parts += [f'<text x="{middle:g}" y="{bottom + 33:g}" text-anchor="middle">{text(xlabel)}</text>']
    return "\n".join(parts)


def _mark(place: int, x: float, y: float, r: float = 4.0) -> str:
    """The mark of a series at a point: a circle, a square, a triangle or a diamond."""
    shape = MARKS[place % len(MARKS)]
    if shape == "circle":
        return f'<circle class="dot" cx="{x:g}" cy="{y:g}" r="{r:g}"/>'
    corners = {
        "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "triangle": [(0, -1.2 * r), (1.1 * r, r), (-1.1 * r, r)],
        "diamond": [(0, -1.3 * r), (1.3 * r, 0), (0, 1.3 * r), (-1.3 * r, 0)],
    }[shape]
    points = " ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in corners)
    return f'<polygon class="dot" points="{points}"/>'


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(nice for nice in (1, 2, 5, 10) if nice * power >= step * (1 - 1e-9))
