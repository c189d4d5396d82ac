"""What is shown of runs, before it is drawn: in a terminal or on a page, the same."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

NUMBER = re.compile(r"[+−-]?[0-9.,]+(e[+-]?[0-9]+)?|–|[+−-]?∞")


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: in the legend.
        x, y: ``(points,)``; what is not finite is left out.
        low, high: a band around it, ``(points,)``, if there is one.
        dashed: for what others are held against.
        colour: its place in the palette; by default the line's own among its chart's.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    dashed: bool = False
    colour: int | None = None


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis.

    Attributes:
        title: what is shown, with its unit.
        x_name: of the horizontal axis.
        lines: at least one with a point.
        marks: evenly spaced ones of the vertical axis, which reaches to them at least; by default round numbers.
        logarithmic: whether the vertical axis is; what is not above 0 is left out.
        x_logarithmic: the same of the horizontal one.
        tells_last: whether the last value of a line stands beside its name.
    """

    title: str
    x_name: str
    lines: Sequence[Line]
    marks: Sequence[float] = ()
    logarithmic: bool = False
    tells_last: bool = True
    x_logarithmic: bool = False

    def label(self, line: Line, longest: int) -> str:
        """What stands beside a line's end, at most so many characters and its last value."""
        name = line.name if len(line.name) <= longest else line.name[: longest - 1] + "…"
        return f"{name} {figures(float(line.y[-1]), 3)}" if self.tells_last else name


@dataclass(frozen=True)
class Interval:
    """A number with its uncertainty, and what it was made of.

    Attributes:
        name: of what.
        value: the number.
        low, high: the interval's ends, both the number itself where there is none.
        points: ``(points,)``, shown behind it.
    """

    name: str
    value: float
    low: float
    high: float
    points: Sequence[float] = ()


@dataclass(frozen=True)
class Intervals:
    """Numbers under one another along a common axis.

    Attributes:
        title: what is shown.
        x_name: of the axis, with its unit.
        rows: at least one, all finite.
        marks: numbers that the others are held against.
    """

    title: str
    x_name: str
    rows: Sequence[Interval]
    marks: Sequence[float] = ()


@dataclass(frozen=True)
class Matrix:
    """How alike each two of several things are.

    Attributes:
        title: what is shown.
        names: of the things, in an order.
        values: ``(things, things)``, 1 for the same and 0 for nothing in common; NaN for not known.
    """

    title: str
    names: Sequence[str]
    values: np.ndarray


Picture = Chart | Intervals | Matrix


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; the first column names the row.

    Attributes:
        header, rows: texts, as many in each row as in the header.
        notes: what headings mean, in pairs.
        is_sortable: whether a reader of a page may sort the rows by a column.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[tuple[str, str]] = ()
    is_sortable: bool = False

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds nothing but numbers, to be set under one another by their ends."""
        return column > 0 and all(NUMBER.fullmatch(row[column]) for row in self.rows)


@dataclass(frozen=True)
class Section:
    """What belongs under one heading.

    Attributes:
        title: the heading.
        text: what is to be seen, in a sentence or two; or why there is nothing.
        charts: pictures; a terminal has those with lines.
        is_appendix: whether it is for looking things up: folded on a page, and left out in a terminal.
    """

    title: str
    text: str = ""
    charts: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    is_appendix: bool = False


@dataclass(frozen=True)
class Report:
    """All that is shown.

    Attributes:
        title: of the page.
        facts: names and values, shown first.
        problems: what could not be read, a line each.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    problems: Sequence[str] = field(default=())


def figures(value: float | None, digits: int = 4) -> str:
    """A number as people read it, to some significant digits; a dash for none."""
    if value is None or not np.isfinite(value):
        return "–" if value is None or np.isnan(value) else str(value).replace("inf", "∞")
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}g}"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value))))) if value else 0
    text = f"{value:,.{min(decimals, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
