"""Where a run's scalars go, under Stable-Baselines3's names and through its logger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.logger import CSVOutputFormat, KVWriter, Logger, TensorBoardOutputFormat
from torch.utils.tensorboard.summary import hparams

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
        scalars: what to log; the table takes its metrics from all scalars.
    """
    for key, value in scalars.items():
        logger.record(key, value)
    hyperparameters = {**names, **_flat({group: config[group] for group in ("rule", "agent", "optimizer", "network")})}
    logger.dump(step)
    # SB3's `HParam` would have each run declare the table's columns, and TensorBoard show those of an arbitrary one.
    # Without that declaration it shows the columns of all runs, those in which they differ first.
    _declaration, start, end = hparams(hyperparameters, metric_dict={})
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            writer = output.writer._get_file_writer()
            writer.add_summary(start)
            writer.add_summary(end)


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``group.key``, lists as text, those that are null not at all."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) or OmegaConf.is_dict(value):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key != "_target_" and value is not None:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float) else str(value)
    return flat
