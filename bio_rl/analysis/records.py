"""Runs as rows: of a folder with any number of run folders in it, or of a CSV file that such rows were written to.

    runs, evaluations = bio_rl.analysis.load("runs")

Only plain data is read, see ``bio_rl.analysis.runs``. Ten thousand runs take half a minute.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from bio_rl.analysis.axes import LARGEST
from bio_rl.analysis.runs import NoRun, Run, Series, find_runs, flat
from bio_rl.experiment.result import STATUSES
from bio_rl.names import CRITIC_RULE, in_short

NAMED = ("study", "env", "agent", "rule", "seed", "overwrite", "members", "diagnostics", "logging")
"""Overrides that have a column of their own, or do not change what was learnt."""
NETWORKS = ("actor", "critic")
ANGLES = tuple(f"{network}_angle{end}" for network in NETWORKS for end in ("_start", ""))
TEXTS = ("study", "env", "agent", "rule", "settings")
NUMBERS = (
    "timesteps",
    "return_mean",
    "return_std",
    "return_episodes",
    "best_return_mean",
    "feedback_angle",
    *ANGLES,
)
COLUMNS = (*TEXTS, "seed", "status", *NUMBERS, "git_revision")
"""Of a CSV file of runs."""
MORE_NUMBERS = (
    "timesteps_requested",
    "untrained_return_mean",
    "training_return_mean",
    "wall_seconds",
    "members",
    "multiply_accumulates",
)
"""That only a run's folder has; the last for each sample of an update, of all its networks."""
MORE_TEXTS = ("env_id", "critic_rule", "error")
FRAMES = ("polars", "pandas")
"""Libraries of data frames, the first that is installed."""
MOST_TABLE_BYTES = 2**28


class NoRuns(Exception):
    """Nothing to read where runs were looked for: what is there instead, in one line."""


@dataclass(frozen=True)
class Record:
    """What is compared of a run.

    Attributes:
        folder: of the run; of a row of a CSV file, that file and its line.
        texts: by the names ``TEXTS``, ``MORE_TEXTS`` and ``git_revision``; empty where there is none. ``settings`` are
            the overrides, in the order of their names, that have no column of their own.
        seed: of the run.
        status: as in result.json.
        numbers: by the names ``NUMBERS`` and ``MORE_NUMBERS``; what there is of them, no larger than ``LARGEST``.
        config: of the run, flat; empty where it is not known.
        versions: of packages.
        curve: the mean return of each evaluation's episodes.
        angles: of each network's updates to backprop's, the mean over its hidden layers, through time.
        from_folder: whether there is a run folder.
    """

    folder: str
    texts: Mapping[str, str]
    seed: int
    status: str
    numbers: Mapping[str, float]
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    curve: Series = field(default_factory=lambda: Series(np.empty(0), np.empty(0)))
    angles: Mapping[str, Series] = field(default_factory=dict)
    from_folder: bool = True


class Records(NamedTuple):
    """Runs that were read, and a line for each thing that could not be."""

    records: list[Record]
    problems: list[str]


class Frames(NamedTuple):
    """Runs as two data frames, of polars or pandas, whichever is installed.

    Attributes:
        runs: a row for each run: folder, texts, seed, status, numbers, and its config in columns ``config.KEY`` and
            versions in ``version.PACKAGE``.
        evaluations: a row for each evaluation of each: folder, timesteps, return_mean.
    """

    runs: Any
    evaluations: Any


def load(*places: str | Path) -> Frames:
    """Runs as data frames.

    Args:
        places: folders in which run folders lie at any depth, and CSV files of runs.

    Raises:
        NoRuns: there are none in one of them.
        ImportError: neither polars nor pandas is installed.
    """
    frame = _library().DataFrame
    records = read(map(Path, places)).records
    return Frames(frame(_run_columns(records)), frame(_evaluation_columns(records)))


def read(places: Iterable[Path]) -> Records:
    """Every run in folders and CSV files, in the order in which they are named.

    Raises:
        NoRuns: there are none in one of them.
    """
    records: list[Record] = []
    problems: list[str] = []
    for place in places:
        found = list(_rows_of(place) if place.is_file() else _runs_in(place, problems))
        if not found:
            raise NoRuns(_why_none(place, problems))
        records += found
    return Records(records, problems)


def _why_none(place: Path, problems: Sequence[str]) -> str:
    if not place.exists():
        return f"there is no folder {str(place)!r}"
    more = f" ({problems[-1]})" if problems else ""
    return f"there are no runs in {place}{more}: a run's folder holds a result.json"


def _runs_in(folder: Path, problems: list[str]) -> Iterator[Record]:
    for path in find_runs(folder):
        try:
            run = Run(path)
            record = record_of(run)
        except NoRun as error:
            problems.append(str(error))
            continue
        problems += run.problems
        if record is not None:
            yield record


# -- a run's folder ------------------------------------------------------------------------


def record_of(run: Run) -> Record | None:
    """The record of one run, or ``None`` where its folder does not even say what ran."""
    names = {name: run.result.get(name) for name in ("agent", "rule", "env", "seed")}
    seed = names.pop("seed")
    if not all(isinstance(each, str) for each in names.values()) or type(seed) is not int:
        if run.result:
            run.note(f"{run} is left out: its result.json does not say which agent, rule, env and seed it is of")
        return None
    return Record(
        folder=str(run.folder),
        texts=dict(_texts(run)),
        seed=seed,
        status=run.status,
        numbers=dict(_numbers(run)),
        config=dict(flat(run.config)),
        versions=_versions(run),
        curve=_curve(run),
        angles=dict(_update_angles(run)),
    )


def _texts(run: Run) -> Iterator[tuple[str, str]]:
    for name in ("env", "env_id", "agent", "rule", "critic_rule", "error", "git_revision"):
        value = run.result.get(name)
        yield name, " ".join(value.split()) if isinstance(value, str) else ""
    yield "study", str(run.config.get("study", ""))
    yield "settings", " ".join(each for each in run.overrides if each.partition("=")[0].lstrip("+") not in NAMED)


def _numbers(run: Run) -> Iterator[tuple[str, float]]:
    for name in (*NUMBERS, *MORE_NUMBERS):
        if (value := run.number(name)) is not None and abs(value) < LARGEST:
            yield name, value
    if angles := list(_feedback_angles(run)):
        yield "feedback_angle", fmean(angles)
    for network, series in _update_angles(run):
        yield f"{network}_angle_start", float(series.values[0])
        yield f"{network}_angle", float(series.values[-1])
    costs = [run.number("cost", network, "multiply_accumulates") for network in (*NETWORKS, "shared")]
    if known := [each for each in costs if each is not None and abs(each) < LARGEST]:
        yield "multiply_accumulates", sum(known)


def _feedback_angles(run: Run) -> Iterator[float]:
    found = run.result.get("feedback_angle")
    for layers in found.values() if isinstance(found, Mapping) else ():
        angles = layers if isinstance(layers, list) else []
        yield from (each for each in angles if isinstance(each, float) and abs(each) < LARGEST)


def _versions(run: Run) -> dict[str, str]:
    versions = run.result.get("versions")
    return {str(name): str(value) for name, value in versions.items()} if isinstance(versions, Mapping) else {}


def _curve(run: Run) -> Series:
    evaluations = run.evaluations.returns_by_time()
    sane = ((when, returns) for when, returns in evaluations if when < LARGEST and (abs(returns) < LARGEST).all())
    points = [(when, returns.mean()) for when, returns in sane]
    return Series(*np.array(points, dtype=float).reshape(-1, 2).T)


def _update_angles(run: Run) -> Iterator[tuple[str, Series]]:
    """The angles of the updates of hidden layers to backprop's, as far as the run measured them."""
    for network in NETWORKS:
        layers = {
            layer: series
            for (name, of, layer), series in run.diagnostics.items()
            if (name, of) == ("update_angle", network) and layer is not None
        }
        hidden = [series for layer, series in layers.items() if layer < max(layers)]
        if hidden:
            when, values = (np.concatenate(each) for each in zip(*hidden, strict=True))
            there = (abs(values) < LARGEST) & (when < LARGEST)
            timesteps, places = np.unique(when[there], return_inverse=True)
            means = np.bincount(places, values[there]) / np.bincount(places)
            if len(timesteps):
                yield network, Series(timesteps, means)


# -- a CSV file ----------------------------------------------------------------------------


def write_rows(file: Path, records: Iterable[Record]) -> None:
    """Write runs to a CSV file, a row each in the order of their names; OSError where it cannot be written."""
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(_row, sorted(records, key=key)))


def key(record: Record) -> tuple[str | int, ...]:
    """What a run is known by among others: two of one key would be the same run, made twice."""
    return (*(record.texts.get(name, "") for name in TEXTS), record.seed)


def _row(record: Record) -> dict[str, str]:
    numbers = {name: f"{record.numbers[name]:.6g}" for name in NUMBERS if name in record.numbers}
    whole = {"timesteps": f"{record.numbers['timesteps']:.0f}"} if "timesteps" in record.numbers else {}
    texts = {name: record.texts.get(name, "") for name in (*TEXTS, "git_revision")}
    return {**texts, "seed": str(record.seed), "status": record.status, **numbers, **whole}


def _rows_of(file: Path) -> Iterator[Record]:
    """The runs of a CSV file.

    Raises:
        NoRuns: it is not one of runs.
    """
    if file.is_symlink() or file.stat().st_size > MOST_TABLE_BYTES:
        raise NoRuns(f"{file} is a link or longer than {MOST_TABLE_BYTES} bytes, and is not read")
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            if missing := [column for column in COLUMNS if column not in (rows.fieldnames or ())]:
                raise NoRuns(f"{file} is no table of runs: it has no column {missing[0]!r}")
            for number, row in enumerate(rows, start=2):
                try:
                    yield _of_row(row, f"{file}:{number}")
                except (ValueError, TypeError) as error:
                    raise NoRuns(f"{file} is no table of runs from line {number} on: {error}") from None
    except (OSError, UnicodeError, csv.Error) as error:
        raise NoRuns(f"{file} cannot be read: {error}") from None


def _of_row(row: Mapping[str, str], place: str) -> Record:
    numbers = {name: float(row[name]) for name in NUMBERS if row[name]}
    settings = [in_short(each) for each in row["settings"].split()]
    if row["status"] not in STATUSES:
        raise ValueError(f"{row['status']!r} is no status ({', '.join(STATUSES)})")
    return Record(
        folder=place,
        texts={name: row[name] for name in (*TEXTS, "git_revision")}
        | {"settings": " ".join(settings), "critic_rule": _critic_rule(settings) or row["rule"]},
        seed=int(row["seed"]),
        status=row["status"],
        numbers={name: value for name, value in numbers.items() if abs(value) < LARGEST},
        from_folder=False,
    )


def _critic_rule(settings: Iterable[str]) -> str | None:
    """The rule that an override chose for the critic alone."""
    bare = (each.lstrip("+") for each in settings)
    return next((each.removeprefix(CRITIC_RULE) for each in bare if each.startswith(CRITIC_RULE)), None)


# -- data frames ---------------------------------------------------------------------------


def _library() -> Any:
    for name in FRAMES:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise ImportError("a data frame needs polars or pandas, and neither is installed: pip install polars")


def _run_columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "folder": [each.folder for each in records],
        **{name: [each.texts.get(name, "") for each in records] for name in (*TEXTS, *MORE_TEXTS, "git_revision")},
        "seed": [each.seed for each in records],
        "status": [each.status for each in records],
        **{name: [each.numbers.get(name) for each in records] for name in (*NUMBERS, *MORE_NUMBERS)},
    }
    for prefix, group in (("config", "config"), ("version", "versions")):
        names = sorted({name for each in records for name in getattr(each, group)})
        columns |= {f"{prefix}.{name}": _alike([getattr(each, group).get(name) for each in records]) for name in names}
    return columns


def _alike(values: list[Any]) -> list[Any]:
    """Values of one kind, as a column must be: true or false, numbers, or otherwise texts."""
    there = [each for each in values if each is not None]
    if all(isinstance(each, bool) for each in there):
        return values
    if all(isinstance(each, int | float) and not isinstance(each, bool) for each in there):
        return [None if each is None else float(each) for each in values]
    return [None if each is None else str(each) for each in values]


def _evaluation_columns(records: Sequence[Record]) -> dict[str, Any]:
    return {
        "folder": [each.folder for each in records for _ in each.curve.values],
        "timesteps": np.concatenate([np.empty(0), *(each.curve.timesteps for each in records)]).astype(np.int64),
        "return_mean": np.concatenate([np.empty(0), *(each.curve.values for each in records)]),
    }
