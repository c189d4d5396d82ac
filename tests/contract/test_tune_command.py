"""bio-rl tune: the same budget for every rule, a study that resumes as if never stopped, values by a word."""

import shlex
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
import yaml
from conftest import TINY

from bio_rl.analysis.records import read
from bio_rl.cli import main
from bio_rl.cli.configs import compose, compose_jobs, config_folder
from bio_rl.cli.train import parse
from bio_rl.experiment import tuning
from bio_rl.experiment.interruption import Interrupted

RULES = sorted(file.stem for file in (config_folder() / "rule").glob("*.yaml"))
SMALL = [setting for setting in TINY if not setting.startswith(("logging", "evaluation.interval"))]


def tune(line: str) -> int:
    return main(["tune", *SMALL, *shlex.split(line)])


def written(rule: str, folder: str = "conf") -> dict[str, Any]:
    return yaml.safe_load(Path(folder, "tuned/cartpole/ppo", f"{rule}.yaml").read_text())


def trials(rule: str, study: str = "tuning") -> list[tuple[dict[str, Any], float | None]]:
    """The parameters and the value of each trial that counts."""
    file = Path("runs", study, "cartpole/ppo", f"{rule}.db").absolute()
    found = optuna.load_study(study_name="tune", storage=f"sqlite:///{file}").get_trials()
    return [(trial.params, trial.value) for trial in found if trial.state in tuning.FINISHED]


def returns_of(monkeypatch: pytest.MonkeyPatch, result: Any) -> list[Any]:
    """Let no trial train: its runs return what ``result`` makes of their config. Gives the configs that were run."""
    ran: list[Any] = []

    def run(configs: Any, folders: Any, choices: Any) -> list[dict[str, Any]]:
        ran.extend(configs)
        base = {"status": "done", "timesteps": 64}
        return [base | {"seed": config.seed} | result(config) for config in configs]

    monkeypatch.setattr(tuning, "run", run)
    return ran


def rate(config: Any) -> float:
    return tuning.current(config, "optimizer.learning_rate")


# -- what is tuned, and what comes of it -------------------------------------------------


def test_tuned_values_are_written_and_chosen_by_one_word(capsys: pytest.CaptureFixture) -> None:
    assert tune("rule=readout,feedback_alignment members=2 --trials 2") == 0
    out, err = capsys.readouterr()
    assert "bio-rl train -m --config-dir conf tuned=rule rule=readout,feedback_alignment env=cartpole agent=ppo" in out
    assert "4 of 4 trials | feedback_alignment on cartpole: return" in err
    assert " left\n" in err
    budgets = []
    for rule in ("readout", "feedback_alignment"):
        values, found = written(rule), trials(rule)
        best = max(found, key=lambda trial: trial[1])
        assert values["optimizer"]["learning_rate"] == f"lin_{best[0]['optimizer.learning_rate']:.3g}"
        assert values["tuning"]["return_mean"] == best[1]
        assert values["tuning"]["untuned_return_mean"] == found[0][1]
        budgets.append([values["tuning"][key] for key in ("trials", "seeds", "timesteps", "steps_of_all")])
    assert budgets == [[2, [1000000, 1000001], 64, 256]] * 2

    line = "--config-dir conf -m rule=readout,feedback_alignment env=cartpole"
    plain, tuned = (compose_jobs(parse(shlex.split(each))) for each in (line, f"{line} tuned=rule"))
    for before, after in zip(plain, tuned, strict=True):
        values = written(after.choices["rule"])
        assert after.config.optimizer.learning_rate == values["optimizer"]["learning_rate"]
        assert after.config.tuning.trials == 2
        assert after.config.agent == before.config.agent, "the task's own settings stay"
        assert after.folder == Path(f"runs/default/cartpole/ppo/{after.choices['rule']},tuned=rule/seed=0")


def test_the_first_trial_has_the_settings_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = returns_of(monkeypatch, lambda config: {"return_mean": 1.0})
    assert tune("rule=readout members=3 seed=7 --trials 1") == 0
    assert [config.seed for config in ran] == [7, 8, 9]
    plain = compose("rule=readout")
    for config in ran:
        assert config.optimizer.learning_rate == plain.optimizer.learning_rate
        assert config.rule == plain.rule


def test_what_a_preset_stands_for_is_where_the_search_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = returns_of(monkeypatch, lambda config: {"return_mean": 1.0})
    assert tune("rule=predictive_coding rule.preset=limit,prospective study=a members=2 --trials 1") == 2
    for preset, nudge in (("limit", 0.003), ("prospective", 1.0)):
        ran.clear()
        assert tune(f"rule=predictive_coding rule.preset={preset} study={preset} members=2 --trials 3") == 0
        tried = [config.rule.nudge for config in ran[::2]]
        assert (ran[0].rule.preset, tried[0]) == (preset, nudge)
        assert all(nudge / 10 <= each <= nudge * 10 for each in tried)
        assert len(set(tried)) > 1


@pytest.mark.slow
def test_the_values_found_bring_the_rules_settings_that_they_were_found_with(monkeypatch: pytest.MonkeyPatch) -> None:
    returns_of(monkeypatch, lambda config: {"return_mean": float(config.rule.nudge)})
    assert tune("rule=predictive_coding rule.preset=prospective rule.steps=7 members=2 --trials 3") == 0
    assert written("predictive_coding")["rule"]["preset"] == "prospective"
    line = ["--config-dir", "conf", "rule=predictive_coding", "env=cartpole", "tuned=rule"]
    (tuned,), (again,) = (compose_jobs(parse([*line, *more])) for more in ([], ["rule.steps=9"]))
    assert (tuned.config.rule.preset, tuned.config.rule.steps) == ("prospective", 7)
    assert tuned.config.rule.nudge == written("predictive_coding")["rule"]["nudge"]
    assert (again.config.rule.preset, again.config.rule.steps) == ("prospective", 9)


def test_every_shipped_search_space_fits_its_rule() -> None:
    from bio_rl.cli.tune import _space

    for job in compose_jobs(parse(["-m", f"rule={','.join(RULES)}"])):
        rule = job.choices["rule"]
        assert {"optimizer.learning_rate", "optimizer.critic_learning_rate"} <= set(_space(job, None)), rule
    assert {file.stem for file in (config_folder() / "search").iterdir()} <= {"default", *RULES}


def test_a_rule_of_ones_own_is_tuned_in_a_space_of_its_own() -> None:
    for path, text in {
        "mine/rule/own.yaml": "_target_: bio_rl.rules.FeedbackAlignment\nfeedback_scale: 1.0\n",
        "mine/search/own.yaml": "rule.feedback_scale: {choices: [1.0, 3.0]}\n",
    }.items():
        Path(path).parent.mkdir(parents=True)
        Path(path).write_text(text)
    assert tune("--config-dir mine rule=own members=2 --trials 2") == 0
    assert written("own", "mine")["rule"]["feedback_scale"] in (1.0, 3.0)


# -- a study ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_that_was_broken_off_is_the_one_that_would_have_been(monkeypatch: pytest.MonkeyPatch) -> None:
    def peaked(config: Any) -> dict[str, Any]:
        return {"return_mean": -abs(rate(config) - 0.01) * 100 + config.seed % 5}

    returns_of(monkeypatch, peaked)
    assert tune("rule=readout study=whole --trials 14") == 0

    calls = []

    def broken(config: Any) -> dict[str, Any]:
        calls.append(config)
        if len(calls) in (1, 30):
            raise Interrupted
        return peaked(config)

    returns_of(monkeypatch, broken)
    assert tune("rule=readout study=broken --trials 9") == 130
    assert tune("rule=readout study=broken --trials 9") == 130
    assert tune("rule=readout study=broken --trials 9") == 0
    assert tune("rule=readout study=broken --trials 14") == 0
    whole = trials("readout", "whole")
    assert trials("readout", "broken") == whole
    assert len({params["optimizer.learning_rate"] for params, _ in whole}) == 14


def test_a_trial_that_is_worse_on_every_seed_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    base = rate(compose())
    ran = returns_of(monkeypatch, lambda config: {"return_mean": config.seed % 8 - 10 * (rate(config) != base)})
    assert tune("rule=backprop --trials 3") == 0
    assert len(ran) == 8 + 4 + 4
    found = written("backprop")["tuning"]
    assert (found["trials"], found["pruned"], found["steps_of_all"]) == (3, 2, 16 * 64)
    assert found["return_mean"] == fmean(range(8))


def test_settings_with_which_a_run_diverges_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    base = rate(compose())

    def result(config: Any) -> dict[str, Any]:
        diverges = rate(config) != base and config.seed % 8 == 3
        return {"status": "diverged", "return_mean": None} if diverges else {"return_mean": 10 * rate(config)}

    returns_of(monkeypatch, result)
    assert tune("rule=backprop --trials 5") == 0
    found = written("backprop")
    assert found["tuning"]["diverged"] == 4
    assert found["optimizer"]["learning_rate"] == compose().optimizer.learning_rate


def test_nothing_is_written_where_every_trial_diverges(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    returns_of(monkeypatch, lambda config: {"status": "diverged", "return_mean": None})
    assert tune("rule=backprop --trials 2") == 1
    assert "runs diverged in all of 2 trials" in capsys.readouterr().err
    assert not Path("conf").exists()


def test_a_run_that_fails_ends_the_tuning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    returns_of(monkeypatch, lambda config: {"status": "failed", "error": "ValueError: of the task\nmore"})
    assert tune("rule=backprop --trials 2") == 1
    assert capsys.readouterr().err == "bio-rl tune: a run with seed=1000000 failed: ValueError: of the task\n"


# -- bad input --------------------------------------------------------------------------


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rule=backprp", "did you mean 'backprop'"),
        ("--trials 0", "'0' is not a whole number of at least 1"),
        ("--trails 3", "no option --trails; did you mean '--trials'?"),
        ("--config-dir nowhere", "there is no folder 'nowhere'"),
        ("optimizer.learning_rate=0.1,0.2", "sweeps over rule, env and agent only"),
        ("critic_rule=readout", "critic_rule=readout: what is tuned is one rule's"),
        ("env=gymnasium env.id=FrozenLake-v1", "give the task a file of its own"),
        ("rule=readout tuned=rule", "tuned=rule: there is no tuned/cartpole/ppo/readout.yaml"),
        ("rule=readout rule.hidden_bias=9.0", "rule.hidden_bias=9.0: it lies outside of what is tried"),
        ("--config-dir conf rule=odd_key", "rule.nois: a run has no such setting"),
        ("--config-dir conf rule=odd_entry", "it must be {factor: F}, {low: A, high: B} or {choices: [A, B]}"),
        ("--config-dir conf rule=odd_file", "conf/search/odd_file.yaml: it must hold lines such as"),
    ],
)
def test_bad_input_is_one_line(line: str, expected: str, capsys: pytest.CaptureFixture) -> None:
    for rule, search in {
        "odd_key": "rule.nois: {factor: 3}",
        "odd_entry": "rule.draws: {min: 3}",
        "odd_file": "- rule.draws",
    }.items():
        for path, text in ((f"conf/rule/{rule}.yaml", NODE), (f"conf/search/{rule}.yaml", search)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text)
    before = sorted(Path().rglob("*"))
    assert tune(line) == 2
    out, err = capsys.readouterr()
    assert expected in err
    assert (out, err.count("\n")) == ("", 1)
    assert sorted(Path().rglob("*")) == before


NODE = "_target_: bio_rl.rules.NodePerturbation\ndraws: 4\n"


def test_without_optuna_it_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "bio_rl.experiment.tuning")
    monkeypatch.delattr("bio_rl.experiment.tuning")
    assert tune("rule=backprop") == 2
    assert capsys.readouterr().err == 'bio-rl tune: Optuna is not installed: pip install "bio-rl[tune]"\n'


def test_a_study_of_other_settings_is_not_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    returns_of(monkeypatch, lambda config: {"return_mean": 1.0})
    assert tune("rule=backprop --trials 1") == 0
    capsys.readouterr()
    assert tune("rule=backprop agent.gamma=0.5 --trials 1") == 1
    assert "holds a study with another config.agent.gamma: study=NAME begins one" in capsys.readouterr().err
    assert tune("rule=backprop agent.gamma=0.5 --trials 1 overwrite=true") == 0
    assert len(trials("backprop")) == 1


def test_a_file_that_is_no_study_stays_what_it_is(capsys: pytest.CaptureFixture) -> None:
    file = Path("runs/tuning/cartpole/ppo/backprop.db")
    file.parent.mkdir(parents=True)
    file.write_text("somebody's")
    assert tune("rule=backprop --trials 1") == 1
    out, err = capsys.readouterr()
    assert "backprop.db cannot be read as a study" in err
    assert (out, err.count("\n")) == ("", 1)
    assert file.read_text() == "somebody's"


def test_what_was_not_tuned_is_not_taken_silently(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "tuned=rule", "rule=burst", "env=acrobot", "agent=a2c"]) == 2
    assert "bio-rl tune rule=burst env=acrobot agent=a2c" in capsys.readouterr().err


def test_a_sweep_of_rules_that_were_not_tuned_alike_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    returns_of(monkeypatch, lambda config: {"return_mean": 1.0})
    assert tune("rule=backprop --trials 1") == 0
    assert tune("rule=readout --trials 2") == 0
    capsys.readouterr()
    sweep = ["train", "--config-dir", "conf", "-m", "tuned=rule", "rule=backprop,readout", *TINY]
    assert main(sweep) == 0
    assert (
        "warning: the rules were not tuned alike for ppo on cartpole (backprop: 1 trials of 8 seeds x 64 steps;"
        " readout: 2 trials of 8 seeds x 64 steps)" in capsys.readouterr().err
    )
    for record in read([Path("runs/default")]).records:
        assert "tuned=rule" in record.texts["settings"].split(), "as it is written, not as Hydra needs it"
