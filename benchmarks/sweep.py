"""Whether a sweep goes N times as fast with N workers of a launcher as with one.

    python benchmarks/sweep.py                                  # joblib, Ray and submitit, where installed; 2 workers
    python benchmarks/sweep.py --launchers joblib --workers 4 --rounds 5

A sweep is ``bio-rl train -m`` with some jobs, each of several members. Each launcher makes it with one worker and with
N, in turns. The same jobs are also made without a launcher, in one process and in N that know nothing of each other:
how much faster these are is what the machine allows just then, which is less than N where other programs run too.

A rate is in environment steps of all runs per second of wall time, from the beginning of the first run to the end of
the last. What the command takes besides, to import, to check, to start workers and to stop them, is printed apart. A
worker's first run imports what only runs need, for a second or two; a sweep's jobs take minutes, these ten seconds. Of
each side the best round counts, the one least disturbed; the ratios of the rounds show how much noise there was.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bio_rl.cli.configs import LAUNCHERS as EXTRAS

SETTINGS = (
    "rule=feedback_alignment",
    "env=cartpole",
    "logging=none",
    "evaluation.interval=0",
    "evaluation.episodes=1",
    "evaluation.checkpoints=none",
    "resume.interval=0",
)
ALONE = "none"
"""The name of the sides without a launcher."""
FREE = 0.9
"""The share of N times one's rate that N processes come to where each has a core for itself."""


class Launcher(NamedTuple):
    """One of Hydra's launchers.

    Attributes:
        plugin: the module that brings it.
        workers: the setting of how many jobs go side by side. ``None``: all of a sweep, which then has as many jobs
            as there are workers, each as much longer.
        others: settings that it is used with here.
    """

    plugin: str
    workers: str | None
    others: tuple[str, ...] = ()


LAUNCHERS = {
    "joblib": Launcher("hydra_plugins.hydra_joblib_launcher", "hydra.launcher.n_jobs"),
    "ray": Launcher(
        "hydra_plugins.hydra_ray_launcher",
        "+hydra.launcher.ray.init.num_cpus",
        # Nobody looks at it.
        ("+hydra.launcher.ray.init.include_dashboard=false",),
    ),
    "submitit_local": Launcher("hydra_plugins.hydra_submitit_launcher", None),
}


class Turn(NamedTuple):
    """What one sweep came to: environment steps per second, and the seconds in which no run was going."""

    rate: float
    start: float


class Side:
    """The sweep with so many workers of a launcher.

    Args:
        launcher: its name, or ``ALONE``.
        workers: how many jobs go side by side.
        options: the program's.
    """

    def __init__(self, launcher: str, workers: int, options: argparse.Namespace):
        self.launcher, self.workers = launcher, workers
        self.jobs, self.members, self.timesteps = options.jobs * options.workers, options.members, options.timesteps
        self.turns: list[Turn] = []

    def take_turn(self, timesteps: int | None = None) -> Turn:
        """Make the sweep, of other timesteps if these are given."""
        with TemporaryDirectory() as folder:
            started = time.perf_counter()
            run_together(self.commands(timesteps or self.timesteps), Path(folder))
            seconds = time.perf_counter() - started
            steps, training = steps_and_seconds(Path(folder))
        return Turn(steps / training, seconds - training)

    @property
    def rate(self) -> float:
        return max(turn.rate for turn in self.turns)

    @property
    def start(self) -> float:
        return median(turn.start for turn in self.turns)

    def commands(self, timesteps: int) -> Iterator[list[str]]:
        """Of ``bio-rl``, to be run at the same time."""
        if self.launcher == ALONE:
            for number in range(self.workers):
                yield self._sweep(timesteps, range(number, self.jobs, self.workers))
            return
        _, setting, others = LAUNCHERS[self.launcher]
        launched = [f"hydra/launcher={self.launcher}", *others]
        if setting is None:
            yield self._sweep(timesteps * self.jobs // self.workers, range(self.workers)) + launched
        else:
            yield [*self._sweep(timesteps, range(self.jobs)), *launched, f"{setting}={self.workers}"]

    def _sweep(self, timesteps: int, jobs: range) -> list[str]:
        seeds = ",".join(str(job * self.members) for job in jobs)
        own = [f"seed={seeds}", f"members={self.members}", f"env.timesteps={timesteps}", f"study={jobs.start}"]
        return [sys.executable, "-m", "bio_rl", "train", "-m", *SETTINGS, *own]


class Pair(NamedTuple):
    """The sweep with one worker of a launcher, and with several."""

    one: Side
    many: Side

    @property
    def ratio(self) -> float:
        return self.many.rate / self.one.rate

    @property
    def ratios(self) -> list[float]:
        """Of the turns of each round."""
        return [many.rate / one.rate for one, many in zip(self.one.turns, self.many.turns, strict=True)]


def run_together(commands: Iterable[Sequence[str]], folder: Path) -> None:
    """Run them in the folder, side by side.

    Raises:
        RuntimeError: one of them failed.
    """
    processes: dict[Path, subprocess.Popen] = {}
    for number, command in enumerate(commands):
        said = folder / f"said.{number}"
        with said.open("w") as output:
            processes[said] = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    codes = {said: process.wait() for said, process in processes.items()}
    for said, code in codes.items():
        if code != 0:
            raise RuntimeError(f"a sweep ended with exit code {code}: {said.read_text(encoding='utf-8')}")


def steps_and_seconds(folder: Path) -> tuple[int, float]:
    """The environment steps of all runs in a folder, and the time from the beginning of the first to the last's end."""
    steps, begun, ended = 0, [], []
    for file in folder.rglob("result.json"):
        result = json.loads(file.read_text(encoding="utf-8"))
        steps += result["timesteps"]
        # It is written when the run ends, and never again.
        ended.append(file.stat().st_mtime)
        begun.append(ended[-1] - result["wall_seconds"])
    return steps, max(ended) - min(begun)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    names = [ALONE, *filter(is_installed, options.launchers)]
    for missing in sorted({*options.launchers} - {*names}):
        print(f'{missing} is not installed and left out: pip install "bio-rl[{EXTRAS[missing]}]" brings it')
    pairs = [Pair(*(Side(name, workers, options) for workers in (1, options.workers))) for name in names]
    for pair in pairs:
        pair.many.take_turn(timesteps=1)  # warm-up
    for number in range(options.rounds):
        for pair in pairs:
            for side in pair if number % 2 == 0 else reversed(pair):
                side.turns.append(side.take_turn())
    Console(width=110).print(report(pairs, options))
    if pairs[0].ratio < FREE * options.workers:
        print(
            f"{options.workers} processes without a launcher came to {pairs[0].ratio:.2f} times the rate of one:"
            " the machine was busy, or has fewer cores; no launcher could do better"
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launchers", nargs="+", default=list(LAUNCHERS), choices=list(LAUNCHERS))
    parser.add_argument("--workers", type=int, default=2, help="against one")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--jobs", type=int, default=2, help="of each worker, where there are several")
    parser.add_argument("--members", type=int, default=4, help="of each job")
    parser.add_argument("--timesteps", type=int, default=40960, help="of each member")
    return parser.parse_args(arguments)


def is_installed(launcher: str) -> bool:
    try:
        return importlib.util.find_spec(LAUNCHERS[launcher].plugin) is not None
    except ModuleNotFoundError:  # not even ``hydra_plugins`` is there
        return False


def report(pairs: Sequence[Pair], options: argparse.Namespace) -> Table:
    """A row for each launcher; the first pair is the one without."""
    many = f"{options.workers} workers"
    table = Table(title=f"Steps per second of {pairs[0].one.jobs} jobs of {options.members} members")
    columns = ("launcher", "1 worker", many, "ratio", "of each round", f"over {ALONE}'s", "start, 1 worker", many)
    for column in columns:
        table.add_column(column, justify="left" if column == "launcher" else "right")
    for pair in pairs:
        table.add_row(
            pair.one.launcher,
            *(f"{side.rate:.0f}" for side in pair),
            f"{pair.ratio:.2f}",
            f"{min(pair.ratios):.2f} to {max(pair.ratios):.2f}",
            f"{pair.ratio / pairs[0].ratio:.2f}",
            *(f"{side.start:.1f} s" for side in pair),
        )
    return table


if __name__ == "__main__":
    main()
