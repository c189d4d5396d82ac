"""REINFORCE learns from whole episodes and their returns to go."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import REINFORCE
from agents.reinforce import returns_to_go, whole_episodes


class Counting(gym.Env):
    """Episodes of a given length; the reward of step t is t + 1, and the last step may be a truncation."""

    observation_space = spaces.Box(0, 100, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, length, truncates=False):
        self.length, self.truncates = length, truncates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._obs(), {}

    def step(self, action):
        self.time += 1
        over = self.time == self.length
        return self._obs(), float(self.time), over and not self.truncates, over and self.truncates, {}

    def _obs(self):
        return np.array([self.time], dtype=np.float32)


def collected(agent, timesteps):
    """Observations and returns of the first update."""
    updates = []
    train = agent.train
    agent.train = lambda: (updates.append(agent.rollout_buffer.samples()), train())
    agent.learn(timesteps)
    return updates


def test_returns_to_go_by_hand():
    rewards = np.array([[1.0, 1.0], [2.0, 1.0], [4.0, 1.0], [8.0, 1.0]])
    dones = np.array([[0, 1], [1, 0], [0, 0], [1, 1]], dtype=bool)
    expected = [[1 + 0.5 * 2, 1], [2, 1 + 0.5 + 0.25], [4 + 0.5 * 8, 1.5], [8, 1]]
    np.testing.assert_allclose(returns_to_go(rewards, dones, 0.5), expected)


def test_whole_episodes_by_hand():
    dones = np.array([[1, 0], [0, 0], [1, 1], [0, 0]], dtype=bool)
    np.testing.assert_array_equal(whole_episodes(dones, 1), [[1, 1], [0, 1], [0, 1], [0, 0]])
    np.testing.assert_array_equal(whole_episodes(dones, 2), [[1, 1], [1, 1], [1, 1], [0, 0]])


@pytest.mark.parametrize("truncates", [False, True])
def test_an_update_sees_each_episode_to_its_end_and_bootstraps_nowhere(truncates):
    agent = REINFORCE(Counting(3, truncates), n_episodes=2, gamma=0.5, seed=0)
    observations, _, returns = collected(agent, 6)[0]
    assert observations.flatten().tolist() == [0, 1, 2, 0, 1, 2]
    assert returns.tolist() == [1 + 0.5 * 2 + 0.25 * 3, 2 + 0.5 * 3, 3] * 2


def test_every_environment_gives_the_same_number_of_episodes():
    env = DummyVecEnv([lambda: Counting(2), lambda: Counting(5)])
    agent = REINFORCE(env, n_episodes=3, gamma=1.0, seed=0)
    updates = collected(agent, 40)
    for observations, _, returns in updates[:2]:
        assert sorted(observations.flatten().tolist()) == sorted([0, 1] * 2 + [0, 1, 2, 3, 4] * 2)
        assert sorted(returns.tolist()) == sorted([3, 2] * 2 + [15, 14, 12, 9, 5] * 2)


def test_time_steps_are_a_budget_and_a_cut_episode_is_not_learnt_from():
    agent = REINFORCE(Counting(4), n_episodes=3, seed=0)
    updates = collected(agent, 10)
    assert agent.num_timesteps == 10
    assert [len(returns) for _, _, returns in updates] == [8]
    agent.learn(4, reset_num_timesteps=False)
    assert agent.num_timesteps == 14
    assert agent._n_updates == 2


def test_a_budget_without_a_whole_episode_changes_nothing():
    agent = REINFORCE(Counting(50), seed=0)
    before = [p.clone() for p in agent.policy.parameters()]
    agent.learn(10)
    assert all(torch.equal(old, new) for old, new in zip(before, agent.policy.parameters(), strict=True))


def test_the_update_is_the_policy_gradient():
    settings = {"normalize_advantage": False, "optimizer": "sgd", "learning_rate": 0.1, "max_grad_norm": 1e9}
    agent = REINFORCE(Counting(3), n_episodes=2, baseline=False, gamma=1.0, seed=0, **settings)
    before = {name: p.detach().clone() for name, p in agent.policy.named_parameters()}
    observations, actions, returns = collected(agent, 6)[0]
    agent.policy.load_state_dict({**agent.policy.state_dict(), **before})
    log_prob = agent.policy.get_distribution(torch.as_tensor(observations)).log_prob(actions)
    agent.policy.zero_grad()
    (log_prob * returns).sum().div(6).backward()
    ascended = {name: before[name] + 0.1 * p.grad for name, p in agent.policy.named_parameters()}
    again = REINFORCE(Counting(3), n_episodes=2, baseline=False, gamma=1.0, seed=0, **settings).learn(6)
    for name, p in again.policy.named_parameters():
        torch.testing.assert_close(p.detach(), ascended[name])


def test_without_a_baseline_there_is_no_critic():
    agent = REINFORCE("CartPole-v1", baseline=False, n_episodes=2, seed=0).learn(100)
    assert list(agent.policy.networks) == ["actor"]
    assert not any("critic" in name for name in agent.policy.state_dict())
    assert not agent.policy.predict_values(torch.randn(3, 4)).any()
    assert REINFORCE("CartPole-v1", seed=0).baseline


@pytest.mark.few(1)
@pytest.mark.parametrize("baseline", [True, False])
def test_learns_cartpole_somewhat(baseline):
    env = make_vec_env("CartPole-v1", n_envs=4, seed=0)
    agent = REINFORCE(env, rule="feedback_alignment", baseline=baseline, learning_rate=1e-2, seed=0).learn(20_000)
    mean, _ = evaluate_policy(agent, make_vec_env("CartPole-v1", seed=1), n_eval_episodes=10)
    assert mean > 100


@pytest.mark.parametrize(
    "settings", [{}, {"use_sde": True, "sde_sample_freq": 4, "policy_kwargs": {"squash_output": True}}]
)
def test_continuous_actions_stay_within_bounds(settings):
    class Bounded(gym.ActionWrapper):
        def action(self, action):
            assert self.action_space.contains(action.astype(np.float32))
            return action

    agent = REINFORCE(Bounded(gym.make("Pendulum-v1")), n_episodes=1, log_std_init=1.0, seed=0, **settings)
    before = agent.policy.log_std.detach().clone()
    agent.learn(400)
    assert not torch.equal(before, agent.policy.log_std)


def test_logged_returns_are_those_of_the_episodes_that_count():
    """Environments with short episodes finish many while others play one: to log all would favour the short."""

    class ShortOrLong(Counting):
        def reset(self, *, seed=None, options=None):
            result = super().reset(seed=seed)
            self.length = int(self.np_random.choice([1, 100]))
            return result

        def step(self, action):
            observation, _, terminated, truncated, info = super().step(action)
            return observation, 1.0, terminated, truncated, info

    env = DummyVecEnv([lambda: Monitor(ShortOrLong(1))] * 8)
    agent = REINFORCE(env, n_episodes=8, seed=0, stats_window_size=10_000).learn(60_000)
    returns = [episode["r"] for episode in agent.ep_info_buffer]
    assert len(returns) >= 400
    # Half of 1 and half of 100: the mean's standard error is 49.5 / sqrt(n).
    assert np.mean(returns) == pytest.approx(50.5, abs=4 * 49.5 / np.sqrt(len(returns)))
