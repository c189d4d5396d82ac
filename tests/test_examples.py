"""The examples run, and do what they say."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_plain_torch_learns_in_a_loop_of_its_own():
    accuracy = runpy.run_path(str(EXAMPLES / "plain_torch.py"))["main"]()
    assert accuracy > 0.95
