"""What a comparison shows: tables in a terminal, and with pictures on a page."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import attrgetter

import numpy as np

from bio_rl.analysis.comparison import BACKPROP, READOUT, Comparison, Contender, Task
from bio_rl.analysis.models import FindRule, shipped_rule
from bio_rl.analysis.process import course, likeness, multiply_accumulates_per_step, seconds_per_step
from bio_rl.analysis.records import NETWORKS, Record
from bio_rl.analysis.report import (
    Chart,
    Interval,
    Intervals,
    Line,
    Matrix,
    Picture,
    Report,
    Section,
    Table,
    figures,
)
from bio_rl.analysis.statistics import LEVEL, Estimate, Pair, band, profile
from bio_rl.analysis.svg import FEW_LINES

CONTROLS = (BACKPROP, READOUT)
SHARES = (0, 0.25, 0.5, 0.75, 1)
PROFILE = 100
"""Thresholds of a performance profile."""
MOST_VALUES = 4
"""Of a setting, that are named."""
MOST_LINES = 8
"""Of pairs that are not settled, beside a table of scores."""
SCORES = ("rule", "IQM", "95 % interval", "worst", "runs", "> backprop", "> readout", "credit", "above", "below")
ENDS = ("rule", "IQM", "95 % interval", "worst", "runs")
HELD = ("rule", "> backprop", "> readout")
CREDIT = ("rule", "credit", "above", "below")
WIDE = 130
"""Columns of a terminal that has room for all of ``SCORES``."""
NOTES = (
    ("IQM", "interquartile mean of the runs' returns, and its bootstrap interval over seeds"),
    ("> backprop", "probability that a run is better than one of backprop, and its interval"),
    ("credit", "(return − readout) / (backprop − readout), of IQMs, and its interval"),
    ("above, below", "how many others it differs from, the chance of any such claim being wrong held at 5 %"),
)


def summary(comparison: Comparison, width: int) -> Report:
    """What a terminal shows of so many columns: a narrow one has the table of scores in three."""
    last = comparison.tasks[-1]
    sections = [scores(task, "--html and --csv have all", NOTES if task is last else ()) for task in comparison.tasks]
    if width < WIDE:
        sections = [
            replace(each, tables=[part for table in each.tables for part in _parts(table)]) for each in sections
        ]
    sections += [replace(each, charts=()) for each in overall(comparison)]
    return Report(_title(comparison), list(facts(comparison)), sections, comparison.problems)


def _parts(table: Table) -> Iterator[Table]:
    """A table of scores as three, and any other as it is."""
    if table.header != SCORES:
        yield table
        return
    for names in (ENDS, HELD, CREDIT):
        places = [SCORES.index(name) for name in names]
        yield Table(
            names, [[row[place] for place in places] for row in table.rows], table.notes if names is CREDIT else ()
        )


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


def scores(task: Task, elsewhere: str, notes: Sequence[tuple[str, str]] = NOTES) -> Section:
    """The contenders of a task, the best first, and which pairs are not settled.

    Args:
        task: any.
        elsewhere: where those pairs are that are not among the first ``MOST_LINES``.
        notes: what the columns mean.
    """
    rows = [_row(each, task.pairs) for each in task.contenders]
    rows += [(each.name, *("–",) * 3, _runs(each), *("–",) * (len(SCORES) - 5)) for each in task.others]
    tables = [Table(SCORES, rows, notes, is_sortable=True)] if rows else []
    title = f"{task.name}, {figures(task.budget, 9)} timesteps"
    return Section(title, _sentence(task), (), [*tables, *_open_pairs(task.pairs, elsewhere)])


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


def _open_pairs(pairs: Sequence[Pair], elsewhere: str) -> Iterator[Table]:
    """What is not settled, the nearest to it first."""
    unsettled = [each for each in pairs if not each.is_settled]
    shown = sorted(unsettled, key=lambda each: (each.more_seeds is None, each.more_seeds or 0))[:MOST_LINES]
    if not shown:
        return
    rows = [
        (f"{each.one} and {each.other}", figures(each.difference), f"{each.p_value:.3f}", _more(each)) for each in shown
    ]
    left = len(unsettled) - len(shown)
    notes = [("", f"and {left} more; {elsewhere}")] if left else []
    yield Table(("not settled", "difference", "p", "what would settle it"), rows, notes, is_sortable=True)


def _more(pair: Pair) -> str:
    if pair.more_seeds is not None:
        return f"about {pair.more_seeds} more {'seed' if pair.more_seeds == 1 else 'seeds'} of each"
    return "nothing: equal runs" if pair.difference == 0 else "no number of seeds that anybody runs"


def overall(comparison: Comparison) -> Iterator[Section]:
    """The credit score over tasks, where there are several that tell."""
    if not comparison.overall:
        return
    rows = [(name, figures(each.value, 3), interval(each)) for name, each in comparison.overall.items()]
    intervals = [Interval(name, each.value, each.low, each.high) for name, each in comparison.overall.items()]
    text = (
        "The mean credit score over the tasks on which readout and backprop differ, of what was run on all of "
        f"them: 0 is the read-out alone, 1 is backprop. Intervals of {LEVEL:.0%} over seeds, drawn for each task."
    )
    credits_of_runs = {name: _credits_of_runs(comparison, name) for name in comparison.overall}
    together = np.concatenate([each for tasks in credits_of_runs.values() for each in tasks])
    thresholds = np.linspace(together.min(), together.max(), PROFILE)
    lines = [Line(name, thresholds, profile(tasks, thresholds)) for name, tasks in credits_of_runs.items()]
    pictures: list[Picture] = [
        Intervals("credit score over tasks", "credit score", intervals, (0, 1)),
        Chart("share of runs above, each task the same", "a run's credit", lines, SHARES, tells_last=False),
    ]
    table = Table(("rule", "credit score", "95 % interval"), rows, is_sortable=True)
    yield Section("Over all tasks that tell", text, pictures, [table])


def _credits_of_runs(comparison: Comparison, name: str) -> list[np.ndarray]:
    """Returns of a contender's runs on each task that tells, between those of the controls."""
    found = []
    for task in comparison.tasks:
        backprop, readout = (task.control(rule) for rule in CONTROLS)
        if task.discriminates and backprop is not None and readout is not None:
            own = next(each for each in task.contenders if each.name == name)
            found.append((own.returns - readout.score.value) / (backprop.score.value - readout.score.value))
    return found


# -- the page ------------------------------------------------------------------------------


def report(comparison: Comparison, find_rule: FindRule = shipped_rule, seed: int = 0) -> Report:
    """What a page shows.

    Args:
        comparison: of runs.
        find_rule: decides which rules may be made, to count what they cost and to see what they represent.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    shown = [section for task in comparison.tasks for section in _of_task(task, find_rule, rng)]
    sections = [*overall(comparison), *shown, _not_done(comparison), *_settings(comparison)]
    return Report(_title(comparison), list(facts(comparison)), sections, comparison.problems)


def _of_task(task: Task, find_rule: FindRule, rng: np.random.Generator) -> Iterator[Section]:
    yield scores(task, "all are below")
    if not task.contenders:
        return
    yield _curves(task, rng)
    yield _ends(task, rng)
    yield _credits(task)
    yield _efforts(task, find_rule, rng)
    yield _angles(task, rng)
    yield _likeness(task, find_rule)
    if task.pairs:
        yield _all_pairs(task)


def _curves(task: Task, rng: np.random.Generator) -> Section:
    title = f"{task.name}: learning curves"
    lines = list(_learning_curves(task, rng))
    if not lines:
        return Section(title, "None of these runs has recorded evaluations.")
    charts = [Chart("return", "timesteps", lines)]
    if len(lines) > FEW_LINES:
        controls = [replace(each, dashed=True, low=None, high=None) for each in lines if each.name in CONTROLS]
        charts += [
            Chart(each.name, "timesteps", [*_others(controls, each), replace(each, name="return")]) for each in lines
        ]
    text = (
        f"The interquartile mean over seeds of the return in each evaluation, and its {LEVEL:.0%} bootstrap interval, "
        "at the timesteps at which at least half of a rule's runs were evaluated. Where there are many rules a line's "
        "interval shows when one points at it, and each has its own picture, with backprop and readout dotted."
    )
    return Section(title, text, charts)


def _others(controls: Sequence[Line], line: Line) -> list[Line]:
    return [each for each in controls if each.name != line.name]


def _learning_curves(task: Task, rng: np.random.Generator) -> Iterator[Line]:
    for number, each in enumerate((*task.contenders, *task.others)):
        found = course([record.curve for record in each.records if record.status != "failed"], rng)
        if found is not None:
            yield Line(each.name, *found, colour=number)


def _ends(task: Task, rng: np.random.Generator) -> Section:
    rows = [
        Interval(each.name, each.score.value, each.score.low, each.score.high, each.returns.tolist())
        for each in task.contenders
    ]
    together = np.concatenate([each.returns for each in task.contenders])
    thresholds = np.linspace(together.min(), together.max(), PROFILE)
    lines = [
        Line(each.name, thresholds, *_profile(each, thresholds, rng), colour=number)
        for number, each in enumerate(task.contenders)
    ]
    text = (
        "Each run's return, the interquartile mean and its interval. Below, the performance profile: which share of a "
        "rule's runs returns more than so much, with its interval; a line that is above another everywhere is of the "
        "better rule."
    )
    profiles = Chart("share of runs above", "return", lines, SHARES, tells_last=False)
    pictures: list[Picture] = [Intervals("return", "return", rows)]
    return Section(
        f"{task.name}: returns at {figures(task.budget, 9)} timesteps",
        text,
        [*pictures, *([profiles] if len(np.unique(together)) > 1 else [])],
    )


def _profile(
    contender: Contender, thresholds: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The share of runs above each threshold, and its interval."""
    scores = [contender.returns]
    low, high = band(lambda drawn: profile(drawn, thresholds), rng, scores) or (None, None)
    return profile(scores, thresholds), low, high


def _credits(task: Task) -> Section:
    title = f"{task.name}: credit scores"
    rows = [
        Interval(each.name, each.credit.value, each.credit.low, each.credit.high)
        for each in task.contenders
        if each.credit is not None and np.isfinite(each.credit.value)
    ]
    if not rows:
        return Section(title, "None: see above what is missing, or that the task does not discriminate.")
    text = (
        "How much of what credit to hidden layers can bring a rule brings: (return − readout) / (backprop − readout), "
        "of interquartile means. 0 is what a network reaches whose hidden layers never learn, 1 is backprop."
    )
    return Section(title, text, [Intervals("credit score", "credit score", rows, (0, 1))])


def _efforts(task: Task, find_rule: FindRule, rng: np.random.Generator) -> Section:
    curves = {each.name: each for each in _learning_curves(task, rng)}
    contenders = [each for each in task.contenders if each.name in curves]
    seconds = {each.name: seconds_per_step(each) for each in contenders}
    arithmetic = {each.name: multiply_accumulates_per_step(each, find_rule) for each in contenders}
    charts = [
        Chart(title, x_name, lines, x_logarithmic=True)
        for title, x_name, factors in (
            ("return by wall time", "seconds", seconds),
            ("return by arithmetic", "multiply-accumulates", arithmetic),
        )
        if (lines := [_stretched(curves[name], factor) for name, factor in factors.items() if factor])
    ]
    text = (
        "The same curves over what learning took. Wall time is that of the machines the runs were made on, for runs "
        "made together each one's share, so that only like runs may be compared. Arithmetic is what a rule's updates "
        "multiply and add, counted, times the timesteps and the passes over them."
    )
    return Section(f"{task.name}: return by wall time and by arithmetic", text if charts else "Not recorded.", charts)


def _stretched(line: Line, factor: float) -> Line:
    return replace(line, x=line.x * factor)


def _angles(task: Task, rng: np.random.Generator) -> Section:
    title = f"{task.name}: updates beside backprop's"
    charts = []
    for network in NETWORKS:
        lines = [
            Line(each.name, *found, colour=number)
            for number, each in enumerate(task.contenders)
            if (found := course([record.angles[network] for record in each.records if network in record.angles], rng))
        ]
        if lines:
            charts.append(Chart(f"{network}: angle, degrees", "timesteps", lines, (0, 30, 60, 90)))
    text = (
        "The angle between a rule's update and the one that backprop makes of the same minibatch and weights, the mean "
        "over hidden layers and the interquartile mean over seeds: 0° is backprop, 90° nothing of it."
    )
    return Section(title, text if charts else "None of these runs has measured it, as with diagnostics=light.", charts)


def _likeness(task: Task, find_rule: FindRule) -> Section:
    title = f"{task.name}: representations"
    found = likeness(task, find_rule)
    if isinstance(found, str):
        return Section(title, found)
    text = (
        "How alike hidden layers are (debiased linear CKA, 1 the same and 0 unrelated) when shown the same "
        f"observations, of each rule the run whose return is nearest to {figures(found.target)}: similarity at returns "
        "that differ would say little."
    ) + (" The last is an untrained network." if "untrained" in found.names else "")
    rows = [
        (name, figures(value), "yes" if near else "no")
        for name, value, near in zip(found.names, found.returns, found.is_matched, strict=False)
    ]
    table = Table(("run of", "return", "matched"), rows, [("", each) for each in found.problems], is_sortable=True)
    return Section(title, text, [Matrix(name, found.names, each) for name, each in found.layers.items()], [table])


def _all_pairs(task: Task) -> Section:
    rows = [
        (
            each.one,
            each.other,
            figures(each.difference),
            f"{each.p_value:.4f}",
            "yes" if each.is_settled else _more(each),
        )
        for each in task.pairs
    ]
    text = (
        "Whether two rules' returns differ: permutation tests of all pairs, with the chance that any pair is wrongly "
        f"called different held at {1 - LEVEL:.0%}. What is not settled says how many seeds would, if the difference "
        "is as large as it looks."
    )
    table = Table(("higher", "lower", "difference of means", "p", "settled"), rows, is_sortable=True)
    return Section(f"{task.name}: all pairs", text, (), [table], is_appendix=True)


def _not_done(comparison: Comparison) -> Section:
    rows = [
        (task.name, each.name, str(record.seed), record.status, record.texts.get("error", ""), record.folder)
        for task in comparison.tasks
        for each in (*task.contenders, *task.others)
        for record in each.records
        if record.status != "done"
    ]
    header = ("task", "rule", "seed", "status", "error", "folder")
    if not rows:
        return Section("What is not done", "Every run is done.")
    return Section("What is not done", "", (), [Table(header, rows, is_sortable=True)])


def _settings(comparison: Comparison) -> Iterator[Section]:
    for task in comparison.tasks:
        names = {each.name: each.records for each in (*task.contenders, *task.others)}
        values = {name: _values(records) for name, records in names.items()}
        keys = sorted({key for each in values.values() for key in each})
        common = {key: _only({each.get(key) for each in values.values()}) for key in keys}
        shared = [(key, value) for key, value in common.items() if value is not None]
        own = [
            (name, " ".join(f"{key}={each[key]}" for key in keys if common[key] is None and key in each))
            for name, each in values.items()
        ]
        tables = [Table(("setting of all", "value"), shared)] if shared else []
        if any(text for _, text in own):
            tables.append(Table(("rule", "settings of its own"), own))
        if tables:
            yield Section(f"{task.name}: settings", "", (), tables, is_appendix=True)
    versions = Counter((name, value) for each in comparison.records for name, value in each.versions.items())
    versions.update(("revision", each.texts.get("git_revision") or "unknown") for each in comparison.records)
    rows = [(name, value, str(number)) for (name, value), number in sorted(versions.items())]
    yield Section("Versions", "", (), [Table(("of", "version", "runs"), rows, is_sortable=True)], is_appendix=True)


def _values(records: Sequence[Record]) -> dict[str, str]:
    """The settings of a contender's runs; several values stand beside one another."""
    found: dict[str, list[str]] = {}
    for record in records:
        for key, value in record.config.items():
            text = "null" if value is None else str(value)
            if key != "seed" and text not in found.setdefault(key, []):
                found[key].append(text)
    return {key: " | ".join(values[:MOST_VALUES]) for key, values in found.items()}


def _only(values: set[str | None]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None
