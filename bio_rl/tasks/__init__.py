"""Tasks of which a batch of copies is one computation in numpy.

Each is a Gymnasium ``VectorEnv`` that begins a copy's next episode in the step that ends one
(``AutoresetMode.SAME_STEP``), which is what Stable-Baselines3's agents expect.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv

from bio_rl.tasks.cartpole import BatchedCartPole
from bio_rl.tasks.pendulum import BatchedPendulum

BATCHED: dict[str, Callable[..., VectorEnv[Any, Any, Any]]] = {
    "CartPole-v1": BatchedCartPole,
    "Pendulum-v1": BatchedPendulum,
}
"""Gymnasium's own tasks that it does not have in this form, by their ids."""


def make_batched(id: str, copies: int, max_episode_steps: int | None = None) -> VectorEnv[Any, Any, Any] | None:
    """A task's copies as one batch, or ``None`` where it has no such form.

    Args:
        id: of an environment that Gymnasium knows.
        copies: how many.
        max_episode_steps: an episode's greatest length; ``None`` for the task's own.
    """
    spec = gymnasium.registry.get(id)
    limit = max_episode_steps or (spec and spec.max_episode_steps)
    if id in BATCHED:
        return BATCHED[id](num_envs=copies, max_episode_steps=limit)
    if spec is None or spec.vector_entry_point is None:
        return None
    batch = gymnasium.make_vec(id, copies, vectorization_mode="vector_entry_point", max_episode_steps=limit)
    return batch if batch.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP else None
