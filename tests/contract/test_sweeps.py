"""Sweeps that are cut off, whoever makes their runs."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hydra.core.singleton import Singleton

from bio_rl.cli import main
from bio_rl.cli.configs import compose_jobs
from bio_rl.cli.train import parse

SWEEP = (
    "train",
    "-m",
    "rule=backprop,readout,kolen_pollack,gated",
    "env=cartpole,pendulum",
    "seed=0,1,2",
    "env.timesteps=512",
    "agent.n_steps=64",
    "agent.batch_size=64",
    "env.n_envs=2",
    "evaluation.interval=256",
    "evaluation.episodes=2",
    "logging=csv",
    "resume.interval=1e-6",
)
SMALL = ("env.timesteps=64", "agent.n_steps=16", "agent.batch_size=16", "env.n_envs=2", "evaluation.episodes=2")
COMPARED = ("model/policy.safetensors", "evaluations.csv")


def results(study: str) -> dict[str, dict[str, Any]]:
    root = Path("runs", study)
    return {str(file.parent.relative_to(root)): json.loads(file.read_text()) for file in root.rglob("result.json")}


def bytes_of(study: str) -> dict[str, bytes]:
    root = Path("runs", study)
    return {str(file.relative_to(root)): file.read_bytes() for name in COMPARED for file in root.rglob(name)}


@pytest.mark.slow
def test_a_finished_run_of_other_code_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["train", "-m", "seed=0,1", "evaluation.interval=0", *SMALL]
    assert main(sweep) == 0
    (first, *_) = sorted(Path("runs").rglob("result.json"))
    result = json.loads(first.read_text())
    for change, said in (
        ({"versions": {**result["versions"], "bio-rl": "0.0.9"}}, "of bio-rl 0.0.9, not"),
        ({"source_sha256": {"bio_rl.rules.backprop": "0"}}, "of another bio_rl.rules.backprop than today's"),
    ):
        first.write_text(json.dumps(result | change))
        capsys.readouterr()
        assert main(sweep) == 2
        assert said in (err := capsys.readouterr().err)
        assert "overwrite=true replaces it" in err
    assert main([*sweep, "overwrite=true"]) == 0
    assert main(sweep) == 0


def test_what_failed_is_repeated_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["train", "-m", "seed=0,1", "evaluation.interval=0", *SMALL]
    assert main(sweep) == 0
    (first, *_) = sorted(Path("runs").rglob("result.json"))
    first.write_text(json.dumps(json.loads(first.read_text()) | {"status": "failed"}))
    capsys.readouterr()
    assert main(sweep) == 1
    err = capsys.readouterr().err
    assert "2 of 2 runs are finished already and stay" in err
    assert f"failed: {first.parent}" in err
    assert main([*sweep, "retry=true"]) == 0
    assert json.loads(first.read_text())["status"] == "done"


def test_what_a_launcher_hands_to_its_workers_can_be_pickled() -> None:
    assert compose_jobs(parse(["seed=1"]))
    state = cloudpickle.loads(cloudpickle.dumps(Singleton.get_state()))
    assert {"folder_suffix", "choices"} <= set(state["omegaconf_resolvers"])


@pytest.mark.slow
def test_a_sweep_killed_three_times_ends_as_one_that_never_was() -> None:
    assert main([*SWEEP, "study=whole"]) == 0
    whole = results("whole")
    assert len(whole) == 24
    ended: dict[str, Any] = {}
    for moment in np.random.default_rng(0).uniform(15, 30, 3):
        process = subprocess.Popen([sys.executable, "-m", "bio_rl", *SWEEP, "study=cut"], start_new_session=True)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for folder, result in results("cut").items():
            if result["status"] == "done":
                assert ended.setdefault(folder, result["process"]) == result["process"], "no run is made twice"
    assert main([*SWEEP, "study=cut"]) == 0
    assert all(results("cut")[folder]["process"] == process for folder, process in ended.items())
    assert {folder: each["return_mean"] for folder, each in results("cut").items()} == {
        folder: each["return_mean"] for folder, each in whole.items()
    }
    assert bytes_of("cut") == bytes_of("whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "package", "settings"),
    [
        ("joblib", "hydra_plugins.hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
        ("ray", "hydra_plugins.hydra_ray_launcher", ["+hydra.launcher.ray.init.num_cpus=2"]),
        ("submitit_local", "hydra_plugins.hydra_submitit_launcher", []),
    ],
)
def test_every_launcher_gives_the_same_numbers(launcher: str, package: str, settings: Sequence[str]) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    sweep = ["train", "-m", "rule=readout,kolen_pollack", "members=2", "logging=none", *SMALL]
    assert main([*sweep, "study=basic"]) == 0
    launched = [sys.executable, "-m", "bio_rl", *sweep, "study=other", f"hydra/launcher={launcher}", *settings]
    subprocess.run(launched, check=True)
    assert len(bytes_of("other")) == 8
    assert bytes_of("other") == bytes_of("basic")
