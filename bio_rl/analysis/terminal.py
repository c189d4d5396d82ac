"""A report in a terminal: charts of Braille dots, tables, and words."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from bio_rl.analysis.axes import Axis, apart, axes, tick_text
from bio_rl.analysis.report import Chart, Line, Report, Section, Table

ROWS = 8
"""Of a chart, without its title and its horizontal axis."""
NARROWEST, WIDEST = 36, 64
"""Columns of a chart."""
COLOURS = ("#3a8fd0", "#d9772b", "#1f9e78", "#c06aa8", "#8a8a8a", "#b08f1f")
"""As on the page, halfway between its colours on white and on black."""
LONGEST_NAME = 12
LONGEST_WORD = 26
"""Characters of a row's name that no narrow terminal breaks: every rule's name is shorter."""
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""The bit of each of a Braille character's dots, by row and column."""


def show(report: Report, console: Console) -> None:
    """Print a report as wide as the console is."""
    console.print(Text(report.title, style="bold"))
    for problem in report.problems:
        console.print(Text(f"! {problem}", style="yellow"))
    facts = Grid.grid(padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in report.facts:
        facts.add_row(Text(name, style="dim"), Text(value))
    console.print(facts)
    for section in report.sections:
        if not section.is_appendix:
            _show_section(section, console)


def _show_section(section: Section, console: Console) -> None:
    console.print()
    console.print(Text(section.title, style="bold underline"))
    if section.text:
        console.print(Text(section.text, style="dim"))
    per_row = max(1, min(3, (console.width + 2) // (NARROWEST + 2)))
    width = min(WIDEST, (console.width - 2 * (per_row - 1)) // per_row)
    charts = [each for each in section.charts if isinstance(each, Chart)]
    for first in range(0, len(charts), per_row):
        grid = Grid.grid(padding=(0, 2, 0, 0))
        drawn = [Text("\n").join(draw(each, width, _takes_dots(console))) for each in charts[first:][:per_row]]
        grid.add_row(*drawn)
        console.print(grid)
    for table in section.tables:
        _show_table(table, console)


def _show_table(table: Table, console: Console) -> None:
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    for number, name in enumerate(table.header):
        justify: Literal["left", "right"] = "right" if table.is_numeric(number) else "left"
        longest = 0 if number else max((len(word) for row in table.rows for word in row[0].split()), default=0)
        grid.add_column(Text(name), justify=justify, overflow="fold", min_width=min(longest, LONGEST_WORD))
    for row in table.rows:
        grid.add_row(*map(Text, row))
    console.print(grid)
    if table.notes:
        notes = Grid.grid(padding=(0, 2, 0, 0))
        for name, meaning in table.notes:
            notes.add_row(Text(name, style="dim"), Text(meaning, style="dim"))
        console.print(notes)


def draw(chart: Chart, width: int, dots: bool = True) -> list[Text]:
    """A chart as lines of text.

    Args:
        chart: what to draw.
        width: of the lines, in characters.
        dots: draw with Braille; otherwise each line with the number that it has in the legend.
    """
    x_axis, y_axis, lines = axes(chart, most_ticks=4)
    labels = [(number, line) for number, line in enumerate(lines) if not line.dashed]
    names = {
        number: ("" if dots else f"{_digit(number)} ") + chart.label(line, LONGEST_NAME) for number, line in labels
    }
    margin = max(len(tick_text(tick)) for tick in y_axis.ticks)
    right = max(map(len, names.values()), default=0) + 1
    columns = max(8, width - margin - 1 - right)
    cells, owners = _plot(lines, x_axis, y_axis, columns)
    ticks = {_row(y_axis, tick): tick_text(tick) for tick in y_axis.ticks}
    at = _label_rows(labels, y_axis)
    text = [Text(chart.title[:width], style="bold")]
    for row in range(ROWS):
        line = Text(ticks.get(row, "").rjust(margin) + "│", style="dim")
        for column in range(columns):
            owner = owners[row, column]
            mark = chr(0x2800 + cells[row, column]) if dots else _digit(owner)
            line.append(mark if owner >= 0 else " ", "" if owner < 0 else _colour(lines[owner], owner))
        for number, place in at.items():
            if place == row:
                line.append(f" {names[number]}", _colour(lines[number], number))
        text.append(line)
    text.append(Text(" " * margin + "└" + "─" * columns, style="dim"))
    text.append(Text(" " * (margin + 1) + _x_labels(x_axis, chart.x_name, columns), style="dim"))
    return text


def _plot(lines: Sequence[Line], x_axis: Axis, y_axis: Axis, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Each cell's dots, and the number of the line that they belong to, -1 for none: both ``(ROWS, columns)``."""
    cells, owners = np.zeros((ROWS, columns), int), np.full((ROWS, columns), -1)
    # What is only held against the others is drawn first.
    for number in sorted(range(len(lines)), key=lambda index: not lines[index].dashed):
        line = lines[number]
        across = x_axis.share(line.x) * (2 * columns - 1)
        down = (1 - y_axis.share(line.y)) * (4 * ROWS - 1)
        for column, row in _dots(across, down, every=3 if line.dashed else 1):
            cells[row // 4, column // 2] |= DOTS[row % 4, column % 2]
            owners[row // 4, column // 2] = number
    return cells, owners


def _dots(across: np.ndarray, down: np.ndarray, every: int) -> Iterator[tuple[int, int]]:
    """The dots on straight lines from point to point."""
    count = 0
    for start in range(max(1, len(across) - 1)):
        ends = slice(start, start + 2)
        steps = int(max(np.ptp(across[ends]), np.ptp(down[ends]))) + 1
        for share in np.linspace(0, 1, steps + 1):
            if count % every == 0:
                column, row = ((1 - share) * each[start] + share * each[ends][-1] for each in (across, down))
                yield round(column), round(row)
            count += 1


def _label_rows(labels: Sequence[tuple[int, Line]], y_axis: Axis) -> dict[int, int]:
    rows = apart([(1 - y_axis.share(line.y[-1:])[0]) * (ROWS - 1) for _, line in labels], 1, 0, ROWS - 1)
    return {number: round(row) for (number, _), row in zip(labels, rows, strict=True)}


def _digit(number: int) -> str:
    return str((number + 1) % 10)


def _x_labels(axis: Axis, name: str, columns: int) -> str:
    low, high = tick_text(_rounded(axis.low)), tick_text(_rounded(axis.high))
    return low + name.center(columns - len(low) - len(high)) + high


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _row(axis: Axis, value: float) -> int:
    return round((1 - float(axis.share(np.array([value]))[0])) * (ROWS - 1))


def _colour(line: Line, number: int) -> str:
    return COLOURS[(number if line.colour is None else line.colour) % len(COLOURS)]


def _takes_dots(console: Console) -> bool:
    try:
        "⣿│└─".encode(console.encoding)
    except (UnicodeError, LookupError):
        return False
    return True
