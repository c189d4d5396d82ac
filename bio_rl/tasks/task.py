"""What our own tasks are made of: each is written once, for a batch of copies; a single one is a batch of one."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Self

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from bio_rl.settings import checked
from bio_rl.tasks.batch import JoinableBatch

OF_A_BATCH = ("self", "num_envs", "max_episode_steps")
"""Arguments of a batch that a single copy has not."""


class Task(JoinableBatch):
    """A batch of copies of a task, all of whose random numbers are drawn as an episode begins.

    So a step is arithmetic on the state alone, and joined batches go on as each would. A subclass
    sets its spaces, and says how an episode begins, what is seen and what an action does. The arguments of its
    constructor are checked by their annotations, see ``bio_rl.settings``.

    Args:
        num_envs: copies.
        max_episode_steps: after which an episode is cut; ``None`` where it ends by itself.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
    max_episode_steps: int | None  # type: ignore[assignment]

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "__init__" in vars(cls):
            cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, num_envs: int, max_episode_steps: int | None, **settings: Any):
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.settings = settings
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.steps = np.zeros(num_envs, dtype=np.int32)

    def observe(self, state: np.ndarray) -> np.ndarray:
        """What is seen in states ``(numbers, copies)``, as ``(copies, features)``."""
        raise NotImplementedError

    def advance(self, state: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What actions do: the states that follow, rewards, and whose episode is over, ``(copies,)`` each."""
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.draw_starts(self.num_envs)
        self.steps = np.zeros(self.num_envs, dtype=np.int32)
        return self.observe(self.state), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.state, rewards, terminated = self.advance(self.state, np.asarray(action))
        self.steps += 1
        truncated = np.zeros_like(terminated)
        if self.max_episode_steps is not None:
            truncated = (self.steps >= self.max_episode_steps) & ~terminated
        ended = terminated | truncated
        observations, info = self.observe(self.state), {}
        if ended.any():
            info = {"final_obs": observations, "_final_obs": ended}
            self.state[:, ended] = self.starts_of(ended)
            self.steps[ended] = 0
            observations = observations.copy()
            observations[ended] = self.observe(self.state[:, ended])
        return observations, rewards, terminated, truncated, info

    @classmethod
    def joint_form(cls, batches: Sequence[Self]) -> Self:
        first = batches[0]
        return cls(sum(batch.num_envs for batch in batches), first.max_episode_steps, **first.settings)


class OneCopy(gymnasium.Env):
    """A single copy of a task, for Gymnasium's interface of one environment.

    Args:
        batch: with one copy, whose episodes this one's are, to the last bit.
    """

    metadata = {"render_modes": []}

    def __init__(self, batch: Task):
        self.batch = batch
        self.observation_space, self.action_space = batch.single_observation_space, batch.single_action_space
        self._next: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None or self._next is None:  # a batch has begun the next episode as it ended the last
            self._next = self.batch.reset(seed=seed, options=options)[0][0]
        observation, self._next = self._next, None
        return observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observations, rewards, terminated, truncated, info = self.batch.step(np.asarray(action)[None])
        observation = observations[0]
        if terminated[0] or truncated[0]:
            observation, self._next = info["final_obs"][0], observation
        return observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}


def one_copy(task: type[Task]) -> Callable[..., OneCopy]:
    """What makes a single copy of a task, with the task's own arguments."""

    def make(**settings: Any) -> OneCopy:
        return OneCopy(task(1, **settings))

    parameters = inspect.signature(task.__init__).parameters.values()
    own = [each.replace(kind=each.KEYWORD_ONLY) for each in parameters if each.name not in OF_A_BATCH]
    make.metadata = OneCopy.metadata  # type: ignore[attr-defined]
    make.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    return make


def register(name: str, task: type[Task]) -> None:
    """Make a task known to Gymnasium, as ``bio_rl/NAME-v0``."""
    batch: Any = task
    gymnasium.register(f"bio_rl/{name}-v0", entry_point=one_copy(task), vector_entry_point=batch)


def features(low: float, high: float, count: int) -> spaces.Box:
    """The space of so many numbers between two bounds."""
    return spaces.Box(low, high, (count,), np.float32)
