"""Environments by their config: what the agent trains in, and what it is evaluated in."""

from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.wrappers import TimeLimit
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

LONGEST_EPISODE = 1000
"""Steps after which an episode is cut where neither the environment nor the config sets a limit."""


def make_env(config: DictConfig, render_mode: str | None = None) -> gymnasium.Env:
    """One environment of the config group ``env``.

    Raises:
        gymnasium.error.Error: an unknown id, or a simulator that is not installed.
    """
    kwargs: dict[str, Any] = OmegaConf.to_container(config.kwargs)  # type: ignore[assignment]
    if render_mode is not None:
        # Named only where it is wanted: an environment that draws nothing need not know the argument.
        kwargs["render_mode"] = render_mode
    env = gymnasium.make(config.id, max_episode_steps=config.max_episode_steps, **kwargs)
    if env.spec is None or env.spec.max_episode_steps is None:
        env = TimeLimit(env, LONGEST_EPISODE)
    return env if config.wrapper is None else instantiate(config.wrapper)(env)


def training_envs(config: DictConfig, gamma: float) -> VecEnv:
    """The copies that the agent learns in, normalised where the config says so.

    Args:
        config: the group ``env``.
        gamma: the agent's discount, which reward normalisation needs.
    """
    envs: VecEnv = DummyVecEnv([_monitored(config)] * config.n_envs)
    if config.normalize_observation or config.normalize_reward:
        envs = VecNormalize(
            envs, norm_obs=config.normalize_observation, norm_reward=config.normalize_reward, gamma=gamma
        )
    return envs


def evaluation_envs(config: DictConfig, episodes: int) -> VecEnv:
    """A copy for each episode, with raw observations and rewards."""
    return DummyVecEnv([lambda: make_env(config)] * episodes)


def _monitored(config: DictConfig) -> Callable[[], gymnasium.Env]:
    return lambda: Monitor(make_env(config))
