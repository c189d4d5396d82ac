"""The two-step task, with the past as an input."""

import numpy as np
from gymnasium import spaces

from bio_rl.tasks.task import Task, features

COMMON = 0.7
"""How often a first choice leads where it commonly leads (Daw, Gershman, Seymour, Dayan & Dolan 2011)."""
POOR, RICH = 0.2, 0.8
"""Probabilities of reward (Akam, Costa & Dayan 2015)."""
OPTIONS, OUTCOMES = 4, 10


class TwoStep(Task):
    """A first choice leads to one of two places, commonly or rarely; a second one there may be rewarded by 1.

    The two steps of Daw et al. 2011. As in Akam et al. 2015, to which place a choice commonly leads may be either way
    round, and an option is rich or poor. Both last for an episode of two steps, and are to be told from what is seen:
    which way round it is, the last 10 outcomes of each of the four options (1 for a reward, -1 for none), and where one
    is. A good first choice needs the best option of either place and the way there: a model of the task.

    Args:
        num_envs, max_episode_steps: as for ``Task``.
    """

    # The state's rows: the place (0 for the start), which way round, an option's richness, its outcomes, and the luck
    # of both steps, uniform.
    _rich = slice(2, 2 + OPTIONS)
    _outcomes = slice(2 + OPTIONS, 2 + OPTIONS + OPTIONS * OUTCOMES)

    def __init__(self, num_envs: int = 1, max_episode_steps: int | None = None):
        self.single_observation_space = features(-1, 1, 3 + 1 + OPTIONS * OUTCOMES)
        self.single_action_space = spaces.Discrete(2)
        super().__init__(num_envs, max_episode_steps)

    def draw_starts(self, copies: int) -> np.ndarray:
        way = self.np_random.integers(2, size=(1, copies))
        rich = self.np_random.integers(2, size=(OPTIONS, copies))
        chance = np.where(rich, RICH, POOR)
        outcomes = self.np_random.uniform(size=(OPTIONS, OUTCOMES, copies)) < chance[:, None]
        luck = self.np_random.uniform(size=(2, copies))
        return np.concatenate([np.zeros((1, copies)), way, rich, outcomes.reshape(-1, copies), luck])

    def observe(self, state: np.ndarray) -> np.ndarray:
        places = state[0] == np.arange(3)[:, None]
        known = np.concatenate([state[1:2], state[self._outcomes]])
        return np.concatenate([places, 2 * known - 1]).T.astype(np.float32)

    def advance(self, state: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place, way = state[0], state[1]
        is_second = place > 0
        option = 2 * (place.astype(int) - 1) + actions
        rich = np.take_along_axis(state[self._rich], np.where(is_second, option, 0)[None], axis=0)[0]
        rewards = is_second & (state[-1] < np.where(rich, RICH, POOR))
        leads_to = np.where(state[-2] < COMMON, actions, 1 - actions) != way
        following = state.copy()
        following[0] = np.where(is_second, place, 1 + leads_to)
        return following, rewards.astype(np.float64), is_second
