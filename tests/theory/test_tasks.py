"""Our own tasks: what they are by their statistics, and that a batch is its copies."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.stats import binom, norm, skellam

from bio_rl.tasks import TASKS, interface, make_batched, maze, reaching
from bio_rl.tasks.decisions import CLICK_BINS, CLICK_RATES, COLOUR, DIRECTIONS, DOT_BINS, LONGEST_DELAY, MOTION
from bio_rl.tasks.digits import HELD_OUT, load_digits
from bio_rl.tasks.maze import ARMS, LENGTH
from bio_rl.tasks.reaching import REACH, SECONDS, hand
from bio_rl.tasks.two_step import COMMON, OPTIONS, OUTCOMES, POOR, RICH
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


def right_answers(batch, answers):
    """Which of these answers are right, the state being left as it is."""
    return batch.advance(batch.state, np.asarray(answers).astype(int))[1]


def returns_of(batch, choose):
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
    rng = np.random.default_rng(100)
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


@pytest.mark.few(4)
@each_task
def test_every_copy_of_a_batch_moves_as_one_alone_would(name):
    batch = batch_of(name, 7)
    rng = np.random.default_rng(100)
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
    rng = np.random.default_rng(100)
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
    rng = np.random.default_rng(100)
    assert_mean(batch.step(rng.integers(10, size=20_000))[1], 0.1)


def test_one_digit_of_a_sum_says_nothing():
    batch = batch_of("DigitSum", 50_000)
    answers, first = batch.answers(batch.state), batch.digits[batch.state[0]]
    for digit in range(10):
        shares = np.bincount(answers[first == digit], minlength=10) / (first == digit).sum()
        second = np.bincount(batch.digits, minlength=10) / len(batch.digits)
        np.testing.assert_allclose(shares, np.roll(second, digit), atol=0.025)
        assert abs(second - 0.1).max() < 0.01


# -- perceptual decisions ------------------------------------------------------------------------


def test_counting_clicks_is_right_but_for_half_of_the_ties():
    batch = batch_of("EvidenceAccumulation", 30_000)
    seen = batch.reset(seed=1)[0].reshape(-1, 2, CLICK_BINS)
    left, right = seen.sum(-1).T
    ties = np.mean([skellam.pmf(0, *rates) for rates in CLICK_RATES])
    assert_mean((left == right).astype(float), ties)
    assert_mean(batch.step((right > left).astype(int))[1], 1 - ties / 2)
    batch.reset(seed=2)
    assert_mean(batch.step(np.ones(30_000, dtype=int))[1], 0.5)


@pytest.mark.parametrize("noise", [0.5, 0.2])
def test_the_context_decides_what_counts_and_noise_how_often_the_best_answer_is_right(noise):
    batch = batch_of("ContextDecision", 100_000, noise=noise)
    seen = batch.reset(seed=1)[0]
    motion, colour = seen[:, :DOT_BINS].sum(1), seen[:, DOT_BINS : 2 * DOT_BINS].sum(1)
    is_colour = seen[:, -1] == 1
    best = np.mean([norm.cdf(np.sqrt(DOT_BINS) * strength / noise) for strength in (*MOTION, *COLOUR)])
    if noise == 0.5:
        assert best == pytest.approx(0.85, abs=0.005), "as the docstring says"
    right = right_answers(batch, np.where(is_colour, colour, motion) > 0)
    assert_mean(right, best)
    assert_mean(right_answers(batch, np.where(is_colour, motion, colour) > 0), 0.5)


def test_without_noise_the_two_directions_tell_a_match():
    batch = batch_of("DelayedMatch", 20_000, noise=0.0)
    seen = batch.reset(seed=1)[0]
    neurons = batch.neurons
    sample, test = seen[:, :neurons], seen[:, neurons : 2 * neurons]
    fading = np.exp(-seen[:, -1] * LONGEST_DELAY / 2.0)
    matches = np.isclose(sample, fading[:, None] * test, atol=1e-5).all(1)
    assert right_answers(batch, matches).all()
    assert_mean(matches.astype(float), 0.5)
    assert_mean(right_answers(batch, np.zeros(20_000)), 0.5)
    assert len(np.unique(test.round(4), axis=0)) == DIRECTIONS


# -- two steps -----------------------------------------------------------------------------------


def best_return_of_two_steps() -> float:
    """By Bayes' rule: each option is as good as its outcomes make it probable to be rich."""
    counts = np.arange(OUTCOMES + 1)
    rich, poor = (binom.pmf(counts, OUTCOMES, chance) for chance in (RICH, POOR))
    probability = (rich + poor) / 2
    value = (rich * RICH + poor * POOR) / (rich + poor)
    pairs = np.outer(probability, probability).ravel()
    place = np.maximum.outer(value, value).ravel()
    better, worse = (np.outer(pairs, pairs) * each.outer(place, place) for each in (np.maximum, np.minimum))
    return float(COMMON * better.sum() + (1 - COMMON) * worse.sum())


def test_planning_by_the_outcomes_returns_what_bayes_rule_says():
    batch = batch_of("TwoStep", 200_000)
    seen = batch.reset(seed=1)[0]
    wins = seen[:, 4:].reshape(-1, OPTIONS, OUTCOMES).sum(-1)
    assert (seen[:, :3] == [1, 0, 0]).all()

    best_place = (wins[:, 2:].max(1) > wins[:, :2].max(1)).astype(int)
    way = seen[:, 3] > 0
    seen, rewards, terminated, _, _ = batch.step(np.where(way, 1 - best_place, best_place))
    assert not rewards.any()
    assert not terminated.any()
    reached = seen[:, 2].astype(int)
    assert_mean((reached == best_place).astype(float), COMMON)
    options = wins.reshape(-1, 2, 2)[np.arange(200_000), reached]
    _, rewards, terminated, _, _ = batch.step(options.argmax(1))
    assert terminated.all()
    assert_mean(rewards, best_return_of_two_steps())


def test_blind_choices_of_two_steps_return_a_half():
    rng = np.random.default_rng(100)
    returns = returns_of(batch_of("TwoStep", 50_000), lambda batch: rng.integers(2, size=50_000))
    assert_mean(returns, (POOR + RICH) / 2)


# -- the arm, the cursor and the maze ------------------------------------------------------------


def test_the_return_of_a_reach_is_the_share_of_the_way():
    batch = batch_of("CentreOut", 500)
    np.testing.assert_allclose(reaching.distance(batch.state), REACH, rtol=1e-9)
    assert returns_of(batch, lambda _: np.zeros((500, 2))) == pytest.approx(np.zeros(500))

    def towards(batch):
        """The joints' velocities that bring the hand straight to the target: the inverse of the arm's Jacobian."""
        joints, target = batch.state[:2], batch.state[2:4]
        eps = 1e-6
        columns = [hand(joints + eps * np.eye(2)[:, [joint]]) - hand(joints) for joint in range(2)]
        jacobian = np.stack(columns, axis=1).transpose(2, 0, 1) / eps
        return np.linalg.solve(jacobian, (target - hand(joints)).T[..., None])[..., 0] / SECONDS

    assert returns_of(batch_of("CentreOut", 500), towards).min() > 0.95


def test_a_cursor_that_goes_where_it_should_makes_the_whole_way():
    def towards(batch):
        return interface.wanted_velocity(batch.state).T

    assert returns_of(batch_of("Interface", 100), towards) == pytest.approx(np.ones(100))
    assert returns_of(batch_of("Interface", 100), lambda _: np.zeros((100, 2))) == pytest.approx(np.zeros(100))
    lost = returns_of(batch_of("Interface", 100), lambda batch: -towards(batch))
    assert lost.max() < -0.9
    observations, velocities = interface.watched_trials(jitter=0)
    assert np.linalg.norm(velocities, axis=1).max() == pytest.approx(interface.CALIBRATED)
    assert observations.shape == (8 * 10 * 6, 2 * interface.PLACE_CELLS + interface.DIRECTION_CELLS)


def walks_that_arrive() -> float:
    """How often a random walk from the centre reaches the end of an arm in time: the chain over depths."""
    onwards = np.zeros((LENGTH + 1, LENGTH + 1))
    onwards[0, 1] = onwards[LENGTH, LENGTH] = 1
    for depth in range(1, LENGTH):
        onwards[depth, [depth - 1, depth, depth + 1]] = 1 / 4, 2 / 4, 1 / 4
    return float(np.linalg.matrix_power(onwards, maze.STEPS)[0, LENGTH])


def test_only_the_end_of_the_right_arm_is_rewarded():
    def by_the_digit(batch):
        return batch.digits[batch.state[0]] % ARMS

    batch = batch_of("CueMaze", 1000)
    for step in range(LENGTH):
        _, rewards, terminated, _, _ = batch.step(by_the_digit(batch))
        assert rewards.all() == rewards.any() == terminated.all() == (step == LENGTH - 1)
    wrong = returns_of(batch_of("CueMaze", 1000), lambda batch: (by_the_digit(batch) + 1) % ARMS)
    assert not wrong.any()
    rng = np.random.default_rng(100)
    returns = returns_of(batch_of("CueMaze", 50_000), lambda batch: rng.integers(4, size=50_000))
    assert_mean(returns, walks_that_arrive() / ARMS)


def test_the_maze_shows_where_one_is():
    batch = batch_of("CueMaze", 1)
    places = [batch.observe(batch.state)[0, 64:].argmax()]
    for action in (2, 2, 1, 0, 0, 3, 3):
        places.append(batch.step(np.array([action]))[0][0, 64:].argmax())
    assert places == [0, 9, 10, 10, 9, 0, 13, 14]
