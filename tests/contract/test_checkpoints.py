"""Models kept at evaluations: those that were evaluated, whole whenever one looks, and played as the final one is."""

import csv
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file

from agents import PPO, load_model
from bio_rl.cli import main
from bio_rl.experiment.checkpoints import Checkpoints, save_model
from bio_rl.experiment.evaluation import PERIODIC, Evaluator

Train = Callable[..., int]


def return_means() -> dict[int, float]:
    """Of each evaluation of ``run``, by its timesteps."""
    returns: dict[int, list[float]] = {}
    with Path("run/evaluations.csv").open() as file:
        for row in csv.DictReader(file):
            returns.setdefault(int(row["timesteps"]), []).append(float(row["return"]))
    return {timesteps: fmean(values) for timesteps, values in returns.items()}


def names() -> set[str]:
    return {path.name for path in Path("run/checkpoints").iterdir()}


def weights(folder: str | Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(Path(folder, "policy.safetensors")).items()}


def test_each_checkpoint_is_the_model_that_was_evaluated(train: Train, tmp_path: Path) -> None:
    task = ("env.timesteps=128", "env.normalize_observation=true")
    assert train(*task, "evaluation.checkpoints=all") == 0
    means = return_means()
    assert names() == {*map(str, means), "best", "last"}
    best = max((step for step in means if step > 0), key=lambda step: (means[step], -step))
    assert weights("run/checkpoints/best") == weights(f"run/checkpoints/{best}")
    assert weights("run/checkpoints/last") == weights("run/checkpoints/128") == weights("run/model")
    # The last update's learning rate has fallen to 0.
    learning = [step for step in means if step < 128]
    assert len({weights(f"run/checkpoints/{step}")["mlp_extractor.actor.layers.0.weight"] for step in learning}) == 4
    # Evaluated anew, with the statistics by which its observations were normalised.
    for step in (0, 32, 96):
        config = OmegaConf.load("run/.hydra/config.yaml")
        config.evaluation.checkpoints = "none"
        agent = load_model(f"run/checkpoints/{step}", "CartPole-v1")
        assert Evaluator(config, tmp_path).evaluate(agent, PERIODIC).return_mean == means[step]


def test_best_and_last_are_kept_by_default_or_nothing(train: Train) -> None:
    assert train() == 0
    assert names() == {"best", "last"}
    assert train("evaluation.checkpoints=none", "overwrite=true") == 0
    assert not Path("run/checkpoints").exists()


def test_a_run_that_diverges_keeps_what_it_had(train: Train) -> None:
    assert train("rule=misbehaving", "rule.how=overflows", "evaluation.checkpoints=all") == 1
    assert names() == {"0", "last"}
    assert not Path("run/model").exists()
    assert all(
        np.isfinite(tensor.numpy()).all() for tensor in load_file("run/checkpoints/0/policy.safetensors").values()
    )


def test_checkpoints_can_be_played(train: Train, capsys: pytest.CaptureFixture) -> None:
    assert train("evaluation.interval=0") == 0
    for folder in ("run", "run/model", "run/checkpoints/best", "run/checkpoints/last"):
        assert main(["play", folder, "--video", "it.mp4", "--seed", "7"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("episode")]
    assert len(lines) == 4
    assert len(set(lines)) == 1


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    agent = PPO("CartPole-v1", n_steps=16, batch_size=16)
    checkpoints = Checkpoints(tmp_path, "best_and_last")
    checkpoints.add(agent, is_best=True)
    before = weights(tmp_path / "checkpoints/best")

    def half(agent: PPO, folder: Path) -> None:
        save_model(agent, folder)
        (folder / "policy.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr("bio_rl.experiment.checkpoints.save_model", half)
    with pytest.raises(type(error)):
        checkpoints.add(agent.learn(32), is_best=True)
    assert weights(tmp_path / "checkpoints/best") == before
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best", "last"}
