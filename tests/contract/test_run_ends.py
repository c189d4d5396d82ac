"""However a run ends, it says so itself; what it has is saved, and a sweep goes on or says how."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import misbehaving
import misbehaving_envs
import numpy as np
import pytest
from hydra._internal.hydra import Hydra
from stable_baselines3.common.vec_env import DummyVecEnv

import bio_rl
from bio_rl.cli import main
from bio_rl.cli.configs import compose_jobs
from bio_rl.cli.train import parse
from bio_rl.experiment.finite import FiniteEnvs, NotFinite
from bio_rl.experiment.interruption import Interrupted, Interruption
from bio_rl.experiment.output import say
from bio_rl.experiment.provenance import git_revision
from bio_rl.experiment.result import read_result, write_result
from bio_rl.experiment.run import check

Train = Callable[..., int]
ENDS = ("env=gymnasium", "env.id=misbehaving_envs:Ends-v0", "env.wrapper=null", "evaluation.interval=0")
NOT_FINITE = ("env=gymnasium", "env.id=misbehaving_envs:NotFinite-v0", "env.wrapper=null", "evaluation.interval=0")


def result(folder: str | Path = "run") -> dict:
    return json.loads(Path(folder, "result.json").read_text())


@pytest.fixture
def listening() -> Iterator[None]:
    """Signals end a process, as in a terminal; ``nohup`` and a shell's background have the tests ignore some."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(each, signal.default_int_handler) for each in signals]
    yield
    for each, handler in zip(signals, before, strict=True):
        signal.signal(each, handler)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.usefixtures("listening")
def test_a_signal_interrupts_a_run_which_is_saved(name: str, train: Train, capsys: pytest.CaptureFixture) -> None:
    before = signal.getsignal(signal.Signals[name])
    assert train(*ENDS, f"+env.kwargs.how={name}") == 128 + signal.Signals[name]
    assert (result()["status"], result()["signal"], result()["timesteps"]) == ("interrupted", name, 18)
    assert Path("run/model/policy.safetensors").exists()
    assert capsys.readouterr().err == "interrupted in run\n"
    assert signal.getsignal(signal.Signals[name]) == before


def test_a_signal_whose_error_is_swallowed_interrupts_all_the_same(train: Train) -> None:
    assert train(*ENDS, "+env.kwargs.how='swallowed SIGTERM'") == 143
    assert (result()["status"], result()["signal"], result()["timesteps"]) == ("interrupted", "SIGTERM", 20)


def test_a_signal_waits_while_the_result_is_written_and_an_ignored_one_stays_ignored() -> None:
    done = []
    with pytest.raises(Interrupted, match="SIGTERM"), Interruption() as interruption, interruption.held():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("held")
        try:
            with interruption.raised():
                done.append("raised")
        except Interrupted:
            done.append("told")
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("written")
    assert done == ["held", "told", "written"]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupted_sweep_says_what_is_left_and_the_command_that_goes_on(
    train: Train, capsys: pytest.CaptureFixture
) -> None:
    sweep = ("-m", *ENDS, "hydra.sweep.dir=s", "hydra.sweep.subdir='s${env.kwargs.how}'")
    assert train(*sweep, "+env.kwargs.how='',SIGTERM,exit") == 143
    out, err = capsys.readouterr()
    assert out.count("bio-rl play s/s --trust misbehaving_envs\n") == 1
    assert "2 of 3 runs are not done:\n  interrupted: s/sSIGTERM\n  not started: s/sexit\n" in err
    (line,) = (line for line in err.splitlines() if "the same command goes on" in line)
    command = shlex.split(line.partition(": bio-rl ")[2])
    assert command[0] == "train"
    assert command[-1] == "+env.kwargs.how='',SIGTERM,exit"
    assert main(command) == 143, "this environment does it again"
    assert "1 of 3 runs are finished already" in capsys.readouterr().err


def test_an_exit_in_an_environment_ends_its_run_alone(train: Train, capsys: pytest.CaptureFixture) -> None:
    assert (
        train("-m", *ENDS, "+env.kwargs.how=exit,''", "hydra.sweep.dir=s", "hydra.sweep.subdir='s${env.kwargs.how}'")
        == 1
    )
    assert (result("s/sexit")["status"], result("s/s")["status"]) == ("failed", "done")
    assert result("s/sexit")["error"] == "SystemExit: 0 (something called sys.exit)"
    assert Path("s/sexit/model/policy.safetensors").exists()


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("what=reward", "value=nan"), "a reward of nan"),
        (("what=reward", "value=-inf"), "a reward of -inf"),
        (("what=observation", "value=inf"), "an observation of inf"),
    ],
)
@pytest.mark.parametrize("agent", [("agent=ppo",), ("agent=reinforce", "env.normalize_observation=true")])
def test_what_an_environment_gives_is_no_divergence(
    arguments: tuple[str, ...], expected: str, agent: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(misbehaving_envs.NotFinite, "copies", 0)
    kwargs = [f"+env.kwargs.{each}" for each in arguments]
    tiny = ("env.n_envs=2", "evaluation.episodes=1", "env.timesteps=64", "logging=none", "hydra.run.dir=run")
    assert main(["train", *NOT_FINITE, *agent, *tiny, *kwargs, "+env.kwargs.episode=3"]) == 1
    assert result()["status"] == "failed"
    assert result()["error"].startswith("EnvironmentNotFinite: environment copy ")
    assert f" gave {expected} at its step " in result()["error"]


def test_an_action_that_is_not_finite_is_the_networks_doing() -> None:
    import gymnasium

    envs = FiniteEnvs(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * 2))
    envs.reset()
    envs.step(np.zeros((2, 1), np.float32))
    with pytest.raises(NotFinite, match="an action was not finite after 1 steps"):
        envs.step(np.array([[0], [np.nan]], np.float32))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "arguments",
    [
        ("agent=a2c", "agent.n_steps=1", "env.n_envs=1", "agent.normalize_advantage=true"),
        ("agent=ppo", "agent.n_steps=17", "env.n_envs=1", "agent.batch_size=16"),
        ("agent=ppo", "agent.n_steps=11", "env.n_envs=3", "agent.batch_size=8"),
    ],
)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_a_single_advantage_is_not_normalised(arguments: tuple[str, ...]) -> None:
    (job,) = compose_jobs(parse(arguments))
    with pytest.raises(ValueError, match="cannot normalise a single advantage"):
        check(job.config)
    job.config.agent.normalize_advantage = False
    check(job.config)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("arguments", "timesteps"),
    [(("env.timesteps=33",), 64), (("env.timesteps=64",), 64), (("agent=reinforce", "env.timesteps=33"), 34)],
)
def test_the_budget_is_what_ran(arguments: tuple[str, ...], timesteps: int, capsys: pytest.CaptureFixture) -> None:
    tiny = ["env.n_envs=2", "evaluation.episodes=1", "evaluation.interval=0", "logging=none", "hydra.run.dir=run"]
    ppo = [] if "agent=reinforce" in arguments else ["agent.n_steps=16", "agent.batch_size=16"]
    assert main(["train", *tiny, *ppo, *arguments]) == 0
    requested = int(arguments[-1].partition("=")[2])
    assert (result()["timesteps"], result()["timesteps_requested"]) == (timesteps, requested)
    said = f"env.timesteps={requested} is rounded up to whole rollouts: {timesteps}\n"
    assert capsys.readouterr().err == ("" if timesteps == requested else said)


def test_a_sweeper_gets_the_final_returns(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[float] = []
    multirun = Hydra.multirun

    def recorded(*arguments: Any, **settings: Any) -> Any:
        batches = multirun(*arguments, **settings)
        returned.extend(job.return_value for batch in batches for job in batch)
        return batches

    monkeypatch.setattr(Hydra, "multirun", recorded)
    where = ("hydra.sweep.dir=s", "hydra.sweep.subdir='${rule.how}'")
    assert train("-m", "rule=misbehaving", "rule.how=not,fails", "evaluation.interval=0", *where) == 1
    assert returned == [result("s/not")["return_mean"], float("-inf")]
    # A run that stays has a return too.
    assert train("-m", "rule=misbehaving", "rule.how=not,fails", "evaluation.interval=0", *where) == 1
    assert returned[2:] == returned[:2]


def test_the_printed_commands_hold_where_the_command_was_given(train: Train, capsys: pytest.CaptureFixture) -> None:
    assert train("hydra.run.dir=here/run", "hydra.job.chdir=true", "evaluation.interval=0", "logging=tensorboard") == 0
    assert capsys.readouterr().out.endswith("| bio-rl play here/run | tensorboard --logdir here\n")


def test_an_output_that_cannot_take_a_line_ends_nothing(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    where = ("hydra.sweep.dir=s", "hydra.sweep.subdir='${seed}'")
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert train("-m", "seed=0,1", *where, "evaluation.interval=0") == 0
    assert [result(f"s/{seed}")["status"] for seed in (0, 1)] == ["done", "done"]
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("1.0 ± 2.0, Nøkland", stream)
    assert stream.buffer.getvalue() == b"1.0 ? 2.0, N?kland\n"  # type: ignore[attr-defined]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_full_device_is_one_line() -> None:
    code = "import sys; from bio_rl.cli import main; sys.exit(main(['rules', '--json']))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_a_number_that_is_not_finite_is_null_in_the_result(tmp_path: Path) -> None:
    said = {
        "status": "done",
        "versions": {"bio-rl": "0"},
        "a": [1.0, float("nan")],
        "b": {"c": float("inf"), "d": True},
    }
    write_result(tmp_path, said)
    assert read_result(tmp_path) == {**said, "a": [1.0, None], "b": {"c": None, "d": True}}


def test_the_files_of_the_rules_are_hashed(train: Train) -> None:
    assert train("rule=gated", "rule.rule=burst", "critic_rule=misbehaving", "evaluation.interval=0") == 0
    hashes = result()["source_sha256"]
    assert hashes["misbehaving"] == sha256(Path(misbehaving.__file__).read_bytes()).hexdigest()
    assert {"bio_rl.rules.gated", "bio_rl.rules.burst", "bio_rl.rules.backprop", "bio_rl.rule"} <= hashes.keys()


def test_files_that_git_does_not_know_make_a_revision_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "bio_rl").mkdir()
    (tmp_path / "bio_rl" / "__init__.py").touch()
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr(bio_rl, "__file__", str(tmp_path / "bio_rl" / "__init__.py"))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "bio_rl" / "cached.pyc").touch()
    clean = git_revision()
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "conf" / "rule").mkdir(parents=True)
    (tmp_path / "conf" / "rule" / "mine.yaml").touch()
    assert git_revision() == f"{clean}-dirty"
    git("add", ".")
    assert git_revision() == f"{clean}-dirty"


def test_a_warning_is_one_line_without_the_place_in_the_code(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def show(*warning: Any) -> None:
        sys.stderr.write(warnings.formatwarning(*warning[:4]))

    monkeypatch.setattr(warnings, "showwarning", show)  # pytest has put its own in the place of Python's
    before = warnings.formatwarning
    assert train("optimizer.learning_rate=lin_0.001", "env.timesteps=1") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "nothing was learnt" in line]
    assert lines
    assert all(line.startswith("warning: nothing was learnt") for line in lines)
    assert warnings.formatwarning is before
