"""Finished runs as one table: a row of runs.csv for each, and a line of Markdown for each configuration.

The interval behind a median is the 95 % percentile bootstrap's (Efron 1979) over seeds. Angles are those of
the rule's updates to backprop's, the mean over hidden layers, of a run with ``diagnostics=light``: at the
start, and after training.

    python results/collect.py runs results/runs.csv

Rows that runs.csv holds already stay, unless a run of the same configuration and seed replaces them.
"""

import argparse
import csv
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from bio_rl.experiment.result import read_result

CONFIGURATION = ("study", "env", "agent", "rule", "settings")
ANGLES = ("actor_angle_start", "actor_angle", "critic_angle_start", "critic_angle")
MEASURED = (
    "timesteps",
    "return_mean",
    "return_std",
    "return_episodes",
    "best_return_mean",
    "feedback_angle",
    *ANGLES,
)
COLUMNS = (*CONFIGURATION, "seed", "status", *MEASURED, "git_revision")
NAMED = ("study", "env", "agent", "rule", "seed", "overwrite", "members", "diagnostics", "logging")
"""Overrides that have a column of their own, or do not change what was learnt."""
RESAMPLES = 10_000

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
    settings = [override for override in overrides if override.partition("=")[0].lstrip("+") not in NAMED]
    angles = list(itertools.chain(*(result.get("feedback_angle") or {}).values()))
    known = {
        **{column: result.get(column) for column in COLUMNS},
        **update_angles(file.parent / "diagnostics.csv"),
        "study": config.study,
        "settings": " ".join(settings),
        "feedback_angle": fmean(angles) if angles else None,
    }
    return {column: _text(value) for column, value in known.items()}


def update_angles(file: Path) -> dict[str, float]:
    """The angles of the updates of hidden layers to backprop's, by ``ANGLES``, as far as the run measured them."""
    if not file.exists():
        return {}
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["name"] == "update_angle"]
    last = {
        row["network"]: max(int(other["layer"]) for other in rows if other["network"] == row["network"]) for row in rows
    }
    for row in rows:
        if int(row["layer"]) < last[row["network"]]:
            found[row["network"], int(row["timesteps"])].append(float(row["value"]))
    times = {time for _, time in found}
    ends = {"_start": min(times), "": max(times)} if times else {}
    return {
        f"{network}_angle{end}": fmean(found[network, time])
        for network in ("actor", "critic")
        for end, time in ends.items()
        if found.get((network, time))
    }


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
    """One table a study and task: median and interval over seeds, the mean angles."""
    for (study, env), group in itertools.groupby(rows, key=lambda row: (row["study"], row["env"])):
        yield f"\n**{env}** ({study})\n"
        yield (
            "| agent | rule | settings | median return | 95 % interval | worst | seeds | feedback | actor | critic |"
            "\n|---|---|---|---|---|---|---|---|---|---|"
        )
        for (agent, rule, settings), same in itertools.groupby(group, key=lambda row: _key(row)[2:5]):
            yield _line(agent, rule, settings, list(same))


def _line(agent: str, rule: str, settings: str, runs: Sequence[Row]) -> str:
    # A run that is not done counts as the worst.
    returns = [float(row["return_mean"]) if row["status"] == "done" else float("-inf") for row in runs]
    low, high = median_interval(returns)
    interval = f"{_short(low)} to {_short(high)}"
    feedback = _mean_angle(runs, "feedback_angle")
    actor, critic = (
        " → ".join(filter(None, (_mean_angle(runs, f"{network}_angle{end}") for end in ("_start", ""))))
        for network in ("actor", "critic")
    )
    cells = (agent, f"`{rule}`", settings, _short(median(returns)), interval, _short(min(returns)), len(runs))
    return "| " + " | ".join(map(str, (*cells, feedback, actor, critic))) + " |"


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the median; always the same for the same values."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975), method="nearest")
    return float(low), float(high)


def _mean_angle(runs: Sequence[Row], column: str) -> str:
    angles = [float(row[column]) for row in runs if row.get(column)]
    return f"{fmean(angles):.0f}°" if angles else ""


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _key(row: Row) -> tuple[str, ...]:
    return (*(row[column] for column in CONFIGURATION), f"{int(row['seed']):06}")


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
