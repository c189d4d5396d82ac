"""A run writes in a folder of its own: nobody else's files are touched, and no two processes write there."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from bio_rl.cli import main
from bio_rl.experiment.folder import FolderError, RunFolder

Train = Callable[..., int]
OURS = json.dumps({"status": "done", "versions": {"bio-rl": "0.1.0"}})


def put(path: str, content: str | bytes = "x") -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def contents() -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


FOREIGN: dict[str, Callable[[], object]] = {
    "files that have our names": lambda: [put(f"run/{name}") for name in ("model/policy.yaml", "progress.csv")],
    "a model of theirs beside our result": lambda: (put("run/result.json", OURS), put("run/model/agent.zip")),
    "notes beside our result": lambda: (put("run/result.json", OURS), put("run/notes.txt")),
    "our model is a link": lambda: (put("run/result.json", OURS), put("a/b"), os.symlink("../a", "run/model")),
    "our table is a link": lambda: (put("run/result.json", OURS), put("a"), os.symlink("../a", "run/progress.csv")),
    "a checkpoint of theirs": lambda: (put("run/result.json", OURS), put("run/checkpoints/best/agent.zip")),
    "another run inside": lambda: (put("run/result.json", OURS), put("run/seed=1/result.json", OURS)),
    "a list": lambda: put("run/result.json", "[1]"),
    "a text": lambda: put("run/result.json", '"x"'),
    "nothing": lambda: put("run/result.json", "{}"),
    "an empty file": lambda: put("run/result.json", ""),
    "a status of theirs": lambda: put("run/result.json", '{"status": "done"}'),
    "a status that is a list": lambda: put("run/result.json", '{"status": [], "versions": {"bio-rl": 1}}'),
    "no UTF-8": lambda: put("run/result.json", b"\xff\xfe"),
    "too deep": lambda: put("run/result.json", "[" * 100_000),
    "too many digits": lambda: put("run/result.json", "1" * 5000),
    "a folder": lambda: Path("run/result.json").mkdir(parents=True),
    "a link to a result": lambda: (put("a", OURS), Path("run").mkdir(), os.symlink("../a", "run/result.json")),
    "a pipe": lambda: (Path("run").mkdir(), os.mkfifo("run/result.json")),
    "another Hydra app's": lambda: put("run/.hydra/config.yaml", "a: 1"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_that_is_not_a_runs_is_left_as_it_is(kind: str) -> None:
    FOREIGN[kind]()
    before = contents()
    with pytest.raises(FolderError, match="holds what no run of bio-rl wrote"):
        RunFolder(Path("run")).__enter__()
    with pytest.raises(FolderError, match="holds what no run of bio-rl wrote"):
        RunFolder(Path("run")).refuse_foreign()
    assert contents() == before


@pytest.mark.parametrize(("names", "said"), [("a", "(a)"), ("cab", "(a, b, c)"), ("dbac", "(a, b, c, ...)")])
def test_the_first_three_of_what_is_not_ours_are_named(names: str, said: str) -> None:
    for name in names:
        put(f"run/{name}")
    with pytest.raises(FolderError) as raised:
        RunFolder(Path("run")).refuse_foreign()
    assert f"wrote there {said};" in str(raised.value)


def test_the_command_refuses_such_folders_before_it_writes(train: Train, capsys: pytest.CaptureFixture) -> None:
    for file in ("model/agent.zip", "tensorboard/mine", "progress.csv"):
        put(file)
    put("sweep/multirun.yaml", "hydra: {help: {app_name: another}}")
    os.symlink("nowhere", "link")
    before = contents()
    for arguments, expected in (
        (["hydra.run.dir=.", "overwrite=true"], "wrote there (link, model, progress.csv, ...)"),
        (["hydra.run.dir=model"], "wrote there (agent.zip)"),
        (["hydra.run.dir=link"], "link cannot be written"),
        (["-m", "hydra.sweep.dir=sweep", "seed=0,1"], "multirun.yaml is no sweep's of bio-rl"),
        (["-m", "hydra.sweep.dir=new", "hydra.sweep.subdir='${study}'", "study=a,a/b"], "lie in another's"),
    ):
        assert train(*arguments) == 2
        err = capsys.readouterr().err
        assert expected in err
        assert err.count("\n") == 1
    assert {name: content for name, content in contents().items() if name in before} == before
    assert len(contents()) == len(before)


def test_a_new_run_removes_all_that_an_earlier_one_wrote(train: Train) -> None:
    assert train("logging=tensorboard", "env.normalize_observation=true") == 0
    assert {".progress.csv", "traceback.txt"}.isdisjoint(os.listdir("run"))
    for left in (".progress.csv", "traceback.txt", ".result.json.1", "checkpoints/.a1/new/policy.yaml"):
        put(f"run/{left}")
    assert train("overwrite=true", "evaluation.interval=0", "evaluation.checkpoints=none") == 0
    assert sorted(str(file.relative_to("run")) for file in Path("run").rglob("*") if file.is_file()) == [
        ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", ".lock",
        "evaluations.csv", "model/policy.safetensors", "model/policy.yaml", "result.json",
        "resume/final.safetensors",
    ]  # fmt: skip
    assert not Path("run/tensorboard").exists()
    assert not Path("run/checkpoints").exists()


def test_a_folder_has_one_process_and_a_dead_one_holds_none(train: Train, capsys: pytest.CaptureFixture) -> None:
    code = (
        "import sys, time; from pathlib import Path; from bio_rl.experiment.folder import RunFolder, this_process\n"
        "with RunFolder(Path('s/not')) as folder:\n"
        "    folder.write_result({'status': 'running', 'versions': {'bio-rl': '0'}, 'process': this_process('noon')})\n"
        "    print('claimed', flush=True); time.sleep(100)"
    )
    rule = ("rule=misbehaving", "evaluation.interval=0")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        before = contents()
        assert train(*rule, "hydra.run.dir=s/not") == 2
        err = capsys.readouterr().err
        assert f"s/not is in use by process {other.pid} on " in err
        assert err.endswith(", since noon\n")
        assert err.count("\n") == 1
        # In a sweep it is reported, and the others go on.
        sweep = ("-m", "rule.how=not,noisily", "hydra.sweep.dir=s", "hydra.sweep.subdir='${rule.how}'")
        assert train(*rule, *sweep) == 1
        assert "1 of 2 runs are not done:\n  in use by process" in capsys.readouterr().err
        assert json.loads(Path("s/noisily/result.json").read_text())["status"] == "done"
        assert {name: content for name, content in contents().items() if name in before} == before
        other.send_signal(signal.SIGKILL)
    assert json.loads(Path("s/not/result.json").read_text())["status"] == "running"
    assert train(*rule, "hydra.run.dir=s/not") == 0


def test_a_process_may_have_many_folders(tmp_path: Path) -> None:
    with ExitStack() as stack:
        folders = [stack.enter_context(RunFolder(tmp_path / f"seed={n}")) for n in range(3)]
        for folder in folders:
            with pytest.raises(FolderError, match="in use by another process"):
                RunFolder(folder.path).__enter__()
    assert [RunFolder(folder.path).owner() for folder in folders] == [None] * 3


def test_the_same_sweep_goes_on_with_what_is_not_finished(train: Train, capsys: pytest.CaptureFixture) -> None:
    sweep = ("-m", "seed=0,1,2", "hydra.sweep.dir=s", "hydra.sweep.subdir='${seed}'", "evaluation.interval=0")
    assert train(*sweep) == 0
    returns = capsys.readouterr().out.splitlines()[-3:]
    files = [Path("s", str(seed), "result.json") for seed in range(3)]
    for file, status in zip(files[1:], ("interrupted", "running"), strict=True):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"status": status}))
    before = [file.stat().st_mtime_ns for file in files]
    assert train(*sweep) == 0
    after = [file.stat().st_mtime_ns for file in files]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, False]
    out, err = capsys.readouterr()
    assert "1 of 3 runs are finished already and stay" in err
    assert out.splitlines()[-3:] == returns
    assert train(*sweep, "agent.gamma=0.5") == 2
    assert "holds a run of other settings that is finished; overwrite=true" in capsys.readouterr().err


def test_what_started_a_run_is_kept_with_it(train: Train) -> None:
    assert train("evaluation.interval=0", "seed=3") == 0
    assert "seed: 3" in Path("run/.hydra/config.yaml").read_text()
    assert "- seed=3" in Path("run/.hydra/overrides.yaml").read_text()
    assert "app_name: bio-rl train" in Path("run/.hydra/hydra.yaml").read_text()
    assert "${" not in Path("run/.hydra/config.yaml").read_text(), "what is recorded is what ran"
    assert main(["play", "run", "--video", "it.mp4"]) == 0
