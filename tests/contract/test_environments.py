"""Environments by their config: wrappers, monitoring, processes, and what goes wrong in them."""

import csv
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.vec_env import VecNormalize

from bio_rl.cli import main
from bio_rl.cli.loader import config_folder
from bio_rl.cli.play import pictures
from bio_rl.experiment.environments import evaluation_envs, make_env, training_envs
from bio_rl.experiment.monitor import REMEMBERED

WRAPPERS = "gymnasium.wrappers."


def config(task: str, **settings: Any) -> DictConfig:
    """The group ``env`` for an odd task, with two copies."""
    loaded = OmegaConf.load(config_folder() / "env" / "gymnasium.yaml")
    merged = OmegaConf.merge(loaded, {"id": f"odd_tasks:{task}-v0", "n_envs": 2, "timesteps": 64}, settings)
    assert isinstance(merged, DictConfig)
    return merged


def episode(env: gymnasium.Env) -> dict[str, Any]:
    """What the monitor says of one episode of random actions."""
    env.reset(seed=0)
    env.action_space.seed(0)
    while True:
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        if terminated or truncated:
            return info["episode"]


@pytest.mark.parametrize(
    ("wrapper", "points", "length"),
    [
        (None, 18, 6),
        ({"_target_": WRAPPERS + "ClipReward", "max_reward": 1}, 18, 6),
        ({"_target_": WRAPPERS + "NormalizeReward"}, 18, 6),
        ({"_target_": WRAPPERS + "TransformReward", "func": {"_target_": "math.sqrt", "_partial_": True}}, 18, 6),
        ("odd_tasks.SkipsTwo", 18, 6),
        ({"_target_": WRAPPERS + "MaxAndSkipObservation", "skip": 3}, 18, 6),
        ({"_target_": WRAPPERS + "TimeLimit", "max_episode_steps": 4}, 12, 4),
        ("odd_tasks.StepsWhileItResets", 12, 4),
        (["odd_tasks.SkipsTwo", {"_target_": WRAPPERS + "TimeLimit", "max_episode_steps": 2}], 12, 4),
        ({"_target_": "stable_baselines3.common.monitor.Monitor"}, 18, 6),
    ],
)
def test_returns_and_lengths_are_the_tasks_own(wrapper: Any, points: float, length: int) -> None:
    env = make_env(config("Counts", wrapper=wrapper))
    for _ in range(2):
        told = episode(env)
        assert (told["r"], told["l"]) == (points, length)
    assert (env.get_episode_rewards(), env.get_episode_lengths()) == ([points] * 2, [length] * 2)


def test_an_environment_and_its_saved_state_stay_the_same_size() -> None:
    env = make_env(config("Counts"))
    sizes = []
    for _ in range(2):
        for _ in range(REMEMBERED):
            episode(env)
        sizes.append(len(json.dumps(env.snapshot()["state"], default=repr)))
    assert len(env.get_episode_rewards()) == len(env.get_episode_times()) == REMEMBERED
    assert abs(sizes[1] - sizes[0]) < REMEMBERED  # the digits of times and counts


def test_a_run_reports_the_tasks_own_returns_in_training_and_evaluation(train: Any) -> None:
    clip = "env.wrapper={_target_:gymnasium.wrappers.ClipReward,max_reward:1}"
    assert train("env=gymnasium", "env.id=odd_tasks:Counts-v0", clip, "logging=csv", "env.timesteps=128") == 0
    assert json.loads(Path("run/result.json").read_text())["return_mean"] == 18
    with Path("run/evaluations.csv").open() as file:
        assert {(row["return"], row["length"]) for row in csv.DictReader(file)} == {("18.0", "6")}
    with Path("run/progress.csv").open() as file:
        told = {row["rollout/ep_rew_mean"] for row in csv.DictReader(file)} - {""}
    assert set(map(float, told)) == {18.0}


def test_the_agent_still_learns_from_what_the_wrappers_make_of_rewards() -> None:
    envs = training_envs(config("Counts", wrapper={"_target_": WRAPPERS + "ClipReward", "max_reward": 1}), 0.9)
    envs.reset()
    assert envs.step(np.zeros(2, dtype=int))[1].tolist() == [1, 1]


@pytest.mark.parametrize(
    "wrapper",
    [
        WRAPPERS + "FlattenObservation",
        {"_target_": WRAPPERS + "FlattenObservation"},
        {"_target_": WRAPPERS + "FlattenObservation", "_partial_": True},
        {"_target_": WRAPPERS + "TransformObservation", "func": {"_target_": "copy.copy", "_partial_": True}},
        [
            WRAPPERS + "FlattenObservation",
            {"_target_": WRAPPERS + "TimeLimit", "max_episode_steps": "${...max_episode_steps}"},
        ],
        [],
    ],
)
def test_wrappers_of_every_form(wrapper: Any) -> None:
    if isinstance(wrapper, dict) and "func" in wrapper:
        wrapper["observation_space"] = None
    env = make_env(config("Counts", wrapper=wrapper, max_episode_steps=5))
    assert env.observation_space.shape == (3,)
    assert episode(env)["l"] == 5


def test_what_is_nested_is_flattened_last() -> None:
    assert make_env(config("Nested")).observation_space.shape == (3 + 48,)
    env = make_env(config("NoisyParts", wrapper={"_target_": WRAPPERS + "FilterObservation", "filter_keys": ["see"]}))
    assert list(env.observation_space) == ["see"]


@pytest.mark.few(1)
@pytest.mark.parametrize(("task", "normalize"), [("Noisy", False), ("Noisy", True), ("NoisyParts", True)])
def test_processes_give_the_numbers_of_copies_in_this_one(task: str, normalize: bool) -> None:
    settings = {"normalize_observation": normalize, "normalize_reward": True}
    settings |= {"norm_obs_keys": ["see"] if task == "NoisyParts" else None}
    played = []
    for vec in ("dummy", "subproc"):
        envs = training_envs(config(task, vec=vec, **settings), gamma=0.9)
        envs.seed(3)
        steps: list[Any] = [envs.reset()]
        for _ in range(8):
            observations, rewards, dones, infos = envs.step(np.zeros(2, dtype=int))
            steps += [observations, rewards, dones, [info.get("episode", {}).get("r") for info in infos]]
        played.append(steps)
        envs.close()
    for ours, theirs in zip(*played, strict=True):
        assert_same(ours, theirs)


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        for key in one:
            assert_same(one[key], other[key])
        return
    np.testing.assert_array_equal(one, other)
    assert getattr(one, "dtype", None) == getattr(other, "dtype", None)


@pytest.mark.slow
def test_a_run_in_processes_learns_the_same(train: Any) -> None:
    results = []
    for vec in ("dummy", "subproc"):
        assert train("env=pendulum", "env.max_episode_steps=20", f"env.vec={vec}", f"hydra.run.dir={vec}") == 0
        results.append(Path(vec, "model", "policy.safetensors").read_bytes())
    assert results[0] == results[1]


@pytest.mark.few(2)
@pytest.mark.parametrize("vec", ["dummy", "subproc"])
@pytest.mark.parametrize("where", ["reset", "step"])
def test_an_error_of_the_simulator_names_it(vec: str, where: str, train: Any) -> None:
    arguments = ("env=gymnasium", "env.id=odd_tasks:Breaks-v0", f"+env.kwargs.where={where}", f"env.vec={vec}")
    assert train(*arguments, "evaluation.interval=0") == 1
    result = json.loads(Path("run/result.json").read_text())
    assert result["status"] == "failed"
    assert f"odd_tasks:Breaks-v0 failed in {where}: AssertionError" in result["error"]


def test_a_process_that_dies_ends_the_run() -> None:
    envs = training_envs(config("Counts", vec="subproc"), 0.9)
    envs.reset()
    envs.processes[1].kill()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="the process of an environment has ended"):
        envs.step(np.zeros(2, dtype=int))
    envs.close()


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("env.id=MiniGrid-Empty-5x5-v0", "env=gymnasium env.id=module:MiniGrid-Empty-5x5-v0"),
        ("env.id=ALE/Pong-v5", "env=gymnasium env.id=module:ALE/Pong-v5"),
        ("env.id=odd_tasks:Nowhere-v0", "env.id=odd_tasks:Nowhere-v0: Environment `Nowhere` doesn't exist"),
        ("env.id=Cart:Pole:v1", "Cart:Pole:v1 cannot be made"),
        ("env.id=no_such_module:Task-v0", "no_such_module:Task-v0 cannot be made: ModuleNotFoundError"),
        ("env.id=odd_tasks:Breaks-v0", "odd_tasks:Breaks-v0 cannot be made: AssertionError"),
        (
            "env.id=CartPole-v1 env.wrapper=odd_tasks.GivesUp",
            "CartPole-v1 cannot be wrapped in odd_tasks.GivesUp: Assert",
        ),
        ("env.id=CartPole-v1 env.wrapper=odd_tasks.no_wrapper", "odd_tasks.no_wrapper gives NoneType"),
        ("env.id=CartPole-v1 env.wrapper=odd_tasks.Nowhere", "odd_tasks.Nowhere"),
        ("env.id=CartPole-v1 env.wrapper=[gymnasium.wrappers.ClipReward,3]", "env.wrapper=3: name the wrapper's class"),
        ("env.id=CartPole-v1 env.wrapper={min_reward:1}", "name the wrapper's class"),
        ("env.id=CartPole-v1 env.vec=threads", "env.vec must be one of auto, dummy, subproc"),
        ("env.id=CartPole-v1 env.norm_obs_keys=[see]", "no effect without env.normalize_observation=true"),
        ("env.id=CartPole-v1 env.normalize_observation=true env.norm_obs_keys=[see]", "'see' is no part of the"),
        (
            "env.id=odd_tasks:NoisyParts-v0 env.normalize_observation=true env.norm_obs_keys=[sea]",
            "'sea' is no part of the observations; they are ",
        ),
        (
            "env.id=odd_tasks:NoisyParts-v0 env.normalize_observation=true",
            "env.normalize_observation=true: only observations in a Box are normalised, and the part 'count'",
        ),
        ("env.id=FrozenLake-v1 env.normalize_observation=true", "in a Box are normalised, and these are Discrete(16)"),
        ("env.id=CartPole-v1 env.normalize_observation=true env.norm_obs_keys=[]", "normalises nothing"),
    ],
)
def test_one_line_that_names_the_environment(arguments: str, expected: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "env=gymnasium", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def test_named_tasks_take_wrappers_too(train: Any) -> None:
    assert train("env.wrapper=[gymnasium.wrappers.TimeAwareObservation]", "evaluation.interval=0") == 0


def test_a_part_of_the_observations_is_normalised() -> None:
    settings = {"normalize_observation": True, "norm_obs_keys": ["see"]}
    envs = training_envs(config("NoisyParts", **settings), 0.9)
    assert isinstance(envs, VecNormalize)
    assert list(envs.obs_rms) == ["see"]  # type: ignore[call-overload]


@pytest.mark.few(4)
@pytest.mark.parametrize("agent", ["ppo", "a2c", "reinforce"])
@pytest.mark.parametrize("box", ["integers", "bytes", "unbounded", "half_bounded"])
def test_the_environment_gets_actions_of_its_own_space(box: str, agent: str) -> None:
    small = {"ppo": ("agent.n_steps=16", "agent.batch_size=16"), "a2c": (), "reinforce": ("agent.n_episodes=2",)}[agent]
    settings = ("env.timesteps=64", "env.n_envs=2", "evaluation.episodes=1", "evaluation.interval=0", "logging=none")
    task = ("env=gymnasium", "env.id=odd_tasks:Acts-v0", f"+env.kwargs.box={box}", f"agent={agent}")
    with warnings.catch_warnings(action="ignore"):
        assert main(["train", *task, *small, *settings, "hydra.run.dir=run"]) == 0
    assert main(["play", "run", "--trust", "odd_tasks", "--video", "it.mp4"]) == 0


def test_whole_actions_reach_both_bounds_through_a_users_wrapper() -> None:
    scale = {"_target_": WRAPPERS + "RescaleAction", "min_action": -1, "max_action": 1}
    env = make_env(config("Acts", kwargs={"box": "bytes"}, wrapper=scale))
    env.reset()
    assert [env.step(np.full(2, a, np.float32))[1] for a in (-1, -0.499, 1)] == [0, 2 * 64, 2 * 255]


@pytest.mark.parametrize(
    ("box", "warns"),
    [
        ("thousand", True),
        ("tiny", True),
        ("bytes", True),
        ("unit", False),
        ("unbounded", False),
        ("half_bounded", False),
        ("integers", False),
    ],
)
def test_actions_far_from_unit_scale_are_warned_of(box: str, warns: bool) -> None:
    from agents import PPO

    with warnings.catch_warnings(record=True, action="always") as caught:
        PPO(make_env(config("Acts", kwargs={"box": box})), n_steps=16, batch_size=16)
    assert any("gymnasium.wrappers.RescaleAction" in str(warning.message) for warning in caught) == warns


def test_evaluation_does_not_count_what_follows_an_episode() -> None:
    envs = evaluation_envs(config("Noisy"), 2)
    envs.reset()
    infos = [envs.step(np.zeros(2, dtype=int))[3] for _ in range(6)][-1]
    assert all(info["episode"]["l"] == 6 for info in infos)


GREY = np.linspace(0, 1, 35).reshape(5, 7)


@pytest.mark.parametrize(
    "frame",
    [
        GREY,
        GREY[..., None],
        np.stack([GREY] * 3, axis=-1),
        np.stack([GREY] * 3, axis=0),
        np.stack([*[GREY] * 3, np.ones((5, 7))], axis=-1),
        (GREY * 255).astype(np.float32),
        np.rint(GREY * 255).astype(np.uint8),
        np.rint(GREY * 255).astype(np.int64),
        np.rint(GREY * 65535).astype(np.uint16),
        GREY.astype(np.float16),
        GREY.tolist(),
    ],
)
def test_frames_of_every_kind_are_the_same_picture(frame: Any) -> None:
    (picture,) = pictures([frame])
    assert (picture.shape, picture.dtype) == ((5, 7, 3), np.uint8)
    assert (np.abs(picture.astype(float) - 255 * GREY[..., None]) <= 1).all()


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float64])
def test_a_film_of_zeros_and_ones_is_black_and_white(kind: type) -> None:
    black, white = pictures([np.zeros((2, 2), kind), np.ones((2, 2), kind)])
    assert (black.max(), white.min()) == (0, 255)


def test_a_small_film_is_scaled_up_and_holds_every_frame(train: Any) -> None:
    import imageio.v3 as iio

    assert train("env=gymnasium", "env.id=odd_tasks:Counts-v0", "evaluation.interval=0") == 0
    assert main(["play", "run", "--trust", "odd_tasks", "--video", "it.mp4", "--episodes", "2"]) == 0
    film = iio.imread("it.mp4")
    assert film.shape == (12, 320, 320, 3)
    assert film[0].min() > 200
    assert film[4, :, :120].max() < 50
    assert film[4, :, 136:].min() > 200


@pytest.mark.parametrize("task", ["Unseen", "Written"])
def test_play_of_a_task_that_cannot_draw_prints_returns(task: str, train: Any, capsys: pytest.CaptureFixture) -> None:
    assert train("env=gymnasium", f"env.id=odd_tasks:{task}-v0", "evaluation.interval=0") == 0
    capsys.readouterr()
    assert main(["play", "run", "--trust", "odd_tasks", "--episodes", "2"]) == 0
    assert capsys.readouterr().out.endswith("episode 1: return 18.0\nepisode 2: return 18.0\n")
    assert main(["play", "run", "--trust", "odd_tasks", "--video", "it.mp4"]) == 2
    err = capsys.readouterr().err
    assert "without --video its returns are printed" in err
    assert err.count("\n") == 1


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ("text", "draws str, no pictures"),
        ("nothing", "draws NoneType, no pictures"),
        ("fails", "cannot be drawn (no pencil"),
    ],
)
def test_play_of_odd_frames_is_one_line(frame: str, expected: str, train: Any, capsys: pytest.CaptureFixture) -> None:
    task = ("env=gymnasium", "env.id=odd_tasks:Counts-v0", f"+env.kwargs.frame={frame}", "evaluation.interval=0")
    assert train(*task) == 0
    capsys.readouterr()
    assert main(["play", "run", "--trust", "odd_tasks", "--video", "it.mp4"]) == 2
    assert expected in (err := capsys.readouterr().err)
    assert err.count("\n") == 1


def test_play_names_the_environment_that_fails(train: Any, capsys: pytest.CaptureFixture) -> None:
    assert train("env=gymnasium", "env.id=odd_tasks:Breaks-v0", "+env.kwargs.where=never", "evaluation.interval=0") == 0
    run = Path("run/.hydra/config.yaml")
    run.write_text(run.read_text().replace("where: never", "where: step"))
    capsys.readouterr()
    assert main(["play", "run", "--trust", "odd_tasks", "--video", "it.mp4"]) == 2
    assert "odd_tasks:Breaks-v0 failed in step: AssertionError" in capsys.readouterr().err


def test_play_without_a_screen_is_one_line(
    train: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert train("env=gymnasium", "env.id=odd_tasks:Counts-v0", "evaluation.interval=0") == 0
    for screen in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(screen, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    for is_mujoco, remedy in ((False, "needs none\n"), (True, "MUJOCO_GL=egl before the command\n")):
        if is_mujoco:
            monkeypatch.setitem(sys.modules, "mujoco", None)
        capsys.readouterr()
        assert main(["play", "run", "--trust", "odd_tasks"]) == 2
        err = capsys.readouterr().err
        assert "no window can be opened (there is no screen); --video FILE.mp4" in err
        assert err.endswith(remedy)
        assert err.count("\n") == 1
