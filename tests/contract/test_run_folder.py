"""What a run leaves behind, and that leaving it changes nothing."""

import csv
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from shlex import quote

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bio_rl.cli import main
from bio_rl.experiment.evaluation import FINAL
from bio_rl.experiment.output import as_return
from bio_rl.seeding import Stream, derive_seeds

Train = Callable[..., int]


def result(folder: str | Path = "run") -> dict:
    return json.loads(Path(folder, "result.json").read_text())


def test_a_finished_run_has_every_file_and_every_key(train: Train, capfd: pytest.CaptureFixture) -> None:
    assert train("rule=kolen_pollack", "logging=tensorboard") == 0
    out, err = capfd.readouterr()
    assert out.count("\n") == 1
    assert "bio-rl play run" in out
    assert err == "", "no progress bar where stderr is not a terminal"
    assert {path.name for path in Path("run").iterdir()} == {
        ".hydra", ".lock", "tensorboard", "progress.csv", "evaluations.csv", "checkpoints", "model", "resume",
        "result.json",
    }  # fmt: skip
    found = result()
    assert (found["status"], found["agent"], found["rule"], found["env"]) == (
        "done",
        "ppo",
        "kolen_pollack",
        "cartpole",
    )
    assert (found["critic_rule"], found["seed"], found["timesteps"]) == ("kolen_pollack", 0, 64)
    assert found["return_episodes"] == 2
    assert found["best_return_mean"] >= found["return_mean"] > 0
    assert min(found["wall_seconds"], found["steps_per_second"], found["peak_memory_mb"]) > 0
    assert {"python", "torch", "bio-rl"} <= found["versions"].keys()
    assert "git_revision" in found
    assert [len(found["feedback_angle"][name]) for name in ("actor", "critic")] == [2, 2]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("where", "logdir"),
    [
        ("here/run", "here"),
        (".", "."),
        ("{absolute}/run", "{absolute}/run"),
        ("runs/ppo/readout/seed=0", "runs/ppo"),
        ("seed=0", "seed=0"),
    ],
)
def test_the_last_line_says_where_the_curves_are(
    train: Train, capsys: pytest.CaptureFixture, tmp_path_factory: pytest.TempPathFactory, where: str, logdir: str
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    where, logdir = (each.format(absolute=elsewhere) for each in (where, logdir))
    assert train(f"hydra.run.dir='{where}'", "logging=tensorboard", "evaluation.interval=0") == 0
    assert capsys.readouterr().out.endswith(f"| tensorboard --logdir {quote(logdir)}\n")
    assert train(f"hydra.run.dir='{where}'", "evaluation.interval=0", "overwrite=true") == 0
    assert "tensorboard" not in capsys.readouterr().out


def test_evaluations_are_one_row_an_episode(train: Train) -> None:
    assert train("seed=3") == 0
    with Path("run/evaluations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["timesteps", "seed", "episode", "return", "length"]
    assert [(row["timesteps"], row["episode"]) for row in rows] == [
        (step, episode) for step in ("0", "32", "64") for episode in ("0", "1")
    ]
    assert {row["seed"] for row in rows} == {"3"}
    assert all(float(row["return"]) == float(row["length"]) for row in rows), "CartPole rewards each step with 1"
    final = [float(row["return"]) for row in rows if row["timesteps"] == "64"]
    assert result()["return_mean"] == sum(final) / 2


def test_tensorboard_has_sb3s_scalars_evaluations_angles_config_and_hyperparameters(train: Train) -> None:
    assert train("rule=feedback_alignment", "logging=tensorboard", "env.timesteps=96") == 0
    events = EventAccumulator("run/tensorboard")
    events.Reload()
    assert {
        "rollout/ep_rew_mean", "train/loss", "train/value_loss", "time/fps", "eval/mean_reward", "eval/mean_ep_length",
        "feedback_angle/actor/layer_2", "feedback_angle/critic/layer_3",
    } <= set(events.Tags()["scalars"])  # fmt: skip
    assert [event.step for event in events.Scalars("eval/mean_reward")] == [0, 32, 64, 96]
    assert not [tag for tag in events.Tags()["scalars"] if len(events.Scalars(tag)) == 1], "a card with a single dot"
    assert "FeedbackAlignment" in str(events.Tensors("config/text_summary")[0].tensor_proto.string_val[0])
    assert {"_hparams_/session_start_info", "_hparams_/session_end_info"} <= events.summary_metadata.keys()
    assert "_hparams_/experiment" not in events.summary_metadata, "one run's columns would stand for those of all"


@pytest.mark.few(1)
@pytest.mark.parametrize(("rule", "setting"), [("node_perturbation", "draws=2"), ("kolen_pollack", "decay=0.1")])
def test_a_gate_of_one_is_the_bare_rule_from_the_command_line_too(train: Train, rule: str, setting: str) -> None:
    """With the inner rule's shipped settings, but for the one that is given; actor and critic."""
    assert train(f"rule={rule}", f"rule.{setting}", "hydra.run.dir=bare") == 0
    assert train("rule=gated", f"rule.rule={rule}", "rule.gate=one", f"+rule.settings.{setting}") == 0
    bare, gated = (load_file(f"{folder}/model/policy.safetensors") for folder in ("bare", "run"))
    weights = [name for name in bare if ".layers." in name]
    assert len(weights) == 12
    assert all(bare[name].equal(gated[name]) for name in weights)


def test_same_seed_same_evaluations_and_another_seed_others(train: Train) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert train(f"hydra.run.dir={folder}", f"seed={seed}") == 0
    a, b, c = (Path(folder, "evaluations.csv").read_bytes() for folder in "abc")
    assert a == b
    assert a.replace(b",0,", b",") != c.replace(b",1,", b",")


@pytest.mark.few(1)
@pytest.mark.parametrize("rule", [("rule=weight_mirror",), ("rule=misbehaving", "rule.how=noisily")])
def test_looking_changes_nothing_that_is_learnt(train: Train, rule: tuple[str, ...]) -> None:
    watching = ("logging=tensorboard", "evaluation.interval=1", "evaluation.checkpoints=all")
    assert train(*rule, "hydra.run.dir=watched", *watching) == 0
    alone = ("logging=none", "evaluation.interval=0", "evaluation.checkpoints=none")
    assert train(*rule, "hydra.run.dir=alone", *alone) == 0
    a, b = (load_file(f"{folder}/model/policy.safetensors") for folder in ("watched", "alone"))
    assert a.keys() == b.keys()
    assert all(a[key].equal(b[key]) for key in a)


def test_a_finished_run_is_replaced_only_when_asked(train: Train, capsys: pytest.CaptureFixture) -> None:
    assert train("logging=csv") == 0
    before = Path("run/result.json").read_bytes()
    assert train() == 2
    assert "overwrite=true" in capsys.readouterr().err
    assert Path("run/result.json").read_bytes() == before
    assert train("overwrite=true") == 0
    assert not Path("run/progress.csv").exists(), "nothing of the earlier run is left"


def test_default_folders_name_what_was_chosen_and_what_was_overridden(train: Train) -> None:
    arguments = ("rule=readout", "critic_rule=backprop", "rule.hidden_bias=0.5,0.25", "agent=a2c", "env=pendulum")
    tiny = (
        "env.timesteps=16",
        "env.n_envs=2",
        "evaluation.episodes=1",
        "evaluation.interval=0",
        "env.max_episode_steps=8",
    )
    assert main(["train", "-m", *arguments, *tiny, "hydra.sweep.dir=mine"]) == 0
    folders = sorted(path.parent for path in Path("mine").rglob("result.json"))
    assert len(folders) == 2
    assert all(folder.parts[1:3] == ("pendulum", "a2c") and folder.name == "seed=0" for folder in folders)
    assert "rule.hidden_bias=0.25" in folders[0].parts[3]
    assert folders[0].parts[3].endswith(",critic_rule=backprop")
    assert result(folders[0])["critic_rule"] == "backprop"


def test_play_shows_the_agent_that_was_evaluated(train: Train, capsys: pytest.CaptureFixture) -> None:
    # A batch of copies draws its starts by another generator than a copy alone.
    assert train("env.normalize_observation=true", "evaluation.interval=0", "env.vec=dummy") == 0
    with Path("run/evaluations.csv").open() as file:
        first = next(csv.DictReader(file))
    capsys.readouterr()
    episode = derive_seeds(0, Stream.EVALUATION, 1, FINAL)[0]
    assert main(["play", "run", "--video", "it.mp4", "--seed", str(episode)]) == 0
    assert f"episode 1: return {float(first['return']):.1f}" in capsys.readouterr().out
    assert Path("it.mp4").stat().st_size > 0


def test_play_says_what_it_lacks(train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert train("rule=misbehaving", "rule.how=overflows", "hydra.run.dir=diverged") == 1
    assert train("evaluation.interval=0", "hydra.run.dir=done") == 0
    Path("empty").mkdir()
    for folder, driver, reason in (
        ("diverged", "", "no model to play: the run's status is 'diverged'"),
        ("done", "no such driver", "no window can be opened"),
        ("done", "offscreen", "no window can be opened (there is no screen)"),
        ("empty", "", "not the folder of a run"),
    ):
        monkeypatch.setenv("SDL_VIDEODRIVER", driver)
        capsys.readouterr()
        assert main(["play", folder]) == 2
        err = capsys.readouterr().err
        assert reason in err
        assert err.count("\n") == 1


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        (".hydra/config.yaml", "env: [", "config.yaml cannot be read"),
        (".hydra/config.yaml", "a: 1", "config.yaml is not the config of a run"),
        ("model/policy.yaml", "agent: [", "the model in run cannot be loaded"),
        ("model/policy.safetensors", "x", "the model in run cannot be loaded"),
    ],
)
def test_play_says_which_file_is_broken(
    train: Train, capsys: pytest.CaptureFixture, file: str, content: str, expected: str
) -> None:
    assert train("env.timesteps=32", "evaluation.interval=0") == 0
    Path("run", file).write_text(content)
    capsys.readouterr()
    assert main(["play", "run", "--video", "it.mp4"]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1


def test_a_failed_run_says_so_and_keeps_what_there_is(train: Train, capsys: pytest.CaptureFixture) -> None:
    assert train("rule=misbehaving", "rule.how=fails") == 1
    assert result()["status"] == "failed"
    assert result()["error"] == "RuntimeError: no such synapse"
    assert "no such synapse" in Path("run/traceback.txt").read_text()
    err = capsys.readouterr().err
    assert "no such synapse" in err
    assert err.count("\n") == 1
    assert train() == 0, "a failed run may be repeated"


@pytest.mark.parametrize("how", ["diverges", "overflows"])
def test_divergence_is_a_status_of_its_own(train: Train, how: str) -> None:
    assert train("rule=misbehaving", f"rule.how={how}") == 1
    assert result()["status"] == "diverged"
    assert result()["error"]
    assert Path("run/evaluations.csv").read_text().count("\n") == 3, "the evaluation before the first update is there"


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("rule", "layer"),
    [
        (("predictive_coding", "rule.variant=inference"), 1),
        (("predictive_coding", "rule.variant=incremental"), 1),
        (("equilibrium_propagation",), 1),
        (("equilibrium_propagation", "rule.feedback=learnt"), 1),
        (("deep_feedback_control",), 3),
    ],
)
def test_a_relaxation_that_diverges_says_which_where_and_when(
    train: Train, rule: tuple[str, ...], layer: int, capsys: pytest.CaptureFixture
) -> None:
    """One huge step of the optimizer, after which no relaxation settles."""
    name, *settings = rule
    assert train(f"rule={name}", *settings, "optimizer.learning_rate=1e30") == 1
    assert result()["status"] == "diverged"
    assert re.fullmatch(rf"Divergence: {name} diverged in layer {layer} at relaxation step \d+", result()["error"])
    assert result()["error"] in capsys.readouterr().err
    assert result()["error"] in Path("run/traceback.txt").read_text()
    with Path("run/evaluations.csv").open() as file:
        assert {row["timesteps"] for row in csv.DictReader(file)} >= {"0"}


def test_an_interrupted_run_is_saved(train: Train) -> None:
    assert train("rule=misbehaving", "rule.how=interrupts") == 130
    assert result()["status"] == "interrupted"
    assert result()["timesteps"] == 32
    assert Path("run/model/policy.safetensors").exists()


def test_a_sweep_ends_with_the_median_return_over_seeds(train: Train, capsys: pytest.CaptureFixture) -> None:
    assert train("-m", "rule=backprop,readout", "seed=0,1,2") == 0
    lines = capsys.readouterr().out.splitlines()
    for rule in ("backprop", "readout"):
        folders = sorted(Path("runs").rglob(f"{rule}*/seed=*/result.json"))
        returns = [result(path.parent)["return_mean"] for path in folders]
        (line,) = (line for line in lines if line.endswith(str(folders[0].parent.parent)))
        assert line.split()[:-1] == [as_return(value) for value in (statistics.median(returns), *returns)]


def test_a_sweep_goes_on_and_says_which_runs_are_not_done(train: Train, capsys: pytest.CaptureFixture) -> None:
    assert train("-m", "rule=misbehaving", "rule.how=fails,overflows,not") == 1
    statuses = {
        path.parent.parent.name.rpartition("=")[2]: result(path.parent)["status"]
        for path in Path("runs").rglob("result.json")
    }
    assert statuses == {"fails": "failed", "overflows": "diverged", "not": "done"}
    err = capsys.readouterr().err
    assert "2 of 3 runs are not done" in err


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "arguments",
    [
        ("agent=reinforce", "agent.n_episodes=2"),
        ("agent=a2c", "critic_rule=backprop", "optimizer.critic_learning_rate=0.01"),
        ("env=gymnasium", "env.id=FrozenLake-v1", "optimizer=sgd", "network.shared_trunk=true"),
        ("env=gymnasium", "env.id=Blackjack-v1", "agent=a2c", "network.hidden=[8]", "network.activation=relu"),
    ],
)
def test_every_part_can_be_swapped(arguments: tuple[str, ...]) -> None:
    small = ("env.timesteps=64", "env.n_envs=2", "evaluation.episodes=2", "evaluation.interval=0", "hydra.run.dir=run")
    assert main(["train", *arguments, *small]) == 0
    assert result()["status"] == "done"


def test_a_rule_that_assigns_nothing_is_refused_before_the_run(train, capsys):
    assert train("rule=misbehaving", "rule.how=forgets") == 2
    assert "Misbehaving: assign gives no update to layers.0.weight" in capsys.readouterr().err
    assert not Path("run/result.json").exists()
