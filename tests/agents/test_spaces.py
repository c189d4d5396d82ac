"""Every space that the agents promise to take, and a clear line for the others."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from agents import A2C, PPO, REINFORCE, flatten_observation

OBSERVATIONS = {
    "box": (spaces.Box(-1, 1, (2, 3)), 6),
    "image": (spaces.Box(0, 255, (40, 40, 3), np.uint8), 4800),
    "discrete": (spaces.Discrete(4), 4),
    "multi_discrete": (spaces.MultiDiscrete([3, 4]), 7),
    "multi_binary": (spaces.MultiBinary(5), 5),
    "dict": (spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Box(-1, 1, (2,)), "c": spaces.MultiBinary(2)}), 7),
    "dict_image": (spaces.Dict({"see": spaces.Box(0, 255, (40, 40, 1), np.uint8), "feel": spaces.Discrete(2)}), 1602),
    "tuple": (spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,)))), 5),
    "nested": (spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(3)}), "c": spaces.Tuple((spaces.Discrete(2),))}), 5),
    "counted_from_one": (spaces.Discrete(4, start=1), 4),
}
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-2, 1, (2, 2)),
}
SMALL = {PPO: {"n_steps": 16, "batch_size": 8, "n_epochs": 1}, A2C: {}, REINFORCE: {"n_episodes": 2}}


class Random(gym.Env):
    """Random observations in episodes of 5 steps, whose actions must be in the space."""

    def __init__(self, observation_space=spaces.Box(-1, 1, (3,)), action_space=spaces.Discrete(2)):  # noqa: B008
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action).astype(self.action_space.dtype))
        self.time += 1
        return self.observation_space.sample(), 1.0, self.time == 5, False, {}


@pytest.mark.parametrize("kind", [PPO, REINFORCE])
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations(kind, name):
    space, features = OBSERVATIONS[name]
    agent = kind(Random(space), seed=0, hidden=(8,), **SMALL[kind]).learn(20)
    assert agent.policy.networks["actor"].in_features == features
    observation = agent.get_env().reset()
    action, _ = agent.predict(observation)
    assert action.shape == (1,)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_actions(kind, name, n_envs):
    env = make_vec_env(lambda: Random(action_space=ACTIONS[name]), n_envs=n_envs)
    agent = kind(env, seed=0, hidden=(8,), **SMALL[kind]).learn(40)
    action, _ = agent.predict(env.reset())
    assert action.shape == (n_envs, *ACTIONS[name].shape)


def test_a_dict_is_laid_out_in_the_spaces_order():
    space, _ = OBSERVATIONS["dict"]
    agent = PPO(Random(space), hidden=(8,), **SMALL[PPO])
    observation = {key: value[None] for key, value in space.sample().items()}
    shuffled = {key: observation[key] for key in reversed(observation)}
    ours, theirs = (agent.policy.extract_features(agent.policy.obs_to_tensor(o)[0]) for o in (observation, shuffled))
    assert (ours == theirs).all()


def test_stacked_tuples_are_flattened_by_our_wrapper():
    space, features = OBSERVATIONS["tuple"]
    env = make_vec_env(lambda: Random(space), n_envs=2, wrapper_class=flatten_observation)
    assert A2C(env, seed=0).learn(20).policy.networks["actor"].in_features == features


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Text(5), spaces.Discrete(2), r"observation space Text.* cannot be used; Box"),
        (spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))}), spaces.Discrete(2), r"observation space Dict"),
        (spaces.Discrete(2), spaces.Tuple((spaces.Discrete(2),)), r"action space Tuple.* cannot be used; Box"),
        (spaces.Discrete(2), spaces.Discrete(3, start=1), r"action space Discrete.* counted from 0"),
        (spaces.Discrete(2), spaces.MultiBinary((2, 2)), r"action space MultiBinary.* one dimension"),
        (spaces.Discrete(2), spaces.Box(-np.inf, 1, (1,)), r"action space Box.* no finite bounds"),
    ],
)
def test_other_spaces_get_one_clear_line(observation, action, message):
    with pytest.raises(ValueError, match=message) as caught:
        PPO(Random(observation, action))
    assert "\n" not in str(caught.value)


def test_stacked_tuples_get_one_clear_line():
    env = make_vec_env(lambda: Random(OBSERVATIONS["tuple"][0]), n_envs=2)
    with pytest.raises(ValueError, match=r"wrapper_class=agents\.flatten_observation"):
        PPO(env)
