"""bio-rl train members=N: every member has a run folder of its own, as if it had run alone."""

import csv
import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from bio_rl.cli import main

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _own_rules(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def result(folder):
    return json.loads((Path(folder) / "result.json").read_text())


def files(folder):
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def test_a_members_folder_is_that_of_a_run_alone(train):
    settings = ("rule=kolen_pollack", "logging=tensorboard", "diagnostics=light")
    assert train(*settings, "seed=5", "members=3", "hydra.run.dir='together/seed=5'") == 0
    assert sorted(path.name for path in Path("together").iterdir()) == ["seed=5", "seed=6", "seed=7"]
    for seed in (5, 7):
        alone, member = Path(f"alone/seed={seed}"), Path(f"together/seed={seed}")
        assert train(*settings, f"seed={seed}", f"hydra.run.dir='{alone}'") == 0
        strip = {name.split("tfevents")[0] for name in files(member)}
        assert strip == {name.split("tfevents")[0] for name in files(alone)}
        ours, theirs = result(member), result(alone)
        assert ours.keys() == theirs.keys()
        assert (ours["members"], theirs["members"]) == (3, 1)
        for key in ("status", "seed", "rule", "timesteps", "env_id", "return_episodes"):
            assert ours[key] == theirs[key]
        config = [(folder / ".hydra/config.yaml").read_text() for folder in (member, alone)]
        assert config[0] == config[1]
        rows = [list(csv.reader((folder / "progress.csv").open())) for folder in (member, alone)]
        assert rows[0][0] == rows[1][0]
        assert len(rows[0]) == len(rows[1])
        for name, tensor in load_file(member / "model/policy.safetensors").items():
            expected = load_file(alone / "model/policy.safetensors")[name]
            assert abs(tensor.astype(float) - expected.astype(float)).max() < 1e-4, name


def test_members_are_swept_like_any_other_setting(train):
    assert train("-m", "rule=backprop,readout", "members=2", "hydra.sweep.dir=swept") == 0
    assert len(list(Path("swept").rglob("result.json"))) == 4


def test_finished_members_stay_and_the_others_are_trained(train, capsys):
    assert train("seed=1", "members=2", "hydra.run.dir='runs/seed=1'") == 0
    before = result("runs/seed=2")
    assert train("seed=1", "members=4", "hydra.run.dir='runs/seed=1'") == 0
    assert "2 of 4 runs are finished already" in capsys.readouterr().err
    assert result("runs/seed=2") == before
    assert [result(f"runs/seed={seed}")["members"] for seed in (1, 2, 3, 4)] == [2, 2, 2, 2]


def test_a_member_that_goes_astray_ends_alone(train, capsys):
    assert train("rule=backprop", "rule._target_=members_rules.OneGoesAstray", "members=3") == 1
    statuses = [result(f"run/seed={seed}")["status"] for seed in range(3)]
    assert statuses == ["done", "diverged", "done"]
    assert "1 of 3 runs are not done" in capsys.readouterr().err
    assert (Path("run/seed=1") / "traceback.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["members=0"], "members must be a whole number of at least 1"),
        (["members=1.5"], "members"),
        (["members=2", "seed=2147483647"], "seed"),
        (
            ["members=2", "rule._target_=members_rules.CountsForAll"],
            "members=2: CountsForAll cannot be stacked: rule.count",
        ),
    ],
)
def test_members_that_cannot_be_are_one_line(train, capsys, arguments, line):
    assert train(*arguments) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not Path("run").exists()


def test_the_help_names_them(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "members: 1" in capsys.readouterr().out
