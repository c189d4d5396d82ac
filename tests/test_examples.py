"""The examples run, and do what they say."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_plain_torch_learns_in_a_loop_of_its_own():
    accuracy = runpy.run_path(str(EXAMPLES / "plain_torch.py"))["main"]()
    assert accuracy > 0.95


def test_compare_trains_loads_and_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    small = ["env.timesteps=512", "members=2", "evaluation.episodes=2", "evaluation.interval=256", "logging=csv"]
    monkeypatch.setattr(sys, "argv", ["compare.py", *small])
    made = runpy.run_path(str(EXAMPLES / "compare.py"))
    assert sorted(made["runs"]["rule"]) == [
        rule for rule in ("backprop", "feedback_alignment", "readout") for _ in range(2)
    ]
    assert set(made["runs"]["status"]) == {"done"}
    curves = {line.get_label(): line.get_xdata().tolist() for line in made["plt"].gca().lines}
    assert curves == {rule: [0, 256, 512] for rule in ("backprop", "feedback_alignment", "readout")}
    assert (tmp_path / "runs/notebook/curves.png").stat().st_size > 5000
    made["plt"].close()
