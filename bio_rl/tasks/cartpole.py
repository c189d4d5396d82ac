"""CartPole as a batch of copies."""

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode

from bio_rl.tasks.batch import JoinableBatch


class BatchedCartPole(JoinableBatch, CartPoleVectorEnv):
    """Gymnasium's vectorised CartPole, whose next episode begins in the step that ends one.

    Gymnasium's own would take a step of no consequence in between.
    """

    metadata = {**CartPoleVectorEnv.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminated, truncated, info = CartPoleVectorEnv.step(self, action)
        ended = self.prev_done
        if ended.any():
            info = {"final_obs": observations.copy(), "_final_obs": ended}
            self.state[:, ended] = self.starts_of(ended)
            observations[ended] = self.state.T[ended]
            self.steps[ended] = 0
            self.prev_done = np.zeros_like(ended)
        return observations, rewards, terminated, truncated, info

    def draw_starts(self, copies: int) -> np.ndarray:
        return self.np_random.uniform(self.low, self.high, size=(4, copies))
