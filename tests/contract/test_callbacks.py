"""Callbacks of the config: called in a run beside its own, or refused in one line before it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes

from bio_rl.experiment.callbacks import make_callbacks

Train = Callable[..., int]
SB3 = "stable_baselines3.common.callbacks"


class Counts(BaseCallback):
    """Writes how often it was called, beside the run's folder."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        assert self.logger.dir is not None
        Path(f"{self.logger.dir}.{self.name}").write_text(str(self.n_calls))


def test_one_that_ends_the_run(train: Train) -> None:
    assert train("callbacks=max_episodes", "callbacks.stop.max_episodes=1", "env.timesteps=10_000") == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["status"] == "done"
    assert 2 <= result["timesteps"] < 1_000


def test_several_beside_the_runs_own(train: Train) -> None:
    counts = (f"+callbacks.{name}={{_target_: test_callbacks.Counts, name: {name}}}" for name in ("one", "two"))
    assert (
        train(*counts, f"+callbacks.best={{_target_: {SB3}.CheckpointCallback, save_freq: 16, save_path: theirs}}") == 0
    )
    assert Path("run.one").read_text() == Path("run.two").read_text() == "32", "steps of two copies"
    assert {path.name for path in Path("theirs").iterdir()} == {f"rl_model_{step}_steps.zip" for step in (32, 64)}
    assert json.loads(Path("run/result.json").read_text())["untrained_return_mean"] is not None


def test_a_config_is_one_callback_or_several_or_none() -> None:
    one = {"_target_": f"{SB3}.StopTrainingOnMaxEpisodes", "max_episodes": 3}
    for config, number in (({}, 0), (one, 1), ({"a": one, "b": one}, 2), ({"a": None, "b": one}, 1)):
        callbacks = make_callbacks(OmegaConf.create(config))
        assert [callback.max_episodes for callback in callbacks if isinstance(callback, StopTrainingOnMaxEpisodes)] == (
            [3] * number
        )


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("callbacks=nothing", "callbacks has no choice 'nothing'"),
        ("+callbacks.mine=3", "callbacks.mine=3: a callback is given by its class, as callbacks.mine._target_="),
        (
            "+callbacks.mine._target_=builtins.dict",
            "callbacks.mine._target_=builtins.dict makes a dict, not a callback",
        ),
        ("+callbacks.mine._target_=no_such_module.Callback", "No module named 'no_such_module'"),
        (f"+callbacks.mine._target_={SB3}.StopTrainingOnMaxEpisode", "StopTrainingOnMaxEpisode"),
        (f"+callbacks.mine._target_={SB3}.StopTrainingOnMaxEpisodes", "missing 1 required positional argument"),
        ("callbacks=max_episodes callbacks.stop.max_episodes=few", "must be a whole number"),
    ],
)
def test_a_wrong_one_is_one_line_before_the_run(
    train: Train, capsys: pytest.CaptureFixture, arguments: str, expected: str
) -> None:
    assert train(*arguments.split()) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert not Path("run").exists()
