"""Tasks of which a batch of copies is one computation in numpy: two of Gymnasium's, and our own.

Importing this registers our own with Gymnasium. Each is a Gymnasium ``VectorEnv`` that begins a copy's next episode in
the step that ends one (``AutoresetMode.SAME_STEP``), which is what Stable-Baselines3's agents expect.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv

from bio_rl.tasks.cartpole import BatchedCartPole
from bio_rl.tasks.decisions import ContextDecision, DelayedMatch, EvidenceAccumulation
from bio_rl.tasks.digits import Digits, DigitSum
from bio_rl.tasks.interface import Interface
from bio_rl.tasks.maze import CueMaze
from bio_rl.tasks.pendulum import BatchedPendulum
from bio_rl.tasks.reaching import CentreOut
from bio_rl.tasks.task import Task, register
from bio_rl.tasks.two_step import TwoStep

TASKS: dict[str, type[Task]] = {
    task.__name__: task
    for task in (
        Digits,
        DigitSum,
        Interface,
        EvidenceAccumulation,
        ContextDecision,
        DelayedMatch,
        TwoStep,
        CentreOut,
        CueMaze,
    )
}
"""Our own, by the names under which Gymnasium knows them: ``bio_rl/Digits-v0`` and so on."""
for _name, _task in TASKS.items():
    register(_name, _task)

BATCHED: dict[str, Callable[..., VectorEnv[Any, Any, Any]]] = {
    "CartPole-v1": BatchedCartPole,
    "Pendulum-v1": BatchedPendulum,
}
"""Gymnasium's own tasks that it does not have in this form, by their ids."""


def make_batched(
    id: str, copies: int, max_episode_steps: int | None = None, **settings: Any
) -> VectorEnv[Any, Any, Any] | None:
    """A task's copies as one batch, or ``None`` where it has no such form.

    Args:
        id: of an environment that Gymnasium knows.
        copies: how many.
        max_episode_steps: an episode's greatest length; ``None`` for the task's own.
        **settings: the task's own arguments.
    """
    spec = gymnasium.registry.get(id)
    limit = max_episode_steps or (spec and spec.max_episode_steps)
    if id in BATCHED:
        return None if settings else BATCHED[id](num_envs=copies, max_episode_steps=limit)
    if spec is None or spec.vector_entry_point is None:
        return None
    mode = "vector_entry_point"
    batch = gymnasium.make_vec(id, copies, vectorization_mode=mode, max_episode_steps=limit, **settings)
    return batch if batch.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP else None
