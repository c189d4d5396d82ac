"""Our own tasks: what they are by their statistics, and that a batch is its copies."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from bio_rl.tasks import TASKS, make_batched
from bio_rl.tasks.digits import HELD_OUT, load_digits
from bio_rl.tasks.vec_env import BatchedVecEnv

each_task = pytest.mark.parametrize("name", TASKS)


def batch_of(name, copies, seed=0, **settings):
    batch = make_batched(f"bio_rl/{name}-v0", copies, **settings)
    batch.reset(seed=seed)
    return batch


def actions_for(batch, rng):
    """Random actions for every copy, beyond the bounds of a continuous space too."""
    space = batch.single_action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(space.n, size=batch.num_envs)
    return rng.normal(0, 1, size=(batch.num_envs, *space.shape)).astype(np.float32)


def returns_of(batch, choose, episodes):
    """The returns of the first episode of each copy."""
    total, running = np.zeros(batch.num_envs), np.ones(batch.num_envs, dtype=bool)
    while running.any():
        _, rewards, terminated, truncated, _ = batch.step(choose(batch))
        total += rewards * running
        running &= ~(terminated | truncated)
    return total


def assert_mean(returns, expected):
    """Within four standard errors."""
    error = 4 * returns.std() / np.sqrt(len(returns)) + 1e-12
    assert abs(returns.mean() - expected) < error, (returns.mean(), expected, error)


# -- every task ----------------------------------------------------------------------------------


@each_task
def test_gymnasiums_checker_has_nothing_against_it(name, recwarn):
    check_env(gymnasium.make(f"bio_rl/{name}-v0").unwrapped, skip_render_check=True)
    assert [str(each.message) for each in recwarn] == []


@each_task
def test_a_batch_of_one_is_a_single_copy(name):
    batch, single = batch_of(name, 1, seed=3), gymnasium.make(f"bio_rl/{name}-v0")
    seen, _ = batch.reset(seed=3)
    shown, _ = single.reset(seed=3)
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(100):
        np.testing.assert_array_equal(seen[0], shown)
        action = actions_for(batch, rng)
        seen, rewards, terminated, truncated, info = batch.step(action)
        shown, reward, *ends, _ = single.step(action[0])
        assert (reward, *ends) == (rewards[0], terminated[0], truncated[0])
        if any(ends):
            np.testing.assert_array_equal(info["final_obs"][0], shown)
            shown, _ = single.reset()
            ended += 1
    assert ended > 0


@each_task
def test_every_copy_of_a_batch_moves_as_one_alone_would(name):
    batch = batch_of(name, 7)
    rng = np.random.default_rng(0)
    for _ in range(30):
        states, steps = batch.state.copy(), batch.steps.copy()
        actions = actions_for(batch, rng)
        seen, rewards, terminated, truncated, info = batch.step(actions)
        ended = terminated | truncated
        for copy in range(7):
            alone = batch_of(name, 1)
            alone.state, alone.steps = states[:, [copy]].copy(), steps[[copy]].copy()
            own, reward, *ends, told = alone.step(actions[[copy]])
            assert (reward[0], ends[0][0], ends[1][0]) == (rewards[copy], terminated[copy], truncated[copy])
            shown = told["final_obs"][0] if ended[copy] else own[0]
            np.testing.assert_array_equal(shown, info["final_obs"][copy] if ended[copy] else seen[copy])


@each_task
def test_a_seed_repeats_its_episodes_and_another_has_others(name):
    batch = batch_of(name, 5)
    first = batch.reset(seed=1)[0]
    assert batch.single_observation_space.contains(first[0])
    assert len(np.unique(first, axis=0)) > 1
    np.testing.assert_array_equal(batch.reset(seed=1)[0], first)
    assert not np.array_equal(batch.reset(seed=2)[0], first)
    assert not np.array_equal(batch.reset()[0], first)


@each_task
def test_joined_batches_go_on_as_each_would(name):
    together, alone = ([BatchedVecEnv(batch_of(name, 3, seed)) for seed in range(2)] for _ in range(2))
    for seed, (env, other) in enumerate(zip(together, alone, strict=True)):
        env.seed(seed)
        other.seed(seed)
        np.testing.assert_array_equal(env.reset(), other.reset())
    joint = BatchedVecEnv.join(together)
    rng = np.random.default_rng(1)
    for _ in range(40):
        actions = actions_for(joint.batch, rng)
        seen, rewards, dones, _ = joint.step(actions)
        for number, env in enumerate(alone):
            own = slice(3 * number, 3 * number + 3)
            for got, expected in zip((seen, rewards, dones), env.step(actions[own]), strict=False):
                np.testing.assert_array_equal(got[own], expected)
    joint.split(1)
    actions = actions_for(together[1].batch, rng)
    np.testing.assert_array_equal(together[1].step(actions)[0], alone[1].step(actions)[0])


@each_task
def test_what_is_seen_is_within_the_space(name):
    batch = batch_of(name, 50)
    rng = np.random.default_rng(0)
    for _ in range(20):
        seen = batch.step(actions_for(batch, rng))[0]
        assert seen.dtype == np.float32
        assert batch.observation_space.contains(seen)


def test_an_argument_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="Digits: held_out must be true or false, not 'yes'"):
        make_batched("bio_rl/Digits-v0", 2, held_out="yes")


def test_only_tasks_with_the_same_settings_are_joined():
    one, other = (BatchedVecEnv(make_batched("bio_rl/Digits-v0", 2, held_out=held_out)) for held_out in (False, True))
    one.reset()
    other.reset()
    assert BatchedVecEnv.join([one, other]) is None


# -- digits --------------------------------------------------------------------------------------


def test_the_digits_are_the_published_ones():
    """Counts of the test set's classes by its authors, optdigits.names."""
    images, digits = load_digits()
    assert images.shape == (1797, 64)
    assert np.bincount(digits).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (images.min(), images.max()) == (0, 1)
    assert set(np.unique(images * 16)) == set(range(17))


@pytest.mark.parametrize("name", ["Digits", "DigitSum"])
def test_held_out_digits_are_never_shown_in_training(name):
    def images(held_out):
        batch = batch_of(name, 20_000, held_out=held_out)
        return {image.tobytes() for image in batch.reset(seed=0)[0].reshape(-1, 64)}

    training, held_out = images(False), images(True)
    assert len(held_out) == HELD_OUT
    assert len(training) == 1797 - HELD_OUT
    assert not training & held_out


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("name", ["Digits", "DigitSum"])
def test_the_right_answer_is_worth_one_and_a_guess_a_tenth(name, held_out):
    batch = batch_of(name, 20_000, held_out=held_out)
    images, digits = load_digits()
    known = {image.tobytes(): digit for image, digit in zip(images, digits, strict=True)}
    seen = batch.reset(seed=5)[0].reshape(20_000, -1, 64)
    answers = [sum(known[image.tobytes()] for image in shown) % 10 for shown in seen]
    assert batch.step(np.array(answers))[1].mean() == 1
    rng = np.random.default_rng(0)
    assert_mean(batch.step(rng.integers(10, size=20_000))[1], 0.1)


def test_one_digit_of_a_sum_says_nothing():
    batch = batch_of("DigitSum", 200_000)
    answers, first = batch.answers(batch.state), batch.digits[batch.state[0]]
    for digit in range(10):
        shares = np.bincount(answers[first == digit], minlength=10) / (first == digit).sum()
        second = np.bincount(batch.digits, minlength=10) / len(batch.digits)
        np.testing.assert_allclose(shares, np.roll(second, digit), atol=0.01)
        assert abs(second - 0.1).max() < 0.01
