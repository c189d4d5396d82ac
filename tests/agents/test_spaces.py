"""Every space that the agents promise to take, and a clear line for the others."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from agents import A2C, PPO, REINFORCE, adapt_spaces, flatten_observation

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
    "no_dimensions": (spaces.Box(-1, 1, ()), 1),
    "dict_no_dimensions": (spaces.Dict({"a": spaces.Box(-1, 1, (), np.float64), "b": spaces.Box(-1, 1, (2,))}), 3),
    "booleans": (spaces.Box(0, 1, (10, 10, 4), bool), 400),
    "integers": (spaces.Box(-5, 5, (3, 1), np.int64), 3),
    "doubles": (spaces.Box(-np.inf, np.inf, (3,), np.float64), 3),
    "halves": (spaces.Box(0, 1, (3,), np.float16), 3),
    "multi_discrete_matrix": (spaces.MultiDiscrete([[2, 3], [4, 5]]), 14),
    "multi_binary_matrix": (spaces.MultiBinary((2, 3)), 6),
    "counted_from_one": (spaces.Discrete(4, start=1), 4),
}
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-2, 1, (2, 2)),
    "doubles": spaces.Box(-1, 1, (1,), np.float64),
    "integers": spaces.Box(-2, 3, (2,), np.int32),
    "bytes": spaces.Box(0, 9, (2,), np.uint8),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,)),
    "half_bounded": spaces.Box(np.array([0, -np.inf]), np.array([np.inf, 1]), dtype=np.float64),
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
        dtype = self.action_space.dtype
        if isinstance(self.action_space, spaces.Box):
            assert np.can_cast(action.dtype, dtype, "same_kind"), "fractions for whole numbers"
        assert self.action_space.contains(np.asarray(action).astype(dtype))
        self.time += 1
        return self.observation_space.sample(), 1.0, self.time == 5, False, {}


@pytest.mark.few(12)
@pytest.mark.parametrize("kind", [PPO, REINFORCE])
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations(kind, name):
    space, features = OBSERVATIONS[name]
    agent = kind(Random(space), seed=0, hidden=(8,), **SMALL[kind]).learn(20)
    assert agent.policy.networks["actor"].in_features == features
    observation = agent.get_env().reset()
    action, _ = agent.predict(observation)
    assert action.shape == (1,)


@pytest.mark.few(18)
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_actions(kind, name, n_envs):
    env = make_vec_env(lambda: Random(action_space=ACTIONS[name]), n_envs=n_envs, wrapper_class=adapt_spaces)
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
        (spaces.Discrete(2), spaces.Box(-1, 1, ()), r"action space Box.* of at least one"),
        (
            spaces.Dict({"a": spaces.Tuple((spaces.Discrete(2), spaces.Text(3)))}),
            spaces.Discrete(2),
            r"whose part a\.1 is Text.*FilterObservation",
        ),
    ],
)
def test_other_spaces_get_one_clear_line(observation, action, message):
    with pytest.raises(ValueError, match=message) as caught:
        PPO(Random(observation, action))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "env",
    [
        Random(OBSERVATIONS["tuple"][0]),
        Random(action_space=ACTIONS["unbounded"]),
        Random(action_space=ACTIONS["integers"]),
    ],
)
def test_stacked_environments_that_need_adapting_get_one_clear_line(env):
    with pytest.raises(ValueError, match=r"wrapper_class=agents\.adapt_spaces"):
        PPO(make_vec_env(lambda: env, n_envs=1))


@pytest.mark.parametrize(("side", "warns"), [(50, False), (60, True)])
def test_images_of_many_inputs_are_warned_of(side, warns):
    with warnings.catch_warnings(record=True, action="always") as caught:
        PPO(Random(spaces.Box(0, 255, (side, side, 4), np.uint8)), **SMALL[PPO])
    assert any("14,400 inputs" in str(warning.message) for warning in caught) == warns
