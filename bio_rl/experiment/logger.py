"""Where a run's scalars go, under Stable-Baselines3's names and through its logger."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO, TypeVar

from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.logger import (
    Figure,
    FormatUnsupportedError,
    HParam,
    Image,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
    Video,
    filter_excluded_keys,
)
from torch.utils.tensorboard.summary import hparams

ONLY_TENSORBOARD = ("stdout", "log", "json", "csv")
TIMESTEPS = "time/total_timesteps"
Output = TypeVar("Output", bound=KVWriter)


def make_logger(config: DictConfig, folder: Path) -> Logger:
    """The logger of the config group ``logging``; its files lie in the run's folder."""
    writers: list[KVWriter] = []
    if config.tensorboard:
        writers.append(TensorBoardOutputFormat(str(folder / "tensorboard")))
    if config.csv:
        writers.append(ProgressFile(folder / "progress.csv"))
    return Logger(str(folder), writers)


class ProgressFile(KVWriter):
    """progress.csv: one row a log step, its timestep first, the other columns in alphabetical order.

    SB3's own ``CSVOutputFormat`` orders them differently in every process, and knows the timestep
    only of the rows that the agent itself writes.
    """

    def __init__(self, path: Path):
        self.path = path
        self.columns = [TIMESTEPS]
        if not path.exists():  # a run that goes on has one
            self._rewrite([])

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        row = filter_excluded_keys(key_values, key_excluded, "csv")
        for value in row.values():
            if isinstance(value, Video | Figure | Image | HParam):
                raise FormatUnsupportedError(["csv"], type(value).__name__.lower())
        if not row:
            return
        row[TIMESTEPS] = step
        if new := row.keys() - set(self.columns):
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self.columns[1:] = sorted({*self.columns[1:], *new})
            self._rewrite(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            self._writer(file).writerow(row)

    def close(self) -> None:
        """Nothing to do: the file is closed after every row."""

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        draft = self.path.with_name(f".{self.path.name}")
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(rows)
        draft.replace(self.path)

    def _writer(self, file: TextIO) -> csv.DictWriter:
        return csv.DictWriter(file, self.columns, lineterminator="\n")


def outputs(logger: Logger, kind: type[Output]) -> list[Output]:
    """Those of a logger's outputs that are of a kind."""
    return [each for each in logger.output_formats if isinstance(each, kind)]


def write_row(logger: Logger, values: Mapping[str, Any], timesteps: int) -> None:
    """A log step of its own: what the agent has recorded since the last one waits for its own ``dump``."""
    for output in logger.output_formats:
        output.write(dict(values), dict.fromkeys(values, ()), timesteps)


def log_config(logger: Logger, config: DictConfig) -> None:
    """The resolved config as TensorBoard's text."""
    text = OmegaConf.to_yaml(config, resolve=True)
    logger.record("config", f"```yaml\n{text}```", exclude=ONLY_TENSORBOARD)
    logger.dump(0)


def log_final(
    logger: Logger, config: DictConfig, names: Mapping[str, Any], scalars: Mapping[str, float], timesteps: int
) -> None:
    """What the last update recorded, the last evaluation, and TensorBoard's table of runs by their hyperparameters.

    Args:
        names: the choices (agent, rule, env, seed), the first columns.
        scalars: of the evaluation; the table takes its metrics from all scalars, the last value of each.
    """
    logger.dump(timesteps)
    write_row(logger, scalars, timesteps)
    hyperparameters = {**names, **_flat({group: config[group] for group in ("rule", "agent", "optimizer", "network")})}
    # SB3's `HParam` would have each run declare the table's columns, and TensorBoard show those of an arbitrary one.
    # Without that declaration it shows the columns of all runs, those in which they differ first.
    _declaration, start, end = hparams(hyperparameters, metric_dict={})
    for output in outputs(logger, TensorBoardOutputFormat):
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
