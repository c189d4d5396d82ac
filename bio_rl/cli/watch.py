"""How far a sweep is: a line now and then, whoever runs its jobs."""

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from bio_rl.experiment.output import complain
from bio_rl.experiment.result import read_result

EVERY = 10.0
"""Seconds between two looks at the runs' folders."""
FIRST_AFTER = 30.0
"""Seconds for which a sweep says nothing: a short one is over by then."""


class SweepWatch:
    """While it is entered, says how many of a sweep's runs have ended, and about how long the others will take.

    It reads the runs' results, so that it does not matter which process of which launcher makes them, on this machine
    or on one that shares its disk.

    Args:
        folders: of the runs that are left.
        every, first_after: seconds.
    """

    def __init__(self, folders: Sequence[Path], every: float = EVERY, first_after: float = FIRST_AFTER):
        self.left = list(folders)
        self.total = len(folders)
        self.every = every
        self.quiet_until = time.monotonic() + first_after
        self.started = time.monotonic()
        self._before = {folder: _started(folder) for folder in folders}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self.total > 1:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self.every):
            still = [folder for folder in self.left if _is_left(folder, self._before[folder])]
            if still and len(still) < len(self.left) and time.monotonic() >= self.quiet_until:
                complain(self.line(len(still), time.monotonic() - self.started))
            self.left = still

    def line(self, left: int, seconds: float) -> str:
        """What is said when so many are left after so many seconds."""
        ended = self.total - left
        remaining = timedelta(seconds=round(seconds / ended * left)) if ended else "an unknown time"
        return f"{ended} of {self.total} runs have ended; the others will take about {remaining}"


def _started(folder: Path) -> str | None:
    """When the run that the folder holds began; ``None`` where there is none."""
    return ((read_result(folder) or {}).get("process") or {}).get("started")


def _is_left(folder: Path, before: str | None) -> bool:
    """Whether a run has not ended: what was there ``before`` the sweep is not yet this run."""
    result = read_result(folder)
    return result is None or result["status"] == "running" or _started(folder) == before
