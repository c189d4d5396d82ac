"""What stands around each copy of an environment: its returns, its errors by its name, its state."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor

from bio_rl.snapshot import Tree, put, take

ANY_TIME = nullcontext()
"""What a step without a time limit is taken in."""
REMEMBERED = 100
"""Episodes of which the Monitor's lists tell; Stable-Baselines3's own grow for as long as a run lasts."""


class TaskRewards(gymnasium.Wrapper):
    """Keeps the rewards of an episode as the task gives them, before other wrappers change them.

    Attributes:
        rewards: one for each of the task's own steps, of which a wrapper may take several at once.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.rewards: list[float] = []

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.rewards.append(float(reward))
        return observation, reward, terminated, truncated, info


class TaskMonitor(Monitor):
    """Stable-Baselines3's Monitor around all wrappers, which tells the return and the length of the task itself.

    An episode is what the agent sees as one; its return is the sum of the task's rewards in it, its
    length the number of the task's steps. Steps that a wrapper takes while it resets do not count.

    Args:
        env: the environment in its wrappers.
        task: the innermost of them.
        id: the environment's, for errors.
        time_limit: seconds that a step or a reset may take; ``None`` for any.
    """

    def __init__(self, env: gymnasium.Env, task: TaskRewards, id: str, time_limit: float | None = None):
        super().__init__(env)
        self.task = task
        self.id = id
        self.time_limit = time_limit
        self._shapes = _shapes(env.observation_space)
        self._generator_before: Tree = None
        self._reset_by: dict[str, Any] = {}
        self._actions: list[np.ndarray] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment's own.

        Raises:
            RuntimeError: what the environment or a wrapper raised, or has against it, with the environment's id.
        """
        self._generator_before, self._reset_by = take(getattr(self.unwrapped, "_np_random", None)), kwargs
        self._actions.clear()
        try:
            with at_most(self.time_limit):
                observation, info = super().reset(**kwargs)
            self._check(observation, info)
        except Exception as error:
            raise failure(self.id, "failed in reset", error) from error
        self.task.rewards.clear()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's own, with ``info["episode"]`` at an episode's end.

        Raises:
            RuntimeError: what the environment or a wrapper raised, or has against it, with the environment's id.
        """
        self._actions.append(np.array(action))
        try:
            with at_most(self.time_limit):
                observation, reward, terminated, truncated, info = super().step(action)
            self._check(observation, info)
        except Exception as error:
            raise failure(self.id, "failed in step", error) from error
        if terminated or truncated:
            info["episode"] |= {"r": sum(self.task.rewards), "l": len(self.task.rewards)}
            self.episode_returns[-1], self.episode_lengths[-1] = info["episode"]["r"], info["episode"]["l"]
            for past in (self.episode_returns, self.episode_lengths, self.episode_times):
                del past[:-REMEMBERED]
        return observation, reward, bool(terminated), bool(truncated), info

    def _check(self, observation: Any, info: Any) -> None:
        """Raise a TypeError if something else than an observation of the space came: SB3 would broadcast or cast it."""
        for key, shape in self._shapes.items():
            part = np.asarray(observation if key is None else observation[key])
            if part.shape != shape or part.dtype.kind not in "biuf":
                raise TypeError(
                    f"it gave an observation of shape {part.shape} and type {part.dtype}, where its space has {shape}"
                )
        if not isinstance(info, dict):
            raise TypeError(f"it gave {type(info).__name__} for its info, which is a dict")

    def snapshot(self) -> Tree:
        """The state of the environment and its wrappers, and what has happened since the last reset."""
        past = [self._generator_before, self._actions, self.episode_returns, self.episode_lengths, self.episode_times]
        return {
            "generator": self._generator_before,
            "reset_by": take(self._reset_by),
            "actions": take(np.array(self._actions)),
            "state": take(self, without=past),
        }

    def restore(self, tree: Tree, replay: bool = True) -> None:
        """Bring the environment to where another one was that was made alike.

        Args:
            tree: the other one's ``snapshot``.
            replay: whether its episode is played again first, for what of its state is inside a simulator.
        """
        if replay:
            self.unwrapped._np_random = put(getattr(self.unwrapped, "_np_random", None), tree["generator"])
            self.reset(**put({}, tree["reset_by"]))
            for action in put(None, tree["actions"]):
                self.step(action)
        put(self, tree["state"])


def failure(id: str, what: str, error: Exception) -> RuntimeError:
    """An error of somebody else's code, in one line that names the environment."""
    said = " ".join(str(error).split())
    return RuntimeError(f"{id} {what}: {type(error).__name__}{': ' if said else ''}{said}")


def _shapes(space: spaces.Space[Any]) -> dict[str | None, tuple[int, ...]]:
    """The shapes of an observation's parts by their names, or of one that has no parts."""
    parts: Mapping[Any, Any] = space.spaces if isinstance(space, spaces.Dict) else {None: space}
    return {key: tuple(part.shape) for key, part in parts.items() if part.shape is not None}


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TimeoutError(f"it took more than env.time_limit={seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def at_most(seconds: float | None) -> AbstractContextManager[None]:
    """Raise a TimeoutError if what is inside takes longer, where the system has alarms: in main threads, on Unix.

    What is inside must be Python, at times: no signal reaches a loop of a compiled library.
    """
    if seconds is None:
        return ANY_TIME
    can_ring = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    return _alarm(seconds) if can_ring else ANY_TIME
