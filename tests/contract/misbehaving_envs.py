"""Environments by which an evaluation shows what it does; two of them go wrong in the ways in which one can."""

import contextlib
import itertools
import math
import os
import random
import shutil
import signal
import sys
import time
from typing import Any

import gymnasium
import numpy as np
import torch


class GlobalGenerators(gymnasium.Env):
    """Ten steps whose observation and reward are drawn from Python's, NumPy's and torch's global generators.

    Args:
        reseeds: whether a seeded ``reset`` seeds them all, as old environments do.
    """

    observation_space = gymnasium.spaces.Box(-1, 2, (3,))
    action_space = gymnasium.spaces.Discrete(2)
    firsts: list[float] = []
    """The first observations of all episodes, in order."""

    def __init__(self, reseeds: bool = False):
        self.reseeds = reseeds
        self.scale = 1 + np.random.rand() / 10  # noqa: NPY002

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        if self.reseeds and seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
        self.steps = 0
        observation = self._observe()
        self.firsts.append(float(observation[0]))
        return observation, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        observation = self._observe()
        return observation, float(observation[2] * (1 + action)), self.steps == 10, False, {}

    def _observe(self) -> np.ndarray:
        draws = random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002
        return self.scale * np.array(draws, dtype=np.float32)


class NotFinite(gymnasium.Env):
    """From one episode on, what it gives is not finite. Each copy has longer episodes than the copy before.

    Args:
        what: ``reward`` or ``observation``.
        value: what it is then.
        episode: the first one in which it happens, counted from 1 by every seeded ``reset``.
    """

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    copies = 0

    def __init__(self, what: str = "reward", value: float = math.nan, episode: int = 2):
        NotFinite.copies += 1
        self.length = NotFinite.copies
        self.what, self.value, self.first = what, value, episode

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.episode = 1 if seed is not None else self.episode + 1
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        reward = self.value if self._happens("reward") else 1.0
        return self._observe(), reward, self.steps == self.length, False, {}

    def _happens(self, what: str) -> bool:
        return self.what == what and self.episode >= self.first

    def _observe(self) -> np.ndarray:
        return np.full(2, self.value if self._happens("observation") else 0.5, dtype=np.float32)


class Ends(gymnasium.Env):
    """Ends its process, or asks it to end, at one step of one copy.

    Args:
        how: ``exit``, or the name of a signal; with ``swallowed`` before it, its error is caught.
        step: counted over all copies that were made.
    """

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def __init__(self, how: str = "", step: int = 20):
        Ends.steps = 0
        self.how, self.at = how, step

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.length = 0
        return np.full(2, 0.5, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.length += 1
        Ends.steps += 1
        if Ends.steps == self.at:
            self._end()
        return np.full(2, 0.5, np.float32), 1.0, self.length == 4, False, {}

    def _end(self) -> None:
        if self.how == "exit":
            sys.exit(0)
        swallowed = self.how.startswith("swallowed")
        if self.how:
            with contextlib.suppress(KeyboardInterrupt if swallowed else ()):
                os.kill(os.getpid(), signal.Signals[self.how.split()[-1]])


class Bandit(gymnasium.Env):
    """Each step's reward is the action, by a policy that sees the same at every step.

    Args:
        continuous: whether actions are numbers, not 0 or 1.
        length: of every episode.
    """

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))

    def __init__(self, continuous: bool = False, length: int = 1):
        self.action_space = gymnasium.spaces.Box(-100, 100, (1,)) if continuous else gymnasium.spaces.Discrete(2)
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return np.full(2, 0.5, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.full(2, 0.5, np.float32), float(np.squeeze(action)), self.steps == self.length, False, {}


class Odd(gymnasium.Env):
    """From the 20th step on it gives something that no environment may give, or takes its time.

    Args:
        what: it is.
    """

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, what: str):
        self.what = what
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        observation = np.zeros(2, np.float32)
        return observation if self.what == "no info in reset" else (observation, {})

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation: Any = np.zeros(2, np.float32)
        reward: Any = 1.0
        info: Any = {}
        if self.steps >= 20:
            match self.what:
                case "shape":
                    observation = np.zeros(3, np.float32)
                case "number":
                    observation = 0.5
                case "complex":
                    observation = np.zeros(2, np.complex64)
                case "text":
                    observation = np.array(["a", "b"])
                case "no observation":
                    observation = None
                case "no reward":
                    reward = None
                case "no info":
                    info = None
                case "nothing":
                    return None
                case "memory":
                    bytearray(10**15)
                case "waits":
                    time.sleep(60)
                case "removes":
                    shutil.rmtree("run")
        return observation, reward, self.steps % 7 == 0, False, info


class Hidden(gymnasium.Env):
    """Ten steps that tell how many there have been in this copy's life, which nobody but itself can know or change."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self._life = itertools.count()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return self._observe(), 1.0, self.steps == 10, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([math.sin(next(self._life))], dtype=np.float32)


for environment in (Bandit, Ends, GlobalGenerators, Hidden, NotFinite, Odd):
    # The checker only warns of what is wrong on purpose.
    gymnasium.register(f"{environment.__name__}-v0", environment, disable_env_checker=True)
