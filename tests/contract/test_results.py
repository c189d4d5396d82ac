"""The published table is what the run folders say."""

import csv
import json
from pathlib import Path

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
    assert "| ppo | `backprop` |  | 400 | 500 20 400 | 25° |" in lines
    assert "| ppo | `backprop` | env.timesteps=9 | -inf | 100 diverged diverged | 25° |" in lines


def test_rows_stay_until_their_run_is_repeated() -> None:
    a_run(0, 100.0)
    a_run(0, 7.0, "env.timesteps=9")
    collect.main(["runs", "runs.csv"])
    Path("runs").rename("earlier")
    a_run(0, 200.0)
    collect.main(["runs", "runs.csv"])
    with open("runs.csv", newline="") as file:
        assert [row["return_mean"] for row in csv.DictReader(file)] == ["200", "7"]
