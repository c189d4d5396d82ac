"""The files of a run's states, and what is left of them when the power goes."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from bio_rl.experiment import resume
from bio_rl.experiment.interruption import Interruption
from bio_rl.experiment.logger import ProgressFile
from bio_rl.experiment.resume import PeriodicSaving, States, cut_tables, tables


def test_a_state_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a power cut could leave a name without its bytes: file to the disk, new name, folder to the disk."""
    done: list[tuple[Any, ...]] = []
    fsync, replace = os.fsync, Path.replace

    def seen_fsync(descriptor: int) -> None:
        seen = os.fstat(descriptor)
        done.append(("on disk", seen.st_ino, seen.st_size))
        fsync(descriptor)

    def seen_replace(draft: Path, place: Path) -> Path:
        done.append(("renamed", draft.name, place.name))
        return replace(draft, place)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    States(tmp_path).save(3, {"weights": np.arange(4.0)})
    written, renamed, listed = done
    state = (tmp_path / "resume" / "3.safetensors").stat()
    assert written == ("on disk", state.st_ino, state.st_size)
    assert renamed == ("renamed", ".3.safetensors", "3.safetensors")
    assert listed[:2] == ("on disk", (tmp_path / "resume").stat().st_ino)


def test_two_states_are_kept_and_a_final_one_takes_their_place(tmp_path: Path) -> None:
    states = States(tmp_path)
    for which in (1, 2, 10):
        states.save(which, {"step": which})
        assert states.read(which) == {"step": which}
    assert states.rollouts() == [10, 2]
    states.save("final", {"step": 11})
    assert states.rollouts() == []
    assert states.read("final") == {"step": 11}
    assert len(list((tmp_path / "resume").iterdir())) == 1


class Run:
    """A run that says how often its state is saved, by a clock of its own; one saving takes ``cost`` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, interval: float, cost: float) -> None:
        self.now, self.cost, self.saved = 0.0, cost, list[float]()
        self.config = OmegaConf.create({"env": {"id": "Task-v0"}, "resume": {"interval": interval}})
        self.interruption = Interruption()
        self.states = SimpleNamespace(save=self.save)
        monkeypatch.setattr(resume, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def state(self) -> dict[str, Any]:
        return {}

    def save(self, which: int | str, state: dict[str, Any]) -> None:
        self.saved.append(self.now)
        self.now += self.cost

    def learn(self, seconds: int) -> None:
        """An update every second."""
        agent = SimpleNamespace(num_timesteps=0, _total_timesteps=1, iterations=1)
        members = SimpleNamespace(still_learning=lambda: [(0, agent)], settle=lambda index: None)
        saving = PeriodicSaving([self])  # type: ignore[list-item]
        for _ in range(seconds):
            self.now += 1
            saving(members)


@pytest.mark.parametrize(
    ("interval", "cost", "pause"), [(60, 0.1, 60), (60, 3, 300), (1, 3, 300), (0.5, 3, 1), (900, 3, 900)]
)
def test_states_are_an_interval_apart_and_cost_a_hundredth_of_the_time(
    interval: float, cost: float, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for an interval of less than a second, which is kept whatever it costs."""
    monkeypatch.setattr(resume, "how_to_restore", lambda env: False)
    run = Run(monkeypatch, interval, cost)
    run.learn(3000)
    assert run.saved[0] == pytest.approx(interval, abs=1)
    assert len(run.saved) >= 3
    assert np.diff(run.saved) == pytest.approx(pause + cost, abs=1)


def test_a_save_that_seemed_to_take_long_does_not_put_the_next_one_off_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one in which the process was suspended."""
    monkeypatch.setattr(resume, "how_to_restore", lambda env: False)
    run = Run(monkeypatch, interval=60, cost=120)

    def save(which: int | str, state: dict[str, Any]) -> None:
        run.save(which, state)
        run.cost = 0.1

    run.states.save = save
    run.learn(3000)
    assert max(np.diff(run.saved)) < 800


def test_an_episode_that_cannot_be_restored_is_told_once_and_before_it_is_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(resume, "how_to_restore", lambda env: None)
    monkeypatch.setattr(resume, "complain", told.append)
    run = Run(monkeypatch, interval=60, cost=0)
    run.states.save = lambda which, state: told.append("saved")
    run.learn(200)
    assert "Task-v0 cannot be brought back to the midst of an episode" in told.pop(0)
    assert told == ["saved"] * 3


def test_a_table_is_cut_to_where_it_was_without_the_columns_that_came_later(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path / "progress.csv")
    for step in range(3):
        progress.write({"loss": 0.1 * step, "note": 'a "b",\nc'}, {"loss": (), "note": ()}, step)
    before = progress.path.read_bytes()
    reached = tables(tmp_path)
    progress.write({"loss": 1.0, "angle": 2.0}, {"loss": (), "angle": ()}, 3)
    progress.write({"loss": 1.0}, {"loss": ()}, 4)
    assert b"angle" in progress.path.read_bytes()
    for _ in range(2):  # the second time nothing is left to do
        cut_tables(tmp_path, reached)
        assert progress.path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["progress.csv"]


@pytest.mark.parametrize("left", [None, b"", b"time/total_timesteps,loss\n0,0.0\n", b"\xff\x00\n\n,,,,"])
def test_a_table_that_lost_rows_is_named_and_the_run_goes_on(
    tmp_path: Path, left: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = ProgressFile(tmp_path / "progress.csv")
    for step in range(3):
        progress.write({"loss": 0.1 * step}, {"loss": ()}, step)
    reached = tables(tmp_path)
    progress.path.unlink()
    if left is not None:
        progress.path.write_bytes(left)
    cut_tables(tmp_path, reached)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("progress.csv has lost rows that it had when the state was saved")


def test_what_is_saved_of_a_table_does_not_grow_with_it(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path / "progress.csv")
    sizes = []
    for step in range(200):
        progress.write({"loss": 0.1 * step}, {"loss": ()}, step)
        sizes.append(len(repr(tables(tmp_path))))
    assert max(sizes) - min(sizes) <= 2  # digits of a number
