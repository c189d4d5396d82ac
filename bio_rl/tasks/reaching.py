"""Centre-out reaching with a planar arm."""

import numpy as np
from gymnasium import spaces

from bio_rl.tasks.task import Task, features

UPPER, LOWER = 0.30, 0.33
"""The links' lengths in metres (Li & Todorov 2004)."""
REACH, TARGETS = 0.08, 8
"""In metres, and around the start (Georgopoulos, Kalaska, Caminiti & Massey 1982)."""
SECONDS, STEPS = 0.05, 20
"""Of a step, and of a trial: one second."""
FASTEST = 1.0
"""Of a joint, in radians a second."""
SHOULDER, ELBOW = (0.3, 1.2), (1.2, 2.0)
"""The angles between which a trial begins, in radians."""
JOINT_RANGE, HAND_RANGE = ((-0.2, 1.8), (0.4, 2.6)), ((-0.4, 0.6), (-0.1, 0.7))
"""What the neurons' tuning curves span: the joints' angles in radians, the target's place in metres."""
NEURONS = 20


def hand(joints: np.ndarray) -> np.ndarray:
    """Where the hand is, ``(2, ...)`` in metres, for the angles of shoulder and elbow ``(2, ...)`` in radians."""
    shoulder, both = joints[0], joints[0] + joints[1]
    return np.stack(
        [
            UPPER * np.cos(shoulder) + LOWER * np.cos(both),
            UPPER * np.sin(shoulder) + LOWER * np.sin(both),
        ]
    )


class CentreOut(Task):
    """Reach one of eight targets, 8 cm around the start, with a hand that two joints move.

    The task of Georgopoulos et al. 1982 with the arm of Li & Todorov 2004, whose joints' velocities are the action, as
    a share of 1 rad/s, beyond which they are cut. It begins in any posture, so that the same reach takes other
    velocities each time. What is seen are the two angles and the target's place, each by 20 neurons with Gaussian
    tuning curves. A step is rewarded by how much closer the hand has come, in units of 8 cm: the return after a second
    is the share of the way that has been made, 1 at the target, 0 where it began.

    Args:
        num_envs, max_episode_steps: as for ``Task``.
    """

    def __init__(self, num_envs: int = 1, max_episode_steps: int | None = None):
        self.single_observation_space = features(0, 1, 4 * NEURONS)
        self.single_action_space = spaces.Box(-1, 1, (2,), np.float32)
        super().__init__(num_envs, max_episode_steps)

    def draw_starts(self, copies: int) -> np.ndarray:
        joints = np.stack([self.np_random.uniform(*limits, size=copies) for limits in (SHOULDER, ELBOW)])
        angle = self.np_random.integers(TARGETS, size=copies) * 2 * np.pi / TARGETS
        target = hand(joints) + REACH * np.stack([np.cos(angle), np.sin(angle)])
        return np.concatenate([joints, target, np.zeros((1, copies))])

    def observe(self, state: np.ndarray) -> np.ndarray:
        ranges = np.array([*JOINT_RANGE, *HAND_RANGE])
        low, high = ranges[:, :1], ranges[:, 1:]
        place = (state[:4] - low) / (high - low) * (NEURONS - 1)
        responses = np.exp(-0.5 * (place[:, None] - np.arange(NEURONS)[:, None]) ** 2)
        return responses.reshape(4 * NEURONS, -1).T.astype(np.float32)

    def advance(self, state: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        following = state.copy()
        following[:2] += np.clip(actions.T, -1, 1) * FASTEST * SECONDS
        following[4] += 1
        rewards = (distance(state) - distance(following)) / REACH
        return following, rewards, following[4] >= STEPS


def distance(state: np.ndarray) -> np.ndarray:
    """Of the hand from the target, in metres."""
    return np.linalg.norm(hand(state[:2]) - state[2:4], axis=0)
