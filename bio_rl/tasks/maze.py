"""A maze in which a digit tells the way, and only its end tells whether that was right."""

import numpy as np
from gymnasium import spaces

from bio_rl.tasks.digits import HELD_OUT, PIXELS, load_digits
from bio_rl.tasks.task import Task, features

ARMS, LENGTH, STEPS = 4, 4, 20


class CueMaze(Task):
    """Go to the end of the arm that a handwritten digit tells: 1 there, 0 at any other end, nothing on the way.

    Four arms of four places leave the centre, where a trial begins. The arm is the digit modulo 4. An action is a
    direction to go in; into a wall one stays. After 20 steps the trial is over. The digit is seen all along, so that no
    memory is needed, but what it means is to be learnt from a reward that is late and rare. What is seen are its
    pixels, and the place among 17.

    Args:
        num_envs, max_episode_steps: as for ``Task``.
        held_out: whether the digits are those held out, which no agent learns from.
    """

    def __init__(self, num_envs: int = 1, max_episode_steps: int | None = None, held_out: bool = False):
        self.single_observation_space = features(0, 1, PIXELS + 1 + ARMS * LENGTH)
        self.single_action_space = spaces.Discrete(ARMS)
        super().__init__(num_envs, max_episode_steps, held_out=held_out)
        images, digits = load_digits()
        part = slice(-HELD_OUT, None) if held_out else slice(-HELD_OUT)
        self.images, self.digits = images[part], digits[part]

    def draw_starts(self, copies: int) -> np.ndarray:
        """Which image, in which arm, how far from the centre, and at which step, as whole numbers."""
        image = self.np_random.integers(len(self.digits), size=copies)
        return np.concatenate([image[None], np.zeros((3, copies), dtype=image.dtype)])

    def observe(self, state: np.ndarray) -> np.ndarray:
        image, arm, depth, _ = state
        place = np.where(depth == 0, 0, 1 + LENGTH * arm + depth - 1)
        return np.concatenate([self.images[image], place[:, None] == np.arange(1 + ARMS * LENGTH)], axis=1)

    def advance(self, state: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, arm, depth, step = state
        arm = np.where(depth == 0, actions, arm)
        onwards, back = actions == arm, actions == (arm + ARMS // 2) % ARMS
        depth = depth + onwards - (back & (depth > 0))
        at_end = depth == LENGTH
        rewards = at_end & (arm == self.digits[image] % ARMS)
        following = np.stack([image, arm, depth, step + 1])
        return following, rewards.astype(np.float64), at_end | (step + 1 >= STEPS)
