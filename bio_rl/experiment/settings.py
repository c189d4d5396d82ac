"""What the numbers of a config may be, beyond what agents and rules check themselves."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from bio_rl.experiment import checkpoints
from bio_rl.experiment.memory import check_memory


class Range(NamedTuple):
    """A finite number between two bounds, whole or not; ``exclusive`` leaves out the lower one."""

    low: float
    high: float = math.inf
    whole: bool = True
    exclusive: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        if not math.isfinite(value):
            return False
        return (self.low < value if self.exclusive else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        bounds = f"above {self.low:g}" if self.exclusive else f"of at least {self.low:g}"
        return f"{kind} {bounds}" + (f" and at most {self.high}" if self.high < math.inf else "")


POSITIVE = Range(0, whole=False, exclusive=True)
NOT_NEGATIVE = Range(0, whole=False)
LONGEST = 10**12
"""More steps than any run takes; what is beyond the others' bounds cannot be held in memory, or is no step at all."""
FRACTION = Range(0, 1, whole=False)

SMALLEST, GREATEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
MOST_LAYERS = 100

RANGES = {
    "seed": Range(0, 2**31 - 1),
    "members": Range(1, 4096),
    "torch_threads": Range(1, 1024),
    "evaluation.episodes": Range(1, 100_000),
    "evaluation.interval": Range(0, LONGEST),
    "resume.interval": Range(0, LONGEST, whole=False),
    "env.n_envs": Range(1, 100_000),
    "env.timesteps": Range(1, LONGEST),
    "env.max_episode_steps": Range(1, LONGEST),
    "env.time_limit": POSITIVE,
    "diagnostics.interval": Range(0, LONGEST),
    "diagnostics.samples": Range(2, 1_000_000),
    "diagnostics.probes": Range(0, 100_000),
    "logging.interval": Range(1, LONGEST),
    "optimizer.learning_rate": POSITIVE,
    "optimizer.critic_learning_rate": POSITIVE,
    "optimizer.eps": NOT_NEGATIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.momentum": NOT_NEGATIVE,
    "optimizer.alpha": FRACTION,
    "agent.n_steps": Range(1, 10_000_000),
    "agent.n_epochs": Range(1, 10_000),
    "agent.batch_size": Range(2, LONGEST),
    "agent.gamma": FRACTION,
    "agent.gae_lambda": FRACTION,
    "agent.clip_range": POSITIVE,
    "agent.clip_range_vf": POSITIVE,
    "agent.ent_coef": NOT_NEGATIVE,
    "agent.vf_coef": NOT_NEGATIVE,
    "agent.max_grad_norm": POSITIVE,
    "agent.target_kl": POSITIVE,
    "agent.n_episodes": Range(1, 1_000_000),
    "agent.sde_sample_freq": Range(-1, LONGEST),
    "network.log_std_init": Range(-20, 20, whole=False),
}
CHOICES = {"evaluation.checkpoints": checkpoints.KEPT}
SCHEDULED = ("optimizer.learning_rate", "agent.clip_range", "agent.clip_range_vf")
"""May also be a schedule, ``lin_<number>``."""


def check_settings(config: DictConfig) -> None:
    """Raise a ValueError for a setting that is out of range, or of a size that cannot be held."""
    for key, given in _numbers(OmegaConf.to_container(config, resolve=True)):
        if given and not SMALLEST <= abs(given) <= GREATEST:
            raise ValueError(f"{key}={given}: networks compute in single precision, which has no such number")
    layers = OmegaConf.select(config, "network.hidden")
    for widths in layers.values() if OmegaConf.is_dict(layers) else [layers]:
        if OmegaConf.is_list(widths) and len(widths) > MOST_LAYERS:
            raise ValueError(f"network.hidden has {len(widths)} layers; it may have {MOST_LAYERS}")
    for key, allowed in RANGES.items():
        value = OmegaConf.select(config, key)
        number = _scheduled(value) if key in SCHEDULED else value
        if value is not None and number not in allowed:
            raise ValueError(f"{key}={value}: {key} must be {allowed}{_no_schedule(key, value)}")
    for key, choices in CHOICES.items():
        if (value := OmegaConf.select(config, key)) not in choices:
            raise ValueError(f"{key}={value}: {key} must be one of {', '.join(choices)}")
    betas = OmegaConf.select(config, "optimizer.betas")
    if betas is not None and not (len(betas) == 2 and all(beta in FRACTION for beta in betas)):
        raise ValueError(f"optimizer.betas={betas}: optimizer.betas must be two numbers from 0 to 1")
    if config.device != "auto":
        _check_device(config.device)
    check_memory(config)


def _numbers(settings: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every finite number with a point, by its key."""
    if isinstance(settings, float) and math.isfinite(settings):
        yield key, settings
    if isinstance(settings, list):
        settings = dict(enumerate(settings))
    for name, value in settings.items() if isinstance(settings, dict) else ():
        yield from _numbers(value, f"{key}.{name}" if key else str(name))


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except Exception as error:  # each backend has its own
        raise ValueError(f"device={device}: torch has no such device here; device=cpu works") from error


def _no_schedule(key: str, value: object) -> str:
    """What to say of a schedule where none can be."""
    if key in SCHEDULED or not str(value).startswith("lin_"):
        return ""
    if key == "optimizer.critic_learning_rate":
        return "; it follows the schedule of optimizer.learning_rate"
    return f"; schedules are for {', '.join(SCHEDULED)}"


def _scheduled(value: object) -> object:
    """The number in a schedule such as ``lin_0.001``; any other value as it is."""
    if isinstance(value, str) and value.startswith("lin_"):
        try:
            return float(value.removeprefix("lin_"))
        except ValueError:
            return value
    return value
