"""The pictures of a report as PNG files, for papers and slides: with matplotlib, on white."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bio_rl.analysis.axes import drawable
from bio_rl.analysis.report import Chart, Intervals, Matrix, Picture, Report
from bio_rl.analysis.svg import COLOURS, FEW_LINES, PALETTES, ROW, cut

PALETTE = PALETTES["light"]
DASHES: tuple[Any, ...] = ("-", (0, (7, 3)), (0, (7, 2, 2, 2)), (0, (3, 2)))
"""As on the page, in matplotlib's words."""
MARKERS = "os^D"
DPI = 150
LONGEST_NAME = 80
"""Characters of a file's name."""


def write_pngs(folder: Path, report: Report) -> list[Path]:
    """Draw every picture of a report into a file of a folder, which is made if need be.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, picture in _named(report):
        figure = Figure(figsize=_size(picture), dpi=DPI, layout="constrained")
        _draw(picture, figure.subplots())
        file = folder / f"{name}.png"
        figure.savefig(file)
        files.append(file)
    return files


def _named(report: Report) -> Iterator[tuple[str, Picture]]:
    """Each picture with a name that no other has."""
    number = 0
    for section in report.sections:
        for picture in section.charts:
            number += 1
            words = re.sub(r"[^a-z0-9]+", "-", f"{section.title} {picture.title}".lower()).strip("-")
            yield f"{number:02}-{words[:LONGEST_NAME].rstrip('-')}", picture


def _size(picture: Picture) -> tuple[float, float]:
    """Width and height in inches."""
    match picture:
        case Chart():
            return (9, 5) if len(picture.lines) > FEW_LINES else (6, 3.6)
        case Intervals():
            return 9, 1.2 + len(picture.rows) * ROW / 72
        case Matrix():
            side = 3 + 0.33 * len(picture.names)
            return side + 1, side


def _draw(picture: Picture, axes: Any) -> None:
    axes.set_title(_plain(picture.title), loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    match picture:
        case Chart():
            _lines(picture, axes)
        case Intervals():
            _intervals(picture, axes)
        case Matrix():
            _matrix(picture, axes)


def _lines(chart: Chart, axes: Any) -> None:
    for number, whole in enumerate(chart.lines):
        line = drawable(whole, chart.logarithmic, chart.x_logarithmic)
        place = number if line.colour is None else line.colour
        style = {"color": PALETTE[place % COLOURS], "linestyle": DASHES[place // COLOURS % len(DASHES)]}
        if line.dashed:
            axes.plot(line.x, line.y, color=style["color"], linestyle=":", linewidth=1.2, label=_plain(line.name))
            continue
        marker = MARKERS[place % len(MARKERS)] if chart.tells_last else None
        axes.plot(line.x, line.y, marker=marker, markersize=3.5, linewidth=1.5, label=_plain(line.name), **style)
        if line.low is not None and line.high is not None and len(chart.lines) <= FEW_LINES:
            axes.fill_between(line.x, line.low, line.high, color=style["color"], alpha=0.18, linewidth=0)
    axes.set_xlabel(chart.x_name)
    if chart.x_logarithmic:
        axes.set_xscale("log")
    if chart.logarithmic:
        axes.set_yscale("log")
    if chart.marks:
        axes.set_yticks(chart.marks)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _intervals(intervals: Intervals, axes: Any) -> None:
    for number, row in enumerate(intervals.rows):
        axes.plot(row.points, [number] * len(row.points), "o", color="black", alpha=0.2, markersize=3, linewidth=0)
        axes.plot([row.low, row.high], [number, number], color=PALETTE[0], linewidth=3, alpha=0.6)
        axes.plot([row.value], [number], "o", color=PALETTE[0], markersize=5)
    for mark in intervals.marks:
        axes.axvline(mark, color="grey", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(intervals.rows)), [_plain(row.name) for row in intervals.rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(intervals.x_name)


def _matrix(matrix: Matrix, axes: Any) -> None:
    image = axes.imshow(matrix.values, cmap="Blues", vmin=0, vmax=1)
    places, names = range(len(matrix.names)), [_plain(name) for name in matrix.names]
    axes.set_yticks(places, names, fontsize=7)
    axes.set_xticks(places, names, fontsize=7, rotation=90)
    for row, column in np.argwhere(np.isfinite(matrix.values)):
        value = matrix.values[row, column]
        colour = "white" if value > 0.5 else "black"
        axes.text(column, row, f"{value:.2f}".removeprefix("0"), ha="center", va="center", fontsize=5, color=colour)
    axes.figure.colorbar(image, shrink=0.7)


def _plain(name: str) -> str:
    """A name as it is: what is between dollars would be typeset, and what begins with an underscore, hidden."""
    text = cut(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
