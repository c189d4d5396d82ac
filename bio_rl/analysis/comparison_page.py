"""What a comparison shows: tables in a terminal, and with pictures on a page."""

from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter

from bio_rl.analysis.comparison import Comparison, Contender, Task
from bio_rl.analysis.report import Report, Section, Table, figures
from bio_rl.analysis.statistics import LEVEL, Estimate, Pair

MOST_LINES = 8
"""Of pairs that are not settled, in a terminal."""
SCORES = ("rule", "IQM", "95 % interval", "worst", "runs", "> backprop", "> readout", "credit", "above", "below")
NOTES = (
    ("IQM", "interquartile mean of the runs' returns, and its bootstrap interval over seeds"),
    ("> backprop", "probability that a run is better than one of backprop, and its interval"),
    ("credit", "(return − readout) / (backprop − readout), of IQMs, and its interval"),
    ("above, below", "how many others it differs from, the chance of any such claim being wrong held at 5 %"),
)


def summary(comparison: Comparison) -> Report:
    """What a terminal shows."""
    last = comparison.tasks[-1]
    sections = [scores(task, MOST_LINES, NOTES if task is last else ()) for task in comparison.tasks]
    return Report(_title(comparison), list(facts(comparison)), [*sections, *overall(comparison)], comparison.problems)


def _title(comparison: Comparison) -> str:
    names = sorted({each.rule for task in comparison.tasks for each in (*task.contenders, *task.others)})
    tasks = "one task" if len(comparison.tasks) == 1 else f"{len(comparison.tasks)} tasks"
    return f"{names[0]} on {tasks}" if len(names) == 1 else f"{len(names)} rules on {tasks}"


def facts(comparison: Comparison) -> Iterator[tuple[str, str]]:
    statuses = Counter(each.status for each in comparison.records)
    yield "runs", ", ".join(f"{number} {status}" for status, number in statuses.most_common())
    versions = Counter(each.versions.get("bio-rl") for each in comparison.records if each.versions)
    if versions:
        yield "bio-rl", ", ".join(sorted(map(str, versions)))


def scores(task: Task, most: int | None = None, notes: Sequence[tuple[str, str]] = NOTES) -> Section:
    """The contenders of a task, the best first, and which pairs are not settled.

    Args:
        task: any.
        most: lines of the second; ``None`` for all.
        notes: what the columns mean.
    """
    rows = [_row(each, task.pairs) for each in task.contenders]
    rows += [(each.name, *("–",) * 3, _runs(each), *("–",) * (len(SCORES) - 5)) for each in task.others]
    tables = [Table(SCORES, rows, notes)] if rows else []
    title = f"{task.name}, {figures(task.budget, 9)} timesteps"
    return Section(title, _sentence(task), (), [*tables, *_open_pairs(task.pairs, most)])


def _sentence(task: Task) -> str:
    settled = sum(each.is_settled for each in task.pairs)
    told = f"{settled} of {len(task.pairs)} pairs differ" if task.pairs else "Nothing to compare with"
    return ". ".join([told, *(note[0].upper() + note[1:] for note in task.notes)]) + "."


def _row(contender: Contender, pairs: Sequence[Pair]) -> tuple[str, ...]:
    above, below = (
        sum(each.is_settled and name(each) == contender.name for each in pairs)
        for name in (attrgetter("one"), attrgetter("other"))
    )
    return (
        contender.name,
        figures(contender.score.value),
        interval(contender.score),
        figures(float(contender.returns.min())),
        _runs(contender),
        share(contender.over_backprop),
        share(contender.over_readout),
        share(contender.credit),
        str(above),
        str(below),
    )


def _runs(contender: Contender) -> str:
    count, all_runs = len(contender.returns), len(contender.records)
    return str(count) if count == all_runs else f"{count} of {all_runs}"


def interval(estimate: Estimate) -> str:
    """An interval in words; a dash for none."""
    return "–" if estimate.interval is None else " to ".join(map(figures, estimate.interval))


def share(estimate: Estimate | None) -> str:
    """A share with its interval, two decimals each; a dash for none."""
    if estimate is None:
        return "–"
    if estimate.interval is None or estimate.low == estimate.high:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _open_pairs(pairs: Sequence[Pair], most: int | None) -> Iterator[Table]:
    """What is not settled, the nearest to it first."""
    unsettled = [each for each in pairs if not each.is_settled]
    shown = sorted(unsettled, key=lambda each: (each.more_seeds is None, each.more_seeds or 0))[:most]
    if not shown:
        return
    rows = [
        (f"{each.one} and {each.other}", figures(each.difference), f"{each.p_value:.2f}", _more(each)) for each in shown
    ]
    left = len(unsettled) - len(shown)
    notes = [("", f"and {left} more; all are on the page that --html writes")] if left else []
    yield Table(("not settled", "difference", "p", "what would settle it"), rows, notes)


def _more(pair: Pair) -> str:
    if pair.more_seeds is not None:
        return f"about {pair.more_seeds} more {'seed' if pair.more_seeds == 1 else 'seeds'} of each"
    return "nothing: equal runs" if pair.difference == 0 else "no number of seeds that anybody runs"


def overall(comparison: Comparison) -> Iterator[Section]:
    """The credit score over tasks, where there are several that tell."""
    if comparison.overall:
        rows = [(name, figures(each.value, 3), interval(each)) for name, each in comparison.overall.items()]
        text = (
            "The mean credit score over the tasks on which readout and backprop differ, of what was run on all of "
            f"them: 0 is the read-out alone, 1 is backprop. Intervals of {LEVEL:.0%} over seeds, drawn for each task."
        )
        yield Section("Over all tasks that tell", text, (), [Table(("rule", "credit score", "95 % interval"), rows)])
