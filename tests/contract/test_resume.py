"""A run that was cut off and goes on ends as one that never was, byte for byte."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from bio_rl.cli import main
from bio_rl.experiment import resume

FOLDERS = ("model", "checkpoints")
TABLES = ("evaluations.csv", "progress.csv", "diagnostics.csv")
CLOCK = {"time/fps", "time/time_elapsed"}
SETTINGS = (
    "resume.interval=1e-6",
    "env.timesteps=256",
    "evaluation.interval=64",
    "env.normalize_observation=true",
    "diagnostics=light",
    "diagnostics.interval=64",
    "diagnostics.probes=8",
    "logging=tensorboard",
    "rule=kolen_pollack",
    "env.n_envs=2",
    "evaluation.episodes=2",
)
PPO = ("agent.n_steps=16", "agent.batch_size=16", "agent.n_epochs=2")
DRAWING = "env=gymnasium env.id=misbehaving_envs:GlobalGenerators-v0"
"""It draws from the global generators."""
AGENTS = {
    "ppo": PPO,
    "a2c": ("agent=a2c", "agent.n_steps=8", "logging.interval=3"),
    "reinforce": ("agent=reinforce", "agent.n_episodes=2", "env.max_episode_steps=20"),
}


def begin_and_die(arguments: Sequence[str], after: int) -> None:
    saves = []
    save = resume.States.save

    def counted(*given: Any) -> None:
        save(*given)
        saves.append(given)
        if len(saves) == after:
            os.kill(os.getpid(), signal.SIGKILL)

    resume.States.save = counted  # type: ignore[method-assign]
    main(["train", *arguments])


def die_before_a_rename(arguments: Sequence[str], count: int) -> None:
    """Whatever is written aside is there then, and not yet in its place."""
    left = count

    def or_die(rename: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(*given)

        return counted

    Path.replace, Path.rename = or_die(Path.replace), or_die(Path.rename)  # type: ignore[method-assign]
    main(["train", *arguments])


def killed(arguments: Sequence[str], after: int) -> None:
    """Begin the run in a process that is killed once it has saved its state so often."""
    # A process that was forked cannot start those of environments.
    way = "spawn" if "env.vec=subproc" in arguments else "fork"
    process = multiprocessing.get_context(way).Process(target=begin_and_die, args=(arguments, after))  # type: ignore[attr-defined]
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def begin(arguments: Sequence[str]) -> Any:
    process = multiprocessing.get_context("fork").Process(target=main, args=(arguments,))  # type: ignore[attr-defined]
    process.start()
    return process


def has_saved(folder: str) -> bool:
    """Whether a run, or one of its members, has a state to go on from."""
    return any(any(Path(folder).glob(f"{runs}resume/*.safetensors")) for runs in ("", "seed=*/"))


def seconds_until(holds: Callable[[], bool]) -> float:
    started = time.perf_counter()
    while not holds():
        time.sleep(0.01)
    return time.perf_counter() - started


def left_behind(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for what its clock said."""
    files = {
        str(file.relative_to(folder)): file.read_bytes()
        for name in FOLDERS
        for file in sorted((folder / name).rglob("*"))
        if file.is_file()
    }
    for name in TABLES:
        if (folder / name).exists():
            with (folder / name).open(newline="") as file:
                rows = list(csv.DictReader(file))
            files[name] = [f"{n} {key}={row[key]}" for n, row in enumerate(rows) for key in row if key not in CLOCK]
    if (folder / "tensorboard").exists():
        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        files["scalars"] = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
            if tag not in CLOCK
        }
    return files


def result(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return read


def outcome(folder: Path) -> dict[str, Any]:
    keys = ("status", "timesteps", "return_mean", "best_return_mean", "untrained_return_mean", "training_return_mean")
    return {key: result(folder)[key] for key in keys}


def check(arguments: Sequence[str], members: int = 1, kills: Sequence[int] = (3,)) -> None:
    seeds = [f"seed={seed}" for seed in range(members)] if members > 1 else ["."]
    arguments = [*arguments, f"members={members}"]
    assert main(["train", *arguments, "hydra.run.dir=whole"]) == 0
    for after in kills:
        killed([*arguments, "hydra.run.dir=cut"], after * members)
    assert all(result(Path("cut", seed))["status"] == "running" for seed in seeds)
    assert main(["train", *arguments, "hydra.run.dir=cut"]) == 0
    for whole, folder in ((Path("whole", seed), Path("cut", seed)) for seed in seeds):
        assert result(folder)["resumed_at"] > 0
        assert outcome(folder) == outcome(whole)
        expected, found = left_behind(whole), left_behind(folder)
        assert expected.keys() == found.keys()
        for name in sorted(expected):
            assert found[name] == expected[name], name


@pytest.mark.parametrize(
    "agent", ["ppo", *(pytest.param(each, marks=pytest.mark.slow) for each in AGENTS if each != "ppo")]
)
def test_a_killed_run_goes_on_to_the_same_end(agent: str) -> None:
    check([*SETTINGS, *AGENTS[agent]])


def test_members_go_on_to_the_same_end() -> None:
    check([*SETTINGS, *PPO], members=2)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "task", ["env=lunar_lander", "env.vec=dummy", pytest.param("env.vec=subproc", marks=pytest.mark.slow), DRAWING]
)
def test_environments_go_on_where_they_were(task: str) -> None:
    if task == "env=lunar_lander":
        pytest.importorskip("Box2D")
    check([*SETTINGS, *PPO, *task.split()])


def test_what_cannot_go_on_in_an_episode_says_so_first(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SETTINGS, *PPO, "env=gymnasium", "env.id=misbehaving_envs:Hidden-v0", "hydra.run.dir=run"]
    killed(arguments, after=3)
    assert main(["train", *arguments]) == 0
    assert "misbehaving_envs:Hidden-v0 cannot be brought back to the midst of an episode" in capsys.readouterr().err
    assert result(Path("run"))["resumed_exactly"] is False
    assert (result(Path("run"))["status"], result(Path("run"))["timesteps"]) == ("done", 256)


@pytest.mark.slow
def test_a_run_killed_again_and_again_goes_on() -> None:
    check([*SETTINGS, *PPO], kills=(2, 1, 3))


@pytest.mark.parametrize("counts", [(1, 4, 7, 10), pytest.param(range(1, 13), marks=pytest.mark.slow)])
def test_a_run_killed_while_anything_is_written_aside_goes_on_and_leaves_no_draft(counts: Sequence[int]) -> None:
    arguments = [*SETTINGS, *PPO]
    assert main(["train", *arguments, "hydra.run.dir=whole"]) == 0
    for count in counts:
        process = multiprocessing.get_context("fork").Process(  # type: ignore[attr-defined]
            target=die_before_a_rename, args=([*arguments, "hydra.run.dir=cut"], count)
        )
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    assert main(["train", *arguments, "hydra.run.dir=cut"]) == 0
    assert outcome(Path("cut")) == outcome(Path("whole"))
    assert left_behind(Path("cut")) == left_behind(Path("whole"))
    hidden = {file.relative_to("cut").as_posix() for file in Path("cut").rglob(".*")}
    assert hidden == {".lock", ".hydra"}


@pytest.mark.slow
def test_a_longer_run_goes_on_from_a_finished_one() -> None:
    longer = [*SETTINGS, *PPO, "optimizer.learning_rate=0.001", "agent.clip_range=0.2"]
    shorter = [each.replace("timesteps=256", "timesteps=128") for each in longer]
    assert main(["train", *longer, "hydra.run.dir=long"]) == 0
    assert main(["train", *shorter, "hydra.run.dir=short"]) == 0
    assert main(["train", *longer, "hydra.run.dir=short"]) == 0
    assert result(Path("short"))["resumed_at"] == 128
    assert outcome(Path("short")) == outcome(Path("long"))
    assert left_behind(Path("short")) == left_behind(Path("long"))
    assert main(["train", *shorter, "hydra.run.dir=short"]) == 2, "a shorter run is another one"
    longest = [each.replace("timesteps=256", "timesteps=288") for each in longer]
    Path("short", "resume", "final.safetensors").write_bytes(b"")
    assert main(["train", *longest, "hydra.run.dir=short"]) == 1, "what the finished run had learnt is lost"
    assert result(Path("short"))["timesteps"] == 256


@pytest.mark.parametrize(
    "damage", ["changed", *(pytest.param(each, marks=pytest.mark.slow) for each in ("cut", "empty"))]
)
def test_a_damaged_state_falls_back_to_the_one_before(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SETTINGS, *PPO]
    assert main(["train", *arguments, "hydra.run.dir=whole"]) == 0
    killed([*arguments, f"hydra.run.dir={damage}"], after=4)
    states = resume.States(Path(damage))
    assert states.rollouts() == [4, 3]
    newest = Path(damage, "resume", "4.safetensors")
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.write_bytes({"cut": content[:-50], "changed": content, "empty": b""}[damage])
    capsys.readouterr()
    assert main(["train", *arguments, f"hydra.run.dir={damage}"]) == 0
    err = capsys.readouterr().err
    assert "4.safetensors" in err
    assert err.count("\n") == 1
    assert result(Path(damage))["resumed_at"] == 3 * 32
    assert left_behind(Path(damage)) == left_behind(Path("whole"))


def test_nothing_goes_on_under_other_settings(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SETTINGS, *PPO, "hydra.run.dir=run"]
    killed(arguments, after=3)
    assert main(["train", *arguments, "agent.gamma=0.5"]) == 0
    assert "resumed_at" not in result(Path("run"))


def test_what_tensorboard_shows_is_in_order_however_soon_a_run_goes_on() -> None:
    # Its files are read by name, second before process: within one second the resumed process may come first.
    Path("tensorboard").mkdir()
    before = Path("tensorboard", f"events.out.tfevents.{time.time():010.0f}.zz.99999999.0")
    before.touch()
    resume.cut_event_files(Path(), resume.event_files(Path()))
    SummaryWriter("tensorboard").close()
    written = sorted(file.name for file in Path("tensorboard").iterdir())
    assert len(written) == 2
    assert written[0] == before.name


def test_a_clock_that_is_far_behind_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    resume.cut_event_files(Path(), {f"events.out.tfevents.{time.time() + 1000:010.0f}.host.1.0": 0})
    assert "clock is 100" in capsys.readouterr().err


def test_saving_changes_nothing() -> None:
    for interval in ("1e-6", "0"):
        arguments = [*SETTINGS[1:], *PPO, f"resume.interval={interval}", f"hydra.run.dir=r{interval}"]
        assert main(["train", *arguments]) == 0
    assert not Path("r0", "resume").exists()
    assert left_behind(Path("r1e-6")) == left_behind(Path("r0"))


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 4])
@pytest.mark.parametrize("rule", ["backprop", "kolen_pollack", "equilibrium_propagation", "node_perturbation", "gated"])
@pytest.mark.parametrize("agent", AGENTS)
def test_twenty_kills_at_random_moments(agent: str, rule: str, members: int) -> None:
    """They come while it starts, plays, learns, evaluates or saves, spread over the most of it.

    On a machine that is busy elsewhere a run may end before its next kill: it has to be right as well, and a new one
    takes the kills that are left.
    """
    own = ("rule=", "env.timesteps=", "evaluation.interval=")
    settings = [each for each in SETTINGS if not each.startswith(own)]
    settings += [f"rule={rule}", f"members={members}", "evaluation.interval=512"]
    arguments = ["train", *settings, *AGENTS[agent], "env.timesteps=8192"]
    assert main([*arguments[:-1], "env.timesteps=64", "hydra.run.dir=short"]) == 0  # imports, which a fork then has
    whole = begin([*arguments, "hydra.run.dir=whole"])
    to_begin = seconds_until(lambda: has_saved("whole") or not whole.is_alive())
    to_end = seconds_until(lambda: not whole.is_alive())
    folders = [f"seed={seed}" for seed in range(members)] if members > 1 else ["."]

    def assert_as_never_killed() -> None:
        for folder in folders:
            assert outcome(Path("cut", folder)) == outcome(Path("whole", folder))
            assert left_behind(Path("cut", folder)) == left_behind(Path("whole", folder))

    after_a_save = 0
    for share in np.random.default_rng(0).uniform(0, 1, 20):
        process = begin([*arguments, "hydra.run.dir=cut"])
        process.join(share * (1.2 * to_begin + 1.5 * to_end / 20))
        while process.exitcode is not None:
            assert process.exitcode == 0
            assert_as_never_killed()
            shutil.rmtree("cut")
            process = begin([*arguments, "hydra.run.dir=cut"])
            process.join(share * to_begin)
        process.kill()
        process.join()
        after_a_save += has_saved("cut")
    assert after_a_save > 0
    assert main([*arguments, "hydra.run.dir=cut"]) == 0
    assert_as_never_killed()
