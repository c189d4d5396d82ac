"""A run that was cut off goes on: its whole state, saved on the way."""

import csv
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

from bio_rl.experiment.environments import how_to_restore
from bio_rl.experiment.folder import FINAL, STATE, STATES, TABLES, RunFolder
from bio_rl.experiment.interruption import Interruption
from bio_rl.experiment.output import complain
from bio_rl.experiment.provenance import changed_code
from bio_rl.snapshot import Damaged, Tree, read, write

KEPT = 2
"""States of a run that is not finished; should the last one be damaged, there is the one before."""
SHARE = 0.01
"""Of the time, that saving takes at most."""
LONGEST = 600.0
"""Seconds that SHARE may put saving off. A save that was suspended, or had little of the processor, seems costly."""
CLOCKS_DIFFER = 10.0
"""Seconds by which the clocks of two machines may differ, one of which goes on with the other's run."""


class States:
    """The folder ``resume/`` of a run: its last states, each in a file that bears the number of its rollouts.

    A file is written aside, brought to the disk, and then renamed: one that has its name is whole, unless the disk
    itself fails, which its digest tells. When a run has learnt all, ``final`` takes the others' place, from which a
    longer run may go on.

    Args:
        run_folder: of the run.
    """

    def __init__(self, run_folder: Path):
        self.folder = run_folder / STATES

    def rollouts(self) -> list[int]:
        """The states that there are, the newest first."""
        return sorted((int(file.stem) for file in self.folder.glob(f"*{STATE}") if file.stem.isdecimal()), reverse=True)

    def read(self, which: int | str) -> Tree:
        """A state by its rollouts, or the final one.

        Raises:
            Damaged: the file is not whole, or not there.
        """
        return read(self._file(which))

    def save(self, which: int | str, tree: Tree) -> None:
        """Keep one more, and let older ones go.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(exist_ok=True)
        place = self._file(which)
        draft = place.with_name(f".{place.name}")
        try:
            with draft.open("wb") as file:
                file.write(write(tree))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)  # a full disk has better uses for it
        _bring_to_disk(self.folder)
        for old in self.rollouts()[0 if which == FINAL else KEPT :]:
            self._file(old).unlink()

    def _file(self, which: int | str) -> Path:
        return self.folder / f"{which}{STATE}"


def newest_common(states: Sequence[States]) -> list[Tree] | None:
    """The newest state that all of several runs have, of each; ``None`` if there is none. Those damaged are named."""
    common = set.intersection(*(set(each.rollouts()) for each in states))
    for rollouts in sorted(common, reverse=True):
        try:
            return [each.read(rollouts) for each in states]
        except Damaged as error:
            complain(f"{error}; the run goes on from the state before it")
    return None


class Saved(Protocol):
    """A run whose state can be saved, and which may go on from one."""

    config: DictConfig
    folder: RunFolder
    provenance: dict[str, Any]
    states: States
    interruption: Interruption

    def state(self) -> Tree: ...


def states_to_go_on_from(runs: Sequence[Saved]) -> list[Tree]:
    """The state from which each of the runs goes on; ``None`` for all that begin anew.

    Raises:
        OSError: a finished run cannot go on, and is not replaced unasked.
    """
    anew = [None] * len(runs)
    ways = {each.folder.goes_on(each.config) for each in runs}
    if len(ways) > 1 or runs[0].config.overwrite or (way := ways.pop()) is None:
        return anew
    folder = runs[0].folder.path
    had = [(each.folder.read_result(), each) for each in runs]
    changes = (changed_code(result, each.config, each.provenance["versions"]) for result, each in had if result)
    changed = next(filter(None, changes), None)
    if way == FINAL:
        if changed is not None:
            raise OSError(f"the finished run was of {changed}, and cannot go on; overwrite=true begins anew")
        try:
            return [each.states.read(FINAL) for each in runs]
        except Damaged as error:
            raise OSError(f"{error}; overwrite=true begins anew") from error
    if changed is not None:
        complain(f"{folder} begins anew: its unfinished run was of {changed}")
        return anew
    return newest_common([each.states for each in runs]) or anew


class PeriodicSaving:
    """Saves the states of runs that learn together, every so many seconds, between an update and the next rollout.

    Saving costs a hundredth of the time at most: where a state is large, it is saved less often, though every ten
    minutes if the interval is no longer.

    Args:
        runs: in the order of the members. Their interval is in seconds; one below a second is kept whatever it costs.
            What interrupts them waits until a state is written.
    """

    def __init__(self, runs: Sequence[Saved]):
        self.runs = runs
        self.env = runs[0].config.env
        self.interval = runs[0].config.resume.interval
        self.interruption = runs[0].interruption
        self.due = time.perf_counter() + self.interval
        self.has_complained = self.has_looked = False

    def __call__(self, members: Any) -> None:
        """Save if it is time: called with the ``agents.Members``."""
        started = time.perf_counter()
        learning = list(members.still_learning())
        finished = {index for index, agent in learning if agent.num_timesteps >= agent._total_timesteps}
        if started < self.due and not finished:
            return
        is_due = started >= self.due
        if is_due:
            self._look()
        with self.interruption.held():
            for index, agent in learning:
                if is_due or index in finished:
                    members.settle(index)
                    self._save(self.runs[index], FINAL if index in finished else agent.iterations)
        now = time.perf_counter()
        if is_due:
            pause = min((now - started) / SHARE, LONGEST) if self.interval >= 1 else 0
            self.due = now + max(self.interval, pause)

    def _look(self) -> None:
        """Say before the first state is saved if a run will not go on from it to the same numbers."""
        if not self.has_looked and how_to_restore(self.env) is None:
            complain(
                f"{self.env.id} cannot be brought back to the midst of an episode: should the run be cut off, it goes "
                "on with new episodes, and not to the same numbers"
            )
        self.has_looked = True

    def _save(self, run: Saved, which: int | str) -> None:
        try:
            run.states.save(which, run.state())
        except OSError as error:
            if not self.has_complained:
                complain(f"the state of the run could not be saved, and it goes on without: {error}")
            self.has_complained = True


def tables(folder: Path) -> dict[str, dict[str, Any]]:
    """How far the run's tables have come: the line of their columns, and their bytes."""
    reached = {}
    for file in (folder / name for name in TABLES):
        if file.is_file():
            with file.open(newline="", encoding="utf-8") as table:
                reached[file.name] = {"columns": table.readline(), "bytes": _on_disk(file)}
    return reached


def cut_tables(folder: Path, reached: Mapping[str, Mapping[str, Any]]) -> None:
    """Bring the run's tables back to where they were: without later rows, and without columns that came later."""
    for file in (folder / name for name in reached):
        columns, size = reached[file.name]["columns"], reached[file.name]["bytes"]
        if not file.is_file() or _cut_table(file, columns, size) != size:
            complain(f"{file} has lost rows that it had when the state was saved")


def _cut_table(file: Path, columns: str, size: int) -> int:
    """The bytes that it has then."""
    draft = file.with_name(f".{file.name}")
    with (
        file.open(newline="", encoding="utf-8", errors="replace") as table,
        draft.open("w", newline="", encoding="utf-8") as cut,
    ):
        cut.write(columns)
        names = next(csv.reader([columns]), [])
        writer = csv.DictWriter(cut, names, extrasaction="ignore", lineterminator="\n")
        rows = csv.DictReader(table)
        while cut.tell() < size and (row := next(rows, None)) is not None:
            writer.writerow(row)
        reached = cut.tell()
    draft.replace(file)
    return reached


def event_files(folder: Path) -> dict[str, int]:
    """The bytes in each of TensorBoard's files; its writers have been flushed."""
    return {file.name: _on_disk(file) for file in _event_files(folder)}


def cut_event_files(folder: Path, sizes: Mapping[str, int]) -> None:
    """Cut what TensorBoard's files hold beyond these sizes; one that is begun from now on is read after them."""
    for file in _event_files(folder):
        if file.name in sizes:
            os.truncate(file, sizes[file.name])
        else:
            file.unlink()
    _pass_the_second_of(sizes)


def _pass_the_second_of(event_files: Iterable[str]) -> None:
    """Wait until a new file of TensorBoard has a later second than these.

    Their names say in which second, and by which process, they were begun. They are read in the order of their
    names, so that within one second it would be the processes' numbers that order them.
    """
    last = max((int(name.split(".")[3]) for name in event_files), default=0)
    wait = last + 1 - time.time()
    if wait > CLOCKS_DIFFER:
        complain(
            f"this machine's clock is {wait:.0f} s behind that of the machine where the run was cut off: "
            "TensorBoard will show its curves in the wrong order (the tables are right)"
        )
    elif wait > 0:
        time.sleep(wait)


def _event_files(folder: Path) -> Iterator[Path]:
    return (folder / "tensorboard").glob("events.out.tfevents.*")


def _on_disk(file: Path) -> int:
    """The bytes of a file, which neither a kill nor a loss of power takes away from now on."""
    with file.open("rb+") as content:
        os.fsync(content.fileno())
        return os.fstat(content.fileno()).st_size


def _bring_to_disk(folder: Path) -> None:
    """A new name in a folder, too, is lost with the power until it is on the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
