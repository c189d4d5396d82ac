"""No two runs share a random number, nor do two copies of an environment."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import A2C, PPO, REINFORCE
from bio_rl.seeding import Stream, derive_seeds

AGENTS = (PPO, A2C, REINFORCE)


class OldStyle(gym.Env):
    """Seeds numpy's old generator, which takes no seed of 2**32 or more."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.random = np.random.RandomState(seed)
        return self._observe(), {}

    def step(self, action):
        return self._observe(), 0.0, bool(self.random.random_sample() < 0.1), False, {}

    def _observe(self):
        return self.random.random_sample(1).astype(np.float32)


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("wrap", [lambda env: env, VecNormalize], ids=["plain", "normalised"])
def test_every_copy_of_every_run_starts_elsewhere(kind, wrap):
    starts = []
    for seed in range(10):
        env = DummyVecEnv([lambda: gym.make("CartPole-v1")] * 8)
        kind(wrap(env), seed=seed)
        starts.append(env.reset())
    assert len(np.unique(np.concatenate(starts), axis=0)) == 80


@pytest.mark.parametrize("seed", [0, 3_000_000, 2**31 - 1, 2**32, 10**30])
def test_any_seed_fits_an_environment_of_the_old_style(seed):
    PPO(DummyVecEnv([OldStyle] * 2), n_steps=8, batch_size=8, n_epochs=1, seed=seed).learn(16)


def test_a_seed_repeats_what_the_environments_show():
    def shown(seed):
        agent = PPO(make_vec_env("CartPole-v1", n_envs=2), n_steps=16, batch_size=8, n_epochs=1, seed=seed)
        agent.learn(64)
        return agent.rollout_buffer.observations

    np.testing.assert_array_equal(shown(4), shown(4))
    assert not np.array_equal(shown(4), shown(5))


def test_streams_of_neighbouring_runs_are_disjoint():
    drawn = [
        seed
        for run in range(50)
        for stream in Stream
        for key in range(5)
        for seed in derive_seeds(run, stream, 20, key)
    ]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= seed < 2**32 for seed in drawn)


@pytest.mark.parametrize("kind", AGENTS)
def test_nobody_else_draws_from_an_agents_generators(kind):
    """Callbacks, environments and other agents may use the global generators as they like."""

    def trained(disturb):
        def callback(local_variables, global_variables):
            if disturb:
                torch.rand(3)
                np.random.rand(3)  # noqa: NPY002
            return True

        settings = {"n_episodes": 2} if kind is REINFORCE else {"n_steps": 16}
        agent = kind("CartPole-v1", seed=1, **settings).learn(64, callback=callback)
        return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])

    assert torch.equal(trained(disturb=False), trained(disturb=True))
