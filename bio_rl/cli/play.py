"""``bio-rl play``: a trained agent acts, in a window or into a video file."""

import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import yaml
from gymnasium.error import DependencyNotInstalled
from omegaconf import DictConfig, OmegaConf

from agents import load_model
from agents.base import RuleAgent
from bio_rl.cli.errors import UserError, first_line
from bio_rl.experiment.environments import make_env
from bio_rl.experiment.result import read_result

FRAMES_A_SECOND = 30
"""Where the environment itself names none."""


def play(folder: Path, video: Path | None, episodes: int, seed: int) -> int:
    """Show a run's agent act deterministically, and print each episode's return.

    Args:
        folder: of a run that saved its model, or of one of its models, as ``RUN/checkpoints/best``.
        video: the file to write; ``None`` for a window.
        episodes: how many.
        seed: of the first episode; the others count on from it.

    Raises:
        UserError: a folder without a model, no window, or no video writer.
    """
    run_folder, model = _run_and_model(folder)
    config = _config(run_folder, model)
    if video is not None:
        _check_video(video)
    env = _make(config, "human" if video is None else "rgb_array")
    try:
        agent = load_model(model, env)
    except Exception as error:  # each file of the folder has its own
        raise UserError(f"the model in {folder} cannot be loaded: {first_line(error)}") from error
    frames: list[np.ndarray] = []
    for number in range(episodes):
        episode_return = _episode(agent, seed + number, None if video is None else frames)
        print(f"episode {number + 1}: return {episode_return:.1f}")
    if video is not None:
        _write_video(video, frames, env.metadata.get("render_fps") or FRAMES_A_SECOND)
        print(f"wrote {video}")
    env.close()
    return 0


def _run_and_model(folder: Path) -> tuple[Path, Path]:
    """The run's folder, and its final model; or, where the folder is a model's own, that model."""
    if not (folder / "policy.yaml").is_file():
        return folder, folder / "model"
    runs = (parent for parent in folder.absolute().parents if (parent / ".hydra" / "config.yaml").is_file())
    return next(runs, folder), folder


def _config(run_folder: Path, model: Path) -> DictConfig:
    if not run_folder.is_dir():
        raise UserError(f"there is no folder {str(run_folder)!r}")
    result, config_file = read_result(run_folder), run_folder / ".hydra" / "config.yaml"
    if result is None or not config_file.is_file():
        raise UserError(f"{run_folder} is not the folder of a run")
    if not (model / "policy.yaml").is_file():
        raise UserError(f"{run_folder} has no model to play: the run's status is {result['status']!r}")
    try:
        config = OmegaConf.load(config_file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{config_file} cannot be read: {error}") from error
    if "env" not in config:
        raise UserError(f"{config_file} is not the config of a run")
    assert isinstance(config, DictConfig)
    return config


def _make(config: DictConfig, render_mode: str) -> gymnasium.Env:
    try:
        env = make_env(config.env, render_mode)
    except DependencyNotInstalled as error:
        extra = config.env.extra
        raise UserError(f'pip install "bio-rl[{extra}]"' if extra else first_line(error)) from error
    except Exception as error:  # each environment has its own
        raise UserError(f"{config.env.id} cannot be made: {first_line(error)}") from error
    if render_mode == "human":
        try:
            env.reset()
        except Exception as error:  # each simulator has its own
            raise UserError(f"no window can be opened ({first_line(error)}); --video FILE.mp4 needs none") from error
        if _is_invisible():
            raise UserError("no window can be opened (there is no screen); --video FILE.mp4 needs none")
    return env


def _is_invisible() -> bool:
    """Whether the simulator is pygame, which without a screen draws where nobody sees it and says nothing."""
    pygame = sys.modules.get("pygame")
    return pygame is not None and pygame.display.get_init() and pygame.display.get_driver() in ("offscreen", "dummy")


def _check_video(video: Path) -> None:
    try:
        import moviepy  # noqa: F401
    except ImportError as error:
        raise UserError('writing a video needs moviepy: pip install "bio-rl[video]"') from error
    if video.suffix != ".mp4" or not os.access(video.absolute().parent, os.W_OK):
        raise UserError(f"--video {video}: give the name of an .mp4 file in a folder that can be written")


def _episode(agent: RuleAgent, seed: int, frames: list[np.ndarray] | None) -> float:
    """The return of one episode, whose frames are added to ``frames`` if these are wanted."""
    envs = agent.get_env()
    assert envs is not None
    envs.seed(seed)
    observations: Any = envs.reset()
    episode_return, done = 0.0, False
    while not done:
        if frames is not None:
            frames.append(np.asarray(envs.render()))
        actions, _ = agent.predict(observations, deterministic=True)
        observations, rewards, dones, _ = envs.step(actions)
        episode_return, done = episode_return + float(rewards[0]), bool(dones[0])
    return episode_return


def _write_video(video: Path, frames: list[np.ndarray], frames_a_second: float) -> None:
    from moviepy.video.io.ImageSequenceClip import ImageSequenceClip

    ImageSequenceClip(frames, fps=frames_a_second).write_videofile(str(video), logger=None, audio=False)
