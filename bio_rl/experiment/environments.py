"""Environments by their config: what the agent trains in, and what it is evaluated in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache, partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled, UnregisteredEnv
from gymnasium.wrappers import TimeLimit
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from bio_rl.experiment.finite import FiniteEnvs
from bio_rl.experiment.isolation import isolated
from bio_rl.experiment.monitor import TaskMonitor, TaskRewards, failure
from bio_rl.snapshot import digest, take
from bio_rl.tasks import BATCHED, make_batched
from bio_rl.tasks.vec_env import BatchedVecEnv

LONGEST_EPISODE = 1000
"""Steps after which an episode is cut where neither the environment nor the config sets a limit."""
STEPS_TRIED = 30
"""By which it is found out how an environment can be restored, before and after."""

ROUND_ACTIONS, ADAPT_SPACES = "agents.round_actions", "agents.adapt_spaces"
"""By their names, as Hydra's ``_target_`` names the agent: what makes environments does not depend on agents."""


def make_env(config: DictConfig, render_mode: str | None = None) -> TaskMonitor:
    """One environment of the config group ``env``, in its wrappers, and monitored.

    Raises:
        DependencyNotInstalled: a simulator that is not installed.
        ValueError: an unknown id, a wrapper that is none, or spaces that no agent can use.
        RuntimeError: what the environment or a wrapper says against its settings.
    """
    task = TaskRewards(get_method(ROUND_ACTIONS)(_make(config, render_mode)))
    env: gymnasium.Env = task
    for wrapper in _wrappers(config.wrapper):
        env = _wrapped(env, wrapper, config.id)
    # Last, whatever was chosen: what other wrappers need, images above all, is not flattened before them.
    return TaskMonitor(get_method(ADAPT_SPACES)(env), task, config.id, config.get("time_limit"))


def training_envs(config: DictConfig, gamma: float, in_process: bool = False) -> VecEnv:
    """The copies that the agent learns in, normalised where the config says so.

    Args:
        config: the group ``env``.
        gamma: the agent's discount, which reward normalisation needs.
        in_process: whether they stay in this process, whatever ``vec`` says.

    Raises:
        ValueError: a setting that cannot be, or has no effect; and as ``make_env``.
    """
    if config.vec not in ("auto", *VEC_ENVS):
        raise ValueError(f"env.vec={config.vec}: env.vec must be one of auto, {', '.join(VEC_ENVS)}")
    make_vec_env = VEC_ENVS["dummy" if in_process or config.vec == "auto" else config.vec]
    batched = _batched(config, config.n_envs)
    envs: VecEnv = make_vec_env([lambda: make_env(config)] * config.n_envs) if batched is None else batched
    if config.id not in BATCHED or batched is None:  # those are finite by their equations
        envs = FiniteEnvs(envs)
    _check_normalization(config, envs.observation_space)
    if config.normalize_observation or config.normalize_reward:
        envs = VecNormalize(
            envs,
            norm_obs=config.normalize_observation,
            norm_reward=config.normalize_reward,
            gamma=gamma,
            norm_obs_keys=None if config.norm_obs_keys is None else list(config.norm_obs_keys),
        )
    return envs


def how_to_restore(config: DictConfig) -> bool | None:
    """How an environment is brought to the midst of another one's episode, as is tried with three of them.

    Args:
        config: the group ``env``.

    Returns:
        What ``TaskMonitor.restore`` is to be told: whether to replay the episode; ``None`` if neither way restores it.
    """
    return _how_to_restore(OmegaConf.to_yaml(config, resolve=True))


@cache
def _how_to_restore(text: str) -> bool | None:
    config: Any = OmegaConf.create(text)
    found = None
    if _batched(config, 1) is not None:
        return False
    # Each environment has its own against being made and tried.
    with isolated(seed=0), suppress(Exception), ExitStack() as stack:
        original, *twins = (stack.enter_context(closing(make_env(config))) for _ in range(3))
        original.reset(seed=0)
        original.action_space.seed(0)
        actions = [original.action_space.sample() for _ in range(2 * STEPS_TRIED)]
        for _ in range(2):  # what an episode leaves may matter in the next one
            original.reset()
            _play(original, actions[:STEPS_TRIED])
        snapshot = original.snapshot()
        with isolated(seed=0):
            expected = _play(original, actions[STEPS_TRIED:])
        for replay, twin in zip((False, True), twins, strict=True):
            twin.reset(seed=1)
            with suppress(Exception):
                twin.restore(snapshot, replay)
                with isolated(seed=0):
                    if _play(twin, actions[STEPS_TRIED:]) == expected:
                        found = replay
                        break
    return found


def _play(env: Monitor, actions: Sequence[Any]) -> str:
    """All that an environment answers to actions, to be compared."""
    answers = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        answers.append([take(observation), float(reward), terminated, truncated])
        if terminated or truncated:
            answers.append([take(env.reset()[0])])
    return digest(answers)


def evaluation_envs(config: DictConfig, episodes: int) -> VecEnv:
    """A copy for each episode, with raw observations. They share this process, for there may be a hundred."""
    config = as_evaluated(config)
    return _batched(config, episodes) or DummyVecEnv([lambda: make_env(config)] * episodes)


def as_evaluated(config: DictConfig) -> DictConfig:
    """The group ``env`` with the arguments that an evaluation's environments have: held-out digits, say."""
    evaluated = config.copy()
    evaluated.kwargs = {**config.kwargs, **config.get("evaluation_kwargs", {})}
    return evaluated


def _batched(config: DictConfig, copies: int) -> BatchedVecEnv | None:
    """The copies as one computation, where the task has one, for these arguments, and no wrappers change it.

    Raises:
        RuntimeError: what the task says against its arguments.
    """
    if config.vec != "auto" or config.wrapper:
        return None
    try:
        batch = make_batched(config.id, copies, config.max_episode_steps, **_arguments(config))
    except Exception as error:  # each environment has its own
        raise failure(config.id, "cannot be made", error) from error
    return None if batch is None else BatchedVecEnv(batch)


class ProcessVecEnv(SubprocVecEnv):
    """Stable-Baselines3's SubprocVecEnv, with the number formats of its DummyVecEnv: both give the same numbers.

    Args:
        env_fns: makes the environment of each process.

    Raises:
        RuntimeError: what an environment raised in its process, or that the process has ended.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gymnasium.Env]]):
        super().__init__([partial(_reporting, make) for make in env_fns])

    def reset(self) -> Any:
        with _ended_processes():
            observations = super().reset()
        self._raise_reported(self.reset_infos)
        return self._cast(observations)

    def step_wait(self) -> Any:
        with _ended_processes():
            observations, rewards, dones, infos = super().step_wait()
        self._raise_reported([*infos, *self.reset_infos])
        return self._cast(observations), rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """End every process, even if an interrupt or an error came between two of their answers."""
        if self.closed:
            return
        for remote in self.remotes:
            with suppress(OSError):  # it has ended
                remote.send(("close", None))
        for remote, process in zip(self.remotes, self.processes, strict=True):
            with suppress(EOFError, OSError):  # it ends now
                while True:
                    remote.recv()
            process.join()
            remote.close()
        self.closed = True

    def _cast(self, observations: Any) -> Any:
        space = self.observation_space
        if isinstance(space, spaces.Dict):
            return {key: observations[key].astype(part.dtype) for key, part in space.items()}
        return observations.astype(space.dtype)

    @staticmethod
    def _raise_reported(infos: Sequence[Mapping[str, Any]]) -> None:
        for info in infos:
            if ErrorReport.KEY in info:
                raise RuntimeError(info[ErrorReport.KEY])


VEC_ENVS: dict[str, Callable[..., VecEnv]] = {"dummy": DummyVecEnv, "subproc": ProcessVecEnv}


class ErrorReport(gymnasium.Wrapper):
    """Reports in ``info`` what an environment raises, where there is another process to be told."""

    KEY = "bio_rl_error"

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        try:
            return self.env.reset(**kwargs)
        except Exception as error:  # the monitor's, which names the environment
            return self.observation_space.sample(), {self.KEY: str(error)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            return self.env.step(action)
        except Exception as error:  # the monitor's, which names the environment
            return self.observation_space.sample(), 0.0, False, False, {self.KEY: str(error)}


def _reporting(make: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    return ErrorReport(make())


@contextmanager
def _ended_processes() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise RuntimeError("the process of an environment has ended") from error


def _make(config: DictConfig, render_mode: str | None) -> gymnasium.Env:
    """The task itself, in episodes that end."""
    kwargs = _arguments(config)
    if render_mode is not None:
        # Named only where it is wanted: an environment that draws nothing need not know the argument.
        kwargs["render_mode"] = render_mode
    try:
        env = gymnasium.make(config.id, max_episode_steps=config.max_episode_steps, **kwargs)
    except DependencyNotInstalled:
        raise
    except UnregisteredEnv as error:
        remedy = f"; if another package registers it, name its module: env=gymnasium env.id=module:{config.id}"
        raise ValueError(f"env.id={config.id}: {error}{'' if ':' in config.id else remedy}") from error
    except Exception as error:  # each environment has its own
        raise failure(config.id, "cannot be made", error) from error
    if env.spec is None or env.spec.max_episode_steps is None:
        env = TimeLimit(env, LONGEST_EPISODE)
    return env


def _arguments(config: DictConfig) -> dict[str, Any]:
    """Of the environment itself."""
    return OmegaConf.to_container(config.kwargs, resolve=True)  # type: ignore[return-value]


def _wrappers(chosen: Any) -> list[dict[str, Any]]:
    """The configs of the wrappers, the innermost first: none, one or a list, each a ``_target_`` or its name alone.

    Raises:
        ValueError: anything else.
    """
    if OmegaConf.is_config(chosen):
        chosen = OmegaConf.to_container(chosen, resolve=True)
    wrappers = []
    for each in chosen if isinstance(chosen, list) else [] if chosen is None else [chosen]:
        wrapper = {"_target_": each} if isinstance(each, str) else each
        if not isinstance(wrapper, dict) or "_target_" not in wrapper:
            raise ValueError(f"env.wrapper={each}: name the wrapper's class, as in gymnasium.wrappers.ClipReward")
        wrappers.append(wrapper)
    return wrappers


def _wrapped(env: gymnasium.Env, wrapper: dict[str, Any], id: str) -> gymnasium.Env:
    # Whether or not it says _partial_: a wrapper's first argument is known here only.
    make = instantiate(wrapper, _partial_=True, _convert_="all")
    try:
        wrapped = make(env)
    except Exception as error:  # each wrapper has its own
        raise failure(id, f"cannot be wrapped in {wrapper['_target_']}", error) from error
    if not isinstance(wrapped, gymnasium.Env):
        raise ValueError(f"env.wrapper={wrapper['_target_']} gives {type(wrapped).__name__}, not an environment")
    return wrapped


def _check_normalization(config: DictConfig, space: spaces.Space[Any]) -> None:
    """Refuse observations that cannot be normalised, and parts of them that are none."""
    keys = config.norm_obs_keys
    if not config.normalize_observation:
        if keys is not None:
            raise ValueError("env.norm_obs_keys has no effect without env.normalize_observation=true")
        return
    if keys is not None and not keys:
        raise ValueError("env.norm_obs_keys=[] normalises nothing; null stands for all parts")
    parts = dict(space) if isinstance(space, spaces.Dict) else {}
    if unknown := [key for key in keys or () if key not in parts]:
        has = f"they are {', '.join(parts)}" if parts else "there are none"
        raise ValueError(f"env.norm_obs_keys: {unknown[0]!r} is no part of the observations; {has}")
    for name, part in parts.items() or [("", space)]:
        if (keys is None or name in keys) and not isinstance(part, spaces.Box):
            which = f"the part {name!r} is {part}; name others in env.norm_obs_keys" if name else f"these are {part}"
            raise ValueError(f"env.normalize_observation=true: only observations in a Box are normalised, and {which}")
