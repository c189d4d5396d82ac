"""Perceptual decisions as contextual bandits: all the evidence is in one observation, so that no memory is needed.

What an animal would hear or see in the course of a trial is there at once, bin by bin. A network has to learn which
of its many inputs belong together, and a few random features lose most of it.
"""

import numpy as np
from gymnasium import spaces

from bio_rl.tasks.task import Task, features

CLICK_RATES = ((32, 8), (28, 12), (24, 16), (22, 18))
"""Clicks a second on either side, from easy to hard: they sum to 40 (Brunton, Botvinick & Brody 2013)."""
CLICK_BINS, BIN_SECONDS = 100, 0.01
MOTION, COLOUR = (0.05, 0.15, 0.5), (0.06, 0.18, 0.5)
"""The strengths of the evidence, of either sign (Mante, Sussillo, Shenoy & Newsome 2013)."""
DOT_BINS = 15
"""Of 50 ms, which make their 750 ms."""
DIRECTIONS = 12
"""Of motion, 30 degrees apart (Freedman & Assad 2006)."""
LONGEST_DELAY = 2.0
"""In seconds."""


class Answer(Task):
    """One observation, one answer, and a reward of 1 if it is right.

    The state's first number is the right answer, the others are what is seen, up to bounds that are hardly ever met.
    """

    single_observation_space: spaces.Box

    def advance(self, state: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        right = actions == state[0]
        return state, right.astype(np.float64), np.ones_like(right)

    def observe(self, state: np.ndarray) -> np.ndarray:
        space = self.single_observation_space
        return np.clip(state[1:].T, space.low, space.high).astype(np.float32)


class EvidenceAccumulation(Answer):
    """On which side were more clicks (Brunton, Botvinick & Brody 2013)?

    Clicks come on both sides for a second, at rates that sum to 40 a second; the answer is right if there were more on
    its side. Where there were as many on both, either may count as right, one drawn. What is seen are the clicks in
    each of 100 bins of 10 ms on the left, then those on the right.

    Args:
        num_envs, max_episode_steps: as for ``Task``.
    """

    def __init__(self, num_envs: int = 1, max_episode_steps: int | None = None):
        self.single_observation_space = features(0, 10, 2 * CLICK_BINS)
        self.single_action_space = spaces.Discrete(2)
        super().__init__(num_envs, max_episode_steps)

    def draw_starts(self, copies: int) -> np.ndarray:
        rates = np.array(CLICK_RATES)[self.np_random.integers(len(CLICK_RATES), size=copies)].T
        rates = np.where(self.np_random.integers(2, size=copies), rates, rates[::-1])
        clicks = self.np_random.poisson(rates[:, None] * BIN_SECONDS, size=(2, CLICK_BINS, copies))
        left, right = clicks.sum(1)
        answers = np.where(left == right, self.np_random.integers(2, size=copies), right > left)
        return np.concatenate([answers[None], clicks.reshape(-1, copies)]).astype(np.float64)


class ContextDecision(Answer):
    """Do the dots move to the right, or are they more green than red? The context tells which is asked.

    As in Mante, Sussillo, Shenoy & Newsome 2013: the strength of motion and of colour are drawn
    independently, from those of the paper and of either sign, and the sign of the one that is asked for is the
    answer. What is seen are 15 bins of 50 ms of noisy evidence of motion, as many of colour, and the context.

    Args:
        num_envs, max_episode_steps: as for ``Task``.
        noise: the standard deviation of the evidence in a bin; at 0.5 the best answers are right in 85 %.
    """

    def __init__(self, num_envs: int = 1, max_episode_steps: int | None = None, noise: float = 0.5):
        self.single_observation_space = features(-10, 10, 2 * DOT_BINS + 2)
        self.single_action_space = spaces.Discrete(2)
        super().__init__(num_envs, max_episode_steps, noise=noise)
        self.noise = noise

    def draw_starts(self, copies: int) -> np.ndarray:
        strengths = np.stack(
            [
                self.np_random.choice(own, size=copies) * self.np_random.choice([-1, 1], size=copies)
                for own in (MOTION, COLOUR)
            ]
        )
        context = self.np_random.integers(2, size=copies)
        noise = self.np_random.normal(0, self.noise, size=(2, DOT_BINS, copies))
        evidence = (strengths[:, None] + noise).reshape(-1, copies)
        answers = np.where(context, strengths[1], strengths[0]) > 0
        return np.concatenate([answers[None], evidence, [1 - context, context]])


class DelayedMatch(Answer):
    """Did the dots of the test move as those of the sample had, before a delay?

    Delayed match to sample (Miller, Erickson & Desimone 1996) with the 12 directions of Freedman & Assad 2006. No
    memory is needed: a trace of the sample is an input, which fades with the delay, and so is the delay, in its
    largest. Sample and test are seen by 32 neurons each, tuned to directions as von Mises curves that peak at 1.

    Args:
        num_envs, max_episode_steps: as for ``Task``.
        noise: the standard deviation of each neuron's own noise.
        decay: the time in which the trace fades to 1/e, in seconds.
    """

    neurons, concentration = 32, 4.0

    def __init__(self, num_envs: int = 1, max_episode_steps: int | None = None, noise: float = 0.1, decay: float = 2.0):
        self.single_observation_space = features(-10, 10, 2 * self.neurons + 1)
        self.single_action_space = spaces.Discrete(2)
        super().__init__(num_envs, max_episode_steps, noise=noise, decay=decay)
        self.noise, self.decay = noise, decay

    def draw_starts(self, copies: int) -> np.ndarray:
        sample = self.np_random.integers(DIRECTIONS, size=copies)
        is_match = self.np_random.integers(2, size=copies)
        other = (sample + self.np_random.integers(1, DIRECTIONS, size=copies)) % DIRECTIONS
        delay = self.np_random.uniform(0, LONGEST_DELAY, size=copies)
        trace = self._responses(sample) * np.exp(-delay / self.decay)
        test = self._responses(np.where(is_match, sample, other))
        noise = self.np_random.normal(0, self.noise, size=(2 * self.neurons, copies))
        seen = np.concatenate([trace, test]) + noise
        return np.concatenate([is_match[None], seen, delay[None] / LONGEST_DELAY])

    def _responses(self, direction: np.ndarray) -> np.ndarray:
        """Of the neurons to directions ``(copies,)``, without noise."""
        preferred = np.arange(self.neurons)[:, None] * 2 * np.pi / self.neurons
        return np.exp(self.concentration * (np.cos(direction * 2 * np.pi / DIRECTIONS - preferred) - 1))
