"""The tables and figures of README, results/ and the rules' pages: taken from the results and the code, never typed.

    python -m docs.figures

writes them anew: the end of each page in ``docs/rules/``, and the tables that stand under a mark in the other pages.
``tests/contract/test_results.py`` holds the pages to it.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import yaml

from benchmarks import controls, interface
from bio_rl.analysis.comparison import BACKPROP, READOUT, Contender, Task, compare
from bio_rl.analysis.records import read
from bio_rl.analysis.report import figures
from bio_rl.analysis.statistics import Estimate
from bio_rl.cli.cost import NETWORK, costs
from bio_rl.cli.rules import NEEDS, properties

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "rules"
TASKS_PAGE = ROOT / "docs" / "tasks.md"
ALL_RULES = ROOT / "conf" / "experiment" / "lunar_lander.yaml"
MARK = "<!-- What follows is written by docs/figures.py. -->\n"
TABLE_MARK = "<!-- {}: written by docs/figures.py -->\n"
TABLE = re.compile(r"(\|.*\n)*")
BATCH = 256
FEWEST_RULES = 5
"""A task with fewer is no comparison of rules."""
ANGLES = {
    "feedback": ("feedback_angle",),
    "update, actor": ("actor_angle_start", "actor_angle"),
    "update, critic": ("critic_angle_start", "critic_angle"),
}
"""Headings, and the columns of the results that stand under them, one through time."""
OUTCOME = ("IQM", "95 % interval", "worst", "seeds", "credit")
RATE = "optimizer.learning_rate=lin_"
PRESET = "rule.preset=prospective"
SHOWN = {"", PRESET, "rule.feedback=sampled"}
"""Settings of a rule that have a row: those that are shipped, and two others."""
LANDER = "experiment=lunar_lander"


class Published(NamedTuple):
    """A table of returns.

    Attributes:
        rows: the file in ``results/``.
        task: as ``bio-rl compare`` names it.
        columns: after the rule's.
        is_shown: whether a rule has a row, by all settings of its runs.
        unsaid: the setting that goes without saying.
        page: where it stands.
    """

    rows: str
    task: str
    columns: Sequence[str] = (*OUTCOME, *ANGLES)
    is_shown: Callable[[str], bool] = SHOWN.__contains__
    unsaid: str = ""
    page: Path = ROOT / "docs" / "findings.md"


TABLES = {
    "digit_sum": Published(
        "runs.csv",
        "digit_sum, ppo",
        is_shown={f"{RATE}{rate}{preset}" for rate in ("0.01", "0.003") for preset in ("", f" {PRESET}")}.__contains__,
        unsaid=f"{RATE}0.01",
        page=ROOT / "README.md",
    ),
    "digits": Published("runs.csv", "digits, ppo", page=TASKS_PAGE),
    "interface": Published(
        "runs.csv",
        "interface, ppo",
        is_shown=lambda settings: settings.startswith(RATE),
        unsaid=f"{RATE}0.01",
        page=TASKS_PAGE,
    ),
    "cartpole": Published("runs.csv", "cartpole, ppo"),
    "lunar_lander": Published(
        "runs.csv",
        "lunar_lander, ppo",
        is_shown={f"{LANDER} {each}".rstrip() for each in SHOWN}.__contains__,
        unsaid=LANDER,
    ),
    "lunar_angles": Published("lunar_angles.csv", "lunar_lander, ppo", columns=(*ANGLES, *OUTCOME)),
    "variants": Published(
        "runs.csv",
        "cartpole, ppo",
        is_shown=lambda settings: settings.startswith("rule.") and settings != PRESET,
        page=ROOT / "results" / "README.md",
    ),
}


def main() -> None:
    tasks, found = published(), costs(NETWORK, BATCH)
    for facts in properties():
        page = PAGES / f"{facts['name']}.md"
        text, _, _ = page.read_text(encoding="utf-8").partition(MARK)
        page.write_text(text + MARK + block(facts, tasks, found), encoding="utf-8")
    for name in (*TABLES, *OTHERS):
        page = page_of(name)
        page.write_text(with_table(name, page.read_text(encoding="utf-8")), encoding="utf-8")


# -- the tables of all rules ---------------------------------------------------------------


def with_table(name: str, text: str) -> str:
    """A page's text with the table of that name as the rows have it.

    Raises:
        ValueError: the page has not the table's mark.
    """
    mark = TABLE_MARK.format(name) + "\n"
    before, found, after = text.partition(mark)
    if not found:
        raise ValueError(f"{page_of(name)} has no line {mark.strip()!r} with an empty line below it")
    rows = OTHERS[name]() if name in OTHERS else rules_table(TABLES[name])
    return before + mark + rows + "\n\n" + TABLE.sub("", after, count=1).lstrip("\n")


def page_of(name: str) -> Path:
    """Where the table of that name stands."""
    return TASKS_PAGE if name in OTHERS else TABLES[name].page


def controls_table() -> str:
    """Which network needs credit, of the tasks whose runs are whole."""
    returns = controls.read(ROOT / "benchmarks" / "controls.csv")
    whole = [task for task in controls.TASKS if controls.is_whole(returns, task, controls.SEEDS)]
    return "\n".join(controls.markdown(returns, whole, controls.SEEDS))


def interface_table() -> str:
    """What an experimenter would measure of each rule."""
    return "\n".join(interface.markdown(interface.read(ROOT / "benchmarks" / "interface.csv")))


OTHERS: dict[str, Callable[[], str]] = {"controls": controls_table, "interface_measures": interface_table}
"""Tables of other programs' rows, all on the page of the tasks."""


def rules_table(wanted: Published) -> str:
    """A row for each rule with its shipped settings, and for each variant that is shown."""
    contenders = sorted(shown(wanted).items(), key=lambda each: (families().index(each[1].rule), each[0]))
    rows = [(f"`{name}`", row_of(contender)) for name, contender in contenders]
    return table(["rule", *wanted.columns], [[name, *(row[column] for column in wanted.columns)] for name, row in rows])


def shown(wanted: Published) -> dict[str, Contender]:
    """What has a row in a table, by the name that it has there."""
    return {
        " ".join(word for word in contender.name.split() if word != wanted.unsaid): contender
        for contender in task_of(wanted).contenders
        if wanted.is_shown(contender.name.partition(" ")[2])
    }


def task_of(wanted: Published) -> Task:
    """The comparison that a table is taken from."""
    return next(each for each in compared(wanted.rows) if each.name == wanted.task)


@cache
def compared(rows: str) -> Sequence[Task]:
    return compare(read([ROOT / "results" / rows])).tasks


@cache
def families() -> list[str]:
    """All rules, family by family, as the experiment that has them all names them."""
    config = yaml.safe_load(ALL_RULES.read_text(encoding="utf-8"))
    return config["hydra"]["sweeper"]["params"]["rule"].split(",")


# -- a rule's page -------------------------------------------------------------------------


def published() -> list[Task]:
    """The published comparisons of rules."""
    return [task for task in compared("runs.csv") if len({each.rule for each in task.contenders}) >= FEWEST_RULES]


def block(facts: dict, tasks: Sequence[Task], found: dict[str, dict]) -> str:
    """A page's figures: what the rule needs, what it reached, what it costs.

    Args:
        facts: of the rule, as ``bio_rl.cli.rules.properties`` gives them.
        tasks: as ``published`` gives them.
        found: as ``bio_rl.cli.cost.costs`` gives them.
    """
    name = facts["name"]
    parts = ["## Figures", needs(facts), *returns(name, tasks), *strength(name), cost(found[name], found[BACKPROP])]
    return "\n" + "\n\n".join(parts) + "\n"


def needs(facts: dict) -> str:
    words = [
        f"{words} ({facts[key]})" if isinstance(facts[key], str) else words
        for key, words in NEEDS.items()
        if facts[key]
    ]
    limit = f" At the small nudge that is shipped its update takes the direction of `{facts['limit']}`."
    return (
        f"**What a brain may lack and it needs** (`bio-rl rules`; `bio-rl audit {facts['name']}` measures it): "
        f"{', '.join(words) or 'nothing on the list'}.{limit if facts['limit'] else ''}"
    )


def returns(name: str, tasks: Sequence[Task]) -> Iterator[str]:
    shown = [(task, rows) for task in tasks if (rows := rows_of(name, task))]
    if not shown:
        return
    yield (
        "**Returns** ([raw rows](../../results/runs.csv), [commands](../../results/README.md), "
        "[what the columns mean](../compare.md)), the mean angle of feedback to the forward weights, and that of "
        "hidden layers' updates to backprop's at the start → after training:"
    )
    for task, rows in shown:
        yield table([task.name, *OUTCOME, *ANGLES], rows)


def rows_of(name: str, task: Task) -> list[list[str]]:
    """A row for each form of the rule on a task, and for the controls beside it; none without the rule."""
    own = [each for each in task.contenders if each.rule == name]
    controls = [task.control(each) for each in (BACKPROP, READOUT) if own and each != name]
    return [[f"`{each.name}`", *row_of(each).values()] for each in (*own, *filter(None, controls))]


def row_of(contender: Contender) -> dict[str, str]:
    """What is said of a rule on a task, by the columns' headings."""
    credit = "" if contender.credit is None else f"{contender.credit.value:.2f}"
    outcome = (
        figures(contender.score.value, 3),
        between(contender.score),
        figures(float(contender.returns.min()), 3),
        str(len(contender.returns)),
        credit,
    )
    process = {heading: angle(contender, columns) for heading, columns in ANGLES.items()}
    return {**dict(zip(OUTCOME, outcome, strict=True)), **process}


def between(score: Estimate) -> str:
    words = f"{figures(score.low, 3)} to {figures(score.high, 3)}" if score.interval else ""
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def angle(contender: Contender, columns: Iterable[str]) -> str:
    known = ([each.numbers[column] for each in contender.records if column in each.numbers] for column in columns)
    return " → ".join(f"{fmean(values):.0f}°" for values in known if values)


def strength(name: str) -> Iterator[str]:
    """What a preset's nudge makes of the rule."""
    with (ROOT / "benchmarks" / "nudge.csv").open(encoding="utf-8", newline="") as file:
        own = [row for row in csv.DictReader(file) if row["rule"] == name]
    presets = {preset: [row for row in own if row["nudge"] == preset] for preset in ("limit", "prospective")}
    if not all(presets.values()):
        return
    yield (
        "**The strength of the nudge**, CartPole by PPO, 50 k steps "
        "([all strengths](../../benchmarks/README.md#what-the-strength-of-the-nudge-makes-of-a-rule)):"
    )
    columns = {"return": "{:.0f}", "actor_angle": "{:.0f}°", "critic_angle": "{:.0f}°"}
    yield table(
        ["`rule.preset`", "seeds", "mean return", "actor's angle", "critic's angle"],
        [
            [
                f"`{preset}`",
                str(len(rows)),
                *(form.format(fmean(float(row[key]) for row in rows)) for key, form in columns.items()),
            ]
            for preset, rows in presets.items()
        ],
    )


def cost(own: dict, exact: dict) -> str:
    ratio = own["multiply_accumulates"] / exact["multiply_accumulates"]
    return (
        f"**Cost** of an update of a {'-'.join(map(str, NETWORK))} network (`bio-rl rules --cost`): "
        f"{ratio:.2g} times backprop's multiply-accumulates; signals cross {own['sweeps']:.3g} synapses one after "
        f"another for each layer (backprop: {exact['sweeps']:.3g}); "
        f"{own['rule_floats']:,.0f} numbers are kept from update to update."
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of the columns that say something."""
    columns = [column for column in zip(header, *rows, strict=True) if any(column[1:])]
    header, *rows = zip(*columns, strict=True)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
