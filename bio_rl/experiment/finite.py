"""Numbers that are not finite, and whose doing they are: the updates', or the environment's."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class NotFinite(ArithmeticError):
    """A network that is no longer finite: the updates diverged."""


class EnvironmentNotFinite(ValueError):
    """An environment gave an observation or a reward that is not finite."""


class FiniteEnvs(VecEnvWrapper):
    """Environments whose first number that is not finite is an error, before anything learns from it.

    It lies directly around the copies: normalisation would spread the number over all of them.

    Raises:
        EnvironmentNotFinite: on a reset or step, with what it was, the copy and its step.
        NotFinite: an action is not finite.
    """

    def __init__(self, venv: VecEnv):
        super().__init__(venv)
        self._steps = 0

    def reset(self) -> VecEnvObs:
        observations = self.venv.reset()
        self._check_observations(observations)
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        if not np.isfinite(actions).all():
            raise NotFinite(f"an action was not finite after {self._steps} steps of each environment")
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        step = self.venv.step_wait()
        self.check_step(*step)
        return step

    def check_step(
        self, observations: VecEnvObs, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        """Count a step of the copies, and look at what they gave; for those who step them by other ways too."""
        self._steps += 1
        self._check("a reward", rewards)
        for copy in np.flatnonzero(dones):
            # What comes after a time limit is estimated from an episode's last observation.
            last = infos[copy].get("terminal_observation")
            if last is not None:
                self._check_observations(_alone(last), int(copy))
        self._check_observations(observations)

    def _check_observations(self, observations: Any, first_copy: int = 0) -> None:
        if isinstance(observations, Mapping):
            for key, values in observations.items():
                self._check(f"an observation, {key!r},", values, first_copy)
        elif isinstance(observations, tuple):
            for values in observations:
                self._check("an observation", values, first_copy)
        else:
            self._check("an observation", observations, first_copy)

    def _check(self, what: str, values: np.ndarray, first_copy: int = 0) -> None:
        finite = np.isfinite(values)
        if not finite.all():
            copy = first_copy + int(np.argwhere(~finite)[0][0])
            number = values[~finite].flat[0]
            raise EnvironmentNotFinite(f"environment copy {copy} gave {what} of {number} at its step {self._steps}")


def _alone(observation: Any) -> Any:
    """One copy's observation with a leading dimension, as the observations of several have."""
    if isinstance(observation, Mapping):
        return {key: np.asarray(value)[None] for key, value in observation.items()}
    if isinstance(observation, tuple):
        return tuple(np.asarray(value)[None] for value in observation)
    return np.asarray(observation)[None]
