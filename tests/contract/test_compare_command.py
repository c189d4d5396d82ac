"""``bio-rl compare``: which runs belong together, what is said of them, and bad input."""

import csv
import json
import re
import sys
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HERE
from fake_runs import a_run
from html_page import Page
from omegaconf import OmegaConf

from bio_rl.analysis.comparison import IDLE, Comparison, compare
from bio_rl.analysis.models import shipped_rule
from bio_rl.analysis.process import likeness
from bio_rl.analysis.records import read
from bio_rl.cli import main
from bio_rl.rules import rule_names


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def runs_of(rule: str, returns: list[float], place: str = "runs", **kept: Any) -> None:
    for seed, final in enumerate(returns):
        a_run(place, seed, final, rule, **kept)


def three_rules(**kept: Any) -> None:
    """Backprop at 100, the read-out at 20, and one halfway between."""
    for rule, mean in (("backprop", 100), ("readout", 20), ("pepita", 60)):
        runs_of(rule, [mean + each for each in (-4.0, -2.0, 0.0, 2.0, 4.0, 1.0)], **kept)


def compared(*places: str) -> Comparison:
    return compare(read(map(Path, places or ("runs",))))


def names(comparison: Comparison) -> list[str]:
    return [each.name for task in comparison.tasks for each in (*task.contenders, *task.others)]


def shown(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["compare", *(arguments or ("runs",))]) == 0
    return capsys.readouterr().out


def test_rules_stand_by_their_score_between_the_controls(capsys: pytest.CaptureFixture) -> None:
    three_rules()
    (task,) = compared().tasks
    assert [each.name for each in task.contenders] == ["backprop", "pepita", "readout"]
    assert (task.discriminates, task.budget, task.notes) == (True, 1000, [])
    pepita = task.contenders[1]
    assert pepita.score.value == pytest.approx(60.25)
    assert pepita.credit is not None
    assert pepita.credit.value == pytest.approx(0.5)
    assert 0.4 < pepita.credit.low < 0.5 < pepita.credit.high < 0.6
    assert (pepita.over_backprop, pepita.over_readout) == ((0, (0, 0)), (1, (1, 1)))
    assert [each.is_settled for each in task.pairs] == [True] * 3
    out = shown(capsys)
    assert "3 of 3 pairs differ" in out
    assert re.search(r"pepita +60\.25 +\S+ to \S+ +56 +6 +0\.00 +1\.00 +0\.50 \[0\.4\d, 0\.5\d\] +1 +1\n", out)


@pytest.mark.parametrize("width", [60, 80, 130])
def test_a_terminal_of_any_width_shows_every_column(
    width: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_rules()
    monkeypatch.setenv("COLUMNS", str(width))
    out = shown(capsys)
    assert max(map(len, out.splitlines())) <= width
    assert all(re.search(rf"\b{name}\b", out) for name in ("IQM", "worst", "runs", "credit", "above", "below"))
    assert "\nbackprop " in out


def test_a_terminal_of_eighty_columns_breaks_no_name(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_rules()
    longest = max(rule_names(), key=len)
    runs_of(longest, [12.0, 106.0, 40.0, -80.25, 90.0, 55.0])
    a_run("runs", seed=6, rule=longest, status="running")
    monkeypatch.setenv("COLUMNS", "80")
    out = shown(capsys)
    number, several = r"-?[\d.]+", r"-?[\d.]+ to -?[\d.]+"
    share = r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\]"
    for cells in ((number, several, number, r"6 of 7"), (share, share), (share, r"\d", r"\d")):
        assert re.search(rf"^{longest} +{' +'.join(cells)} *$", out, re.MULTILINE), f"no row of {cells}"
    assert max(map(len, out.splitlines())) <= 80


def test_the_same_seed_gives_the_same_numbers(capsys: pytest.CaptureFixture) -> None:
    three_rules()
    assert shown(capsys) == shown(capsys)
    assert shown(capsys) != shown(capsys, "runs", "--seed", "1")


def test_what_else_is_compared_changes_no_interval() -> None:
    three_rules()
    (alone,) = compared().tasks
    runs_of("burst", [5.0, 9.0, 3.0, 80.0], env="acrobot")
    runs_of("burst", [5.0, 9.0, 3.0, 80.0])
    beside = next(each for each in compared().tasks if each.name == alone.name)
    now = {each.name: each for each in beside.contenders}
    for each in alone.contenders:
        assert now[each.name].score == each.score
        assert (now[each.name].credit, now[each.name].over_readout) == (each.credit, each.over_readout)


def test_a_task_that_does_not_tell_the_controls_apart_gives_no_credit(capsys: pytest.CaptureFixture) -> None:
    runs_of("backprop", [10.0, 20.0, 30.0, 40.0])
    runs_of("readout", [11.0, 21.0, 31.0, 41.0])
    (task,) = compared().tasks
    assert task.discriminates is False
    assert [each.credit for each in task.contenders] == [None, None]
    assert "Does not discriminate" in shown(capsys)


def test_a_read_out_in_one_network_alone_is_no_control() -> None:
    three_rules()
    runs_of("readout", [500.0] * 3, "more", critic_rule="backprop", config={"critic_rule": "backprop"})
    (task,) = compared("runs", "more").tasks
    control = task.control("readout")
    assert control is not None
    assert control.score.value < 30


def test_the_read_out_in_one_network_alone_says_which_network_needs_credit(capsys: pytest.CaptureFixture) -> None:
    three_rules()
    for seed in range(4):
        mixed = {"critic_rule": "backprop", "overrides": ("rule@critic_rule=backprop",)}
        a_run("runs", seed, 30.0 + seed, "readout", **mixed)
        mixed = {"critic_rule": "readout", "overrides": ("rule@critic_rule=readout",)}
        a_run("runs", seed, 98.0 + seed, "backprop", **mixed)
    assert main(["compare", "runs", "--csv", "out.csv"]) == 0
    rows = Path("out.csv").read_text()
    assert "rule@" not in rows, "settings are as one would type them"
    Path("old.csv").write_text(rows.replace("critic_rule=", "rule@critic_rule="))
    for place in ("runs", "out.csv", "old.csv"):
        (task,) = compared(place).tasks
        assert {each.name for each in task.contenders} > {
            "backprop critic_rule=readout",
            "readout critic_rule=backprop",
        }
        assert [note.partition(":")[0] for note in task.notes] == [
            "the actor needs hidden credit",
            "the critic is not shown to need hidden credit",
        ]
        control = task.control("readout")
        assert control is not None
        assert control.name == "readout"
    Path("added.csv").write_text(rows.replace("critic_rule=", "++rule@critic_rule="))
    (task,) = compared("added.csv").tasks
    control = task.control("readout")
    assert control is not None
    assert control.name == "readout", "Hydra's signs for what is added change nothing"


def test_what_is_not_settled_is_said_with_the_seeds_that_would() -> None:
    runs_of("backprop", [10.0, 20.0, 30.0, 40.0])
    runs_of("pepita", [15.0, 25.0, 35.0, 45.0])
    (pair,) = compared().tasks[0].pairs
    assert (pair.one, pair.is_settled) == ("pepita", False)
    assert pair.more_seeds is not None
    assert 50 < pair.more_seeds < 200


def test_under_three_seeds_there_are_no_intervals(capsys: pytest.CaptureFixture) -> None:
    runs_of("backprop", [10.0, 20.0])
    runs_of("readout", [1.0, 2.0])
    out = shown(capsys)
    assert "Fewer than 3 seeds, and so no interval: backprop, readout" in out
    assert "No credit score: readout or backprop has fewer than 3 seeds" in out
    assert re.search(r"backprop +15 +– +10 +2 ", out)


def test_settings_tell_contenders_of_a_rule_apart() -> None:
    def sized(width: int) -> dict[str, Any]:
        return {"network": {"hidden": [width, width]}}

    runs_of("pepita", [1.0] * 3, overrides=("rule.scale=0.5",), config=sized(64))
    runs_of("pepita", [1.0] * 3, config=sized(64))
    runs_of("backprop", [1.0] * 3, config=sized(32))
    assert sorted(names(compared())) == ["backprop", "pepita", "pepita rule.scale=0.5"]
    for seed in (3, 4, 5):
        a_run("older", seed, rule="pepita")
        a_run("logged", seed + 3, rule="pepita", config=sized(64) | {"logging": {"csv": True}})
    # A run of an older version, that does not know a setting, has no other value of it; and logging changes nothing.
    assert sorted(names(compared("runs", "older", "logged"))) == ["backprop", "pepita", "pepita rule.scale=0.5"]
    runs_of("pepita", [1.0] * 3, "small", config=sized(8))
    assert "pepita network.hidden=[8,8]" in names(compared("runs", "logged", "small"))
    assert "pepita network.hidden=[64,64]" in names(compared("runs", "logged", "small"))


def test_every_setting_either_tells_runs_apart_or_is_known_not_to() -> None:
    """Whoever adds one to train.yaml decides whether runs of a rule that differ in it are seeds of one another."""
    known = OmegaConf.load(HERE.parents[1] / "conf" / "train.yaml")
    own = {name for name in known if name not in ("defaults", "hydra")}
    assert own <= {"critic_rule", "evaluation", *IDLE}


def test_an_environment_of_other_arguments_is_another_task() -> None:
    runs_of("backprop", [1.0] * 3, config={"env": {"kwargs": {"noise": 0.1}}})
    runs_of("backprop", [1.0] * 3, "more", config={"env": {"kwargs": {"noise": 0.2}}})
    runs_of("backprop", [1.0] * 3, "others", env="acrobot")
    assert [task.name for task in compared("runs", "more", "others").tasks] == [
        "acrobot, ppo",
        "cartpole, ppo env.kwargs.noise=0.1",
        "cartpole, ppo env.kwargs.noise=0.2",
    ]


def test_a_run_that_was_made_twice_counts_once() -> None:
    runs_of("backprop", [1.0, 2.0, 3.0])
    runs_of("backprop", [9.0], "again")
    comparison = compared("runs", "again")
    assert comparison.tasks[0].contenders[0].returns.tolist() == [1, 2, 3]
    assert "1 run repeats another" in comparison.problems[0]
    a_run("runs", 0, None, status="failed")
    assert compared("runs", "again").tasks[0].contenders[0].returns.tolist() == [9, 2, 3]


def test_different_budgets_are_compared_at_the_greatest_that_all_have(capsys: pytest.CaptureFixture) -> None:
    """Of the longer runs the evaluation before the shorter ones' end counts, and of these what they had by then."""
    long = [(0, 0.0), (400, 4.0), (900, 9.0), (2000, 20.0)]
    short = [(0, 0.0), (895, 50.0), (1000, 60.0)]
    for seed in range(3):
        a_run("runs", seed, 20.0, "backprop", curve=long)
        a_run("runs", seed, 60.0, "pepita", curve=short)
        a_run("runs", seed, 70.0, "readout", timesteps_requested=4000)
    (task,) = compared().tasks
    assert task.budget == 895
    assert {each.name: each.returns.tolist() for each in task.contenders} == {"pepita": [50] * 3, "backprop": [9] * 3}
    assert [each.name for each in task.others] == ["readout"]
    words = "(1,000, 2,000 and 4,000 timesteps) are compared at 895, which all have, without 3 runs not evaluated there"
    assert words in " ".join(shown(capsys).split())


def test_budgets_rounded_to_whole_rollouts_are_the_same() -> None:
    runs_of("backprop", [1.0] * 3, timesteps_requested=100_000)
    runs_of("pepita", [1.0] * 3, timesteps_requested=100_096)
    assert compared().tasks[0].notes == ["no credit score: there are no runs of readout to hold the others against"]


def test_what_is_not_done_is_told_and_only_what_diverged_counts(capsys: pytest.CaptureFixture) -> None:
    runs_of("backprop", [10.0, 20.0, 30.0])
    a_run("runs", 3, None, status="running")
    a_run("runs", 4, 99.0, status="interrupted")
    a_run("runs", 5, None, status="failed", error="out of memory")
    a_run("runs", 6, None, status="diverged", untrained_return_mean=-7.0)
    a_run("runs", 0, None, "pepita", status="running")
    (task,) = compared().tasks
    assert task.contenders[0].returns.tolist() == [10, 20, 30, -7]
    out = shown(capsys)
    assert re.search(r"backprop +15 +\S+ to \S+ +−?-?7 +4 of 7 ", out)
    assert re.search(r"pepita +– +– +– +0 of 1 ", out)
    for words in (
        "Still running, and not compared: 1 of backprop, 1 of pepita",
        "Interrupted, and not compared: 1 of backprop",
        "Failed, and not compared: 1 of backprop",
        "What diverged counts as the task's worst return, -7: 1 of backprop",
        "3 done, 2 running",
    ):
        assert words in " ".join(out.split())


def test_mixed_versions_and_what_cannot_be_read_are_lines(capsys: pytest.CaptureFixture) -> None:
    three_rules(curve=((0, 1.0), (1000, 9.0)))
    folder = a_run("runs", 7, versions={"bio-rl": "0.2.0", "torch": "2.9.0"}, git_revision="1" * 40)
    (folder / "evaluations.csv").write_text("timesteps,seed,episode,return,length\n0,7,0,1,1\n10")
    out = shown(capsys)
    assert "! mixed versions of bio-rl: 0.1.0 (18 runs), 0.2.0 (1 run)" in out
    assert "! mixed revisions of the code: 0000000000 (18 runs), 1111111111 (1 run)" in out
    assert "evaluations.csv is no whole table from line 3 on" in out


def test_an_overall_score_is_of_the_tasks_that_tell() -> None:
    three_rules(env="cartpole")
    three_rules(env="acrobot", place="more")
    runs_of("burst", [60.0] * 3)
    for rule in ("backprop", "readout", "pepita"):
        runs_of(rule, [5.0, 6.0, 7.0], "same", env="pendulum")
    comparison = compared("runs", "more", "same")
    assert [task.discriminates for task in comparison.tasks] == [True, True, False]
    assert {name: round(each.value, 6) for name, each in comparison.overall.items()} == {
        "backprop": 1,
        "pepita": 0.5,
        "readout": 0,
    }
    alone = comparison.tasks[0].contenders[1].credit
    both = comparison.overall["pepita"]
    assert alone is not None
    assert both.high - both.low < alone.high - alone.low
    page = page_of("runs", "more", "same")
    assert "Over all tasks that tell" in page.text
    # Of all tasks the scores and the profile; of each of three tasks the returns and the profile, of two the credit.
    assert page.tags.count("svg") == 2 + 3 * 2 + 2


def test_files_hold_the_runs_and_what_was_made_of_them(capsys: pytest.CaptureFixture) -> None:
    three_rules(curve=((0, 1.0), (1000, 9.0)), feedback_angle={"actor": [10.0, 30.0]})
    a_run("runs", 9, None, status="running")
    out = shown(capsys, "runs", "--csv", "out.csv")
    assert out.endswith("wrote out.csv, out-scores.csv, out-pairs.csv, out-curves.csv\n")
    tables = {}
    for name in ("out", "out-scores", "out-pairs", "out-curves"):
        with open(f"{name}.csv", newline="") as file:
            tables[name] = list(csv.DictReader(file))
    assert {name: len(rows) for name, rows in tables.items()} == {
        "out": 18,
        "out-scores": 3,
        "out-pairs": 3,
        "out-curves": 36,
    }
    scores = {row["name"]: row for row in tables["out-scores"]}
    assert (scores["pepita"]["iqm"], scores["pepita"]["median"], scores["pepita"]["feedback_angle"]) == (
        "60.25",
        "60.5",
        "20",
    )
    assert (scores["backprop"]["runs"], scores["backprop"]["compared"]) == ("7", "6")


def test_a_table_of_runs_is_compared_as_its_runs_are() -> None:
    three_rules()
    assert main(["compare", "runs", "--csv", "out.csv"]) == 0
    first = Path("out-scores.csv").read_text()
    assert main(["compare", "out.csv", "--csv", "again.csv"]) == 0
    assert Path("again-scores.csv").read_text() == first
    assert Path("again.csv").read_text() == Path("out.csv").read_text()


def test_rows_stay_until_their_run_is_repeated() -> None:
    a_run("runs", 0, 100.0)
    a_run("runs", 0, 7.0, overrides=("env.timesteps=9",))
    assert main(["compare", "runs", "--csv", "out.csv"]) == 0
    a_run("later", 0, 200.0)
    assert main(["compare", "later", "out.csv", "--csv", "out.csv"]) == 0
    with open("out.csv", newline="") as file:
        assert [(row["settings"], row["return_mean"]) for row in csv.DictReader(file)] == [
            ("", "200"),
            ("env.timesteps=9", "7"),
        ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("empty",), "there are no runs in empty"),
        (("none",), "there is no folder 'none'"),
        (("runs", "empty"), "there are no runs in empty"),
        (("notes.csv",), "notes.csv is no table of runs"),
        (("runs", "--html", "empty"), "--html empty: it cannot be written"),
        (("runs", "--csv", "empty/none/out.csv"), "--csv empty/none/out.csv: it cannot be written"),
        (("runs", "--seed", "-1"), "is not a whole number"),
        ((), "the following arguments are required: FOLDER"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture) -> None:
    Path("empty").mkdir()
    Path("notes.csv").write_text("a,b\n")
    a_run("runs")
    assert main(["compare", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("bio-rl compare: ")
    assert said.count("\n") == 1


def page_of(*places: str) -> Page:
    assert main(["compare", *(places or ("runs",)), "--html", "page.html"]) == 0
    html = Path("page.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://", html)
    page = Page(html)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    return page


def test_a_page_shows_every_part() -> None:
    three_rules(curve=((0, 1.0), (500, 5.0), (1000, 9.0)), angles={0: (80, 100, 0), 1000: (10, 30, 0)})
    a_run("runs", 9, None, status="failed", error="out of memory")
    page = page_of()
    # Curves, returns, profile, credit, wall time, arithmetic, and the actor's angles.
    assert page.tags.count("svg") == 7
    assert page.tags.count("script") == 1
    for words in (
        "cartpole, ppo: learning curves",
        "returns at 1,000 timesteps",
        "credit scores",
        "by wall time and by arithmetic",
        "Fewer than two rules have runs with probes",
        "out of memory",
        "setting of all",
        "2.9.0",
    ):
        assert words in page.text


def test_every_picture_is_a_file(capsys: pytest.CaptureFixture) -> None:
    three_rules(curve=((0, 1.0), (500, 5.0), (1000, 9.0)))
    assert "wrote 6 files in pictures" in shown(capsys, "runs", "--png", "pictures")
    files = sorted(Path("pictures").iterdir())
    assert [each.name.partition("-")[0] for each in files] == [f"{number:02}" for number in range(1, 7)]
    assert all(each.read_bytes().startswith(b"\x89PNG") for each in files)
    assert files[0].name == "01-cartpole-ppo-learning-curves-return.png"


def test_without_matplotlib_one_line_says_so(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run("runs")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["compare", "runs", "--png", "pictures"]) == 2
    assert "--png needs matplotlib" in capsys.readouterr().err
    assert not Path("pictures").exists()


def test_a_page_lets_a_browser_run_its_own_script_and_nothing_else() -> None:
    a_run("runs")
    page_of()
    html = Path("page.html").read_text(encoding="utf-8")
    script = html.split("<script>")[1].split("</script>")[0]
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html


def test_many_rules_have_a_picture_each_and_a_line_of_their_own() -> None:
    for number in range(20):
        runs_of(f"rule_{number}", [float(number + seed) for seed in range(3)], curve=((0, 1.0), (1000, 9.0)))
    page = page_of()
    assert page.tags.count("svg") == 1 + 20 + 2 + 2
    html = Path("page.html").read_text(encoding="utf-8")
    overview = next(each for each in html.split("<figure")[1:] if 'class="chart many"' in each)
    lines = re.findall(r'<polyline class="(line \S+ \S+)"', overview)
    assert len(set(lines)) == len(lines) == 20


def test_whatever_a_run_is_called_stays_a_name(capsys: pytest.CaptureFixture) -> None:
    name = '<script>alert("1")</script>[bold]&amp;'
    for seed in range(3):
        folder = a_run("runs", seed, float(seed), curve=((0, 1.0), (1000, 9.0)), error=name, status="done")
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(result | {"rule": name, "env": name, "status": "done"}))
        (folder / ".hydra/config.yaml").write_text(json.dumps({name: name}))
    page = page_of()
    assert page.tags.count("script") == 1
    assert page.text.count(name) >= 8
    assert name in shown(capsys)


@pytest.mark.few(2)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "odd",
    [
        {"members": 0, "wall_seconds": 1e308, "timesteps": 0},
        {"return_mean": 1e308, "untrained_return_mean": -1e308},
        {"cost": {"actor": {"multiply_accumulates": 1e308}, "critic": []}, "versions": {"bio-rl": {"a": [None]}}},
        {"feedback_angle": {"actor": [1e308, 1e308]}, "git_revision": 5, "error": ["x"], "critic_rule": None},
        {"rule": "x" * 3000},
        {"timesteps_requested": -1},
        {"curve": ((0, float("nan")), (500, 1e308), (1000, 9.0))},
        {"curve": ((0, 1.0), (10**400, 9.0))},
        {"angles": {0: (float("nan"), 1e308, 0.0), 1000: (10.0, -1e308, 0.0)}},
        {"config": {"agent": {"n_epochs": 10**400}, "env": None, "study": ["x"]}},
    ],
)
def test_odd_values_are_neither_an_error_nor_a_warning(odd: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
    three_rules(curve=((0, 1.0), (500, 5.0), (1000, 9.0)))
    for seed in (6, 7, 8):
        rule = {"rule": odd["rule"]} if "rule" in odd else {}
        folder = a_run("runs", seed, **{"curve": ((0, 1.0), (1000, 9.0)), **odd, "rule": "burst"})
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(result | rule))
    page_of("runs", "--csv", "out.csv", "--png", "pictures")
    assert "pepita" in shown(capsys, "out.csv")


def test_runs_that_were_really_made_are_compared(train: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    assert train("-m", "rule=backprop,readout", "members=3", "hydra.sweep.dir=runs", "diagnostics=light") == 0
    (task,) = compared().tasks
    assert sorted((each.name, len(each.returns)) for each in task.contenders) == [("backprop", 3), ("readout", 3)]
    record = task.contenders[0].records[0]
    assert record.numbers["multiply_accumulates"] > 0
    assert set(record.angles) == {"actor", "critic"}
    assert record.curve.timesteps.tolist() == [0, 32, 64]
    assert "2 rules on one task" in shown(capsys)
    page = page_of()
    for layer in ("actor, layer 1", "critic, layer 2"):
        assert layer in page.text
    assert "untrained 3" in page.text
    found = likeness(task, shipped_rule)
    assert not isinstance(found, str)
    assert found.names == [*(each.name for each in task.contenders), "untrained"]
    assert found.problems == []
    # Of each rule the run that is nearest to the common return.
    for contender, value in zip(task.contenders, found.returns, strict=True):
        assert abs(value - found.target) == min(abs(contender.returns - found.target))
    assert set(found.layers) == {f"{network}, layer {layer}" for network in ("actor", "critic") for layer in (1, 2)}
    for values in found.layers.values():
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(values, values.T)
