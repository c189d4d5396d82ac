"""A sweep says how far it is, by what its runs have left."""

import time
from pathlib import Path

import pytest

from bio_rl.cli.watch import SweepWatch
from bio_rl.experiment.result import write_result


def put(folder: Path, status: str, started: str) -> Path:
    folder.mkdir(exist_ok=True)
    write_result(folder, {"status": status, "versions": {"bio-rl": "0"}, "process": {"started": started}})
    return folder


def test_runs_that_end_are_counted_and_those_of_before_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [put(tmp_path / str(number), "failed", "yesterday") for number in range(4)]
    said = ""

    def lines_after(count: int) -> list[str]:
        nonlocal said
        for _ in range(3000):  # a machine that is busy may take its time
            if said.count("\n") >= count:
                break
            time.sleep(0.02)
            said += capsys.readouterr().err
        return said.splitlines()

    with SweepWatch(folders, every=0.02, first_after=0):
        put(folders[0], "done", "now")
        put(folders[1], "running", "now")
        lines_after(1)
        put(folders[1], "diverged", "now")
        lines = lines_after(2)
    assert [line.split(" runs")[0] for line in lines] == ["1 of 4", "2 of 4"]
    assert "the others will take about 0:00:" in lines[0]


def test_the_time_left_is_that_of_as_many_runs() -> None:
    watch = SweepWatch([Path(str(number)) for number in range(10)])
    assert watch.line(left=8, seconds=60) == "2 of 10 runs have ended; the others will take about 0:04:00"
    assert "unknown" in watch.line(left=10, seconds=60)
