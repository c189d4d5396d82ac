"""What batched tasks have in common: several batches of copies can be joined into one, and split again."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from gymnasium.vector import VectorEnv


class JoinableBatch(VectorEnv[Any, Any, Any]):
    """Copies of a task whose whole state is a few numbers for each.

    Attributes:
        state: ``(numbers, copies)``.
        steps: since each copy's episode began, ``(copies,)``.
        max_episode_steps: after which an episode is cut.
    """

    state: Any
    steps: np.ndarray
    max_episode_steps: int
    _parts: Sequence["JoinableBatch"] = ()

    def draw_starts(self, copies: int) -> np.ndarray:
        """New states, ``(numbers, copies)``, from this batch's own generator."""
        raise NotImplementedError

    def starts_of(self, ended: np.ndarray) -> np.ndarray:
        """New states for the copies whose episode ended, those of joined batches from each one's own generator."""
        if not self._parts:
            return self.draw_starts(int(ended.sum()))
        shares = ended.reshape(len(self._parts), -1)
        return np.concatenate([part.starts_of(own) for part, own in zip(self._parts, shares, strict=True)], axis=1)

    @classmethod
    def join(cls, batches: Sequence[Self]) -> Self:
        """Several batches of as many copies, each reset before, as one that goes on as each would."""
        joint = cls.joint_form(batches)
        joint._parts = batches
        joint.state = np.concatenate([batch.state for batch in batches], axis=1)
        joint.steps = np.concatenate([batch.steps for batch in batches])
        return joint

    @classmethod
    def joint_form(cls, batches: Sequence[Self]) -> Self:
        """A batch with room for the copies of several."""
        return cls(sum(batch.num_envs for batch in batches), batches[0].max_episode_steps)  # type: ignore[call-arg]

    def split(self, number: int) -> None:
        """Bring one of the joined batches to where it is now."""
        part = self._parts[number]
        own = slice(number * part.num_envs, (number + 1) * part.num_envs)
        part.state, part.steps = self.state[:, own].copy(), self.steps[own].copy()
