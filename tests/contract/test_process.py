"""What is made of runs beside their returns: curves, effort, and which runs' representations are compared."""

from pathlib import Path

import numpy as np
import pytest
from fake_runs import a_run

from bio_rl.analysis.comparison import Task, compare
from bio_rl.analysis.models import shipped_rule
from bio_rl.analysis.process import course, likeness, multiply_accumulates_per_step, seconds_per_step
from bio_rl.analysis.records import read
from bio_rl.analysis.runs import Series


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def series(**points: float) -> Series:
    """Values by timesteps: ``t5=1.0`` is 1 at 5."""
    return Series(np.array([float(name[1:]) for name in points]), np.array(list(points.values())))


def the_task() -> Task:
    (task,) = compare(read([Path("runs")])).tasks
    return task


def test_a_course_is_of_the_runs_that_were_evaluated_when_half_of_them_were() -> None:
    found = course(
        [
            series(t0=0.0, t5=1.0, t9=2.0),
            series(t0=2.0, t5=3.0, t9=4.0),
            series(t0=4.0, t5=8.0, t9=9.0, t10=9.0),  # nobody else was evaluated at 10
            series(t0=70.0),  # it ended early, and is left out
        ],
        rng(),
    )
    assert found is not None
    assert found.x.tolist() == [0, 5, 9]
    assert found.y.tolist() == [2, 4, 5]
    assert found.low is not None
    assert found.high is not None
    assert (found.low <= found.y).all()
    assert (found.y <= found.high).all()
    assert found.low[0] == 0


def test_a_course_of_few_runs_has_no_band_and_of_none_there_is_none() -> None:
    found = course([series(t0=1.0, t5=2.0)], rng())
    assert found is not None
    assert (found.low, found.high) == (None, None)
    assert course([], rng()) is None
    assert course([series()], rng()) is None


def test_a_band_draws_whole_runs() -> None:
    """Runs that keep their distance at all times have intervals that do."""
    found = course([series(t0=level, t5=level + 7) for level in (1.0, 2.0, 3.0, 10.0)], rng())
    assert found is not None
    assert found.low is not None
    assert np.diff(found.low).tolist() == [7]


def test_effort_is_a_runs_share_of_the_wall_time_and_all_passes_over_a_timestep() -> None:
    for seed in range(3):
        a_run("runs", seed, members=4, wall_seconds=20.0, config={"agent": {"n_epochs": 3}})
    (contender,) = the_task().contenders
    assert seconds_per_step(contender) == pytest.approx(20 / 4 / 1000)
    assert multiply_accumulates_per_step(contender, shipped_rule) == 3 * (30 + 20)


def test_effort_that_was_not_recorded_is_not_made_up() -> None:
    a_run("runs", cost=None, wall_seconds=None)
    (contender,) = the_task().contenders
    assert seconds_per_step(contender) is None
    assert multiply_accumulates_per_step(contender, shipped_rule) is None


def test_representations_need_probes() -> None:
    a_run("runs", rule="backprop")
    a_run("runs", rule="pepita")
    assert likeness(the_task(), shipped_rule) == (
        "Fewer than two rules have runs with probes: diagnostics=light keeps them."
    )
