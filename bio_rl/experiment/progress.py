"""The progress bar: return, steps a second and time left; nothing where stderr is not a terminal."""

import time
from statistics import fmean, median
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback

REFRESH = 0.2
"""Seconds between two looks of the bar."""


class ProgressBar:
    """Follows one training, of one agent or of several that learn together.

    A context manager, so that the terminal is left in order whatever happens.

    Args:
        title: what stands in front of the bar.
        timesteps: of each agent.
    """

    def __init__(self, title: str, timesteps: int):
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
        self.followers: list[Follower] = []
        self.started = self.drawn = time.perf_counter()

    def follower(self) -> "Follower":
        """A callback for one of the agents."""
        self.followers.append(Follower(self))
        return self.followers[-1]

    def look(self) -> None:
        """Draw the bar anew if it is time: the median of the agents' returns, and the steps of all."""
        now = time.perf_counter()
        if self.bar.disable or now - self.drawn < REFRESH:
            return
        self.drawn = now
        returns = [mean for follower in self.followers if (mean := follower.return_mean()) is not None]
        steps = sum(follower.num_timesteps for follower in self.followers)
        self.bar.update(
            self.task,
            completed=steps / len(self.followers),
            episode_return=f"{median(returns):.1f}" if returns else "–",
            speed=steps / (now - self.started),
            refresh=True,
        )

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()


class Follower(BaseCallback):
    """Lets a progress bar look at an agent while it learns."""

    def __init__(self, bar: ProgressBar):
        super().__init__()
        self.progress = bar

    def return_mean(self) -> float | None:
        """The mean return of the last episodes; ``None`` before the first is over."""
        returns = [episode["r"] for episode in getattr(self.model, "ep_info_buffer", None) or ()]
        return fmean(returns) if returns else None

    def _on_step(self) -> bool:
        self.progress.look()
        return True
