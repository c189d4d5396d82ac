"""The files of a run's states, and what is left of them when the power goes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bio_rl.experiment.resume import States


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
