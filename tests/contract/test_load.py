"""Runs as data frames and rows: what they hold, how quickly, and what is refused."""

import json
import resource
import sys
import time
from pathlib import Path

import pytest
from fake_runs import a_run

from bio_rl import analysis
from bio_rl.analysis import records
from bio_rl.analysis.records import NoRuns, load, read, write_rows

CURVE = ((0, 10.0), (500, 50.0), (1000, 90.0))


@pytest.fixture(params=["polars", "pandas"])
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(request.param)
    monkeypatch.setattr(records, "FRAMES", (request.param,))


@pytest.mark.usefixtures("_library")
def test_a_folder_is_two_data_frames() -> None:
    a_run(
        "runs", 0, 90.0, curve=CURVE, angles={0: (80, 100, 0), 1000: (10, 30, 0)}, config={"network": {"hidden": [8]}}
    )
    a_run("runs", 1, None, rule="pepita", status="diverged", overrides=("rule.scale=0.5",), error="it\ndiverged")
    runs, evaluations = analysis.load("runs")
    assert [str(each) for each in runs["rule"]] == ["backprop", "pepita"]
    assert list(runs["status"]) == ["done", "diverged"]
    assert list(runs["settings"]) == ["", "rule.scale=0.5"]
    assert list(runs["error"]) == ["", "it diverged"]
    assert list(runs["timesteps_requested"]) == [1000, 1000]
    assert list(runs["multiply_accumulates"]) == [50, 50]
    assert list(runs["version.torch"]) == ["2.9.0", "2.9.0"]
    assert list(runs["config.env.timesteps"]) == [1000, 1000]
    assert next(iter(runs["config.network.hidden"])) == "[8]"
    assert (runs["actor_angle_start"][0], runs["actor_angle"][0], runs["return_mean"][0]) == (90, 20, 90)
    assert list(evaluations["timesteps"]) == [0, 500, 1000]
    assert list(evaluations["return_mean"]) == [10, 50, 90]


def test_without_a_library_of_data_frames_one_error_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    a_run("runs")
    monkeypatch.setattr(records, "FRAMES", ("no_such_library",))
    with pytest.raises(ImportError, match="needs polars or pandas"):
        load("runs")


def test_rows_written_and_read_are_the_same_runs() -> None:
    a_run(
        "runs", 10, 90.123456789, angles={0: (80, 100, 0)}, feedback_angle={"actor": [10.0, 20.0]}, timesteps=12345678
    )
    a_run("runs", 9, None, status="failed")
    found = read([Path("runs")]).records
    write_rows(Path("runs.csv"), found)
    again = read([Path("runs.csv")]).records
    assert [(each.seed, each.status) for each in again] == [(9, "failed"), (10, "done")]
    assert again[1].texts["git_revision"] == "0" * 40
    assert again[1].numbers == {
        "timesteps": 12345678,
        "return_mean": 90.1235,
        "return_episodes": 2,
        "feedback_angle": 15,
        "actor_angle_start": 90,
        "actor_angle": 90,
    }
    assert not again[1].from_folder


def test_where_there_are_no_runs_one_line_says_so() -> None:
    Path("empty").mkdir()
    Path("notes.csv").write_text("a,b\n1,2\n")
    for place, words in (
        ("empty", "no runs in empty"),
        ("none", "no folder 'none'"),
        ("notes.csv", "no column 'study'"),
    ):
        with pytest.raises(NoRuns, match=words):
            read([Path(place)])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("result.json", "{", "result.json cannot be read"),
        ("result.json", json.dumps({"status": "done", "versions": {"bio-rl": "1"}}), "does not say which agent"),
        ("evaluations.csv", "timesteps,seed,episode,return,length\n0,0,0,1,1\n5,0,", "no whole table from line 3"),
        (".hydra/config.yaml", "!!python/object/apply:os.mkdir [hacked]", "config.yaml cannot be read"),
        (".hydra/overrides.yaml", "[" * 3000, "overrides.yaml cannot be read"),
    ],
)
def test_what_cannot_be_read_costs_a_line_and_not_the_rest(name: str, content: str, words: str) -> None:
    a_run("runs", 0, curve=CURVE)
    (a_run("runs", 1, curve=CURVE) / name).write_text(content)
    found = read([Path("runs")])
    assert found.records[0].seed == 0
    assert [words in problem for problem in found.problems] == [True]
    assert not Path("hacked").exists()


def test_no_link_is_followed(tmp_path: Path) -> None:
    outside = a_run("elsewhere", 3, curve=CURVE)
    inside = a_run("runs", 0)
    (inside / "evaluations.csv").symlink_to(outside / "evaluations.csv")
    Path("runs/linked").symlink_to(outside)
    found = read([Path("runs")])
    assert [(each.seed, len(each.curve.values)) for each in found.records] == [(0, 0)]
    assert "a link" in found.problems[0]


def test_odd_numbers_are_left_out() -> None:
    folder = a_run("runs", 0, feedback_angle={"actor": "wide", "critic": [None]}, cost=5, members="many")
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text.replace('"wall_seconds": 10.0', f'"wall_seconds": 1{"0" * 400}'))
    (record,) = read([Path("runs")]).records
    assert not {"feedback_angle", "members", "wall_seconds", "multiply_accumulates"} & set(record.numbers)


@pytest.mark.slow
def test_ten_thousand_runs_are_read_in_under_a_minute_and_two_gigabytes() -> None:
    curve = [(when, float(when)) for when in range(0, 110_000, 10_000)]
    angles = dict.fromkeys(range(0, 125000, 25000), (80.0, 70.0, 0.0))
    config = {"agent": {f"setting_{number}": number / 7 for number in range(60)}}
    for seed in range(10_000):
        a_run("runs", seed, curve=curve, angles=angles, config=config)
    start = time.process_time()
    assert len(load("runs").runs) == 10_000
    assert time.process_time() - start < 60
    # In KiB on Linux, in bytes on macOS.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10) < 2048
