"""The published tables say what ``bio-rl compare`` makes of the published rows."""

from pathlib import Path

import pytest
from conftest import HERE

from bio_rl.analysis.records import read, write_rows
from bio_rl.cli.cost import NETWORK, costs
from bio_rl.cli.rules import properties
from bio_rl.rules import rule_names
from docs import figures

ROOT = HERE.parents[1]


@pytest.mark.parametrize("name", [*figures.TABLES, *figures.OTHERS])
def test_a_published_table_is_what_the_rows_make_of_it(name: str) -> None:
    page = figures.page_of(name).read_text(encoding="utf-8")
    assert figures.with_table(name, page) == page, "python -m docs.figures writes it anew"


@pytest.mark.parametrize("name", figures.TABLES)
def test_a_published_table_compares_many_rules(name: str) -> None:
    _, _, *rows = figures.rules_table(figures.TABLES[name]).splitlines()
    assert len(rows) > 10


@pytest.mark.parametrize("name", ["cartpole", "lunar_lander", "lunar_angles"])
def test_every_rule_has_one_row_in_a_published_table(name: str) -> None:
    _, _, *rows = figures.rules_table(figures.TABLES[name]).splitlines()
    shown = [row.split(" | ")[0].strip("| `") for row in rows]
    assert len(shown) == len(set(shown))
    assert {each for each in shown if " " not in each} == set(rule_names())


def test_the_rules_pages_have_the_figures_of_the_published_rows() -> None:
    tasks, found = figures.published(), costs(NETWORK, figures.BATCH)
    for facts in properties():
        page = (figures.PAGES / f"{facts['name']}.md").read_text(encoding="utf-8")
        _, mark, shown = page.partition(figures.MARK)
        assert mark
        assert shown == figures.block(facts, tasks, found), "python -m docs.figures writes them anew"


def test_the_published_rows_are_as_compare_writes_them(tmp_path: Path) -> None:
    rows = ROOT / "results" / "runs.csv"
    write_rows(tmp_path / "again.csv", read([rows]).records)
    assert (tmp_path / "again.csv").read_text() == rows.read_text()
