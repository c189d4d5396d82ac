"""A comparison as data: CSV files of its runs, scores, pairs and learning curves."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, median

from bio_rl.analysis.comparison import Comparison, Contender
from bio_rl.analysis.records import ANGLES, Record, key, write_rows
from bio_rl.analysis.statistics import Estimate

Cell = str | float | None
ANGLE_COLUMNS = ("feedback_angle", *ANGLES)
SCORE_COLUMNS = (
    *("task", "name", "rule", "runs", "compared", "iqm", "iqm_low", "iqm_high", "median", "worst"),
    *(f"{name}{end}" for name in ("over_backprop", "over_readout", "credit") for end in ("", "_low", "_high")),
    *ANGLE_COLUMNS,
)
PAIR_COLUMNS = ("task", "one", "other", "difference", "p_value", "is_settled", "more_seeds")
CURVE_COLUMNS = ("task", "name", "seed", "timesteps", "return_mean")


def write_csv(file: Path, comparison: Comparison, records: Sequence[Record]) -> list[Path]:
    """Write the runs to a file and, beside it, ``-scores``, ``-pairs`` and ``-curves``: what was made of them.

    Args:
        file: of the runs; it may be one that runs were read from.
        comparison: of the runs.
        records: all that were read: of two of the same key the first is kept, and none that is still running.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written.
    """
    kept = {key(each): each for each in reversed(records) if each.status != "running"}
    write_rows(file, kept.values())
    tables = (
        ("scores", SCORE_COLUMNS, _scores(comparison)),
        ("pairs", PAIR_COLUMNS, _pairs(comparison)),
        ("curves", CURVE_COLUMNS, _curves(comparison)),
    )
    return [file, *(_write(file, name, columns, rows) for name, columns, rows in tables)]


def _write(file: Path, name: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Path:
    beside = file.with_name(f"{file.stem}-{name}{file.suffix}")
    with beside.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    return beside


def _scores(comparison: Comparison) -> Iterator[Sequence[Cell]]:
    for task in comparison.tasks:
        for each in task.contenders:
            estimates = [
                cell for one in (each.over_backprop, each.over_readout, each.credit) for cell in _estimate(one)
            ]
            returns = each.returns.tolist()
            ends = (median(returns), min(returns))
            counts = (len(each.records), len(returns))
            angles = [_mean(each, column) for column in ANGLE_COLUMNS]
            yield task.name, each.name, each.rule, *counts, *_estimate(each.score), *ends, *estimates, *angles


def _estimate(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    if estimate is None:
        return None, None, None
    return estimate.value, *(estimate.interval or (None, None))


def _mean(contender: Contender, column: str) -> float | None:
    known = [each.numbers[column] for each in contender.records if column in each.numbers]
    return fmean(known) if known else None


def _pairs(comparison: Comparison) -> Iterator[Sequence[Cell]]:
    for task in comparison.tasks:
        for each in task.pairs:
            yield task.name, each.one, each.other, each.difference, each.p_value, str(each.is_settled), each.more_seeds


def _curves(comparison: Comparison) -> Iterator[Sequence[Cell]]:
    for task in comparison.tasks:
        for each in (*task.contenders, *task.others):
            for record in each.records:
                for when, value in zip(*record.curve, strict=True):
                    yield task.name, each.name, record.seed, int(when), float(value)
