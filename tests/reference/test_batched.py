"""A batch of copies is the task that Gymnasium has, and joined batches go on as each would."""

import gymnasium as gym
import numpy as np
import pytest

from bio_rl.tasks import make_batched
from bio_rl.tasks.vec_env import BatchedVecEnv

each_task = pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])


def batched(copies, seed=0, task="CartPole-v1", **settings):
    batch = make_batched(task, copies, **settings)
    env = BatchedVecEnv(batch)
    env.seed(seed)
    return env


def test_a_batch_moves_as_gymnasiums_own_cartpole():
    env = batched(5)
    alone = [gym.make("CartPole-v1").unwrapped for _ in range(5)]
    observations = env.reset()
    for copy, single in enumerate(alone):
        single.reset()
        single.state = env.batch.state[:, copy].copy()
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(200):
        actions = rng.integers(2, size=5)
        observations, rewards, dones, infos = env.step(actions)
        for copy, single in enumerate(alone):
            seen, reward, terminated, _, _ = single.step(int(actions[copy]))
            shown = infos[copy]["terminal_observation"] if dones[copy] else observations[copy]
            np.testing.assert_allclose(shown, seen, rtol=1e-5, atol=1e-6)
            assert rewards[copy] == reward
            assert dones[copy] == terminated
            if dones[copy]:
                ended += 1
                single.reset()
                single.state = env.batch.state[:, copy].copy()
                np.testing.assert_allclose(observations[copy], single.state, rtol=1e-6)
    assert ended > 10


def test_a_batch_moves_as_gymnasiums_own_pendulum():
    env = batched(5, task="Pendulum-v1")
    alone = [gym.make("Pendulum-v1").unwrapped for _ in range(5)]
    env.reset()
    for copy, single in enumerate(alone):
        single.reset()
        single.state = env.batch.state[:, copy].copy()
    rng = np.random.default_rng(0)
    for step in range(1, 201):
        actions = rng.uniform(-3, 3, size=(5, 1)).astype(np.float32)
        observations, rewards, dones, infos = env.step(actions)
        assert dones.all() == (step == 200)
        for copy, single in enumerate(alone):
            seen, reward, _, _, _ = single.step(actions[copy])
            shown = infos[copy]["terminal_observation"] if dones[copy] else observations[copy]
            np.testing.assert_allclose(shown, seen, rtol=1e-5, atol=1e-5)
            assert rewards[copy] == pytest.approx(reward, rel=1e-5, abs=1e-6)
    assert all(info["TimeLimit.truncated"] for info in infos)


def test_an_episode_tells_its_return_its_length_and_whether_it_was_cut():
    env = batched(3, max_episode_steps=4)
    env.reset()
    for step in range(1, 5):
        _, _, dones, infos = env.step(np.array([0, 1, 0]))
        assert dones.all() == (step == 4)
    for info in infos:
        assert info["episode"]["r"] == info["episode"]["l"] == 4
        assert info["TimeLimit.truncated"]
    _, _, dones, infos = env.step(np.array([0, 1, 0]))
    assert not dones.any()
    assert not any(infos)


@each_task
def test_copies_start_apart_and_a_seed_repeats_them(task):
    starts = batched(6, seed=3, task=task).reset()
    assert len(np.unique(starts, axis=0)) == 6
    np.testing.assert_array_equal(starts, batched(6, seed=3, task=task).reset())
    assert not np.array_equal(starts, batched(6, seed=4, task=task).reset())


@each_task
@pytest.mark.parametrize("before", [0, 37])
def test_joined_environments_go_on_as_each_would(before, task):
    together, alone = ([batched(2, seed=seed, task=task, max_episode_steps=50) for seed in range(3)] for _ in range(2))
    rng = np.random.default_rng(1)

    def draw():
        return rng.integers(2, size=(3, 2)) if task == "CartPole-v1" else rng.uniform(-2, 2, size=(3, 2, 1))

    for env in [*together, *alone]:
        env.reset()
    for _ in range(before):
        actions = draw()
        for group in (together, alone):
            for env, own in zip(group, actions, strict=True):
                env.step(own)
    joint = BatchedVecEnv.join(together)
    for _ in range(90):
        actions = draw()
        seen, _, dones, infos = joint.step(actions.reshape(6, *actions.shape[2:]))
        for number, env in enumerate(alone):
            own = slice(2 * number, 2 * number + 2)
            expected = env.step(actions[number])
            np.testing.assert_array_equal(seen[own], expected[0])
            np.testing.assert_array_equal(dones[own], expected[2])
            for info, other in zip(infos[own], expected[3], strict=True):
                assert info.keys() == other.keys()
                if "episode" in info:
                    assert info["episode"]["r"] == other["episode"]["r"]
    for number, env in enumerate(together):
        joint.split(number)
        actions = draw()[0]
        np.testing.assert_array_equal(env.step(actions)[0], alone[number].step(actions)[0])


def test_a_task_without_a_batched_form_has_none():
    assert make_batched("Acrobot-v1", 2) is None
    assert make_batched("there is no such task", 2) is None
