"""``bio-rl rules --cost``, and the cost in ``result.json``."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import HERE

from bio_rl import Dense, Network, make_rule
from bio_rl.analysis.runs import Run
from bio_rl.cli import main
from bio_rl.cli.cost import MEANINGS
from bio_rl.diagnostics.cost import Cost, cost
from bio_rl.rules import rule_names

EXAMPLE = HERE.parents[1] / "examples" / "own_rule"
README = HERE.parents[1] / "README.md"


def test_the_readme_shows_the_table_that_is_printed(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["rules", "--cost"]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    assert [line.partition(" ")[0] for line in lines[1 : 1 + len(rule_names())]] == rule_names()
    assert "\n".join(["```", *lines, "```"]) in README.read_text()


def test_every_count_has_a_meaning() -> None:
    assert tuple(MEANINGS) == Cost._fields


def test_as_data_for_a_network_of_ones_own_and_rules_of_ones_own(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EXAMPLE, ".", dirs_exist_ok=True)
    monkeypatch.syspath_prepend(".")
    assert main(["rules", "--cost", "--json", "--network", "3-5-2", "--batch", "10", "--config-dir", "conf"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [*rule_names(), "noisy_feedback"]
    costs = {row["name"]: row["cost"] for row in rows}
    assert (costs["backprop"]["network"], costs["backprop"]["batch"]) == ([3, 5, 2], 10)
    assert costs["backprop"]["multiply_accumulates"] == 2 * (3 * 5 + 5 * 2) + 5 * 2
    assert costs["noisy_feedback"]["multiply_accumulates"] == costs["backprop"]["multiply_accumulates"]
    assert costs["noisy_feedback"]["rule_floats"] == 5 * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--cost --network 8", "argument --network: '8' are no sizes of layers, such as 8-64-64-4"),
        ("--cost --network 8-0-2", "argument --network: '8-0-2' are no sizes"),
        ("--cost --network 8-x", "argument --network: '8-x' are no sizes"),
        ("--cost --batch 0", "argument --batch: '0' is not a whole number of at least 1"),
        ("--batch 8", "--network and --batch belong to --cost"),
        ("--cost --config-dir conf", "the cost of raises cannot be counted: no way"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    Path("conf/rule").mkdir(parents=True)
    Path("conf/rule/raises.yaml").write_text("_target_: raising_rule.Raises")
    Path("raising_rule.py").write_text(
        "from bio_rl.rules import FeedbackAlignment\n\nclass Raises(FeedbackAlignment):\n"
        "    def assign(self, network, trace, output_error):\n        raise RuntimeError('no way')\n"
    )
    monkeypatch.syspath_prepend(".")
    assert main(["rules", *arguments.split()]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"bio-rl rules: {message}")
    assert said.err.count("\n") == 1


def test_a_run_tells_what_its_own_networks_cost(train: Callable[..., int]) -> None:
    assert train("rule=kolen_pollack", "critic_rule=node_perturbation", "network.hidden=[7]") == 0
    found = Run(Path("run")).result["cost"]
    for network, outputs, rule in (("actor", 2, "kolen_pollack"), ("critic", 1, "node_perturbation")):
        alike = Network([Dense(4, 7, "tanh"), Dense(7, outputs)], make_rule(rule))
        assert found[network] == pytest.approx(cost(alike, found["batch"])._asdict())
