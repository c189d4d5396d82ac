"""The published table is what the run folders say."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from results import collect


def a_run(seed: int, return_mean: float | None, *overrides: str) -> None:
    folder = Path("runs", *overrides, f"seed={seed}")
    (folder / ".hydra").mkdir(parents=True)
    choices = {"env": "cartpole", "agent": "ppo", "rule": "backprop", "seed": seed, "timesteps": 64}
    status = "diverged" if return_mean is None else "done"
    angles = {"actor": [10.0, 20.0], "critic": [30.0, 40.0]}
    known = {"status": status, "return_mean": return_mean, "feedback_angle": angles}
    result = {**choices, **known, "versions": {"bio-rl": "0.1.0"}}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / ".hydra" / "config.yaml").write_text("study: default\n")
    lines = [f"- {override}\n" for override in ("rule=backprop", f"seed={seed}", *overrides)]
    (folder / ".hydra" / "overrides.yaml").write_text("".join(lines))


def test_a_row_for_each_run_and_a_line_for_each_configuration(capsys: pytest.CaptureFixture) -> None:
    for seed, return_mean in enumerate((500.0, 20.0, 400.0)):
        a_run(seed, return_mean)
    for seed, return_mean in enumerate((100.0, None, None)):
        a_run(seed, return_mean, "env.timesteps=9")
    collect.main(["runs", "runs.csv"])
    with open("runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["settings"], row["seed"], row["status"]) for row in rows] == [
        *(("", str(seed), "done") for seed in range(3)),
        *(("env.timesteps=9", str(seed), status) for seed, status in enumerate(("done", "diverged", "diverged"))),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert "| ppo | `backprop` |  | 400 | 20 to 500 | 20 | 3 | 25° |  |  |" in lines
    assert "| ppo | `backprop` | env.timesteps=9 | -inf | -inf to 100 | -inf | 3 | 25° |  |  |" in lines


def test_rows_stay_until_their_run_is_repeated() -> None:
    a_run(0, 100.0)
    a_run(0, 7.0, "env.timesteps=9")
    collect.main(["runs", "runs.csv"])
    Path("runs").rename("earlier")
    a_run(0, 200.0)
    collect.main(["runs", "runs.csv"])
    with open("runs.csv", newline="") as file:
        assert [row["return_mean"] for row in csv.DictReader(file)] == ["200", "7"]


def test_angles_are_means_over_hidden_layers_at_both_ends(tmp_path: Path) -> None:
    file = tmp_path / "diagnostics.csv"
    rows = ["timesteps,network,layer,name,value"]
    for time, angles in ((0, (80, 100, 0)), (50, (1, 1, 1)), (100, (10, 30, 0))):
        rows += [f"{time},actor,{layer},update_angle,{angle}" for layer, angle in enumerate(angles, start=1)]
        rows.append(f"{time},actor,1,weight_norm,1000")
    file.write_text("\n".join(rows))
    assert collect.update_angles(file) == {"actor_angle_start": 90, "actor_angle": 20}
    assert collect.update_angles(tmp_path / "none.csv") == {}


def test_an_interval_of_the_median_covers_it_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 samples of 31 normal numbers, whose median is 0."""
    monkeypatch.setattr(collect, "RESAMPLES", 500)
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(500):
        low, high = collect.median_interval(rng.normal(size=31))
        covered += low <= 0 <= high
    assert 0.91 < covered / 500 < 0.98
