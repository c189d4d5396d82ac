"""CartPole as a batch of copies."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode


class BatchedCartPole(CartPoleVectorEnv):
    """Gymnasium's vectorised CartPole, whose next episode begins in the step that ends one.

    Gymnasium's own would take a step of no consequence in between.
    """

    metadata = {**CartPoleVectorEnv.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
    state: Any
    _parts: Sequence["BatchedCartPole"] = ()

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminated, truncated, info = super().step(action)
        ended = self.prev_done
        if ended.any():
            info = {"final_obs": observations.copy(), "_final_obs": ended}
            self.state[:, ended] = self._starts(ended)
            observations[ended] = self.state.T[ended]
            self.steps[ended] = 0
            self.prev_done = np.zeros_like(ended)
        return observations, rewards, terminated, truncated, info

    def _starts(self, ended: np.ndarray) -> np.ndarray:
        """New states ``(4, ended copies)``, those of joined batches from each one's own generator."""
        if not self._parts:
            return self.np_random.uniform(self.low, self.high, size=(4, ended.sum()))
        shares = ended.reshape(len(self._parts), -1)
        return np.concatenate([part._starts(share) for part, share in zip(self._parts, shares, strict=True)], axis=1)

    @classmethod
    def join(cls, batches: Sequence[Self]) -> Self:
        """Several batches of as many copies as one, which goes on as each would."""
        first = batches[0]
        joint = cls(sum(batch.num_envs for batch in batches), first.max_episode_steps)
        joint._parts, joint.low, joint.high = batches, first.low, first.high
        joint.state = np.concatenate([batch.state for batch in batches], axis=1)
        joint.steps = np.concatenate([batch.steps for batch in batches])
        return joint

    def split(self, number: int) -> None:
        """Bring one of the joined batches to where it is now."""
        part = self._parts[number]
        own = slice(number * part.num_envs, (number + 1) * part.num_envs)
        part.state, part.steps = self.state[:, own].copy(), self.steps[own].copy()
