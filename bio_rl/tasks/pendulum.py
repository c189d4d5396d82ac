"""Pendulum as a batch of copies."""

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv, angle_normalize
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from bio_rl.tasks.batch import JoinableBatch

ONE = PendulumEnv()
"""Where its constants and spaces come from."""
START = np.array([[np.pi], [1.0]])
"""The greatest angle and speed at which an episode begins, as in Gymnasium's."""


class BatchedPendulum(JoinableBatch):
    """Gymnasium's Pendulum-v1: angle (rad) and angular speed (rad/s), driven by a torque (N m)."""

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int = 1, max_episode_steps: int = 200):
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.single_observation_space, self.single_action_space = ONE.observation_space, ONE.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.steps = np.zeros(num_envs, dtype=np.int32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.draw_starts(self.num_envs)
        self.steps = np.zeros(self.num_envs, dtype=np.int32)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        angle, speed = self.state
        torque = np.clip(action[:, 0], -ONE.max_torque, ONE.max_torque)
        cost = angle_normalize(angle) ** 2 + 0.1 * speed**2 + 0.001 * torque**2  # type: ignore[no-untyped-call]
        gravity, drive = 3 * ONE.g / (2 * ONE.l) * np.sin(angle), 3.0 / (ONE.m * ONE.l**2) * torque
        speed = np.clip(speed + (gravity + drive) * ONE.dt, -ONE.max_speed, ONE.max_speed)
        self.state = np.stack([angle + speed * ONE.dt, speed])
        self.steps += 1
        observations, info = self._observe(), {}
        truncated = self.steps >= self.max_episode_steps
        if truncated.any():
            info = {"final_obs": observations.copy(), "_final_obs": truncated}
            self.state[:, truncated] = self.starts_of(truncated)
            self.steps[truncated] = 0
            observations = self._observe()
        return observations, -cost, np.zeros_like(truncated), truncated, info

    def draw_starts(self, copies: int) -> np.ndarray:
        return self.np_random.uniform(-START, START, size=(2, copies))

    def _observe(self) -> np.ndarray:
        angle, speed = self.state
        return np.stack([np.cos(angle), np.sin(angle), speed], axis=1).astype(np.float32)
