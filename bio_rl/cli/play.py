"""``bio-rl play``: a trained agent acts, in a window, into a video file, or unseen where its task draws nothing."""

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from gymnasium.error import DependencyNotInstalled
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from stable_baselines3.common.monitor import Monitor

from agents import load_model
from agents.base import RuleAgent
from bio_rl.cli.errors import UserError, first_line
from bio_rl.experiment.environments import as_evaluated, make_env
from bio_rl.experiment.folder import CONFIG, MODEL
from bio_rl.experiment.output import as_return, plain_warnings
from bio_rl.experiment.result import read_result
from bio_rl.trust import Untrusted, check_environment, plain_file, read_yaml

FRAMES_A_SECOND = 30
"""Where the environment itself names none."""
LEAST_PIXELS = 320
"""Width or height that a video has at least: smaller frames are scaled up by a whole number."""


@plain_warnings()
def play(folder: Path, video: Path | None, episodes: int, seed: int, trusted: Sequence[str] = ()) -> int:
    """Show a run's agent act deterministically, and print each episode's return.

    Args:
        folder: of a run that saved its model, or of one of its models, as ``RUN/checkpoints/best``.
        video: the file to write; ``None`` for a window.
        episodes: how many.
        seed: of the first episode; the others count on from it.
        trusted: modules whose code the folder may name; they are imported.

    Raises:
        UserError: a module that is not there, a folder that names other code or has no model, an environment that
            fails, no window, or no video writer.
    """
    run_folder, model = _run_and_model(folder)
    for module in trusted:
        try:
            import_module(module)
        except ImportError as error:
            raise UserError(f"--trust {module}: {first_line(error)}") from error
    config = _config(run_folder, model, trusted)
    if video is not None:
        _check_video(video)
    env = _open(config, video is None)
    try:
        agent = load_model(model, env)
    except Exception as error:  # each file of the folder has its own
        raise UserError(f"the model in {folder} cannot be loaded: {first_line(error)}") from error
    if not all(tensor.isfinite().all() for tensor in agent.policy.parameters()):
        raise UserError(f"the model in {folder} cannot act: its weights are not finite")
    frames: list[Any] = []
    for number in range(episodes):
        try:
            episode_return = _episode(agent, seed + number, env, None if video is None else frames)
        except RuntimeError as error:  # of the environment
            raise UserError(first_line(error)) from error
        print(f"episode {number + 1}: return {as_return(episode_return)}")
    if video is not None:
        _write_video(video, pictures(frames), env.metadata.get("render_fps") or FRAMES_A_SECOND)
        print(f"wrote {video}")
    env.close()
    return 0


def _run_and_model(folder: Path) -> tuple[Path, Path]:
    """The run's folder, and its final model; or, where the folder is a model's own, that model."""
    if not (folder / "policy.yaml").is_file():
        return folder, folder / "model"
    runs = (parent for parent in folder.absolute().parents if (parent / ".hydra" / "config.yaml").is_file())
    return next(runs, folder), folder


def _config(run_folder: Path, model: Path, trusted: Sequence[str]) -> DictConfig:
    """The run's config of its environment, which names nothing that is not trusted.

    Raises:
        UserError: the folder is no run's, holds no model, or is not what a run of ours left.
    """
    if not run_folder.is_dir():
        raise UserError(f"there is no folder {str(run_folder)!r}")
    result, config_file = read_result(run_folder), plain_file(run_folder, CONFIG)
    if result is None or config_file is None:
        raise UserError(f"{run_folder} is not the folder of a run")
    if not (model / "policy.yaml").is_file():
        raise UserError(f"{run_folder} has no model to play: the run's status is {result['status']!r}")
    files = [model / name for name in MODEL]
    if links := [path for path in (*files, model) if path.is_symlink()]:
        raise UserError(f"{links[0]} is a link, which is not followed: a run's files are its own")
    try:
        config = read_yaml(config_file)
        env = config.get("env") if isinstance(config, dict) else None
        if not (isinstance(env, dict) and isinstance(env.get("id"), str)):
            raise UserError(f"{config_file} is not the config of a run")
        check_environment(env, trusted)
        return OmegaConf.create({"env": env})
    except Untrusted as error:
        raise UserError(f"{config_file}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError, OSError, OmegaConfBaseException) as error:
        raise UserError(f"{config_file} cannot be read: {first_line(error)}") from error


def _open(config: DictConfig, window: bool) -> Monitor:
    """The environment, drawing where it is wanted and can be."""
    name = config.env.id
    env = _make(config, None)
    modes = env.metadata.get("render_modes") or []
    if "rgb_array" not in modes and not (window and "human" in modes):
        draws = f"draws no pictures ({', '.join(modes)})" if modes else "draws nothing"
        if not window:
            raise UserError(f"{name} {draws}; without --video its returns are printed")
        print(f"{name} {draws}; here are its returns")
        return env
    env.close()
    if not window:
        return _make(config, "rgb_array")
    if not _has_screen():
        # Not all simulators raise an error: some draw where nobody sees it, MuJoCo's aborts.
        raise UserError(f"no window can be opened (there is no screen); {_without_screen()}")
    env = _make(config, "human")
    try:
        env.reset()
    except Exception as error:  # each simulator has its own
        raise UserError(f"no window can be opened ({first_line(error)}); {_without_screen()}") from error
    if _is_invisible():
        raise UserError(f"no window can be opened (there is no screen); {_without_screen()}")
    return env


def _make(config: DictConfig, render_mode: str | None) -> Monitor:
    try:
        return make_env(as_evaluated(config.env), render_mode)
    except DependencyNotInstalled as error:
        extra = config.env.extra
        raise UserError(f'pip install "bio-rl[{extra}]"' if extra else first_line(error)) from error
    except Exception as error:  # each environment has its own
        raise UserError(first_line(error)) from error


def _is_mujoco() -> bool:
    return "mujoco" in sys.modules


def _has_screen() -> bool:
    # A driver of SDL's may need neither server, and `_is_invisible` asks what it found.
    screens = ["DISPLAY", "WAYLAND_DISPLAY", *([] if _is_mujoco() else ["SDL_VIDEODRIVER"])]
    return not sys.platform.startswith("linux") or any(map(os.environ.get, screens))


def _without_screen() -> str:
    return "--video FILE.mp4 needs none" + (" with MUJOCO_GL=egl before the command" if _is_mujoco() else "")


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


def _episode(agent: RuleAgent, seed: int, env: Monitor, frames: list[Any] | None) -> float:
    """The return of one episode, whose frames are added to ``frames`` if these are wanted.

    Args:
        agent: in ``env``.
        seed: of the episode.
        env: which draws.
        frames: as the environment draws them.
    """
    envs = agent.get_env()
    assert envs is not None
    envs.seed(seed)
    observations: Any = envs.reset()
    while True:
        if frames is not None:
            frames.append(_render(env))
        actions, _ = agent.predict(observations, deterministic=True)
        observations, _, dones, infos = envs.step(actions)
        if dones[0]:
            return infos[0]["episode"]["r"]


def _render(env: Monitor) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            return env.render()
    except Exception as error:  # each simulator has its own
        remedy = "; without a screen it needs MUJOCO_GL=egl before the command" if _is_mujoco() else ""
        raise UserError(f"the task cannot be drawn ({first_line(error)}){remedy}") from error


def pictures(frames: Sequence[Any]) -> list[np.ndarray]:
    """Frames of any kind as a video takes them: ``(height, width, 3)``, from 0 to 255.

    If the whole film has no number above 1, they are shares of the full brightness; if it has one
    beyond 255, the greatest is full brightness.

    Args:
        frames: grey, RGB or RGBA, with channels last or first, of any type of number.

    Raises:
        UserError: text, or shapes that are no picture's.
    """
    colours = [_colours(frame) for frame in frames]
    if len({frame.shape for frame in colours}) > 1:
        raise UserError("the task's frames change their size, which a video cannot")
    greatest = max(float(frame.max()) for frame in colours)
    scale = 255.0 if greatest <= 1 else min(1.0, 255 / greatest)
    return [np.clip(frame * scale, 0, 255).round().astype(np.uint8) for frame in colours]


def _colours(frame: Any) -> np.ndarray:
    """One frame as ``(height, width, 3)`` finite numbers."""
    array = np.asarray(frame)
    if array.dtype.kind not in "biuf":
        raise UserError(f"the task draws {type(frame).__name__}, no pictures; without --video its returns are printed")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise UserError(f"the task draws frames of shape {np.shape(frame)}, which are no pictures")
    if array.dtype.kind == "f":
        array = np.nan_to_num(array, posinf=0, neginf=0)
    # Grey is three equal colours; the fourth channel says how opaque a pixel is.
    return np.broadcast_to(array[..., :3], (*array.shape[:2], 3))


def _write_video(video: Path, frames: Sequence[np.ndarray], frames_a_second: float) -> None:
    from moviepy.video.VideoClip import VideoClip

    scale = -(-LEAST_PIXELS // max(frames[0].shape[:2]))

    def at(seconds: float) -> np.ndarray:
        # Scaled here, one by one: all at once would take a hundred times the memory.
        frame = frames[min(round(seconds * frames_a_second), len(frames) - 1)]
        return frame.repeat(scale, axis=0).repeat(scale, axis=1)

    clip = VideoClip(at, duration=len(frames) / frames_a_second)
    clip.write_videofile(str(video), fps=frames_a_second, logger=None, audio=False)
