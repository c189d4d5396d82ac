"""``bio-rl compare``: any number of runs, in a table, on a page, as pictures and as data."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from bio_rl.analysis import terminal
from bio_rl.analysis.comparison import compare as compare_records
from bio_rl.analysis.comparison_files import write_csv
from bio_rl.analysis.comparison_page import report, summary
from bio_rl.analysis.page import page
from bio_rl.analysis.png import write_pngs
from bio_rl.analysis.records import NoRuns, read
from bio_rl.cli.errors import UserError
from bio_rl.cli.inspect import finder

MOST_FILES = 4
"""That are named when they are written."""


def compare(
    places: Sequence[Path],
    html: Path | None = None,
    csv: Path | None = None,
    png: Path | None = None,
    seed: int = 0,
    config_dir: Path | None = None,
) -> int:
    """Compare runs.

    Args:
        places: folders in which runs lie at any depth, and CSV files of runs.
        html: the file that takes the page.
        csv: the file that takes a row for each run; beside it, what was made of them.
        png: the folder that takes every picture of the page.
        seed: of the bootstrap and of permutations.
        config_dir: the folder whose ``rule/`` holds files of the user's own rules, which are run to be seen, as ours.

    Raises:
        UserError: a place that holds no run, or a file that cannot be written.
    """
    try:
        found = read(places)
    except NoRuns as error:
        raise UserError(str(error)) from error
    comparison = compare_records(found, seed)
    console = Console(highlight=False)
    terminal.show(summary(comparison, console.width), console)
    if html is not None or png is not None:
        whole = report(comparison, finder(config_dir), seed)
        if html is not None:
            _written("--html", html, lambda: [_write(html, page(whole))])
        if png is not None:
            _written("--png", png, lambda: write_pngs(png, whole))
    if csv is not None:
        _written("--csv", csv, lambda: write_csv(csv, comparison, found.records))
    return 0


def _write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def _written(option: str, place: Path, write: Callable[[], Sequence[Path]]) -> None:
    """Write files, and say which."""
    try:
        files = write()
    except ImportError as error:
        raise UserError(f"{option} needs matplotlib, which is not installed: pip install matplotlib") from error
    except OSError as error:
        raise UserError(f"{option} {place}: it cannot be written: {error.strerror or error}") from error
    print(f"wrote {', '.join(map(str, files))}" if len(files) <= MOST_FILES else f"wrote {len(files)} files in {place}")
