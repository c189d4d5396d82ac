"""Whatever goes wrong in a run ends it with its status and one line, and the sweep goes on: docs/faults.md."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Train = Callable[..., int]
TASK = ("env=gymnasium", "env.id=misbehaving_envs:Odd-v0", "evaluation.interval=0", "env.timesteps=128", "logging=csv")


def result(folder: str = "run") -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(folder, "result.json").read_text())
    return read


GIVEN = "it gave an observation of shape"


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("what", "vec", "said"),
    [
        ("shape", "dummy", f"failed in step: TypeError: {GIVEN} (3,) and type float32, where its space has (2,)"),
        ("shape", "subproc", f"failed in step: TypeError: {GIVEN} (3,)"),
        ("number", "dummy", f"{GIVEN} () and type float64"),
        ("complex", "dummy", f"{GIVEN} (2,) and type complex64"),
        ("text", "dummy", f"{GIVEN} (2,) and type <U1"),
        ("no observation", "dummy", f"{GIVEN} () and type object"),
        ("no reward", "dummy", "failed in step: TypeError"),
        ("no info", "dummy", "it gave NoneType for its info"),
        ("nothing", "dummy", "failed in step: TypeError"),
        ("memory", "dummy", "failed in step: MemoryError"),
        ("no info in reset", "dummy", f"failed in reset: TypeError: {GIVEN} ()"),
    ],
)
def test_what_no_environment_may_give_ends_the_run(
    what: str, vec: str, said: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*TASK, f"+env.kwargs.what={what}", f"env.vec={vec}") == 1
    err = capsys.readouterr().err
    assert said in err
    assert "misbehaving_envs:Odd-v0" in err
    assert err.count("\n") == 1
    assert result()["status"] == "failed"
    assert Path("run/model/policy.safetensors").exists(), "what was learnt until then is kept"


@pytest.mark.few(1)
@pytest.mark.parametrize("vec", ["dummy", "subproc"])
def test_an_environment_that_hangs_ends_by_its_time_limit(
    vec: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*TASK, "+env.kwargs.what=waits", "env.time_limit=0.2", f"env.vec={vec}") == 1
    assert "failed in step: TimeoutError: it took more than env.time_limit=0.2 seconds" in capsys.readouterr().err
    assert result()["status"] == "failed"


def test_a_folder_that_is_removed_ends_the_run(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*TASK, "+env.kwargs.what=removes") == 1
    err = capsys.readouterr().err
    assert "No such file or directory" in err
    assert err.count("\n") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of so many kilobytes; again with another number, it is resized."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def resized(kilobytes: int) -> Path:
        nonlocal mounted
        how = f"remount,size={kilobytes}k" if mounted else f"size={kilobytes}k"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip("mounting a file system needs rights that this user has not")
        mounted = True
        return place

    yield resized
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("kilobytes", [150, pytest.param(250, marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_run_which_goes_on_when_there_is_room(
    kilobytes: int, small_disk: Callable[[int], Path], train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (
        "resume.interval=1e-6",
        "logging=csv",
        "env.timesteps=256",
        "diagnostics=light",
        "diagnostics.interval=1",
    )
    assert train(*settings, "hydra.run.dir=whole") == 0
    disk = small_disk(kilobytes)
    capsys.readouterr()
    code = train(*settings, f"hydra.run.dir={disk}/run")
    err = capsys.readouterr().err
    assert code == 1
    assert "No space left on device" in err
    assert "Traceback" not in err
    small_disk(10_000)
    assert train(*settings, f"hydra.run.dir={disk}/run") == 0
    assert (disk / "run/evaluations.csv").read_bytes() == Path("whole/evaluations.csv").read_bytes()
    weights = "model/policy.safetensors"
    assert (disk / "run" / weights).read_bytes() == Path("whole", weights).read_bytes()
