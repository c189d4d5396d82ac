"""Callbacks that the config adds to a run's own: Stable-Baselines3's, or anybody's."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from stable_baselines3.common.callbacks import BaseCallback

from bio_rl.experiment.isolation import isolated


def make_callbacks(config: DictConfig) -> list[BaseCallback]:
    """The callbacks of the config group ``callbacks``, in their order.

    Args:
        config: one by its ``_target_``, or several under names of one's own, of which those that are null are left out.

    Raises:
        ValueError: something else than a callback.
        hydra.errors.InstantiationException: one that cannot be made.
    """
    one = {"callbacks": config} if "_target_" in config else None
    several = one or {f"callbacks.{name!s}": settings for name, settings in config.items()}
    # Evaluations of their own would have environments, which may draw from the global generators.
    with isolated(seed=0):
        return [_make(key, settings) for key, settings in several.items() if settings is not None]


def _make(key: str, settings: Any) -> BaseCallback:
    if not (isinstance(settings, DictConfig) and "_target_" in settings):
        raise ValueError(f"{key}={settings}: a callback is given by its class, as {key}._target_=module.Class")
    callback = instantiate(settings, _convert_="all")
    if not isinstance(callback, BaseCallback):
        kind = type(callback).__name__
        raise ValueError(f"{key}._target_={settings._target_} makes a {kind}, not a callback of Stable-Baselines3")
    return callback
