"""Copies of a task that are stepped as one computation, as Stable-Baselines3's agents see environments."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv


class BatchedVecEnv(VecEnv):
    """A ``VecEnv`` around a Gymnasium ``VectorEnv`` that begins a new episode in the step that ends one.

    It does the work of a ``Monitor`` too: ``info["episode"]`` tells an episode's return and length.

    Args:
        batch: the copies. One generator draws for all of them, seeded by the first copy's seed.
    """

    _parts: Sequence["BatchedVecEnv"] = ()

    def __init__(self, batch: VectorEnv[Any, Any, Any]):
        self.batch = batch
        self._returns, self._lengths = np.zeros(batch.num_envs), np.zeros(batch.num_envs, dtype=int)
        self._started = time.time()
        super().__init__(batch.num_envs, batch.single_observation_space, batch.single_action_space)

    def reset(self) -> Any:
        observations, _ = self.batch.reset(seed=self._seeds[0], options=self._options[0] or None)
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0, 0
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observations, rewards, terminated, truncated, info = self.batch.step(self._actions)
        dones = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for copy in np.flatnonzero(dones):
            infos[copy] = {
                "terminal_observation": info["final_obs"][copy],
                "TimeLimit.truncated": bool(truncated[copy] and not terminated[copy]),
                "episode": {
                    "r": round(float(self._returns[copy]), 6),
                    "l": int(self._lengths[copy]),
                    "t": round(time.time() - self._started, 6),
                },
            }
        self._returns[dones], self._lengths[dones] = 0, 0
        return observations, np.asarray(rewards, dtype=np.float32), dones, infos

    @classmethod
    def join(cls, envs: Sequence["BatchedVecEnv"]) -> "BatchedVecEnv | None":
        """Several environments as one, which goes on as each would; ``None`` where their tasks cannot be joined.

        Each must have been reset. ``split`` brings one of them to where it is in the joint one.
        """
        first = envs[0].batch
        settings = ("num_envs", "max_episode_steps", "settings")
        alike = {(type(env.batch), *(str(getattr(env.batch, name, None)) for name in settings)) for env in envs}
        if len(alike) > 1 or not hasattr(first, "join"):
            return None
        joint = cls(first.join([env.batch for env in envs]))
        joint._parts = envs
        joint._returns = np.concatenate([env._returns for env in envs])
        joint._lengths = np.concatenate([env._lengths for env in envs])
        joint._started = min(env._started for env in envs)
        return joint

    def split(self, number: int) -> None:
        """Bring one of the joined environments to where it is now."""
        self.batch.split(number)  # type: ignore[attr-defined]
        env = self._parts[number]
        own = slice(number * env.num_envs, (number + 1) * env.num_envs)
        env._returns, env._lengths = self._returns[own].copy(), self._lengths[own].copy()

    def close(self) -> None:
        self.batch.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.batch, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.batch, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        return [getattr(self.batch, method_name)(*method_args, **method_kwargs)] * self._count(indices)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [issubclass(Monitor, wrapper_class)] * self._count(indices)

    def get_images(self) -> Sequence[np.ndarray | None]:
        images: Any = self.batch.render()
        return [None] * self.num_envs if images is None else list(images)

    def _count(self, indices: Any) -> int:
        return len(list(self._get_indices(indices)))


def seed_copies(env: VecEnv, seeds: Sequence[int]) -> None:
    """Seed each copy of an environment at its next reset. SB3's ``VecEnv.seed`` counts on from one seed instead."""
    env.seed(seeds[0])  # a VecEnv of somebody's own has its way of seeding
    env.unwrapped._seeds = list(seeds)
