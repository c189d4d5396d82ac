"""Whether a process stays the same size: memory, files and threads over a long run, and over many short ones.

    python benchmarks/soak.py
    python benchmarks/soak.py --timesteps 200000 --runs 20

One run of two million steps is looked at as it goes, then two hundred short runs follow one another in the same
process, with everything on that keeps something: TensorBoard, tables, diagnostics, evaluations, saved states. After the
warm-up, a line is fitted to memory over time. It prints the slope, the steps a second of both halves, open files and
threads; it exits with 1 where memory grows by more than a megabyte an hour beyond the fit's error, or where files or
threads do.
"""

import argparse
import csv
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

SETTINGS = (
    "env=cartpole",
    "rule=feedback_alignment",
    "logging=tensorboard",
    "diagnostics=light",
    "resume.interval=1.0",
)
SHORT = ("env.timesteps=512", "agent.n_steps=32", "agent.batch_size=32", "evaluation.interval=256")
MOST_MB_AN_HOUR = 1.0
WARM_UP = 0.25
"""Of the looks, that are left out: allocators and caches fill at first."""


class Look(NamedTuple):
    """A process at a moment: seconds, MiB of main memory, open files, and threads."""

    seconds: float
    memory: float
    files: int
    threads: int


class Looks:
    """While it is entered, looks at this process every second."""

    def __init__(self) -> None:
        self.looks: list[Look] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> list[Look]:
        self._thread.start()
        return self.looks

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1):
            status = Path("/proc/self/status").read_text()
            memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024
            files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
            self.looks.append(Look(time.perf_counter(), memory, files, threads))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=2_000_000, help="of the long run")
    parser.add_argument("--runs", type=int, default=200, help="short ones")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        with Looks() as long:
            train([*SETTINGS, f"env.timesteps={options.timesteps}", f"hydra.run.dir={folder}/long"])
        with Looks() as short:
            for number in range(options.runs):
                train([*SETTINGS, *SHORT, f"seed={number}", f"hydra.run.dir={folder}/{number}"])
        events = sum(file.stat().st_size for file in Path(folder, "long", "tensorboard").iterdir()) / 2**20
        rates = steps_a_second(Path(folder, "long", "progress.csv"))
    print(
        f"{options.timesteps} steps: {rates[0]:.0f} a second, then {rates[1]:.0f}; "
        f"TensorBoard's folder {events:.1f} MiB"
    )
    return max(report("the long run", long), report(f"{options.runs} short runs", short))


def train(arguments: Sequence[str]) -> None:
    from bio_rl.cli import main as bio_rl

    if code := bio_rl(["train", *arguments]):
        raise SystemExit(code)


def steps_a_second(progress: Path) -> tuple[float, float]:
    """In the first half of a run, and in the second."""
    with progress.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["time/time_elapsed"]]
    seconds, steps = (
        np.array([float(row[name]) for row in rows]) for name in ("time/time_elapsed", "time/total_timesteps")
    )
    half = len(rows) // 2
    return steps[half] / seconds[half], (steps[-1] - steps[half]) / (seconds[-1] - seconds[half])


def report(title: str, looks: Sequence[Look]) -> int:
    """Print what there is to say of them; 1 if something grows."""
    kept = looks[int(len(looks) * WARM_UP) :]
    hours = np.array([each.seconds for each in kept]) / 3600
    memory = np.array([each.memory for each in kept])
    (slope, _), covariance = np.polyfit(hours - hours[0], memory, 1, cov=True)
    error = 2 * float(np.sqrt(covariance[0, 0]))
    most_files, most_threads = (max(getattr(each, name) for each in kept) for name in ("files", "threads"))
    print(
        f"{title}: memory {memory[0]:.1f} to {memory[-1]:.1f} MiB in {hours[-1] - hours[0]:.2f} h, "
        f"{slope:+.1f} (± {error:.1f}) an hour; at most {most_files} files and {most_threads} threads"
    )
    early = kept[: len(kept) // 2]
    grows = slope - error > MOST_MB_AN_HOUR
    return int(
        grows or most_files > max(each.files for each in early) or most_threads > max(each.threads for each in early)
    )


if __name__ == "__main__":
    sys.exit(main())
