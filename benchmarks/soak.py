"""Whether a process stays the same size: memory, files and threads over a long run, and over many short ones.

    python benchmarks/soak.py
    python benchmarks/soak.py --timesteps 200000 --runs 20

One run of two million steps is looked at as it goes, then two hundred short runs follow one another in the same
process, with everything on that keeps something: TensorBoard, tables, diagnostics, evaluations, saved states.

Memory is told in two ways, each second, after garbage is collected: what the program holds, which is what malloc has
given out and not got back, and what the system counts as resident, which the allocator's own habits move up and down by
megabytes within minutes. Of the first, the least of each window counts, for what a step needs comes and goes. After the
warm-up, a line is fitted to the means of blocks of time; its error, of 95 %, is that of so few means. It prints the
slopes, the steps a second of both halves, open files and threads; it exits with 1 where either memory grows by more
than a megabyte an hour beyond the error, or where files or threads do. It needs Linux with glibc.
"""

import argparse
import csv
import ctypes
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import linregress, t

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
EVERY = 1.0
"""Seconds from one look to the next."""
WINDOWS, BLOCKS = 60, 12
"""Of a run's looks: the least of what is held is taken of each window, means of each block."""
MIB = 2**20


FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class Mallinfo(ctypes.Structure):
    """What glibc's ``mallinfo2`` tells."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


class Looks(NamedTuple):
    """A process at each of many moments: hours, MiB that it holds and that are resident, open files, and threads."""

    hours: np.ndarray
    held: np.ndarray
    resident: np.ndarray
    files: np.ndarray
    threads: np.ndarray


class Watch:
    """While it is entered, looks at this process every second, and keeps nothing of it in memory.

    Args:
        file: the CSV that takes what it sees.
    """

    def __init__(self, file: Path):
        self.file = file
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def seen(self) -> Looks:
        """All looks after the warm-up."""
        looks = np.loadtxt(self.file, delimiter=",")
        return Looks(*looks[int(len(looks) * WARM_UP) :].T)

    def _watch(self) -> None:
        mallinfo = ctypes.CDLL(None).mallinfo2
        mallinfo.restype = Mallinfo
        with self.file.open("w") as file:
            while not self._over.wait(EVERY):
                gc.collect()
                now = mallinfo()
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                held, resident = (now.uordblks + now.hblkhd) / MIB, pages * os.sysconf("SC_PAGE_SIZE") / MIB
                files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
                file.write(f"{time.perf_counter() / 3600},{held},{resident},{files},{threads}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=2_000_000, help="of the long run")
    parser.add_argument("--runs", type=int, default=200, help="short ones")
    parser.add_argument("--looks", type=Path, help="a folder that keeps all looks, long.csv and short.csv")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        looks = options.looks or Path(folder)
        long, short = Watch(looks / "long.csv"), Watch(looks / "short.csv")
        with long:
            train([*SETTINGS, f"env.timesteps={options.timesteps}", f"hydra.run.dir={folder}/long"])
        fill_the_table_of_texts()
        with short:
            for number in range(options.runs):
                train([*SETTINGS, *SHORT, f"seed={number}", f"hydra.run.dir={folder}/{number}"])
        events = sum(file.stat().st_size for file in Path(folder, "long", "tensorboard").iterdir()) / MIB
        rates = steps_a_second(Path(folder, "long", "progress.csv"))
        print(
            f"{options.timesteps} steps: {rates[0]:.0f} a second, then {rates[1]:.0f}; "
            f"TensorBoard's folder {events:.1f} MiB"
        )
        return max(report("the long run", long.seen()), report(f"{options.runs} short runs", short.seen()))


def fill_the_table_of_texts() -> None:
    """Let Python's table of interned texts grow now. Texts that come and go fill it, and then it doubles, once."""
    for number in range(500_000):
        sys.intern(f"{number} and forgotten")


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


def report(title: str, looks: Looks) -> int:
    """Print what there is to say of them; 1 if something grows."""
    if len(looks.hours) < WINDOWS:
        raise SystemExit(f"{title}: over after {len(looks.hours)} looks, where {WINDOWS} are needed: ask for more")
    print(f"{title}, {looks.hours[-1] - looks.hours[0]:.2f} h after the warm-up:")
    grows = False
    for name, memory in (("held", looks.held), ("resident", looks.resident)):
        slope, error = growth(looks.hours, memory, least_of_windows=name == "held")
        grows |= slope - error > MOST_MB_AN_HOUR
        print(f"  {name:>8} {memory.min():.1f} to {memory.max():.1f} MiB, {slope:+.2f} (± {error:.2f}) an hour")
    early = len(looks.hours) // 2
    for name, count in (("files", looks.files), ("threads", looks.threads)):
        grows |= bool(count.max() > count[:early].max())
        print(f"  {name:>8} at most {count.max():.0f}")
    return int(grows)


def growth(hours: np.ndarray, memory: np.ndarray, least_of_windows: bool) -> tuple[float, float]:
    """The slope of a line through the means of blocks, and its error: looks that follow closely are no samples."""
    if least_of_windows:
        windows = list(zip(np.array_split(hours, WINDOWS), np.array_split(memory, WINDOWS), strict=True))
        hours, memory = np.array([(each.mean(), least.min()) for each, least in windows]).T
    means = [[each.mean() for each in np.array_split(values, BLOCKS)] for values in (hours, memory)]
    line = linregress(*means)
    return float(line.slope), float(t.ppf(0.975, BLOCKS - 2) * line.stderr)


if __name__ == "__main__":
    if os.environ.get("PYTHONMALLOC") != "malloc":  # Python's small objects, too, are to be counted
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONMALLOC": "malloc"})
    sys.exit(main())
