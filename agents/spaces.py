"""Which spaces the agents take.

Observations are flattened without learnt weights: a Box is laid out as a vector, whatever is
discrete becomes one-hot, and the parts of a Dict or a Tuple follow one another.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, cat


class FlattenDictExtractor(BaseFeaturesExtractor):
    """Every part of a Dict observation as a vector, one after the other in the space's order."""

    def __init__(self, observation_space: spaces.Dict):
        super().__init__(observation_space, sum(get_flattened_obs_dim(part) for part in observation_space.values()))
        self.keys = list(observation_space)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        return cat([observations[key].flatten(1) for key in self.keys], dim=1)


def flatten_observation(env: gym.Env) -> gym.Env:
    """The environment itself, or where Stable-Baselines3 cannot hold its observations, flattened.

    That is so for a Tuple, for spaces nested in a Dict, for discrete numbers that do not count
    from 0, and for a MultiDiscrete of several dimensions.

    Raises:
        ValueError: observations that cannot be flattened.
    """
    _check_observations(env.observation_space)
    return env if _fits(env.observation_space) else FlattenObservation(env)


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Refuse what an agent cannot use.

    Raises:
        ValueError: naming the space, and what works.
    """
    _check_observations(observation_space)
    if not _fits(observation_space):
        raise ValueError(
            f"observation space {observation_space} must be flattened before environments are stacked: "
            "make_vec_env(..., wrapper_class=agents.flatten_observation)"
        )
    if isinstance(action_space, spaces.Box) and not np.isfinite([action_space.low, action_space.high]).all():
        raise ValueError(f"action space {action_space} has no finite bounds; clip it with gymnasium's RescaleAction")
    if not _is_leaf(action_space):
        raise ValueError(
            f"action space {action_space} cannot be used; Box, Discrete, MultiDiscrete and MultiBinary can, "
            "of one dimension and counted from 0 where they are discrete"
        )


def _check_observations(space: spaces.Space[Any]) -> None:
    if not _can_flatten(space):
        raise ValueError(
            f"observation space {space} cannot be used; "
            "Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these can"
        )


def _fits(space: spaces.Space[Any]) -> bool:
    return all(map(_is_leaf, space.values())) if isinstance(space, spaces.Dict) else _is_leaf(space)


def _can_flatten(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return all(map(_can_flatten, space.values()))
    if isinstance(space, spaces.Tuple):
        return all(map(_can_flatten, space))
    return isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary))


def _is_leaf(space: spaces.Space[Any]) -> bool:
    match space:
        case spaces.Box():
            return True
        case spaces.Discrete():
            return space.start == 0
        case spaces.MultiDiscrete():
            return space.nvec.ndim == 1 and not space.start.any()
        case spaces.MultiBinary():
            return len(space.shape) == 1
    return False
