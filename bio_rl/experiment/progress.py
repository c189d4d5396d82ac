"""The progress bar: return, steps a second and time left; nothing where stderr is not a terminal."""

import time
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback

REFRESH = 0.2
"""Seconds between two looks of the bar."""


class ProgressBar(BaseCallback):
    """Follows one ``learn``; a context manager, so that the terminal is left in order whatever happens.

    Args:
        title: what stands in front of the bar.
        timesteps: of the whole run.
    """

    def __init__(self, title: str, timesteps: int):
        super().__init__()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("return {task.fields[episode_return]}"),
            TextColumn("{task.fields[speed]:,.0f} steps/s"),
            TimeRemainingColumn(compact=True),
        )
        console = Console(stderr=True)
        # Redrawn by hand: a thread of its own would take turns with the training. rich takes a file for a terminal
        # where the variable FORCE_COLOR is set, as in many build systems.
        self.bar = Progress(
            *columns,
            console=console,
            expand=True,
            auto_refresh=False,
            transient=True,
            disable=not console.file.isatty(),
        )
        self.task = self.bar.add_task(title, total=timesteps, episode_return="–", speed=0.0)
        self.started = self.drawn = self.seconds = 0.0

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()

    def _on_training_start(self) -> None:
        self.started = time.perf_counter()

    def _on_training_end(self) -> None:
        self.seconds = time.perf_counter() - self.started

    def _on_step(self) -> bool:
        now = time.perf_counter()
        if not self.bar.disable and now - self.drawn > REFRESH:
            self.drawn = now
            returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
            self.bar.update(
                self.task,
                completed=self.num_timesteps,
                episode_return=f"{fmean(returns):.1f}" if returns else "–",
                speed=self.num_timesteps / (now - self.started),
                refresh=True,
            )
        return True
