"""Which rules learn a task, how far apart they are, and whether that can be told from chance.

From runs to numbers; ``comparison_page`` shows them. A *contender* is a rule with its settings, on one task, and its
runs are its seeds.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from bio_rl.analysis.records import Record, Records
from bio_rl.analysis.report import figures
from bio_rl.analysis.statistics import (
    LEAST_RUNS,
    Estimate,
    Pair,
    compare_pairs,
    credit_score,
    estimate,
    iqm,
    probability_of_improvement,
)
from bio_rl.names import is_within

BACKPROP, READOUT = "backprop", "readout"
TASK = ("env.id", "env.kwargs", "env.evaluation_kwargs", "env.extra", "env.wrapper", "env.max_episode_steps")
"""Settings that make it another task."""
IDLE = (
    "study",
    "seed",
    "members",
    "device",
    "torch_threads",
    "overwrite",
    "resume",
    "retry",
    "tuning",
    "env.name",
    "env.time_limit",
    "env.vec",
    "logging",
    "diagnostics",
    "evaluation.interval",
    "evaluation.checkpoints",
)
"""Settings that change nothing of what is learnt, or are told elsewhere. Those below them are as idle."""
ROUNDING = 0.01
"""Share of a budget by which one rounded to whole rollouts may differ from it."""
MOST_NAMED = 3
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Contender:
    """A rule with its settings, on a task.

    Attributes:
        name: the rule's, and those settings in which it differs from other runs of the task.
        rule: its name alone.
        records: a run for each seed, whatever became of it.
        compared: those whose returns are compared.
        returns: ``(runs,)``, theirs.
        score: the interquartile mean.
        over_backprop, over_readout: probability of improvement; ``None`` where there is none, or of itself.
        credit: credit score; ``None`` where the task has not both controls, or does not tell them apart.
    """

    name: str
    rule: str
    records: Sequence[Record]
    compared: Sequence[Record] = ()
    returns: np.ndarray = field(default_factory=lambda: np.empty(0))
    score: Estimate = field(default=Estimate(float("nan")))
    over_backprop: Estimate | None = None
    over_readout: Estimate | None = None
    credit: Estimate | None = None

    @property
    def has_one_rule(self) -> bool:
        """Whether actor and critic learn by the same rule."""
        return all(each.texts.get("critic_rule", "") in ("", self.rule) for each in self.records)

    def has_rules(self, actor: str, critic: str) -> bool:
        """Whether the actor learns by the one rule and the critic by the other."""
        return self.rule == actor and all(each.texts.get("critic_rule", "") == critic for each in self.records)

    def count(self, status: str) -> int:
        return sum(each.status == status for each in self.records)


@dataclass(frozen=True)
class Task:
    """The contenders of a task, the best first.

    Attributes:
        name: environment and agent.
        contenders: those of which runs can be compared.
        others: the rest, and why not.
        pairs: of all contenders, see ``compare_pairs``.
        budget: timesteps at which returns are compared.
        discriminates: whether the intervals of readout and backprop lie apart; ``None`` where that cannot be said.
        notes: what a reader must know, a line each.
    """

    name: str
    contenders: Sequence[Contender]
    others: Sequence[Contender]
    pairs: Sequence[Pair]
    budget: float
    discriminates: bool | None
    notes: Sequence[str]

    def control(self, rule: str) -> Contender | None:
        """The contender that the others are held against: of several, the best."""
        return _control(self.contenders, rule)


@dataclass(frozen=True)
class Comparison:
    """All tasks, and what could not be read or should be known of all runs, a line each.

    Attributes:
        overall: the credit score over all tasks that tell backprop from readout, of each contender by name that
            was run on all of them; empty for fewer than two such tasks.
    """

    tasks: Sequence[Task]
    records: Sequence[Record]
    problems: Sequence[str]
    overall: Mapping[str, Estimate]


def compare(read: Records, seed: int = 0) -> Comparison:
    """Compare runs.

    Args:
        read: runs of any number of tasks and rules.
        seed: of the bootstrap and of permutations: the same numbers come again, whatever else is compared.
    """
    records, problems = _without_repetitions(read.records)
    groups = _grouped(records, _task_names(records))
    tasks = [_task(name, own, seed) for name, own in sorted(groups.items())]
    problems = [*_of_versions(records), *problems, *read.problems]
    return Comparison(tasks, records, problems, _overall(tasks, seed))


def _generator(seed: int, *names: str) -> np.random.Generator:
    """What is drawn about somebody, so that the runs of others change no interval."""
    return np.random.default_rng([seed, *"\0".join(names).encode()])


# -- which runs belong together ------------------------------------------------------------


def _without_repetitions(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Each run once: of a seed that was run twice in the same way, one that is done, else the first."""
    groups: dict[Hashable, list[list[Record]]] = defaultdict(list)
    for record in records:
        texts = tuple(record.texts.get(name, "") for name in ("env", "agent", "rule"))
        alike = groups[texts, _tokens(record), record.seed]
        same = next((group for group in alike if not _differing([*group, record], IDLE)), None)
        if same is None:
            alike.append([record])
        else:
            same.append(record)
    found = [group for alike in groups.values() for group in alike]
    kept = [next((each for each in group if each.status == "done"), group[0]) for group in found]
    twice = [group for group in found if len(group) > 1]
    if not twice:
        return kept, []
    count = _count(sum(map(len, twice)) - len(twice), "run repeats", "runs repeat")
    example = f"{twice[0][1].folder} repeats {twice[0][0].folder}"
    return kept, [f"{count} another of the same settings and seed and counts once, as {example}"]


def _task_names(records: Sequence[Record]) -> list[str]:
    """Each run's task: environment and agent, and what of the environment differs between runs of the same name."""
    groups: dict[str, list[Record]] = defaultdict(list)
    names = [f"{each.texts['env']}, {each.texts['agent']}" for each in records]
    for name, record in zip(names, records, strict=True):
        groups[name].append(record)
    differing = {
        name: [key for key in _differing(group, IDLE) if is_within(key, TASK)] for name, group in groups.items()
    }
    return [
        " ".join([name, *_settings(record.config, differing[name])])
        for name, record in zip(names, records, strict=True)
    ]


def _contenders(records: Sequence[Record]) -> list[Contender]:
    """Runs of one task by rule and settings."""
    shared = frozenset.intersection(*map(_tokens, records))
    groups = _grouped(records, [(each.texts["rule"], _tokens(each) - shared) for each in records])
    found: dict[str, list[Record]] = defaultdict(list)
    rules: dict[str, str] = {}
    for (rule, tokens), group in groups.items():
        keys = _differing(group, (*IDLE, *TASK))
        for record in group:
            name = " ".join([rule, *sorted(tokens), *_settings(record.config, keys)])
            found[name].append(record)
            rules[name] = rule
    return [Contender(name, rules[name], sorted(group, key=lambda each: each.seed)) for name, group in found.items()]


def _tokens(record: Record) -> frozenset[str]:
    """The overrides that change what is learnt."""
    tokens = record.texts.get("settings", "").split()
    return frozenset(each for each in tokens if not is_within(each.lstrip("+").partition("=")[0], IDLE))


def _differing(records: Iterable[Record], besides: Sequence[str]) -> list[str]:
    """Names of settings that have several values; what a run does not know, as one of an older version, is none."""
    values: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for key, value in record.config.items():
            values[key].add(str(value))
    return sorted(key for key, own in values.items() if len(own) > 1 and not is_within(key, besides))


def _settings(config: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    return [f"{key}={config[key]}".replace(" ", "") for key in keys if key in config]


def _grouped(records: Iterable[Record], keys: Iterable[Key]) -> dict[Key, list[Record]]:
    groups: dict[Key, list[Record]] = defaultdict(list)
    for record, key in zip(records, keys, strict=True):
        groups[key].append(record)
    return groups


# -- one task ------------------------------------------------------------------------------


def _task(name: str, records: Sequence[Record], seed: int) -> Task:
    found = _contenders(records)
    budget, notes = _budget([each for each in records if _ended(each)])
    floor = _floor(records, budget)
    measured = [_measured(each, budget, floor, _generator(seed, name, each.name)) for each in found]
    contenders = sorted((each for each in measured if len(each.returns)), key=lambda each: -each.score.value)
    others = [each for each in measured if not len(each.returns)]
    backprop, readout = (_control(contenders, rule) for rule in (BACKPROP, READOUT))
    discriminates = _discriminates(backprop, readout)
    contenders = [
        _held_against(each, backprop, readout, bool(discriminates), _generator(seed, name, each.name, "controls"))
        for each in contenders
    ]
    pairs = compare_pairs({each.name: each.returns for each in contenders}, _generator(seed, name))
    notes = [*notes, *_notes(measured, backprop, readout, discriminates, floor)]
    return Task(name, contenders, others, pairs, budget, discriminates, notes)


def _ended(record: Record) -> bool:
    return record.status == "done" and "return_mean" in record.numbers


def _asked(record: Record) -> float:
    """The timesteps that a run was given."""
    return record.numbers.get("timesteps_requested", record.numbers.get("timesteps", 0))


def _budget(records: Sequence[Record]) -> tuple[float, list[str]]:
    """The timesteps at which runs are compared, the greatest that all have, and a line if they were given different."""
    if not records:
        return 0, []
    budgets = sorted({_asked(each) for each in records})
    common, last = budgets[0], float("inf")
    while common < last * (1 - ROUNDING):
        last = common
        common = min((when for each in records if (when := _last_evaluation(each, last)) is not None), default=0.0)
    if len(budgets) == 1 or budgets[-1] <= budgets[0] * (1 + ROUNDING):
        return budgets[0], []
    told = " and ".join([", ".join(figures(each, 9) for each in budgets[:-1]), figures(budgets[-1], 9)])
    note = f"runs of different budgets ({told} timesteps) are compared at {figures(common, 9)}, which all have"
    missing = sum(_return_at(each, common) is None for each in records)
    more = f", without {_count(missing, 'run', 'runs')} not evaluated there" if missing else ""
    return common, [note + more]


def _last_evaluation(record: Record, until: float) -> float | None:
    """When a run was last evaluated up to a time, or ended; ``None`` if never."""
    if _asked(record) <= until * (1 + ROUNDING):
        return _asked(record)
    times = record.curve.timesteps[record.curve.timesteps <= until * (1 + ROUNDING)]
    return float(times.max()) if len(times) else None


def _return_at(record: Record, budget: float) -> float | None:
    """A run's return after so many timesteps: at its end if that is then, else of its last evaluation before."""
    if abs(_asked(record) - budget) <= ROUNDING * budget:
        return record.numbers["return_mean"]
    times = np.flatnonzero(record.curve.timesteps <= budget * (1 + ROUNDING))
    return float(record.curve.values[times[-1]]) if len(times) else None


def _floor(records: Sequence[Record], budget: float) -> float | None:
    """The worst return of a task, untrained or trained: what a run that diverged counts as."""
    ends = [_return_at(each, budget) for each in records if _ended(each)]
    starts = [each.numbers.get("untrained_return_mean") for each in records]
    return min((each for each in (*ends, *starts) if each is not None), default=None)


def _measured(contender: Contender, budget: float, floor: float | None, rng: np.random.Generator) -> Contender:
    pairs = [(each, _counted(each, budget, floor)) for each in contender.records]
    compared = [(record, value) for record, value in pairs if value is not None]
    if not compared or not any(_ended(record) for record, _ in compared):
        return contender
    returns = np.array([value for _, value in compared])
    score = estimate(iqm, rng, [returns])
    return replace(contender, compared=[record for record, _ in compared], returns=returns, score=score)


def _counted(record: Record, budget: float, floor: float | None) -> float | None:
    if record.status == "diverged":
        return floor
    return _return_at(record, budget) if _ended(record) else None


def _control(contenders: Iterable[Contender], rule: str) -> Contender | None:
    own = [each for each in contenders if each.rule == rule and each.has_one_rule]
    return max(own, key=lambda each: each.score.value, default=None)


def _discriminates(backprop: Contender | None, readout: Contender | None) -> bool | None:
    if backprop is None or readout is None or None in (backprop.score.interval, readout.score.interval):
        return None
    return backprop.score.low > readout.score.high


def _held_against(
    contender: Contender,
    backprop: Contender | None,
    readout: Contender | None,
    discriminates: bool,
    rng: np.random.Generator,
) -> Contender:
    """A contender with what the controls say of it."""

    def improvement(control: Contender | None) -> Estimate | None:
        if control is None or control.name == contender.name:
            return None
        return estimate(_improvement, rng, [contender.returns], [control.returns])

    credit = None
    if discriminates and backprop is not None and readout is not None:
        credit = _credit([contender], [backprop], [readout], rng)
    return replace(contender, over_backprop=improvement(backprop), over_readout=improvement(readout), credit=credit)


def _improvement(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
    return probability_of_improvement(one[0], other[0])


def _credit(
    contenders: Sequence[Contender],
    backprop: Sequence[Contender],
    readout: Sequence[Contender],
    rng: np.random.Generator,
) -> Estimate:
    """The credit score of contenders, one a task, each beside its task's controls: the mean over tasks.

    A control is resampled once, where it is the contender itself too: its score is certain.
    """
    names = [[each.name for each in group] for group in (backprop, readout)]
    own = [each.name for each in contenders]
    if own in names:
        return Estimate(float(own == names[0]), (float(own == names[0]),) * 2)

    def mean_score(*scores: Sequence[np.ndarray]) -> np.ndarray:
        return np.mean([credit_score([a], [b], [c]) for a, b, c in zip(*scores, strict=True)], axis=0)

    groups = ([each.returns for each in group] for group in (contenders, backprop, readout))
    return estimate(mean_score, rng, *groups)


# -- all tasks -----------------------------------------------------------------------------


def _overall(tasks: Sequence[Task], seed: int) -> dict[str, Estimate]:
    telling = [each for each in tasks if each.discriminates]
    if len(telling) < 2:
        return {}
    controls = [[task.control(rule) for task in telling] for rule in (BACKPROP, READOUT)]
    backprop, readout = ([each for each in group if each is not None] for group in controls)
    by_name = [{each.name: each for each in task.contenders} for task in telling]
    names = [name for name in by_name[0] if all(name in each for each in by_name)]
    found = {
        name: _credit([each[name] for each in by_name], backprop, readout, _generator(seed, "", name)) for name in names
    }
    return dict(sorted(found.items(), key=lambda pair: -pair[1].value))


# -- what a reader must know ---------------------------------------------------------------


def _notes(
    contenders: Sequence[Contender],
    backprop: Contender | None,
    readout: Contender | None,
    discriminates: bool | None,
    floor: float | None,
) -> Iterator[str]:
    few = [each for each in contenders if 0 < len(each.returns) < LEAST_RUNS]
    if few:
        yield f"fewer than {LEAST_RUNS} seeds, and so no interval: {_named(few)}"
    if discriminates is False:
        yield "does not discriminate: the intervals of readout and backprop overlap, so no credit score is given"
    if discriminates and backprop is not None:
        yield from _needs(contenders, backprop)
    missing = [name for name, there in ((BACKPROP, backprop), (READOUT, readout)) if there is None]
    if missing:
        yield f"no credit score: there are no runs of {' and of '.join(missing)} to hold the others against"
    elif discriminates is None:
        yield f"no credit score: readout or backprop has fewer than {LEAST_RUNS} seeds"
    if diverged := [each for each in contenders if each.count("diverged")]:
        yield f"what diverged counts as the task's worst return, {figures(floor)}: {_named(diverged, 'diverged')}"
    for status, words in (
        ("running", "still running, and not compared"),
        ("failed", "failed, and not compared"),
        ("interrupted", "interrupted, and not compared"),
    ):
        if own := [each for each in contenders if each.count(status)]:
            yield f"{words}: {_named(own, status)}"


def _needs(contenders: Sequence[Contender], backprop: Contender) -> Iterator[str]:
    """In which network hidden layers must learn, by the controls that are the read-out in one network alone."""
    for network, rules in (("actor", (READOUT, BACKPROP)), ("critic", (BACKPROP, READOUT))):
        own = [each for each in contenders if each.has_rules(*rules) and each.score.interval is not None]
        if own:
            control = max(own, key=lambda each: each.score.value)
            verdict = "needs" if control.score.high < backprop.score.low else "is not shown to need"
            low, high = figures(control.score.low), figures(control.score.high)
            yield f"the {network} {verdict} hidden credit: with readout in it alone the IQM is within {low} to {high}"


def _named(contenders: Sequence[Contender], status: str = "") -> str:
    counts = [f"{each.count(status)} of " if status else "" for each in contenders]
    names = [count + each.name for count, each in zip(counts, contenders, strict=True)]
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _of_versions(records: Sequence[Record]) -> Iterator[str]:
    """Lines of what differs between runs that should not."""
    for name in ("bio-rl", "torch"):
        found = Counter(each.versions[name] for each in records if name in each.versions)
        if len(found) > 1:
            yield f"mixed versions of {name}: {_counted_texts(found)}"
    revisions = Counter(each.texts.get("git_revision", "")[:10] for each in records)
    if len(revisions) > 1:
        yield f"mixed revisions of the code: {_counted_texts(revisions)}"


def _counted_texts(counts: Counter[str]) -> str:
    common = [f"{text or 'unknown'} ({_count(number, 'run', 'runs')})" for text, number in counts.most_common(4)]
    return ", ".join(common) + (", ..." if len(counts) > 4 else "")


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
