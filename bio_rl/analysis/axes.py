"""Where numbers lie in a chart, whatever it is drawn on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bio_rl.analysis.report import Chart, Line

STEPS = (1, 2, 2.5, 5, 10)
LARGEST = 1e100
"""What is larger is nobody's measurement, and breaks sums."""
MOST_POINTS = 400
"""Of a line; more would not be seen."""


@dataclass(frozen=True)
class Axis:
    """A range of numbers with marks on it.

    Attributes:
        low, high: its ends, which differ.
        ticks: round numbers within it.
        logarithmic: whether equal distances are equal ratios.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def share(self, values: np.ndarray) -> np.ndarray:
        """How far along the axis values lie: 0 at its low end, 1 at its high end."""
        low, high = self._scaled(np.array([self.low, self.high]))
        return (self._scaled(values) - low) / (high - low)

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return np.log10(values) if self.logarithmic else values


def axes(chart: Chart, most_ticks: int = 5) -> tuple[Axis, Axis, list[Line]]:
    """The horizontal and the vertical axis of a chart, and its lines without what cannot be drawn.

    Args:
        chart: with at least one point, or it gets axes from 0 to 1.
        most_ticks: on each axis.
    """
    lines = [thinned(drawable(line, chart.logarithmic, chart.x_logarithmic)) for line in chart.lines]
    lines = [line for line in lines if len(line.x)]
    xs = np.concatenate([line.x for line in lines] or [np.array([0.0, 1.0])])
    bands = [band for line in lines for band in (line.y, line.low, line.high) if band is not None]
    ys = np.concatenate([*bands, np.array(chart.marks)])
    low, high = (ys.min(), ys.max()) if len(ys) else (1.0, 10.0)
    if chart.x_logarithmic:
        horizontal = logarithmic_axis(xs.min() or 1, xs.max(), most_ticks)
    else:
        horizontal = linear_axis(xs.min(), xs.max(), most_ticks, tight=True)
    if chart.logarithmic:
        return horizontal, logarithmic_axis(low, high, most_ticks), lines
    if chart.marks:
        return horizontal, Axis(low, high, _continued(chart.marks, low, high)), lines
    return horizontal, linear_axis(low, high, most_ticks), lines


def linear_axis(low: float, high: float, most_ticks: int, tight: bool = False) -> Axis:
    """An axis that holds both numbers; unless it is to be tight, it ends at ticks."""
    if not high - low > 1e-12 * max(abs(low), abs(high)):
        low, high = (low - 0.5, high + 0.5) if abs(low) < 1e6 else (low * 0.9, high * 1.1)
        low, high = min(low, high), max(low, high)
    size = 10.0 ** math.floor(math.log10((high - low) / most_ticks))
    step = next(size * each for each in (*STEPS, 20) if (high - low) / (size * each) <= most_ticks - 1 + 1e-9)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(number * step, 12) for number in range(first, last + 1)]
    if not tight:
        return Axis(ticks[0], ticks[-1], tuple(ticks))
    slack = 1e-9 * (high - low)
    return Axis(low, high, tuple(tick for tick in ticks if low - slack <= tick <= high + slack))


def _continued(marks: Sequence[float], low: float, high: float) -> tuple[float, ...]:
    """Evenly spaced marks, and as many more as lie between two numbers beyond them; none if these would be too many."""
    step = marks[1] - marks[0]
    if (high - low) / step > 3 * len(marks):
        return linear_axis(low, high, len(marks), tight=True).ticks
    before, after = int((marks[0] - low) / step), int((high - marks[-1]) / step)
    return tuple(marks[0] + step * number for number in range(-before, len(marks) + after))


def logarithmic_axis(low: float, high: float, most_ticks: int) -> Axis:
    """An axis that holds both numbers, which are above 0, with powers of ten for ticks, or more if these are few."""
    if high < 2 * low:
        low, high = low / 2, high * 2
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # The last of them leave no interval of a factor of two without a tick.
    for factors in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return Axis(low, high, tuple(ticks[:: math.ceil(len(ticks) / most_ticks)]), logarithmic=True)


def drawable(line: Line, logarithmic: bool, x_logarithmic: bool = False) -> Line:
    """A line without points that have no place: not finite, as good as that, or on a logarithmic axis not above 0."""
    parts = [part for part in (line.y, line.low, line.high) if part is not None]
    there = np.isfinite(line.x) & ((line.x > 0) | (not x_logarithmic))
    for part in parts:
        there = there & (np.abs(part) < LARGEST) & ((part > 0) | (not logarithmic))
    return _of_points(line, np.flatnonzero(there))


def thinned(line: Line) -> Line:
    """A line of no more than ``MOST_POINTS``, spread evenly, its ends among them."""
    count = len(line.x)
    if count <= MOST_POINTS:
        return line
    return _of_points(line, np.unique(np.linspace(0, count - 1, MOST_POINTS).round().astype(int)))


def apart(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Places for labels near those asked for, a distance apart where there is room for that, in the same order."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    distance = min(distance, (high - low) / max(1, len(places) - 1))
    found = [0.0] * len(places)
    lowest = low
    for index in order:
        found[index] = lowest = max(places[index], lowest)
        lowest += distance
    highest = high
    for index in reversed(order):
        found[index] = highest = min(found[index], highest)
        highest -= distance
    return found


def tick_text(value: float) -> str:
    """A round number in few characters: 50k, 2.5M, 1e-05."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e12:
            return f"{value / size:g}{suffix}"
    return f"{value:g}".replace("-", "−") if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}".replace("-", "−")


def _of_points(line: Line, chosen: np.ndarray) -> Line:
    low, high = (None if band is None else band[chosen] for band in (line.low, line.high))
    return Line(line.name, line.x[chosen], line.y[chosen], low, high, line.dashed, line.colour)
