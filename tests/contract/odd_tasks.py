"""Tasks that are out of the ordinary in the ways in which tasks can be, as ``odd_tasks:Name-v0``."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Counts(gymnasium.Env):
    """Episodes of 6 steps, of which each gives 3 points; it draws frames of a kind of one's choice."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space: spaces.Space[Any] = spaces.Box(-1, 1, (3,))
    action_space: spaces.Space[Any] = spaces.Discrete(2)
    LENGTH = 6

    def __init__(self, render_mode: str | None = None, frame: str = "shares"):
        self.render_mode, self.frame = render_mode, frame

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._observation(), 3.0, self.time == self.LENGTH, False, {}

    def render(self) -> Any:
        grey = np.zeros((10, 10))
        grey[:, self.time :] = 1.0
        match self.frame:
            case "shares":
                return np.stack([grey] * 3, axis=-1)
            case "text":
                return "an agent here"
            case "nothing":
                return None
            case "fails":
                raise RuntimeError("no pencil")
        return grey

    def _observation(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


class Unseen(Counts):
    """It cannot draw, nor does it know what a render mode is."""

    metadata = {}

    def __init__(self) -> None:
        super().__init__()


class Written(Unseen):
    """It draws text alone."""

    metadata = {"render_modes": ["ansi"]}

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode


class Noisy(Counts):
    """Observations and rewards in double precision, which is not what its space says, by a generator of its own."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, self.np_random.normal() / 3, terminated, truncated, info

    def _observation(self) -> Any:
        return self.np_random.uniform(-1, 1, 3)


class NoisyParts(Noisy):
    """The same in a Dict."""

    observation_space = spaces.Dict({"see": spaces.Box(-1, 1, (3,)), "count": spaces.Discrete(7)})

    def _observation(self) -> Any:
        return {"see": super()._observation(), "count": self.time}


class Nested(Counts):
    """Observations in a Tuple, one of which is an image."""

    observation_space = spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 255, (4, 4, 3), np.uint8)))

    def _observation(self) -> Any:
        return self.observation_space.sample()


class Breaks(Counts):
    """It raises an error that says nothing, where it is told to."""

    def __init__(self, where: str = "make", render_mode: str | None = None):
        super().__init__(render_mode)
        self.where = where
        assert where != "make"

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        assert self.where != "reset"
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.where != "step" or self.time < 3
        return super().step(action)


class Acts(Counts):
    """It takes a Box of a kind of one's choice, and refuses what is not in it; the reward is the action."""

    BOXES = {
        "integers": spaces.Box(0, 3, (2,), np.int64),
        "bytes": spaces.Box(0, 255, (2,), np.uint8),
        "unbounded": spaces.Box(-np.inf, np.inf, (2,)),
        "half_bounded": spaces.Box(0, np.inf, (2,), np.float64),
        "thousand": spaces.Box(0, 1000, (2,)),
        "tiny": spaces.Box(-0.01, 0.01, (2,)),
        "unit": spaces.Box(-1, 1, (2,)),
    }

    def __init__(self, box: str = "unit", render_mode: str | None = None):
        super().__init__(render_mode)
        self.action_space = self.BOXES[box]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert np.can_cast(action.dtype, self.action_space.dtype, "same_kind"), action.dtype
        assert self.action_space.contains(action.astype(self.action_space.dtype)), action
        observation, _, *rest = super().step(action)
        return observation, float(action.sum()), *rest


for kind in (Counts, Unseen, Written, Noisy, NoisyParts, Nested, Breaks, Acts):
    gymnasium.register(f"{kind.__name__}-v0", kind)


class SkipsTwo(gymnasium.Wrapper):
    """Two steps of the task for one, without the first one's reward."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.env.step(action)
        return self.env.step(action)


class StepsWhileItResets(gymnasium.Wrapper):
    """Two steps of the task pass before the agent sees it."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.env.reset(**kwargs)
        self.env.step(self.action_space.sample())
        observation, *_, info = self.env.step(self.action_space.sample())
        return observation, info


class GivesUp(gymnasium.Wrapper):
    """It refuses every environment, without a reason."""

    def __init__(self, env: gymnasium.Env):
        raise AssertionError


def no_wrapper(env: gymnasium.Env) -> None:
    return None
