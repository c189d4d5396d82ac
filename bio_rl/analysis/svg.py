"""Charts as SVG, to stand inside a page: no script, no file beside it, colours and type by the page's style."""

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from bio_rl.analysis.axes import Axis, apart, axes, tick_text
from bio_rl.analysis.report import Chart, Line, figures

WIDTH, HEIGHT = 420, 250
TOP, BOTTOM, LEFT = 10, 34, 46
CHARACTER = 6.3
"""The width of a label's character; what is longer is cut."""
LONGEST_NAME = 18
FEW_POINTS = 30
"""Up to which every point has a marker."""
COLOURS = 6
STYLE = """
.chart { width: 100%; height: auto; display: block; overflow: visible; font-size: 11px; }
.chart text { fill: var(--quiet); } .chart .label { fill: var(--text); }
.chart .grid { stroke: var(--faint); stroke-width: 1; } .chart .axis { stroke: var(--quiet); stroke-width: 1; }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .dashed { stroke-dasharray: 2 4; stroke-width: 1.5; } .chart .band { stroke: none; opacity: 0.18; }
""" + "\n".join(
    f".chart .c{number} {{ stroke: var(--line-{number}); fill: var(--line-{number}); }} "
    f".chart .line.c{number} {{ fill: none; }}"
    for number in range(COLOURS)
)
"""What a page that holds charts must say of them, beside its colours: ``PALETTES``."""
PALETTES = {
    "light": ("#0072b2", "#c44e00", "#00805c", "#a8478a", "#3a3a3a", "#8a6d00"),
    "dark": ("#5cb8f5", "#ff9350", "#3ecf9f", "#ef9fd0", "#d0d0d0", "#e8c33d"),
}
"""Okabe & Ito's colours, which are told apart without red or green, darker on white and lighter on black."""


def svg(chart: Chart) -> str:
    """A chart as an SVG element that fills the width that it is given."""
    x_axis, y_axis, lines = axes(chart)
    labelled = [line for line in lines if not line.dashed]
    labels = [chart.label(line, LONGEST_NAME) for line in labelled]
    place = _Place(x_axis, y_axis, WIDTH - 22 - CHARACTER * max(map(len, labels), default=0))
    colours = {id(line): _colour(line, number) for number, line in enumerate(lines)}
    drawn = [
        *_grid(place, chart.x_name),
        *(part for line in lines for part in _line(line, place, colours[id(line)])),
        *_labels(labelled, labels, place, colours),
    ]
    description = f"{chart.title}. " + "; ".join(
        f"{line.name}: {figures(float(line.y[0]))} to {figures(float(line.y[-1]))}" for line in lines
    )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'
        + "".join(drawn)
        + "</svg>"
    )


class _Place:
    """Where numbers lie on the drawing."""

    def __init__(self, x_axis: Axis, y_axis: Axis, right: float):
        self.x_axis, self.y_axis, self.right = x_axis, y_axis, right

    def x(self, values: np.ndarray) -> np.ndarray:
        return LEFT + self.x_axis.share(values) * (self.right - LEFT)

    def y(self, values: np.ndarray) -> np.ndarray:
        return HEIGHT - BOTTOM - self.y_axis.share(values) * (HEIGHT - BOTTOM - TOP)


def _grid(place: _Place, x_name: str) -> Iterator[str]:
    floor = HEIGHT - BOTTOM
    for value, y in zip(place.y_axis.ticks, place.y(np.array(place.y_axis.ticks)), strict=True):
        yield f'<line class="grid" x1="{LEFT}" x2="{place.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_text(value)}</text>'
    yield f'<line class="axis" x1="{LEFT}" x2="{place.right:.1f}" y1="{floor}" y2="{floor}"/>'
    for value, x in zip(place.x_axis.ticks, place.x(np.array(place.x_axis.ticks)), strict=True):
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>'
        yield f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{tick_text(value)}</text>'
    middle = (LEFT + place.right) / 2
    yield f'<text x="{middle:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>'


def _line(line: Line, place: _Place, colour: int) -> Iterator[str]:
    x, y = place.x(line.x), place.y(line.y)
    if line.low is not None and line.high is not None:
        outline = [*_points(x, place.y(line.low)), *reversed(_points(x, place.y(line.high)))]
        yield f'<polygon class="band c{colour}" points="{" ".join(outline)}"/>'
    dashed = " dashed" if line.dashed else ""
    yield f'<polyline class="line c{colour}{dashed}" points="{" ".join(_points(x, y))}"/>'
    if len(x) <= FEW_POINTS and not line.dashed:
        for when, value, left, top in zip(line.x, line.y, x, y, strict=True):
            told = escape(f"{line.name}: {figures(float(value))} at {figures(float(when), 7)}")
            yield _marker(colour, left, top, f"<title>{told}</title>")


def _labels(lines: Sequence[Line], labels: Sequence[str], place: _Place, colours: dict[int, int]) -> Iterator[str]:
    """The name of each line beside its end, so that nobody needs a colour to know which it is."""
    tops = apart([place.y(line.y[-1:])[0] for line in lines], 14, TOP, HEIGHT - BOTTOM)
    for line, label, top in zip(lines, labels, tops, strict=True):
        yield _marker(colours[id(line)], place.right + 13, top)
        yield f'<text class="label" x="{place.right + 20:.1f}" y="{top + 4:.1f}">{escape(label)}</text>'


def _marker(colour: int, x: float, y: float, inside: str = "") -> str:
    """A shape of the colour's own."""
    match colour % 4:
        case 0:
            return f'<circle class="c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3">{inside}</circle>'
        case 1:
            return f'<rect class="c{colour}" x="{x - 2.5:.1f}" y="{y - 2.5:.1f}" width="5" height="5">{inside}</rect>'
        case 2:
            points = f"{x:.1f},{y - 3.5:.1f} {x + 3.5:.1f},{y + 2.5:.1f} {x - 3.5:.1f},{y + 2.5:.1f}"
        case _:
            points = f"{x:.1f},{y - 4:.1f} {x + 4:.1f},{y:.1f} {x:.1f},{y + 4:.1f} {x - 4:.1f},{y:.1f}"
    return f'<polygon class="c{colour}" points="{points}">{inside}</polygon>'


def _points(x: np.ndarray, y: np.ndarray) -> list[str]:
    return [f"{left:.1f},{top:.1f}" for left, top in zip(x, y, strict=True)]


def _colour(line: Line, number: int) -> int:
    return (number if line.colour is None else line.colour) % COLOURS
