"""The commands around training, and what the shipped configs promise."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from bio_rl.cli import main
from bio_rl.cli.loader import config_folder
from bio_rl.cli.schema import with_preset
from bio_rl.rules import rule_class, rule_names

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_rule"
README = EXAMPLE.parents[1] / "README.md"
CONF = config_folder()
TASKS = ["cartpole", "acrobot", "mountain_car", "mountain_car_continuous", "pendulum", "lunar_lander"]


def test_help_waits_for_nothing_heavy() -> None:
    code = (
        "import sys; from bio_rl.cli import main; assert main(['--help']) == 0; "
        "assert not {'torch', 'hydra', 'stable_baselines3', 'gymnasium'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: bio-rl" in done.stdout


@pytest.mark.few(1)
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_seen_enough_gets_no_traceback(buffered: bool) -> None:
    code = "import sys; from bio_rl.cli import main; sys.exit(main(['rules', '--json']))"
    command = [sys.executable, "-c", code]
    # An empty value is as good as none.
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=unbuffered) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_without_arguments_help(capsys: pytest.CaptureFixture) -> None:
    assert main([]) == 0
    assert "usage: bio-rl" in capsys.readouterr().out


def test_train_help_lists_the_choices(capsys: pytest.CaptureFixture) -> None:
    for path in ("mine/agent/slow.yaml", "mine/search/slow.yaml"):
        Path(path).parent.mkdir(parents=True)
        Path(path).touch()
    with pytest.raises(SystemExit) as left:
        main(["train", "--config-dir", "mine", "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert "agent: a2c, ppo, reinforce, slow\n" in out
    assert "cartpole/ppo" in next(line for line in out.splitlines() if line.startswith("tuned: "))
    assert "search" not in out, "its files are for bio-rl tune, and no choices"


def test_rules_as_data(capsys: pytest.CaptureFixture) -> None:
    assert main(["rules", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == rule_names()
    assert rows["backprop"]["weight_transport"] is True
    assert rows["weight_mirror"]["separate_phases"] is True


@pytest.mark.parametrize("columns", [80, 120])
def test_rules_as_a_table_of_one_line_each(
    columns: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["rules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines[2 : lines.index("")]]
    assert [name for name, *_ in table] == rule_names()
    assert all(words[-1].isdecimal() for words in table), "each paper's year ends its rule's line"
    assert next(words for words in table if words[0] == "predictive_coding")[1:7] == ["population", *"WPESN"]
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= columns


def test_a_rule_of_ones_own(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    tiny = ("env.timesteps=64", "env.n_envs=2", "evaluation.episodes=1", "evaluation.interval=0", "hydra.run.dir=run")
    # As a user calls it: a process whose modules are found in the current folder alone.
    command = [sys.executable, "-c", "import sys; from bio_rl.cli import main; sys.exit(main())", "train"]
    subprocess.run([*command, "--config-dir", "conf", "rule=noisy_feedback", "rule.failure=0.5", *tiny], check=True)
    assert json.loads(Path("run/result.json").read_text())["rule"] == "noisy_feedback"


def test_a_study_of_ones_own_overrides_the_groups(tmp_path: Path) -> None:
    study = tmp_path / "conf" / "experiment" / "mine.yaml"
    study.parent.mkdir(parents=True)
    study.write_text(
        "# @package _global_\ndefaults:\n- override /rule: readout\n- override /agent: a2c\n"
        "study: mine\nenv: {timesteps: 16, n_envs: 2}\nevaluation: {episodes: 1, interval: 0}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,1'}}}\n"
    )
    assert main(["train", "--config-dir", "conf", "experiment=mine"]) == 0
    assert sorted(Path("runs").rglob("result.json")) == [
        Path(f"runs/mine/cartpole/a2c/readout/seed={seed}/result.json") for seed in (0, 1)
    ]


@pytest.mark.few(1)
@pytest.mark.parametrize("study", [file.stem for file in sorted((CONF / "experiment").glob("*.yaml"))])
def test_every_shipped_study_composes_into_runs_of_their_own(study: str) -> None:
    from bio_rl.cli.configs import compose_jobs
    from bio_rl.cli.train import parse

    jobs = compose_jobs(parse([f"experiment={study}", "seed=0"]))
    assert len({job.folder for job in jobs}) == len(jobs) > 1
    assert {job.config.study for job in jobs} == {study}


@pytest.mark.few(1)
@pytest.mark.parametrize("agent", ["ppo", "a2c", "reinforce"])
@pytest.mark.filterwarnings("error::UserWarning")
def test_every_shipped_task_can_be_built_without_a_warning(agent: str) -> None:
    from bio_rl.cli.configs import compose_jobs
    from bio_rl.cli.train import parse
    from bio_rl.experiment.run import check

    tasks = [task for task in TASKS if task != "lunar_lander" or find_spec("Box2D")]
    jobs = compose_jobs(parse(["-m", f"agent={agent}", f"env={','.join(tasks)}"]))
    assert [job.config.env.name for job in jobs] == tasks
    for job in jobs:
        check(job.config)


def test_tuned_settings_yield_to_the_command_line() -> None:
    from bio_rl.cli.configs import compose_jobs
    from bio_rl.cli.train import parse

    (tuned,) = compose_jobs(parse(["env=cartpole"]))
    assert (tuned.config.optimizer.learning_rate, tuned.config.agent.n_epochs) == ("lin_0.001", 20)
    (given,) = compose_jobs(parse(["env=cartpole", "optimizer.learning_rate=0.5", "agent.n_epochs=3"]))
    assert (given.config.optimizer.learning_rate, given.config.agent.n_epochs) == (0.5, 3)
    (other,) = compose_jobs(parse(["env=cartpole", "agent=a2c"]))
    assert other.config.optimizer.name == "rmsprop"
    (chosen,) = compose_jobs(parse(["env=acrobot", "tuned=cartpole/ppo"]))
    assert chosen.config.optimizer.learning_rate == "lin_0.001"


@pytest.mark.parametrize("name", rule_names())
def test_a_rules_config_holds_every_setting_at_its_default(name: str) -> None:
    settings = with_preset(yaml.safe_load((CONF / "rule" / f"{name}.yaml").read_text()))
    target = settings.pop("_target_")
    assert target == f"bio_rl.rules.{rule_class(name).__name__}"
    parameters = inspect.signature(rule_class(name)).parameters.values()
    named = {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD and p.default is not p.empty}
    assert {key: value or None for key, value in settings.items()} == {
        key: list(value) if isinstance(value, tuple) else value or None for key, value in named.items()
    }


@pytest.mark.parametrize("group", ["agent", "env", "logging", "network", "optimizer", "rule", "."])
def test_every_key_is_explained_above_it(group: str) -> None:
    for file in (CONF / group).glob("*.yaml"):
        lines = file.read_text().partition("\nhydra:")[0].splitlines()
        explained = False
        for line in lines:
            text = line.strip()
            is_key = text.split(":")[0].isidentifier() and ":" in text
            has_own_comment = not text.startswith("_") and not text.endswith(":")
            assert not is_key or not has_own_comment or explained, f"{file}: {text} has no comment above it"
            explained = text.startswith("#")


def test_a_critics_own_rule_can_be_taken_out_again() -> None:
    from bio_rl.cli.configs import compose_jobs
    from bio_rl.cli.train import parse

    (job,) = compose_jobs(parse(["env=cartpole", "~rule@critic_rule"]))
    assert job.config.critic_rule is None


def test_the_version_and_the_module() -> None:
    for arguments in (["-m", "bio_rl", "--version"], ["-c", "import bio_rl.cli as c; c.main(['--version'])"]):
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout == f"bio-rl {version('bio-rl')}\n"


def test_rules_of_ones_own_beside_ours(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["rules", "--json", "--config-dir", "conf"]) == 0
    *ours, mine = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in ours] == rule_names()
    assert (mine["name"], mine["paper"]) == ("noisy_feedback", "an example")
    assert main(["rules", "--config-dir", "conf"]) == 0
    assert "noisy_feedback" in capsys.readouterr().out
    for text in ("_target_: nowhere.Rule", "_target_: json.JSONDecoder", "scale: 1", "- 1", "a: b: c", "", "# \udce9"):
        (tmp_path / "conf/rule/wrong.yaml").write_text(text, errors="surrogateescape")
        assert main(["rules", "--config-dir", "conf"]) == 2
        assert (err := capsys.readouterr().err).startswith("bio-rl rules: conf/rule/wrong.yaml")
        assert err.count("\n") == 1
        assert not err.rstrip().endswith(":")
        assert not caplog.records  # which go to stderr too, outside of pytest
    assert main(["rules", "--config-dir", "nowhere"]) == 2
    assert "no folder 'nowhere/rule'" in capsys.readouterr().err


def test_the_readme_shows_the_table_that_is_printed(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["rules"]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert "\n".join(["```", *lines, "```"]) in README.read_text()
    described = [line.split("`")[1] for line in README.read_text().splitlines() if re.match(r"\| `\w+` \| [a-z]", line)]
    assert sorted(described) == rule_names()


def test_the_readmes_way_to_an_agents_activities(train: Callable[..., int]) -> None:
    assert train("rule=feedback_alignment") == 0
    (block,) = (part for part in README.read_text().split("```") if "activities(" in part)
    code = block.removeprefix("python").replace("runs/default/cartpole/ppo/feedback_alignment/seed=0", "run")
    found: dict[str, Any] = {}
    exec(code, found)
    assert [activity.shape for activity in found["hidden"]] == [(1, 64), (1, 64)]
    assert (found["inputs"].shape, found["output"].shape) == ((1, 4), (1, 2))


@pytest.mark.slow
def test_a_parallel_sweep_gives_the_same_numbers(train: Callable[..., int], tmp_path: Path) -> None:
    arguments = ("-m", "rule=weight_mirror,backprop", "seed=0,1")
    assert train(*arguments, "hydra.sweep.dir=in_turn") == 0
    assert train(*arguments, "hydra.sweep.dir=at_once", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2") == 0
    files = [file.relative_to("in_turn") for file in Path("in_turn").rglob("*.safetensors")]
    assert len(files) >= 4
    assert all(Path("at_once", file).read_bytes() == Path("in_turn", file).read_bytes() for file in files)
