"""Code of one's own that was edited since: nothing goes on with, or stands for, a run of what it was before."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from test_resume import killed

from bio_rl.cli import main

FILES = {
    "own_parent.py": "from bio_rl.rules import FeedbackAlignment\n\n\nclass Parent(FeedbackAlignment):\n    pass\n",
    "own_rule.py": "from own_parent import Parent\n\n\nclass Own(Parent):\n    pass\n",
    "own_physics.py": (
        "from gymnasium.envs.classic_control import CartPoleEnv\n\n\nclass Physics(CartPoleEnv):\n    pass\n"
    ),
    "own_task.py": "from own_physics import Physics\n\n\nclass Task(Physics):\n    pass\n",
    "own_tasks.py": "from gymnasium import register\n\nregister('Own-v0', 'own_task:Task', max_episode_steps=20)\n",
    "own_wrapper.py": "from gymnasium import Wrapper\n\n\nclass Same(Wrapper):\n    pass\n",
    "own_callback.py": (
        "from stable_baselines3.common.callbacks import BaseCallback\n\n\n"
        "class Looks(BaseCallback):\n    def _on_step(self):\n        return True\n"
    ),
    "mine/rule/own.yaml": "_target_: own_rule.Own\n",
}
RUN = (
    "--config-dir=mine",
    "rule=own",
    "env=gymnasium",
    "env.id=own_tasks:Own-v0",
    "env.wrapper=own_wrapper.Same",
    "+callbacks.own._target_=own_callback.Looks",
)
EDITED = [each for each in FILES if each.endswith(".py")]


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    yield
    for name in EDITED:
        sys.modules.pop(Path(name).stem, None)


def edit(name: str) -> None:
    with Path(name).open("a") as file:
        file.write("# changed\n")


def result(folder: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(folder, "result.json").read_text())
    return read


def test_a_sweep_does_not_take_a_run_of_other_code_for_its_own(capsys: pytest.CaptureFixture) -> None:
    sweep = ["train", "-m", "seed=0", *RUN, *TINY]
    assert main(sweep) == 0
    for name in EDITED:
        edit(name)
        capsys.readouterr()
        assert main(sweep) == 2
        assert f"of another {Path(name).stem} than today's; overwrite=true replaces it" in capsys.readouterr().err
        Path(name).write_text(FILES[name])
    assert main(sweep) == 0
    assert "1 of 1 runs are finished already and stay" in capsys.readouterr().err


def test_a_run_that_was_cut_off_begins_anew_on_other_code(capsys: pytest.CaptureFixture) -> None:
    arguments = [*RUN, *TINY, "resume.interval=1e-6", "hydra.run.dir=run"]
    killed(arguments, after=1)
    edit("own_rule.py")
    capsys.readouterr()
    assert main(["train", *arguments]) == 0
    assert "run begins anew: its unfinished run was of another own_rule than today's" in capsys.readouterr().err
    assert "resumed_at" not in result("run")


def test_a_finished_run_is_not_made_longer_on_other_code(capsys: pytest.CaptureFixture) -> None:
    shorter = ["train", *RUN, *TINY, "resume.interval=1e-6", "hydra.run.dir=run"]
    assert main(shorter) == 0
    edit("own_task.py")
    capsys.readouterr()
    assert main([each.replace("timesteps=64", "timesteps=128") for each in shorter]) == 2
    assert (
        "holds a finished run of another own_task than today's, which cannot go on; overwrite=true"
        in capsys.readouterr().err
    )
    assert result("run")["timesteps"] == 64


def test_a_study_of_other_code_is_not_gone_on_with(capsys: pytest.CaptureFixture) -> None:
    Path("mine/env").mkdir()
    Path("mine/env/own.yaml").write_text("defaults: [gymnasium, _self_]\nname: own\nid: own_tasks:Own-v0\n")
    tune = ["tune", "--config-dir=mine", "--trials=1", "members=2", "rule=own", "env=own", *TINY]
    assert main(tune) == 0
    assert main(tune) == 0
    edit("own_parent.py")
    capsys.readouterr()
    assert main(tune) == 1
    assert "holds a study with another source_sha256.own_parent" in capsys.readouterr().err
