"""Handwritten digits as contextual bandits: an episode is one look and one answer.

The 1797 images of 8 x 8 pixels are the test set of Alpaydin & Kaynak 1998, Optical recognition of handwritten
digits (UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, CC BY 4.0), in the file that scikit-learn
ships. It comes with bio_rl, because its 57 kB are less trouble than the dependency, whose import takes seconds.
"""

import gzip
from functools import cache
from importlib.resources import files

import numpy as np
from gymnasium import spaces

from bio_rl.tasks.task import Task, features

PIXELS, CLASSES = 64, 10
HELD_OUT = 360
"""Images of the end of the file, a fifth. They are from the hands of other writers."""


@cache
def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The images ``(1797, 64)``, their pixels from 0 to 1 in single precision, and the digits ``(1797,)``."""
    with (files("bio_rl.tasks") / "digits.csv.gz").open("rb") as packed, gzip.open(packed) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return table[:, :-1] / 16, table[:, -1].astype(np.int64)


class Digits(Task):
    """Name the digit that is seen; a right answer is worth 1.

    A blind guess returns 0.1.

    Args:
        num_envs, max_episode_steps: as for ``Task``.
        held_out: whether the images are those held out, which no agent learns from.
    """

    shown = 1
    """Digits that are seen side by side."""

    def __init__(self, num_envs: int = 1, max_episode_steps: int | None = None, held_out: bool = False):
        self.single_observation_space = features(0, 1, self.shown * PIXELS)
        self.single_action_space = spaces.Discrete(CLASSES)
        super().__init__(num_envs, max_episode_steps, held_out=held_out)
        images, digits = load_digits()
        part = slice(-HELD_OUT, None) if held_out else slice(-HELD_OUT)
        self.images, self.digits = images[part], digits[part]

    def draw_starts(self, copies: int) -> np.ndarray:
        return self.np_random.integers(len(self.digits), size=(self.shown, copies))

    def observe(self, state: np.ndarray) -> np.ndarray:
        return self.images[state.T].reshape(-1, self.shown * PIXELS)

    def answers(self, state: np.ndarray) -> np.ndarray:
        """The right actions."""
        return self.digits[state].sum(0) % CLASSES

    def advance(self, state: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        right = actions == self.answers(state)
        return state, right.astype(np.float64), np.ones_like(right)


class DigitSum(Digits):
    """Two digits are seen side by side; the answer is their sum modulo 10, and a right one is worth 1.

    Each digit alone says nothing about the answer, so that features which are no conjunction of both are worth no
    more than a blind guess, 0.1. (The two images are drawn apart, so a pair is hardly ever seen twice.)

    Args:
        num_envs, max_episode_steps, held_out: as for ``Digits``.
    """

    shown = 2
