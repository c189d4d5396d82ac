"""``bio-rl inspect``: what a page shows, that nothing in a folder is trusted, and bad input."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import HERE, TINY
from html_page import Page
from rich.console import Console

from bio_rl.analysis import terminal
from bio_rl.analysis.inspection import report
from bio_rl.analysis.page import page
from bio_rl.analysis.runs import Run
from bio_rl.cli import main

EXAMPLE = HERE.parents[1] / "examples" / "own_rule"
SHOWN = {
    "Return": 1,
    "Updates beside backprop's": 5,
    "Feedback alignment": 2,
    "Representations": 9,
    "Spectra of weights": 2,
}
"""The charts of each section, of an actor and a critic."""
OFTEN = ("diagnostics=full", "diagnostics.interval=32", "diagnostics.samples=20", "diagnostics.probes=12")


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with all that a run can record."""
    folder = tmp_path_factory.mktemp("inspected") / "run"
    settings = [each for each in TINY if not each.startswith("logging")]
    given = ("rule=kolen_pollack", "rule.decay=0.25", "logging=csv", "callbacks=none", *OFTEN)
    assert main(["train", *settings, *given, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture
def run(whole_run: Path) -> Path:
    """A copy of it, ``run`` in the test's own folder."""
    return Path(shutil.copytree(whole_run, "run"))


def page_of(folder: Path) -> Page:
    """The page of what a folder tells by itself."""
    return checked(page(report(Run(folder))))


def checked(html: str) -> Page:
    """A page that loads nothing and runs nothing."""
    assert not re.search(r"url\(|@import|https?://", html)
    found = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "a"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href")]
    return found


def shown(folder: Path) -> str:
    """The same in a terminal."""
    console = Console(file=io.StringIO(), width=80)
    terminal.show(report(Run(folder)), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def printed(folder: Path, capsys: pytest.CaptureFixture, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["inspect", str(folder), *arguments]) == 0
    return capsys.readouterr().out


def test_a_page_shows_every_part_in_pictures(run: Path) -> None:
    found = report(Run(run))
    assert {each.title: len(each.charts) for each in found.sections if each.charts} == SHOWN
    assert main(["inspect", str(run), "--html", "page.html"]) == 0
    written = checked(Path("page.html").read_text(encoding="utf-8"))
    assert written.tags.count("svg") == sum(SHOWN.values())
    for word in ("kolen_pollack on CartPole-v1", "Locality of the rule", "rule.decay", "0.25", "Dotted: as they began"):
        assert word in written.text
    assert "✓" in written.text
    assert "has changed since" not in written.text
    assert found.problems == []


def test_the_terminal_shows_the_same(run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = printed(run, capsys)
    assert max(map(len, out.splitlines())) <= 80
    for title in (*SHOWN, "Locality of the rule"):
        assert f"\n{title}\n" in out
    assert "actor: angle, degrees" in out
    assert any("⠀" < mark <= "⣿" for mark in out)


def test_the_cost_is_the_runs_own_count_or_counted_now(run: Path, capsys: pytest.CaptureFixture) -> None:
    counted = printed(run, capsys).partition("Cost of an update")[2]
    assert re.search(r"MACs +([\d,.]+) +([\d,.]+) +multiply-accumulates", counted)
    result = json.loads((run / "result.json").read_text())
    del result["cost"]
    (run / "result.json").write_text(json.dumps(result))
    assert printed(run, capsys).partition("Cost of an update")[2] == counted


@pytest.mark.parametrize("width", [40, 60, 200])
def test_a_terminal_of_any_width_and_encoding_is_served(run: Path, width: int) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    terminal.show(report(Run(run)), Console(file=out, width=width))
    out.flush()
    text = out.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert "1 layer 1" in text


def test_whatever_a_run_is_called_stays_a_name(run: Path) -> None:
    name = '<script>alert("1")</script>[bold]&amp;'
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"rule": name, "error": name}))
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    (run / ".hydra/config.yaml").write_text(yaml.safe_dump({**config, name: name}))
    text = (run / "diagnostics.csv").read_text()
    (run / "diagnostics.csv").write_text(text + "64,<b>,1,update_angle,3\n")
    assert page_of(run).text.count(name) >= 4
    assert f"{name} on CartPole-v1" in shown(run)


def test_a_run_without_diagnostics_shows_what_there_is(train: Callable[..., int]) -> None:
    assert train("rule=feedback_alignment") == 0
    found = report(Run(Path("run")))
    assert found.problems == []
    assert {each.title: len(each.charts) for each in found.sections if each.charts} == {
        "Return": 1,
        "Spectra of weights": 2,
    }
    assert "without diagnostics" in shown(Path("run"))


def test_feedback_angles_are_taken_from_the_log_where_there_are_no_diagnostics(train: Callable[..., int]) -> None:
    assert train("rule=feedback_alignment", "logging=csv") == 0
    sections = {each.title: each for each in report(Run(Path("run"))).sections}
    assert [each.title.partition(":")[0] for each in sections["Feedback alignment"].charts] == ["actor", "critic"]


def test_a_run_still_going_shows_how_far_it_is(run: Path) -> None:
    shutil.rmtree(run / "model")
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"status": "running", "return_mean": None}))
    out = shown(run)
    assert re.search(r"status\s+running", out)
    assert "actor: singular values" in out, "those of the last checkpoint"
    shutil.rmtree(run / "checkpoints")
    (run / "diagnostics.csv").unlink()
    assert "it is still running" in shown(run)


def cut(file: Path, share: float = 0.6) -> None:
    content = file.read_bytes()
    kept = content[: int(share * len(content))]
    file.write_bytes(kept if file.suffix != ".yaml" else kept.rpartition(b"\n")[0])  # lines of it are YAML too


def test_a_model_that_describes_no_rule_costs_a_line(run: Path, capsys: pytest.CaptureFixture) -> None:
    policy = run / "model/policy.yaml"
    policy.write_text(policy.read_text().partition("policy:")[0])
    out = printed(run, capsys)
    assert "! the model in run/model describes no policy" in out
    assert "Nothing to show: the model cannot be read." in out


BROKEN_TABLE = r"run/{} is no whole table from line \d+ on; what precedes is used"


@pytest.mark.parametrize(
    ("name", "problem", "missing"),
    [
        ("evaluations.csv", BROKEN_TABLE, []),
        ("diagnostics.csv", BROKEN_TABLE, []),
        ("progress.csv", BROKEN_TABLE, []),
        ("result.json", "run/{} cannot be read: .+", []),
        (".hydra/config.yaml", None, []),
        ("model/policy.safetensors", "run/{} cannot be read: .+", ["Spectra of weights"]),
        ("checkpoints/untrained/policy.safetensors", "run/{} cannot be read: .+", []),
    ],
)
def test_a_file_cut_in_half_costs_a_line(run: Path, name: str, problem: str | None, missing: list[str]) -> None:
    cut(run / name)
    out = shown(run)
    told = re.findall("^! (.+)$", out, re.MULTILINE)
    assert (
        [bool(re.fullmatch(problem.format(re.escape(name)), each)) for each in told] == [True] if problem else not told
    )
    assert [title for title in SHOWN if not re.search(f"\n{title}\n(.+\n)+.*│", out)] == missing
    assert all(each in page_of(run).text for each in told)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluations.csv", b"\xff\xfe\x00"),
        ("evaluations.csv", b"nothing,of,ours\n1,2,3\n"),
        ("diagnostics.csv", b"timesteps,network,layer,name,value\n0,actor,x,cka,1\n"),
        ("diagnostics.csv", b'timesteps,network,layer,name,value\n0,"actor'),
        ("progress.csv", b"time/total_timesteps,eval/mean_reward\nnow,1\n"),
        ("probes.safetensors", b"\x00" * 20),
        (".hydra/config.yaml", b"!!python/object/apply:os.mkdir [hacked]\n"),
        (".hydra/config.yaml", b"[" * 5000),
        ("model/policy.yaml", b"!!python/object/apply:os.mkdir [hacked]\n"),
        ("model/policy.yaml", b"policy: {rule: {name: os, settings: {}}, activation: tanh}\n"),
        ("model/policy.safetensors", b"\x80\x04cos\nmkdir\n(S'hacked'\ntR."),
        ("evaluations.csv", b"timesteps,seed,episode,return,length\n0,0,0,nan,1\n0,0,1,inf,2\n"),
        (
            "diagnostics.csv",
            b"timesteps,network,layer,name,value\n0,actor,1,update_angle,1e308\n5,actor,1,cka,-1e308\n",
        ),
    ],
)
def test_a_file_of_another_kind_is_neither_run_nor_an_error(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    assert page_of(run).tags.count("svg") > 2
    assert Run(run).probes is None or name != "probes.safetensors"
    assert not Path("hacked").exists()


def test_no_link_is_followed(run: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("evaluations.csv", "model", ".hydra/config.yaml"):
        elsewhere = Path("elsewhere", name.replace("/", "_"))
        elsewhere.parent.mkdir(exist_ok=True)
        (run / name).rename(elsewhere)
        (run / name).symlink_to(elsewhere.absolute())
    shutil.rmtree(run / "checkpoints")
    found = report(Run(run))
    assert [each.title for each in found.sections if each.charts] == list(SHOWN)[:4]
    assert sorted(found.problems) == [
        f"{run / name} is a link, which is not followed" for name in (".hydra/config.yaml", "evaluations.csv", "model")
    ]
    (run / "result.json").rename("result.json")
    (run / "result.json").symlink_to(Path("result.json").absolute())
    assert main(["inspect", str(run)]) == 2
    assert "it has no result.json" in capsys.readouterr().err


def test_a_rule_that_a_folder_names_is_run_only_if_it_is_ours_or_said_to_be_the_users(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (EXAMPLE / "noisy_feedback.py").read_text()
    Path("noisy_feedback.py").write_text(f"from pathlib import Path\nPath('ran').touch()\n{source}")
    shutil.copytree(EXAMPLE / "conf", "conf")
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "noisy_feedback", raising=False)
    policy = yaml.safe_load((run / "model/policy.yaml").read_text())
    gate = {"name": "gated", "settings": {"rule": "noisy_feedback:NoisyFeedback"}}
    for rule in ({"name": "noisy_feedback:NoisyFeedback", "settings": {}}, gate):
        policy["policy"]["rule"] = rule
        (run / "model/policy.yaml").write_text(yaml.safe_dump(policy))
        out = " ".join(printed(run, capsys).split())
        assert "the rule 'noisy_feedback:NoisyFeedback' is none of bio_rl's; --config-dir DIR shows it" in out
        assert not Path("ran").exists()
    assert "What an update moves with" in printed(run, capsys, "--config-dir", "conf")
    assert Path("ran").exists()


def test_a_rule_that_is_another_today_is_told(run: Path, capsys: pytest.CaptureFixture) -> None:
    result = json.loads((run / "result.json").read_text())
    result["source_sha256"]["bio_rl.rules.kolen_pollack"] = "0"
    (run / "result.json").write_text(json.dumps(result))
    assert "The rule's source has changed since the run" in " ".join(printed(run, capsys).split())


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda: None, "nowhere", "there is no folder 'nowhere'"),
        (lambda: Path("file").touch(), "file", "file is no folder"),
        (lambda: Path("empty").mkdir(), "empty", "empty is not the folder of a run: it has no result.json"),
        (lambda: None, ".", ". is not the folder of a run: it has no result.json; there is one in run"),
        (
            lambda: Path("result.json").write_text("{"),
            ".",
            ". is not the folder of a run: result.json cannot be read: ",
        ),
        (lambda: Path("result.json").write_text("{}"), ".", ". is not the folder of a run: its result.json is of"),
        (lambda: None, "run --html nowhere/page.html", "--html nowhere/page.html: the file cannot be written: No such"),
        (lambda: None, "run --config-dir nowhere", "--config-dir: there is no folder 'nowhere/rule'"),
        (lambda: None, "", "the following arguments are required: run_folder"),
    ],
)
def test_bad_input_is_one_line(
    run: Path, capsys: pytest.CaptureFixture, make: Callable[[], object], arguments: str, message: str
) -> None:
    make()
    assert main(["inspect", *arguments.split()]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"bio-rl inspect: {message}")
    assert said.err.count("\n") == 1


def test_analysis_imports_nothing_that_trains() -> None:
    modules = [path.stem for path in (HERE.parents[1] / "bio_rl/analysis").glob("*.py") if path.stem != "__init__"]
    imports = "".join(f"import bio_rl.analysis.{name}\n" for name in modules)
    trains = ("agents", "stable_baselines3", "gymnasium", "hydra", "tensorboard", "matplotlib")
    code = f"import sys\n{imports}print([each for each in {trains} if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout == "[]\n", done.stderr
