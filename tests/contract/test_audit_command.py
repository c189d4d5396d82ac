"""``bio-rl audit``: its table, what it says of a rule that lies, and bad input."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bio_rl.cli import main
from bio_rl.cli.audit import audits, print_table
from bio_rl.rules import rule_names

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_rule"
README = EXAMPLE.parents[1] / "README.md"
LIAR = """
from bio_rl.rules import Backprop, FeedbackAlignment

class Liar(Backprop):
    weight_transport = False

class Raises(FeedbackAlignment):
    def assign(self, network, trace, output_error):
        raise RuntimeError("no\\nway")

class Endless(FeedbackAlignment):
    def assign(self, network, trace, output_error):
        return super().assign(network, trace, output_error / 0)

class Forgets(FeedbackAlignment):
    assign = None

class Needs(FeedbackAlignment):
    def __init__(self, gain):
        super().__init__()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """``bio-rl audit ARGUMENTS`` beside a module ``liar`` and the example's own rule; the exit code."""
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "liar.py").write_text(LIAR)
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda arguments: main(["audit", *arguments.split()])


TRANSPORT = {"backprop": "values", "feedback_alignment": "none", "sign_symmetry": "signs"}


def words(table: str, name: str) -> list[str]:
    """Those of a rule's line in a printed table."""
    return next(line.split() for line in table.splitlines() if line.split()[:1] == [name])


@pytest.mark.few(6)
@pytest.mark.parametrize("name", rule_names())
def test_a_rule_declares_what_is_measured_and_the_readme_says_so(name: str, capsys: pytest.CaptureFixture) -> None:
    (row,) = audits([name])
    assert (row["name"], row["contradictions"]) == (name, [])
    if name in TRANSPORT:
        assert row["measured"]["weight_transport"] == TRANSPORT[name]
    print_table([row])
    printed = capsys.readouterr().out
    _, _, table = README.read_text().partition(printed.splitlines()[1][-20:])
    assert words(printed, name) == words(table, name)


@pytest.mark.slow
def test_the_readme_shows_the_table_that_is_printed(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = audits([])
    assert [row["name"] for row in rows] == rule_names()
    print_table(rows)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "\n".join(["```", *lines, "```"]) in README.read_text()


def test_a_rule_that_lies_is_named_in_a_line(own: Callable[[str], int], capsys: pytest.CaptureFixture) -> None:
    assert own("liar:Liar backprop") == 1
    said = capsys.readouterr()
    assert "backprop" in said.out
    assert said.err == (
        "bio-rl audit: liar:Liar: weight transport: declared none by weight_transport, measured values\n"
    )


def test_rules_of_ones_own_as_data(own: Callable[[str], int], capsys: pytest.CaptureFixture) -> None:
    (Path.cwd() / "conf/rule/broken.yaml").write_text("_target_: nowhere.Rule")
    assert own("--json --config-dir conf readout noisy_feedback") == 0
    ours, mine = json.loads(capsys.readouterr().out)
    assert (ours["name"], mine["name"]) == ("readout", "noisy_feedback")
    assert mine["measured"]["feedback"]
    assert mine["measured"]["weight_transport"] == "none"
    assert mine["declared"] == {"error_neurons": False}
    assert mine["contradictions"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("backprob", "unknown rule 'backprob'; did you mean 'backprop'?"),
        ("noisy_feedback", "unknown rule 'noisy_feedback'"),
        ("nowhere:Rule", "nowhere:Rule: unknown rule 'nowhere:Rule'"),
        ("json:JSONDecoder", "json:JSONDecoder: 'json:JSONDecoder' is not a rule"),
        ("liar:Raises", "liar:Raises cannot be audited: no"),
        ("liar:Endless", "liar:Endless cannot be audited: an update is not finite"),
        ("liar:Forgets", "liar:Forgets cannot be audited: 'NoneType' object is not callable"),
        ("liar:Needs", "liar:Needs cannot be audited: "),
        ("--config-dir nowhere", "--config-dir: there is no folder 'nowhere/rule'"),
        ("--config-dir conf broken", "conf/rule/broken.yaml names no rule by its _target_"),
        ("--config-dir conf wrong", "wrong cannot be audited: "),
        ("--nonsense", "no option --nonsense"),
    ],
)
def test_bad_input_is_one_line(
    own: Callable[[str], int], capsys: pytest.CaptureFixture, arguments: str, message: str
) -> None:
    (Path.cwd() / "conf/rule/broken.yaml").write_text("_target_: nowhere.Rule")
    (Path.cwd() / "conf/rule/wrong.yaml").write_text("_target_: noisy_feedback.NoisyFeedback\nfailure: 2")
    assert own(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"bio-rl audit: {message}")
    assert said.err.count("\n") == 1
