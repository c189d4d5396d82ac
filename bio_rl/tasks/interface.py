"""A brain-computer interface: a cursor that is moved by what a fixed decoder reads from hidden neurons."""

import numpy as np
from gymnasium import spaces

from bio_rl.tasks.task import Task, features

TARGETS = 8
"""Around the centre, 1 away."""
STEPS, STEP = 20, 0.6
"""Of a trial; and how far the cursor goes in one, along either coordinate, at full speed."""
CALIBRATED = 1 / 3
"""The speed to which a decoder is fitted, as a share of full speed."""
EDGE = 2.0
"""Of the screen, in either coordinate."""
PLACE_CELLS, DIRECTION_CELLS = 12, 16
CONCENTRATION = 2.0
"""Of the directions' tuning curves."""


class Interface(Task):
    """Bring a cursor from the centre to one of eight targets, with the velocity that the decoder reads.

    The centre-out task of experiments with brain-computer interfaces (Sadtler et al. 2014; Golub et al. 2018). To the
    task the decoder is part of the agent: the actor's last layer, see ``bio_rl.experiment.interface.Decoder``. The
    action is the cursor's velocity, as a share of the greatest along either coordinate. What is seen are the cursor's
    coordinates, each by 12 neurons with Gaussian tuning curves, and the target by 16 that are tuned to directions. A
    step is rewarded by how much closer the cursor has come: the return after 20 steps is the share of the way that has
    been made, 1 at the target, 0 where it began, and below 0 farther away. A cursor that leaves the screen ends the
    trial.

    Args:
        num_envs, max_episode_steps: as for ``Task``.
    """

    def __init__(self, num_envs: int = 1, max_episode_steps: int | None = None):
        self.single_observation_space = features(0, 1, 2 * PLACE_CELLS + DIRECTION_CELLS)
        self.single_action_space = spaces.Box(-1, 1, (2,), np.float32)
        super().__init__(num_envs, max_episode_steps)

    def draw_starts(self, copies: int) -> np.ndarray:
        """The cursor's coordinates, the target's, and the step."""
        return starts(self.np_random.integers(TARGETS, size=copies))

    def observe(self, state: np.ndarray) -> np.ndarray:
        places = (state[:2, None] + EDGE) / (2 * EDGE) * (PLACE_CELLS - 1) - np.arange(PLACE_CELLS)[:, None]
        preferred = np.arange(DIRECTION_CELLS)[:, None] * 2 * np.pi / DIRECTION_CELLS
        directions = np.cos(np.arctan2(state[3], state[2]) - preferred)
        seen = [np.exp(-0.5 * places**2).reshape(2 * PLACE_CELLS, -1), np.exp(CONCENTRATION * (directions - 1))]
        return np.concatenate(seen).T.astype(np.float32)

    def advance(self, state: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        following = state.copy()
        following[:2] += STEP * np.clip(actions.T, -1, 1)
        following[4] += 1
        is_lost = np.abs(following[:2]).max(0) > EDGE
        return following, distance(state) - distance(following), is_lost | (following[4] >= STEPS)


def starts(targets: np.ndarray) -> np.ndarray:
    """The states in which trials to these targets begin, ``(5, trials)``."""
    angles = targets * 2 * np.pi / TARGETS
    nothing = np.zeros_like(angles)
    return np.stack([nothing, nothing, np.cos(angles), np.sin(angles), nothing])


def distance(state: np.ndarray) -> np.ndarray:
    """Of the cursor from the target."""
    return np.linalg.norm(wanted(state), axis=0)


def wanted(state: np.ndarray) -> np.ndarray:
    """The way from the cursor to the target, ``(2, trials)``."""
    return state[2:4] - state[:2]


def wanted_velocity(state: np.ndarray) -> np.ndarray:
    """Straight to the target, at the calibrated speed until it is near, ``(2, trials)``."""
    velocity = wanted(state) / STEP
    return velocity / np.maximum(1, np.linalg.norm(velocity, axis=0) / CALIBRATED)


def watched_trials(jitter: float = 0.1, repeats: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What an animal sees while the cursor goes to each target by itself, for a decoder to be fitted to its activity.

    Args:
        jitter: the standard deviation of the cursor's place around the straight way.
        repeats: trials to each target.
        seed: of the jitter.

    Returns:
        Observations ``(samples, features)``, and the velocities that are wanted there, see ``wanted_velocity``.
    """
    begun = starts(np.tile(np.arange(TARGETS), repeats))
    shares = np.linspace(0, 1, round(1 / (CALIBRATED * STEP)) + 1)
    states = np.concatenate([begun + share * _to_target(begun) for share in shares], axis=1)
    states[:2] += np.random.default_rng(seed).normal(0, jitter, size=states[:2].shape)
    return Interface().observe(states), wanted_velocity(states).T


def _to_target(state: np.ndarray) -> np.ndarray:
    way = np.zeros_like(state)
    way[:2] = wanted(state)
    return way
