"""The published table is collected from run folders by a program that says what it did with them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def collect() -> ModuleType:
    spec = importlib.util.spec_from_file_location("collect", Path(__file__).parents[2] / "results" / "collect.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["collect"] = module
    spec.loader.exec_module(module)
    return module


def test_angles_are_means_over_hidden_layers_at_both_ends(collect: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "diagnostics.csv"
    rows = ["timesteps,network,layer,name,value"]
    for time, angles in ((0, (80, 100, 0)), (50, (1, 1, 1)), (100, (10, 30, 0))):
        rows += [f"{time},actor,{layer},update_angle,{angle}" for layer, angle in enumerate(angles, start=1)]
        rows.append(f"{time},actor,1,weight_norm,1000")
    file.write_text("\n".join(rows))
    assert collect.update_angles(file) == {"actor_angle_start": 90, "actor_angle": 20}
    assert collect.update_angles(tmp_path / "none.csv") == {}


def test_an_interval_of_the_median_covers_it_as_often_as_it_says(
    collect: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 samples of 31 normal numbers, whose median is 0."""
    monkeypatch.setattr(collect, "RESAMPLES", 500)
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(500):
        low, high = collect.median_interval(rng.normal(size=31))
        covered += low <= 0 <= high
    assert 0.91 < covered / 500 < 0.98


def test_a_run_that_diverged_counts_as_the_worst(collect: ModuleType) -> None:
    low, high = collect.median_interval([float("-inf")] * 20 + [500.0])
    assert low == high == float("-inf")
