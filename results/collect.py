"""Finished runs as one table: a row of runs.csv for each, and a line of Markdown for each configuration.

    python results/collect.py runs results/runs.csv

Rows that runs.csv holds already stay, unless a run of the same configuration and seed replaces them.
"""

import argparse
import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from omegaconf import OmegaConf

from bio_rl.experiment.result import read_result

CONFIGURATION = ("study", "env", "agent", "rule", "settings")
MEASURED = ("timesteps", "return_mean", "return_std", "return_episodes", "best_return_mean", "feedback_angle")
COLUMNS = (*CONFIGURATION, "seed", "status", *MEASURED, "git_revision")
NAMED = ("study", "env", "agent", "rule", "seed", "overwrite")
"""Overrides that have a column of their own, or say nothing about what was run."""

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="a folder that holds run folders, at any depth")
    parser.add_argument("table", type=Path, help="the CSV file that takes their rows")
    options = parser.parse_args(arguments)
    rows = {_key(row): row for row in read_rows(options.table)}
    rows |= {_key(row): row for row in map(run_row, sorted(options.runs.rglob("result.json"))) if row}
    ordered = [rows[key] for key in sorted(rows)]
    write_rows(options.table, ordered)
    for line in markdown(ordered):
        print(line)


def run_row(file: Path) -> Row | None:
    """The row of one run, by its result.json; ``None`` while it is running."""
    result = read_result(file.parent)
    if result is None or result["status"] == "running":
        return None
    config = OmegaConf.load(file.parent / ".hydra" / "config.yaml")
    overrides = map(str, OmegaConf.load(file.parent / ".hydra" / "overrides.yaml"))
    settings = [override for override in overrides if override.partition("=")[0] not in NAMED]
    angles = list(itertools.chain(*(result.get("feedback_angle") or {}).values()))
    known = {
        **{column: result.get(column) for column in COLUMNS},
        "study": config.study,
        "settings": " ".join(settings),
        "feedback_angle": fmean(angles) if angles else None,
    }
    return {column: _text(value) for column, value in known.items()}


def read_rows(table: Path) -> list[Row]:
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(table: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """One table a study and task: median over seeds, every seed's mean return, the mean feedback angle."""
    for (study, env), group in itertools.groupby(rows, key=lambda row: (row["study"], row["env"])):
        yield f"\n**{env}** ({study})\n"
        yield "| agent | rule | settings | median return | each seed | feedback angle |\n|---|---|---|---|---|---|"
        for (agent, rule, settings), same in itertools.groupby(group, key=lambda row: _key(row)[2:5]):
            yield _line(agent, rule, settings, list(same))


def _line(agent: str, rule: str, settings: str, runs: Sequence[Row]) -> str:
    returns = [float(row["return_mean"]) if row["status"] == "done" else None for row in runs]
    each = " ".join(row["status"] if value is None else _short(value) for value, row in zip(returns, runs, strict=True))
    # A run that is not done counts as the worst.
    middle = median([float("-inf") if value is None else value for value in returns])
    angles = [float(row["feedback_angle"]) for row in runs if row["feedback_angle"]]
    angle = f"{fmean(angles):.0f}°" if angles else ""
    return f"| {agent} | `{rule}` | {settings} | {_short(middle)} | {each} | {angle} |"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _key(row: Row) -> tuple[str, ...]:
    return (*(row[column] for column in CONFIGURATION), f"{int(row['seed']):06}")


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
