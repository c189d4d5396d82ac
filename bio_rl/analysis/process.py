"""How rules got where they are: curves over seeds, what learning cost, and how alike what they learnt is."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bio_rl.analysis.comparison import BACKPROP, Contender, Task
from bio_rl.analysis.models import FindRule, Model
from bio_rl.analysis.records import Record
from bio_rl.analysis.representations import NotComparable, Subject, compare_representations
from bio_rl.analysis.runs import NoRun, Run, Series, Unreadable
from bio_rl.analysis.statistics import band, iqm
from bio_rl.diagnostics.cost import cost

MOST_ALIKE = 24
"""Contenders whose representations are compared: the work grows with the square of their number."""
MOST_PASSES = 10**6
"""Over the same timestep: what is more is no setting of ours."""
MATCHED = 0.1
"""Share of a task's range of returns within which runs count as of the same return."""


class Course(NamedTuple):
    """A number through time, of several runs.

    Attributes:
        x: ``(times,)``.
        y: the interquartile mean over runs, ``(times,)``.
        low, high: the interval of each; ``None`` for too few runs.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


class Likeness(NamedTuple):
    """How alike representations are, at returns as alike as there are.

    Attributes:
        names: the contenders, and last, if there is one, an untrained network: of backprop's run where it can be.
        returns: of the run of each contender that was taken.
        target: the return that was looked for.
        is_matched: whether a run's return is near the target.
        layers: the similarity (CKA) of each network's hidden layers, ``(names, names)``, by what it is of.
        problems: a line for what could not be compared.
    """

    names: list[str]
    returns: list[float]
    target: float
    is_matched: list[bool]
    layers: dict[str, np.ndarray]
    problems: list[str]


def course(series: Sequence[Series], rng: np.random.Generator) -> Course | None:
    """Runs through time, at the times that at least half of them have, of those runs that have all of these.

    Args:
        series: one of each run.
        rng: draws whole runs for the intervals.

    Returns:
        ``None`` where there is nothing.
    """
    own = [dict(zip(each.timesteps.tolist(), each.values.tolist(), strict=True)) for each in series if len(each.values)]
    times = sorted(
        time for time in {time for each in own for time in each} if 2 * sum(time in e for e in own) >= len(own)
    )
    whole = [each for each in own if all(time in each for time in times)]
    if not whole or not times:
        return None
    values = np.array([[each[time] for time in times] for each in whole])
    interval = band(_iqm_of_runs, rng, [values])
    low, high = interval or (None, None)
    return Course(np.array(times), _iqm_of_runs([values]), low, high)


def _iqm_of_runs(values: Sequence[np.ndarray]) -> np.ndarray:
    """``(..., runs, times)`` to ``(..., times)``."""
    return iqm([np.moveaxis(each, -2, -1) for each in values])


def seconds_per_step(contender: Contender) -> float | None:
    """The wall time of a timestep, the median over runs; of runs made together each has its share."""
    known = []
    for record in contender.records:
        seconds, timesteps = (record.numbers.get(name, 0) for name in ("wall_seconds", "timesteps"))
        if record.status == "done" and seconds > 0 and timesteps >= 1:
            known.append(seconds / max(1, record.numbers.get("members", 1)) / timesteps)
    return float(np.median(known)) if known else None


def multiply_accumulates_per_step(contender: Contender, find_rule: FindRule) -> float | None:
    """The arithmetic that learning from a timestep costs: of an update's sample, as often as it is learnt from.

    It is counted by the run, or if it did not, now, with the first model that can be read.
    """
    passes = next((each.config["agent.n_epochs"] for each in contender.records if "agent.n_epochs" in each.config), 1)
    known = (each.numbers.get("multiply_accumulates") for each in contender.records)
    count = next((each for each in known if each is not None), None)
    if count is None:
        count = _counted(contender.records, find_rule)
    if count is None or not isinstance(passes, int) or not 1 <= passes <= MOST_PASSES:
        return None
    return count * passes


def _counted(records: Sequence[Record], find_rule: FindRule) -> float | None:
    run = next((each for record in records if (each := _run(record)) and each.trained), None)
    if run is None or run.trained is None:
        return None
    try:
        networks = Model(run, run.trained, find_rule).networks
        return sum(cost(network).multiply_accumulates for network in networks.values())
    except (Unreadable, ValueError, ArithmeticError):
        return None


def _run(record: Record) -> Run | None:
    try:
        return Run(Path(record.folder)) if record.from_folder else None
    except NoRun:
        return None


def likeness(task: Task, find_rule: FindRule) -> Likeness | str:
    """How alike the hidden layers of a task's contenders are: of each the run whose return is nearest to a common one.

    Alike returns are wanted because similarity of what learnt well to what learnt badly would say little. The common
    one is the median of the contenders' scores.

    Returns:
        Or why nothing is compared, in a sentence.
    """
    contenders = task.contenders[:MOST_ALIKE]
    target = float(np.median([each.score.value for each in contenders])) if contenders else 0.0
    chosen = [(each, record, value) for each in contenders for record, value in _nearest(each, target)]
    runs = [(each.name, run, value) for each, record, value in chosen if (run := _run(record)) and run.probes]
    if len(runs) < 2:
        return "Fewer than two rules have runs with probes: diagnostics=light keeps them."
    try:
        rows, problems = compare_representations([run for _, run, _ in runs], find_rule)
    except NotComparable as error:
        return f"Nothing is compared: {error}."
    shown = {subject for row in rows for subject in (row.one, row.other)}
    began = sorted((runs[each.run][0] != BACKPROP, each) for each in shown if not each.trained)
    trained = [Subject(number, True) for number in range(len(runs)) if Subject(number, True) in shown]
    subjects = [*trained, *(each for _, each in began[:1])]
    places = {subject: place for place, subject in enumerate(subjects)}
    layers: dict[str, np.ndarray] = {}
    last = {network: max(row.layer for row in rows if row.network == network) for network in {r.network for r in rows}}
    for row in rows:
        one, other = places.get(row.one), places.get(row.other)
        if row.layer < last[row.network] and one is not None and other is not None:
            alike = layers.setdefault(f"{row.network}, layer {row.layer}", _alone(len(subjects)))
            alike[one, other] = alike[other, one] = row.cka
    scores = [each.score.value for each in contenders]
    near = MATCHED * (max(scores) - min(scores))
    returns = [runs[each.run][2] for each in trained]
    return Likeness(
        [*(runs[each.run][0] for each in trained), *("untrained" for _ in began[:1])],
        returns,
        target,
        [abs(value - target) <= near for value in returns],
        layers,
        problems,
    )


def _nearest(contender: Contender, target: float) -> list[tuple[Record, float]]:
    """The run whose return is nearest, if there is one that ended."""
    pairs = zip(contender.compared, contender.returns.tolist(), strict=True)
    ended = [(record, value) for record, value in pairs if record.status == "done" and record.from_folder]
    return sorted(ended, key=lambda pair: abs(pair[1] - target))[:1]


def _alone(count: int) -> np.ndarray:
    """Each like itself, and nothing known of two."""
    values = np.full((count, count), np.nan)
    np.fill_diagonal(values, 1)
    return values
