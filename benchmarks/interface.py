"""What the experimenter of a brain-computer interface would measure under each rule, from runs of ``env=interface``.

    bio-rl train -m env=interface study=interface members=16 logging=csv rule=backprop,feedback_alignment
    python benchmarks/interface.py runs/interface benchmarks/interface.csv

writes a row for each run that is done, and prints medians over seeds. ``docs/tasks.md`` says what is measured.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from bio_rl.analysis.runs import Run, find_runs

MEASURES = ("teaching_correlation", "potent_share", "manifold_share", "flow_correlation", "flow_correlation_before")
"""At the end of a run."""
TASK = "bio_rl/Interface-v0"
COLUMNS = ("rule", "seed", "return", *MEASURES)
Row = Mapping[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with run folders at any depth")
    parser.add_argument("table", type=Path, help="the CSV file that is written")
    options = parser.parse_args(arguments)
    rows = sorted(measured(map(Run, find_runs(options.folder))), key=lambda row: (row["rule"], int(row["seed"])))
    if not rows:
        raise SystemExit(f"there is no run of env=interface in {options.folder} that is done and has its progress.csv")
    with options.table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for line in markdown(rows):
        print(line)


def measured(runs: Iterable[Run]) -> Iterator[Row]:
    """A row for each run that is done. What could not be measured is empty: where nothing was learnt, nearly all."""
    for run in runs:
        if run.status != "done" or run.text("env_id") != TASK or not run.progress:
            continue
        series = {name: run.progress[f"interface/{name}"] for name in MEASURES if f"interface/{name}" in run.progress}
        found = {"return": run.number("return_mean"), **{name: each.values[-1] for name, each in series.items()}}
        written = {name: f"{number:.4f}" for name, number in found.items() if number is not None}
        yield {"rule": run.text("rule"), "seed": run.text("seed"), **written}


def read(table: Path) -> list[Row]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def markdown(rows: Iterable[Row]) -> Iterator[str]:
    """A row for each rule, the highest return first: medians over seeds."""
    by_rule: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_rule[row["rule"]].append(row)
    shown = ("return", *MEASURES)
    yield f"| rule | seeds | {' | '.join(shown)} |"
    yield "|---" * (len(shown) + 2) + "|"
    for rule, own in sorted(by_rule.items(), key=lambda each: -median(numbers(each[1], "return"))):
        cells = [middle(own, name) for name in shown]
        yield f"| `{rule}` | {len(own)} | {' | '.join(cells)} |"


def middle(rows: Iterable[Row], name: str) -> str:
    """The median of what was measured, empty where nothing was."""
    values = numbers(rows, name)
    return f"{median(values):.2f}" if values else ""


def numbers(rows: Iterable[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row.get(name)]


if __name__ == "__main__":
    main()
