"""The published tables say what ``bio-rl compare`` makes of the published rows."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import HERE

from bio_rl.analysis.comparison import Contender, compare
from bio_rl.analysis.records import read, write_rows
from bio_rl.analysis.statistics import Estimate
from bio_rl.cli.cost import NETWORK, costs
from bio_rl.cli.rules import properties
from docs import rule_figures

ROOT = HERE.parents[1]
ANGLES = (("feedback_angle",), ("actor_angle_start", "actor_angle"), ("critic_angle_start", "critic_angle"))


@cache
def contenders(task: str, rows: str) -> dict[str, Contender]:
    tasks = compare(read([ROOT / "results" / rows])).tasks
    return {each.name: each for one in tasks if one.name == task for each in one.contenders}


def tables(page: str) -> Iterator[list[list[str]]]:
    """The cells of the page's tables that have a column ``IQM``, their headers first."""
    for lines in re.findall(r"(?:^\|.*\n)+", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines.splitlines()]
        if "IQM" in rows[0]:
            yield [rows[0], *rows[2:]]


def short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def in_words(score: Estimate) -> str:
    return f"{short(score.low)} to {short(score.high)}"


def angles(contender: Contender, columns: tuple[str, ...]) -> str:
    means = []
    for column in columns:
        known = [each.numbers[column] for each in contender.records if column in each.numbers]
        means += [f"{sum(known) / len(known):.0f}°"] if known else []
    return " → ".join(means)


@pytest.mark.parametrize(
    ("page", "number", "file", "task", "given"),
    [
        ("README.md", 0, "runs.csv", "cartpole, ppo", ""),
        ("README.md", 1, "runs.csv", "lunar_lander, ppo", "experiment=lunar_lander"),
        ("README.md", 2, "lunar_angles.csv", "lunar_lander, ppo", ""),
        ("results/README.md", 0, "runs.csv", "cartpole, ppo", ""),
    ],
)
def test_a_published_table_is_what_compare_makes_of_the_rows(
    page: str, number: int, file: str, task: str, given: str
) -> None:
    header, *rows = list(tables(page))[number]
    known = contenders(task, file)
    assert len(rows) > 10
    for row in rows:
        cells = dict(zip(header, row, strict=False))
        rule, *settings = cells["rule"].partition("`,")[0].strip("`").split(" ")
        name = " ".join(filter(None, [rule, given, *settings, cells.get("settings", "")]))
        own = known[name]
        expected = {
            "IQM": short(own.score.value),
            "95 % interval": in_words(own.score),
            "worst": short(float(own.returns.min())),
            "seeds": str(len(own.returns)),
            **dict(
                zip(
                    ("feedback", "update, actor", "update, critic"), (angles(own, each) for each in ANGLES), strict=True
                )
            ),
            "feedback angle": angles(own, ANGLES[0]),
        }
        assert {column: cells[column].strip("| ") for column in expected if column in cells} == {
            column: expected[column] for column in expected if column in cells
        }, name


def test_the_rules_pages_have_the_figures_of_the_published_rows() -> None:
    tasks, found = rule_figures.published(), costs(NETWORK, rule_figures.BATCH)
    for facts in properties():
        page = (rule_figures.PAGES / f"{facts['name']}.md").read_text(encoding="utf-8")
        _, mark, shown = page.partition(rule_figures.MARK)
        assert mark
        assert shown == rule_figures.block(facts, tasks, found), "python docs/rule_figures.py writes them anew"


def test_the_published_rows_are_as_compare_writes_them(tmp_path: Path) -> None:
    rows = ROOT / "results" / "runs.csv"
    write_rows(tmp_path / "again.csv", read([rows]).records)
    assert (tmp_path / "again.csv").read_text() == rows.read_text()
