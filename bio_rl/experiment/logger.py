"""Where a run's scalars go, under Stable-Baselines3's names and through its logger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.logger import CSVOutputFormat, HParam, KVWriter, Logger, TensorBoardOutputFormat

ONLY_TENSORBOARD = ("stdout", "log", "json", "csv")


def make_logger(config: DictConfig, folder: Path) -> Logger:
    """The logger of the config group ``logging``; its files lie in the run's folder."""
    writers: list[KVWriter] = []
    if config.tensorboard:
        writers.append(TensorBoardOutputFormat(str(folder / "tensorboard")))
    if config.csv:
        writers.append(CSVOutputFormat(str(folder / "progress.csv")))
    return Logger(str(folder), writers)


def log_config(logger: Logger, config: DictConfig) -> None:
    """The resolved config as TensorBoard's text."""
    text = OmegaConf.to_yaml(config, resolve=True)
    logger.record("config", f"```yaml\n{text}```", exclude=ONLY_TENSORBOARD)
    logger.dump(0)


def log_final(
    logger: Logger, config: DictConfig, names: Mapping[str, Any], scalars: Mapping[str, float], step: int
) -> None:
    """The final scalars, and TensorBoard's table of runs by their hyperparameters.

    Args:
        names: the choices (agent, rule, env, seed), the first columns.
        scalars: the table's metrics.
    """
    for key, value in scalars.items():
        logger.record(key, value)
    hyperparameters = {**names, **_flat({group: config[group] for group in ("rule", "agent", "optimizer", "network")})}
    logger.record("hparams", HParam(hyperparameters, dict(scalars)), exclude=ONLY_TENSORBOARD)
    logger.dump(step)


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``group.key``, lists as text."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) or OmegaConf.is_dict(value):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key != "_target_":
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float) else str(value)
    return flat
