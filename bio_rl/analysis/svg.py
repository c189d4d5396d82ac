"""Charts as SVG, to stand inside a page: no script, no file beside it, colours and type by the page's style."""

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from bio_rl.analysis.axes import Axis, apart, axes, linear_axis, tick_text
from bio_rl.analysis.report import Chart, Interval, Intervals, Line, Matrix, Picture, figures

WIDTH, HEIGHT = 420, 250
LARGE_WIDTH, LARGE_HEIGHT = 860, 380
TOP, BOTTOM, LEFT = 10, 34, 46
CHARACTER = 6.3
"""The width of a label's character; what is longer is cut."""
LONGEST_NAME, LONGEST_OF_LARGE = 18, 40
FEW_POINTS = 30
"""Up to which every point has a marker."""
FEW_LINES = 6
"""More make a chart large, with bands seen where one points at a line."""
LABEL, ROW, CELL = 14, 22, 24
"""Heights of a line's name, of an interval, and of a matrix's cell."""
COLOURS = 6
DASHES = ("", "9 4", "9 3 2 3", "4 3")
"""Of lines of the same colour, one after another."""
STYLE = (
    """
.chart { width: 100%; height: auto; display: block; overflow: visible; font-size: 11px; }
.chart text { fill: var(--quiet); } .chart .label { fill: var(--text); }
.chart .grid { stroke: var(--faint); stroke-width: 1; } .chart .axis { stroke: var(--quiet); stroke-width: 1; }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .dashed { stroke-dasharray: 2 4; stroke-width: 1.5; } .chart .band { stroke: none; opacity: 0.18; }
.chart .interval { stroke-width: 4; stroke-linecap: round; opacity: 0.55; } .chart .point { opacity: 0.25; }
.chart .mark { stroke: var(--quiet); stroke-dasharray: 2 4; } .chart .cell { stroke: var(--faint); stroke-width: 0.5; }
.chart .on, .chart .off { font-size: 9px; pointer-events: none; } .chart .on { fill: var(--page); }
.many .band { opacity: 0; } .many .series:hover .band { opacity: 0.25; }
.many:has(.series:hover) .series:not(:hover) { opacity: 0.15; }
"""
    + "\n".join(
        f".chart .c{number} {{ stroke: var(--line-{number}); fill: var(--line-{number}); }} "
        f".chart .line.c{number} {{ fill: none; }}"
        for number in range(COLOURS)
    )
    + "".join(f"\n.chart .s{number} {{ stroke-dasharray: {dash}; }}" for number, dash in enumerate(DASHES) if dash)
)
"""What a page that holds charts must say of them, beside its colours: ``PALETTES``."""
PALETTES = {
    "light": ("#0072b2", "#c44e00", "#00805c", "#a8478a", "#3a3a3a", "#8a6d00"),
    "dark": ("#5cb8f5", "#ff9350", "#3ecf9f", "#ef9fd0", "#d0d0d0", "#e8c33d"),
}
"""Okabe & Ito's colours, which are told apart without red or green, darker on white and lighter on black."""


def svg(picture: Picture) -> str:
    """A picture as an SVG element that fills the width that it is given."""
    match picture:
        case Chart():
            return _chart(picture)
        case Intervals():
            return _intervals(picture)
        case Matrix():
            return _matrix(picture)


def is_large(picture: Picture) -> bool:
    """Whether a picture needs the whole width of a page."""
    match picture:
        case Chart():
            return _labelled(picture) > FEW_LINES
        case Intervals():
            return True
        case Matrix():
            return len(picture.names) > FEW_LINES


def _element(width: float, height: float, kind: str, description: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart{kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(description)}">{"".join(parts)}</svg>'
    )


class _Place:
    """Where numbers lie on the drawing."""

    def __init__(self, x_axis: Axis, y_axis: Axis, left: float, right: float, height: float):
        self.x_axis, self.y_axis, self.left, self.right, self.height = x_axis, y_axis, left, right, height

    @property
    def floor(self) -> float:
        return self.height - BOTTOM

    def x(self, values: np.ndarray) -> np.ndarray:
        return self.left + self.x_axis.share(values) * (self.right - self.left)

    def y(self, values: np.ndarray) -> np.ndarray:
        return self.floor - self.y_axis.share(values) * (self.floor - TOP)


# -- lines ---------------------------------------------------------------------------------


def _chart(chart: Chart) -> str:
    x_axis, y_axis, lines = axes(chart)
    labelled = [line for line in lines if not line.dashed]
    is_one_of_many = is_large(chart)
    longest = LONGEST_OF_LARGE if is_one_of_many else LONGEST_NAME
    labels = [chart.label(line, longest) for line in labelled]
    width, height = (LARGE_WIDTH, LARGE_HEIGHT) if is_one_of_many else (WIDTH, HEIGHT)
    height = max(height, TOP + BOTTOM + LABEL * len(labels))
    sample = 20 if is_one_of_many else 0
    right = width - 22 - sample - CHARACTER * max(map(len, labels), default=0)
    place = _Place(x_axis, y_axis, LEFT, right, height)
    numbers = {id(line): number if line.colour is None else line.colour for number, line in enumerate(lines)}
    tops = dict(zip(map(id, labelled), _label_tops(labelled, place), strict=True))
    texts = dict(zip(map(id, labelled), labels, strict=True))
    parts = [*_grid(place), *_x_ticks(place, chart.x_name)]
    for line in lines:
        own = [*_line(line, place, numbers[id(line)])]
        if id(line) in texts:
            own += _label(numbers[id(line)], texts[id(line)], place.right, tops[id(line)], sample)
        parts.append(f'<g class="series">{"".join(own)}</g>')
    description = f"{chart.title}. " + "; ".join(
        f"{line.name}: {figures(float(line.y[0]))} to {figures(float(line.y[-1]))}" for line in lines
    )
    return _element(width, height, " many" if is_one_of_many else "", description, parts)


def _labelled(chart: Chart) -> int:
    return sum(not line.dashed for line in chart.lines)


def _grid(place: _Place) -> Iterator[str]:
    left, right = place.left, place.right
    for value, y in zip(place.y_axis.ticks, place.y(np.array(place.y_axis.ticks)), strict=True):
        yield f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick_text(value)}</text>'


def _x_ticks(place: _Place, x_name: str) -> Iterator[str]:
    floor = place.floor
    yield f'<line class="axis" x1="{place.left:.1f}" x2="{place.right:.1f}" y1="{floor}" y2="{floor}"/>'
    for value, x in zip(place.x_axis.ticks, place.x(np.array(place.x_axis.ticks)), strict=True):
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>'
        yield f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{tick_text(value)}</text>'
    middle = (place.left + place.right) / 2
    yield f'<text x="{middle:.1f}" y="{place.height - 4}" text-anchor="middle">{escape(x_name)}</text>'


def _line(line: Line, place: _Place, number: int) -> Iterator[str]:
    x, y = place.x(line.x), place.y(line.y)
    colour = f"c{number % COLOURS}"
    if line.low is not None and line.high is not None:
        outline = [*_points(x, place.y(line.low)), *reversed(_points(x, place.y(line.high)))]
        yield f'<polygon class="band {colour}" points="{" ".join(outline)}"/>'
    style = "dashed" if line.dashed else _dash(number)
    yield f'<polyline class="line {colour} {style}" points="{" ".join(_points(x, y))}"/>'
    if len(x) <= FEW_POINTS and not line.dashed:
        for when, value, left, top in zip(line.x, line.y, x, y, strict=True):
            told = escape(f"{line.name}: {figures(float(value))} at {figures(float(when), 7)}")
            yield _marker(number, left, top, f"<title>{told}</title>")


def _dash(number: int) -> str:
    return f"s{number // COLOURS % len(DASHES)}"


def _label_tops(lines: Sequence[Line], place: _Place) -> list[float]:
    return apart([place.y(line.y[-1:])[0] for line in lines], LABEL, TOP, place.floor)


def _label(number: int, label: str, right: float, top: float, sample: float) -> Iterator[str]:
    """A line's name beside its end, so that nobody needs a colour to know which it is."""
    if sample:
        ends = f'x1="{right + 6:.1f}" x2="{right + 14 + sample:.1f}"'
        yield f'<line class="line c{number % COLOURS} {_dash(number)}" {ends} y1="{top:.1f}" y2="{top:.1f}"/>'
    yield _marker(number, right + 13 + sample / 2, top)
    yield f'<text class="label" x="{right + 20 + sample:.1f}" y="{top + 4:.1f}">{escape(label)}</text>'


def _marker(number: int, x: float, y: float, inside: str = "") -> str:
    """A shape, which lines of the same colour do not share."""
    colour = f"c{number % COLOURS}"
    match number % 4:
        case 0:
            return f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3">{inside}</circle>'
        case 1:
            return f'<rect class="{colour}" x="{x - 2.5:.1f}" y="{y - 2.5:.1f}" width="5" height="5">{inside}</rect>'
        case 2:
            points = f"{x:.1f},{y - 3.5:.1f} {x + 3.5:.1f},{y + 2.5:.1f} {x - 3.5:.1f},{y + 2.5:.1f}"
        case _:
            points = f"{x:.1f},{y - 4:.1f} {x + 4:.1f},{y:.1f} {x:.1f},{y + 4:.1f} {x - 4:.1f},{y:.1f}"
    return f'<polygon class="{colour}" points="{points}">{inside}</polygon>'


def _points(x: np.ndarray, y: np.ndarray) -> list[str]:
    return [f"{left:.1f},{top:.1f}" for left, top in zip(x, y, strict=True)]


# -- intervals -----------------------------------------------------------------------------


def _intervals(intervals: Intervals) -> str:
    rows = intervals.rows
    names = [cut(each.name) for each in rows]
    left = 16 + CHARACTER * max(map(len, names))
    height = TOP + BOTTOM + ROW * len(rows)
    seen = [value for each in rows for value in (each.value, each.low, each.high, *each.points)]
    x_axis = linear_axis(min([*seen, *intervals.marks]), max([*seen, *intervals.marks]), 7)
    place = _Place(x_axis, Axis(0, 1, ()), left, LARGE_WIDTH - 20, height)
    parts = [*_x_ticks(place, intervals.x_name)]
    for mark in place.x(np.array(intervals.marks)):
        parts.append(f'<line class="mark" x1="{mark:.1f}" x2="{mark:.1f}" y1="{TOP}" y2="{place.floor}"/>')
    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = TOP + ROW * (number + 0.5)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{place.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="label" x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        parts += _interval(row, place, y)
    told = "; ".join(f"{each.name}: {figures(each.value)} [{figures(each.low)}, {figures(each.high)}]" for each in rows)
    return _element(LARGE_WIDTH, height, "", f"{intervals.title}. {told}", parts)


def _interval(row: Interval, place: _Place, y: float) -> Iterator[str]:
    for x in place.x(np.array(row.points, dtype=float)):
        yield f'<circle class="point c4" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
    low, value, high = place.x(np.array([row.low, row.value, row.high]))
    yield f'<line class="interval c0" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    told = escape(f"{row.name}: {figures(row.value)}, from {figures(row.low)} to {figures(row.high)}")
    yield f'<circle class="c0" cx="{value:.1f}" cy="{y:.1f}" r="4"><title>{told}</title></circle>'


# -- matrices ------------------------------------------------------------------------------


def _matrix(matrix: Matrix) -> str:
    names = [f"{cut(name)} {number}" for number, name in enumerate(matrix.names, start=1)]
    left = 12 + CHARACTER * max(map(len, names))
    size = max(LARGE_WIDTH if is_large(matrix) else WIDTH, left + CELL * len(names)), CELL * (len(names) + 1)
    parts = []
    for row, name in enumerate(names):
        y = CELL * (row + 1)
        parts.append(f'<text class="label" x="{left - 6:.1f}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        x = left + CELL * (row + 0.5)
        parts.append(f'<text x="{x:.1f}" y="{CELL - 6}" text-anchor="middle">{row + 1}</text>')
        for column, value in enumerate(matrix.values[row]):
            told = escape(f"{matrix.names[row]} and {matrix.names[column]}: {figures(float(value), 2)}")
            shade = float(np.clip(np.nan_to_num(value), 0, 1))
            parts.append(
                f'<rect class="cell" x="{left + CELL * column:.1f}" y="{y}" width="{CELL}" height="{CELL}" '
                f'fill="var(--line-0)" fill-opacity="{shade:.2f}"><title>{told}</title></rect>'
            )
            if np.isfinite(value):
                place = f'x="{left + CELL * (column + 0.5):.1f}" y="{y + 15.5}" text-anchor="middle"'
                kind = "on" if shade > 0.5 else "off"
                parts.append(f'<text class="{kind}" {place}>{f"{value:.2f}".removeprefix("0")}</text>')
    return _element(*size, "", f"{matrix.title}. {', '.join(names)}", parts)


def cut(name: str) -> str:
    """As much of a name as a large picture has room for."""
    return name if len(name) <= LONGEST_OF_LARGE else name[: LONGEST_OF_LARGE - 1] + "…"
