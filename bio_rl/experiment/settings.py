"""What the numbers of a config may be, beyond what agents and rules check themselves."""

from typing import NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf


class Range(NamedTuple):
    """A number between two bounds, whole or not; ``exclusive`` leaves out the lower one."""

    low: float
    high: float = float("inf")
    whole: bool = True
    exclusive: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return (self.low < value if self.exclusive else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        bounds = f"above {self.low:g}" if self.exclusive else f"of at least {self.low:g}"
        return f"{kind} {bounds}" + (f" and at most {self.high}" if self.high < float("inf") else "")


POSITIVE = Range(0, whole=False, exclusive=True)
FRACTION = Range(0, 1, whole=False)

RANGES = {
    "seed": Range(0, 2**31 - 1),
    "torch_threads": Range(1),
    "evaluation.episodes": Range(1),
    "evaluation.interval": Range(0),
    "env.n_envs": Range(1),
    "env.timesteps": Range(1),
    "env.max_episode_steps": Range(1),
    "logging.interval": Range(1),
    "optimizer.learning_rate": POSITIVE,
    "optimizer.critic_learning_rate": POSITIVE,
    "agent.n_steps": Range(1),
    "agent.n_epochs": Range(1),
    "agent.batch_size": Range(2),
    "agent.gamma": FRACTION,
    "agent.gae_lambda": FRACTION,
    "agent.clip_range": POSITIVE,
    "agent.clip_range_vf": POSITIVE,
    "agent.ent_coef": Range(0, whole=False),
    "agent.vf_coef": Range(0, whole=False),
    "agent.max_grad_norm": POSITIVE,
    "agent.target_kl": POSITIVE,
}


def check_settings(config: DictConfig) -> None:
    """Raise a ValueError for a setting that is out of range."""
    for key, allowed in RANGES.items():
        value = OmegaConf.select(config, key)
        if value is not None and _number(value) not in allowed:
            raise ValueError(f"{key}={value}: {key} must be {allowed}")
    if str(config.device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={config.device}: torch sees no GPU here; device=cpu works")


def _number(value: object) -> object:
    """The number in a schedule such as ``lin_0.001``; any other value as it is."""
    if isinstance(value, str) and value.startswith("lin_"):
        try:
            return float(value.removeprefix("lin_"))
        except ValueError:
            return value
    return value
