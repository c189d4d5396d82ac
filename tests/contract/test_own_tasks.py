"""Our own tasks by the command: their settings, held-out evaluation, and the interface's decoder."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from bio_rl.cli import main
from bio_rl.cli.configs import compose
from bio_rl.cli.loader import config_folder
from bio_rl.experiment.environments import evaluation_envs, make_env, training_envs
from bio_rl.tasks import TASKS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import controls
import interface

OWN = sorted(
    file.stem for file in (config_folder() / "env").glob("*.yaml") if "id: bio_rl/" in file.read_text(encoding="utf-8")
)


def test_every_task_has_a_file_and_settings_of_its_own():
    ids = {compose(f"env={name}").env.id for name in OWN}
    assert ids == {f"bio_rl/{name}-v0" for name in TASKS}
    for name in OWN:
        assert (config_folder() / "tuned" / name / "ppo.yaml").exists()


@pytest.mark.few(3)
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("members", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_every_task_trains(name, members, train):
    assert train(f"env={name}", f"members={members}") == 0
    result = json.loads(next(Path("run").rglob("result.json")).read_text())
    assert result["status"] == "done"
    assert np.isfinite(result["return_mean"])


@pytest.mark.parametrize("name", ["digits", "digit_sum", "cue_maze"])
def test_evaluations_are_of_held_out_digits(name):
    config = compose(f"env={name}").env
    training, evaluation = training_envs(config, 1.0), evaluation_envs(config, 3)
    assert (len(training.venv.batch.digits), len(evaluation.batch.digits)) == (1437, 360)
    single = compose(f"env={name}", "env.wrapper=gymnasium.wrappers.TimeAwareObservation").env
    assert len(evaluation_envs(single, 2).envs[0].unwrapped.batch.digits) == 360
    assert len(make_env(single).unwrapped.batch.digits) == 1437


def test_the_interface_leaves_what_was_measured(train, capsys):
    settings = ("env=interface", "callbacks.decoder.swap_at=32", "logging=csv", "env.timesteps=96")
    assert train(*settings) == 0
    with Path("run/progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    at_swap, at_end = (row for row in rows if row["interface/teaching_correlation"])
    assert float(at_swap["interface/open_loop_angle"]) == pytest.approx(90, abs=10)
    assert 0 <= float(at_end["interface/potent_share"]) <= 1
    interface.main(["run", "table.csv"])
    (row,) = interface.read(Path("table.csv"))
    for measure in interface.MEASURES:
        assert float(row[measure]) == pytest.approx(float(at_end[f"interface/{measure}"]), abs=1e-4)
    assert f"| `backprop` | 1 | {float(row['return']):.2f} | 1.00 |" in capsys.readouterr().out
    assert load_file("run/interface.safetensors")["at_swap.activity"].shape == (8, 20, 64)
    decoder = load_file("run/interface.safetensors")["perturbed.weight"].float()
    saved = load_file("run/model/policy.safetensors")["mlp_extractor.actor.layers.2.weight"]
    np.testing.assert_allclose(saved, decoder, rtol=1e-5, atol=1e-6)
    assert train(*settings, "overwrite=true") == 0, "the folder holds nothing that is not a run's"
    assert main(["play", "run", "--episodes", "1"]) == 0


def test_where_nothing_was_learnt_no_change_is_measured(train):
    """The shares of what rounding leaves would be those of chance."""
    assert train("env=interface", "rule=readout", "callbacks.decoder.swap_at=0", "logging=csv") == 0
    with Path("run/progress.csv").open(newline="") as file:
        columns = next(csv.reader(file))
    assert "interface/open_loop_angle" in columns
    assert not {f"interface/{name}" for name in interface.MEASURES} & set(columns)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("env=digits env.kwargs.held_out=3", "held_out must be true or false, not 3"),
        ("env=digits env.evaluation_kwargs.held_out=3", "held_out must be true or false, not 3"),
        ("env=digits env.evaluation_kwargs.heldout=true", "did you mean 'held_out'"),
        ("env=context_decision env.kwargs.noise=loud", "noise must be a number"),
        ("env=interface callbacks.decoder.perturbation=x", "perturbation must be one of within, outside, none"),
        ("env=interface callbacks.decoder.dimension=3", "did you mean 'dimensions'"),
        ("env.evaluation_kwargs=3", "env.evaluation_kwargs must be a mapping"),
    ],
)
def test_wrong_settings_are_one_line(line, expected, capsys):
    assert main(["train", *line.split()]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_an_interface_whose_decoder_would_learn_fails_and_says_what_would_be_right(train, capsys):
    assert train("env=interface", "network=mlp") == 1
    assert "network=decoder freezes it" in capsys.readouterr().err
    assert json.loads(Path("run/result.json").read_text())["status"] == "failed"


def test_the_controls_tell_which_network_needed_credit(tmp_path, monkeypatch, capsys):
    """By returns that are made up: ``readout`` is worse in the actor, and on the other task nowhere."""
    worth = {"readout": 0.2, "readout in the actor": 0.3}

    def measured(condition, seeds):
        rate = 0 if condition.rate == 0.003 else 0.05
        low = worth.get(condition.learner, 0.9) if condition.task == "digit_sum" else 0.9
        return [(seed, low - rate + seed % 7 / 100, 0.1) for seed in seeds]

    def run(command, check):
        controls.main(command[2:])

    monkeypatch.setattr(controls, "measure", measured)
    monkeypatch.setattr(controls.subprocess, "run", run)
    table = tmp_path / "controls.csv"
    arguments = [str(table), "--tasks", "digit_sum", "two_step", "--seeds", "8"]
    controls.main(arguments)
    *_, by_actor, by_none = capsys.readouterr().out.splitlines()
    assert by_actor.startswith("| `digit_sum` | 0.93 (0.90, 0.95) | 0.23 (")
    assert by_actor.endswith("| actor |")
    assert by_none.endswith("| neither: does not discriminate |")
    rows = table.read_text()
    controls.main(arguments)
    assert table.read_text() == rows, "what is there is not run again"
