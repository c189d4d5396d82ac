"""Which spaces the agents take.

Observations are flattened without learnt weights: a Box is laid out as a vector, whatever is
discrete becomes one-hot, and the parts of a Dict or a Tuple follow one another. Actions in a Box
are a Gaussian's: real numbers, which a task of whole numbers gets rounded.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, TransformAction
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, cat, contiguous_format

MANY_INPUTS = 10_000
"""Inputs beyond which a dense network is warned of: a layer of 64 neurons has 640,000 weights then."""
NARROW, WIDE = 0.1, 10.0
"""Half the range of actions at least, and the farthest bound, that a Gaussian of mean 0 and deviation 1 explores."""


class FlattenDictExtractor(BaseFeaturesExtractor):
    """Every part of a Dict observation as a vector, one after the other in the space's order."""

    def __init__(self, observation_space: spaces.Dict):
        super().__init__(observation_space, sum(get_flattened_obs_dim(part) for part in observation_space.values()))
        self.keys = list(observation_space)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        return cat([observations[key].flatten(1) for key in self.keys], dim=1)


def adapt_spaces(env: gym.Env) -> gym.Env:
    """The environment itself, or where an agent cannot hold its spaces, one in which it can.

    Observations are flattened (``flatten_observation``), whole actions rounded (``round_actions``),
    and actions without bounds get the greatest that float32 holds, which no agent reaches.

    Raises:
        ValueError: observations that cannot be flattened.
    """
    env = round_actions(flatten_observation(env))
    space = env.action_space
    if not isinstance(space, spaces.Box) or _is_bounded(space):
        return env
    low, high = (np.nan_to_num(bound.astype(np.float32)) for bound in (space.low, space.high))
    return TransformAction(env, lambda action: action, spaces.Box(low, high, dtype=np.float32))


def in_own_memory(observations: Any) -> Any:
    """Tensors of observations that share no memory with arrays of environments, sample by sample.

    Products of matrices may differ in their last bit by how and where in memory an argument lies.
    """
    if isinstance(observations, dict):
        return {key: in_own_memory(part) for key, part in observations.items()}
    return observations.clone(memory_format=contiguous_format)


def flatten_observation(env: gym.Env) -> gym.Env:
    """The environment itself, or where Stable-Baselines3 cannot hold its observations, flattened.

    That is so for a Tuple, for spaces nested in a Dict, for a Box without dimensions, for discrete
    numbers that do not count from 0, and for a MultiDiscrete or MultiBinary of several dimensions.

    Raises:
        ValueError: observations that cannot be flattened.
    """
    _check_observations(env.observation_space)
    return env if _fits(env.observation_space) else FlattenObservation(env)


def round_actions(env: gym.Env) -> gym.Env:
    """The environment itself, or where its actions are a Box of whole numbers, one that rounds what it gets."""
    space = env.action_space
    if not isinstance(space, spaces.Box) or _is_real(space):
        return env
    # Rounded, a real number between two bounds lies between them still.
    real = spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    return TransformAction(env, lambda action: np.rint(action).astype(space.dtype), real)


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Refuse what an agent cannot use, and warn of what it will hardly learn from.

    Raises:
        ValueError: naming the space, and what works.
    """
    _check_observations(observation_space)
    if not _fits(observation_space):
        raise ValueError(
            f"observation space {observation_space} must be flattened before environments are stacked: "
            "make_vec_env(..., wrapper_class=agents.adapt_spaces)"
        )
    if not _is_leaf(action_space):
        raise ValueError(
            f"action space {action_space} cannot be used; Box, Discrete, MultiDiscrete and MultiBinary can, "
            "of one dimension and counted from 0 where they are discrete, of at least one where they are not"
        )
    if isinstance(action_space, spaces.Box):
        _check_actions(action_space)
    if (inputs := spaces.flatdim(observation_space)) > MANY_INPUTS:
        warnings.warn(
            f"observations are flattened into {inputs:,} inputs of a dense network, which is slow and learns little; "
            "wrappers such as gymnasium.wrappers.ResizeObservation and GrayscaleObservation make images smaller",
            stacklevel=1,
        )


def _check_actions(space: spaces.Box) -> None:
    if not (_is_real(space) and _is_bounded(space)):
        lack = "has no finite bounds" if _is_real(space) else "is of whole numbers"
        raise ValueError(
            f"action space {space} {lack}, and must be adapted before environments are stacked: "
            "make_vec_env(..., wrapper_class=agents.adapt_spaces)"
        )
    bounds = np.stack([space.low, space.high])
    # Halved first: the difference of two bounds at the limit is no float32.
    narrow = bounds[1] / 2 - bounds[0] / 2 < NARROW
    wide = (np.abs(bounds).max(axis=0) > WIDE) & (np.abs(bounds) < np.finfo(np.float32).max).all(axis=0)
    if (narrow | wide).any():
        warnings.warn(
            f"actions from {space.low.min():g} to {space.high.max():g} are far from a policy's first ones, whose mean "
            "is 0 and deviation 1; the wrapper gymnasium.wrappers.RescaleAction, from -1 to 1, brings them there",
            stacklevel=1,
        )


def _check_observations(space: spaces.Space[Any]) -> None:
    for name, part in _parts(space):
        if not isinstance(part, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
            where = f", whose part {name} is {part}," if name else ""
            remedy = "; gymnasium.wrappers.FilterObservation leaves out parts of a Dict" if name else ""
            raise ValueError(
                f"observation space {space}{where} cannot be used; "
                f"Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these can{remedy}"
            )


def _parts(space: spaces.Space[Any], name: str = "") -> Iterator[tuple[str, spaces.Space[Any]]]:
    """What a space is made of, however nested, each with where it is: ``see.0`` for the first of ``see``."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        yield name, space
        return
    for key, part in space.items() if isinstance(space, spaces.Dict) else enumerate(space):
        yield from _parts(part, f"{name}.{key}" if name else str(key))


def _fits(space: spaces.Space[Any]) -> bool:
    return all(map(_is_leaf, space.values())) if isinstance(space, spaces.Dict) else _is_leaf(space)


def _is_real(space: spaces.Box) -> bool:
    return np.issubdtype(space.dtype, np.floating)


def _is_bounded(space: spaces.Box) -> bool:
    return bool(np.isfinite([space.low, space.high]).all())


def _is_leaf(space: spaces.Space[Any]) -> bool:
    match space:
        case spaces.Box():
            return len(space.shape) > 0
        case spaces.Discrete():
            return space.start == 0
        case spaces.MultiDiscrete():
            return space.nvec.ndim == 1 and not space.start.any()
        case spaces.MultiBinary():
            return len(space.shape) == 1
    return False
