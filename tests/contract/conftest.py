"""Commands run inside the test's process, in an empty folder, as small as they can be."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bio_rl.cli import main

HERE = Path(__file__).parent
TINY = (
    "env.timesteps=64",
    "env.n_envs=2",
    "agent.n_steps=16",
    "agent.batch_size=16",
    "agent.n_epochs=2",
    "evaluation.episodes=2",
    "evaluation.interval=32",
    "logging=none",
)
"""The smallest PPO run with an update between two evaluations."""


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., int]:
    """``bio-rl train`` with a tiny PPO, into the folder ``run`` unless it sweeps; the exit code."""

    def run(*arguments: str) -> int:
        where = () if "-m" in arguments or any("run.dir" in each for each in arguments) else ("hydra.run.dir=run",)
        given = {argument.lstrip("+").partition("=")[0] for argument in arguments}
        tiny = [setting for setting in TINY if setting.partition("=")[0] not in given]
        return main(["train", "--config-dir", str(HERE / "conf"), *tiny, *where, *arguments])

    return run
