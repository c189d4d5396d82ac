"""Somebody else's run folder: whatever it says, looking at it executes nothing and ends in one line."""

import builtins
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file

from bio_rl.cli import main

TRAIN = ["train", "env.timesteps=64", "env.n_envs=2", "agent.n_steps=32", "evaluation.interval=0", "network.hidden=[8]"]
CANARY = "canary"
EVIL = f"open({CANARY!r}, 'w').close()\n"
"""What writes the canary as soon as anybody imports it."""
Play = Callable[..., str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    os.chdir(folder)
    assert main([*TRAIN, "hydra.run.dir=run", "env.normalize_observation=true"]) == 0
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, in the current folder; evil.py lies beside it and in it, where Python finds it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    shutil.copytree(trained, "run")
    for place in (Path("evil.py"), Path("run", "evil.py")):
        place.write_text(EVIL)
    return Path("run")


@pytest.fixture
def look(run: Path, capsys: pytest.CaptureFixture[str]) -> Play:
    """Play the folder, which must fail in one line, and execute nothing; the line."""

    def play(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["play", str(run), "--video", "it.mp4", *arguments]) == 2
        out, err = capsys.readouterr()
        assert not Path(CANARY).exists()
        assert out == ""
        assert err.count("\n") == 1
        assert len(err) < 1000
        return err

    yield play
    for name in ("evil", "run.evil", "run"):
        sys.modules.pop(name, None)


def change(file: Path, *keys: Any, to: Any) -> None:
    """Set what lies under the keys in a YAML or JSON file."""
    load, dump = (json.loads, json.dumps) if file.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
    whole = inner = load(file.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    file.write_text(dump(whole))


def test_the_folder_as_it_was_plays(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "run", "--video", "it.mp4"]) == 0
    assert "return" in capsys.readouterr().out


CALLS: list[Any] = [
    {"_target_": "subprocess.check_call", "args": ["touch", CANARY]},
    {"_target_": "os.system", "command": f"touch {CANARY}"},
    {"_target_": "moviepy.tools.subprocess_call", "cmd": ["touch", CANARY]},
    {"_target_": "builtins.open", "file": CANARY, "mode": "w"},
    {"_target_": "builtins.exec", "_args_": [EVIL]},
    {"_target_": "pathlib.Path.write_text", "_args_": [{"_target_": "pathlib.Path", "_args_": [CANARY]}, "x"]},
    {"_target_": "torch.load", "f": "pickled", "weights_only": False},
    {"_target_": "numpy.load", "file": "pickled", "allow_pickle": True},
    {"_target_": "hydra.utils.call", "config": {"_target_": "os.mkdir", "path": CANARY}},
    {"_target_": "functools.partial", "_args_": [{"_target_": "os.mkdir", "path": CANARY}]},
    {"_target_": "gymnasium.wrappers.RecordVideo", "video_folder": CANARY},
    {"_target_": "gymnasium.wrappers.ClipReward", "min_reward": {"_target_": "os.mkdir", "path": CANARY}},
    {"_target_": "gymnasium.wrappers.TimeLimit", "max_episode_steps": [{"_target_": "os.mkdir", "path": CANARY}]},
    {"_target_": "gymnasium.wrappers.common.os.system", "command": f"touch {CANARY}"},
    {"_target_": "gymnasium.make", "id": "evil:CartPole-v1"},
    {"_target_": ["os.system"], "command": f"touch {CANARY}"},
    {"_target_": "evil.Wrapper"},
    "evil.Wrapper",
    ["gymnasium.wrappers.ClipReward", {"_target_": "os.mkdir", "path": CANARY}],
    "gymnasium.wrappers",
    "os.system",
    "${oc.env:HOME}",
]


class Pickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.exec, (EVIL,)


@pytest.mark.parametrize("wrapper", CALLS, ids=str)
def test_a_wrapper_calls_nothing_but_a_known_wrapper(wrapper: Any, run: Path, look: Play) -> None:
    torch.save(Pickled(), "pickled")
    change(run / ".hydra/config.yaml", "env", "wrapper", to=wrapper)
    # Refused for what it names, before anything is made of it.
    assert re.search(r"env names code of|env\.wrapper names|a text of env would be looked up", look())


def test_a_known_wrapper_is_put_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrapper = {"_target_": "gymnasium.wrappers.TimeLimit", "max_episode_steps": 3}
    change(run / ".hydra/config.yaml", "env", "wrapper", to=[wrapper, "gymnasium.wrappers.RecordEpisodeStatistics"])
    assert main(["play", "run", "--video", "it.mp4"]) == 0
    assert "return 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("id",), "evil:CartPole-v1"),
        (("id",), "run.evil:CartPole-v1"),
        (("kwargs",), {"env_id": "evil:CartPole-v1"}),
        (("evaluation_kwargs",), {"inner": [{"env_id": "evil:CartPole-v1"}]}),
        (("id",), "${oc.env:HOME}"),
    ],
)
def test_an_environment_imports_nothing(keys: tuple[str, ...], value: Any, run: Path, look: Play) -> None:
    change(run / ".hydra/config.yaml", "env", *keys, to=value)
    assert re.search(r"names code of '(run\.)?evil'|a text of env would be looked up", look())


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("policy", "rule", "name"), "evil:Rule"),
        (("policy", "rule"), {"name": "gated", "settings": {"rule": "evil:Rule"}}),
        (("policy", "critic_rule"), {"name": "evil:Rule", "settings": {}}),
        (("agent",), "evil:Agent"),
        (("policy_class",), "evil:Policy"),
        (("agent",), "os:system"),
        (("policy_class",), "subprocess:Popen"),
    ],
)
def test_a_model_imports_nothing(keys: tuple[str, ...], value: Any, run: Path, look: Play) -> None:
    change(run / "model/policy.yaml", *keys, to=value)
    assert "cannot be loaded" in look()


def test_in_the_folder_itself_nothing_is_imported(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(run / "model/policy.yaml", "policy", "rule", "name", to="evil:Rule")
    change(run / ".hydra/config.yaml", "env", "id", to="evil:CartPole-v1")
    (run / "hydra_plugins").mkdir()
    (run / "hydra_plugins" / "evil_plugin.py").write_text(EVIL)
    commands = "play .", "inspect .", "compare . --html page.html", "play --help", "train --help", "rules"
    code = (
        "import contextlib\nfrom bio_rl.cli import main\n"
        f"for command in {commands}:\n with contextlib.suppress(SystemExit): main(command.split())"
    )
    # Without the folder in the path, as the installed command is.
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path.cwd().rglob(CANARY))


def test_what_the_user_trusts_is_imported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("owns_a_wrapper.py").write_text(
        "from gymnasium.wrappers import ClipReward\n\n\nclass Mine(ClipReward):\n    pass\n"
    )
    change(run / ".hydra/config.yaml", "env", "wrapper", to={"_target_": "owns_a_wrapper.Mine", "max_reward": 0.5})
    assert main(["play", "run", "--video", "it.mp4"]) == 2
    assert "--trust owns_a_wrapper" in capsys.readouterr().err
    assert main(["play", "run", "--video", "it.mp4", "--trust", "owns_a_wrapper"]) == 0
    assert main([*TRAIN, "hydra.run.dir=another", "env.wrapper={_target_: owns_a_wrapper.Mine, max_reward: 0.5}"]) == 0
    assert "| bio-rl play another --trust owns_a_wrapper |" in capsys.readouterr().out
    assert main(["play", "run", "--video", "it.mp4", "--trust", "no_such_module"]) == 2
    assert "no_such_module" in capsys.readouterr().err
    del sys.modules["owns_a_wrapper"]


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize("file", [".hydra/config.yaml", "model/policy.yaml", "model/vec_normalize.yaml"])
@pytest.mark.parametrize(
    "content",
    [
        BOMB,
        "a: &a [*a]",
        "[" * 5000,
        "x: " + "y" * 2**20,
        "!!python/object/apply:os.system [touch canary]",
        "a: ${b}",
        "\0",
    ],
    ids=["aliases", "itself", "nested", "long", "python", "cut", "zero"],
)
def test_yaml_is_data_of_sane_size(file: str, content: str, run: Path, look: Play) -> None:
    (run / file).write_text(content)
    assert Path(file).stem in look()


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("policy", "hidden"), [30_000, 30_000]),
        (("policy", "hidden"), {"actor": [8], "critic": [10**9]}),
        (("policy", "hidden"), [1] * 100_000),
        (("policy", "hidden"), [-1]),
        (("observation_space", "shape"), [10**12]),
        (("observation_space", "shape"), [10**200, 10**200]),
        (("observation_space", "shape"), ["x"]),
        (("action_space",), {"type": "Discrete", "n": 10**12, "start": 0}),
        (("action_space",), {"type": "MultiDiscrete", "nvec": [10**12], "start": [0], "dtype": "int64"}),
        (("action_space",), {"type": "MultiBinary", "n": [10**6, 10**6]}),
        (("action_space",), {"type": "Tuple", "spaces": [{"type": "Discrete", "n": 10**12, "start": 0}]}),
        (("action_space",), 3),
        (("observation_space", "dtype"), "O"),
        (("observation_space", "dtype"), "no such"),
        (("policy", "rule", "settings"), 3),
        (("policy",), []),
        (("use_sde",), [1]),
    ],
    ids=lambda each: str(each)[:60],
)
def test_a_description_cannot_ask_for_more_than_the_weights_fill(
    keys: tuple[str, ...], value: Any, run: Path, look: Play
) -> None:
    change(run / "model/policy.yaml", *keys, to=value)
    assert str(run) in look()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_do_not_act(value: float, run: Path, look: Play) -> None:
    weights = load_file(run / "model/policy.safetensors")
    for tensor in weights.values():
        tensor[...] = value
    save_file(weights, run / "model/policy.safetensors")
    assert "not finite" in look()


@pytest.mark.parametrize(
    "broken",
    [
        lambda arrays: {**arrays, "observations.mean": np.zeros(3)},
        lambda arrays: {**arrays, "observations.var": np.zeros((4, 4))},
        lambda arrays: {**arrays, "observations.mean": np.full(4, np.nan)},
        lambda arrays: {**arrays, "observations.mean": np.array([b"x"] * 4).view(np.uint8)},
        lambda arrays: {**arrays, "returns.var": np.array(np.inf)},
        lambda arrays: {},
    ],
)
def test_statistics_are_as_they_were_written(
    broken: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], run: Path, look: Play
) -> None:
    file = run / "model/vec_normalize.safetensors"
    save_file(broken(load_file(file)), file)
    assert "vec_normalize" in look()


@pytest.mark.parametrize(
    ("name", "value"),
    [("epsilon", "x"), ("clip_obs", [1, 2, 3]), ("norm_obs_keys", ["x"]), ("nothing", 1)],
)
def test_settings_of_normalisation_are_as_they_were_written(name: str, value: Any, run: Path, look: Play) -> None:
    change(run / "model/vec_normalize.yaml", name, to=value)
    look()


@pytest.mark.parametrize("content", ["[1]", '"x"', "{}", "null", "[" * 100_000, b"\xff\xfe", '{"status": "done"}'])
def test_a_result_that_is_none(content: str | bytes, run: Path, look: Play) -> None:
    (run / "result.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert "is not the folder of a run" in look()


@pytest.mark.parametrize("what", ["device", "pipe", "folder", "link out", "dangling"])
@pytest.mark.parametrize(
    "name", ["result.json", ".hydra/config.yaml", "model", "model/policy.yaml", "model/policy.safetensors"]
)
def test_what_is_no_file_of_the_run_is_not_read(name: str, what: str, run: Path, look: Play) -> None:
    place = run / name
    shutil.move(place, "outside")
    match what:
        case "device":
            place.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case "link out":
            place.symlink_to(Path("outside").absolute())
        case "dangling":
            place.symlink_to("nowhere")
    look()


@pytest.mark.parametrize(
    "content", [{}, {"env": 3}, {"env": {}}, {"env": {"id": 3}}, {"env": {"id": "CartPole-v1"}}, [1], 3, None]
)
def test_a_config_that_is_none(content: Any, run: Path, look: Play) -> None:
    (run / ".hydra/config.yaml").write_text(yaml.safe_dump(content))
    look()
