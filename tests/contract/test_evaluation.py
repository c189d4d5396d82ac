"""Evaluation looks and does not touch, and what it looks at is one episode in each environment."""

import contextlib
import csv
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from misbehaving_envs import GlobalGenerators
from omegaconf import DictConfig
from safetensors.torch import load_file
from stable_baselines3.common.logger import FormatUnsupportedError, Image, Logger

from bio_rl.cli.configs import compose_jobs
from bio_rl.cli.train import parse
from bio_rl.experiment.environments import training_envs
from bio_rl.experiment.evaluation import PERIODIC, Evaluation, Evaluator
from bio_rl.experiment.isolation import isolated
from bio_rl.experiment.logger import ProgressFile, write_row
from bio_rl.experiment.progress import ProgressBar
from bio_rl.experiment.run import build_agent, check

Train = Callable[..., int]
GLOBAL = ("env=gymnasium", "env.id=misbehaving_envs:GlobalGenerators-v0")


def config_of(*arguments: str) -> DictConfig:
    return compose_jobs(parse(arguments))[0].config


def evaluate(config: DictConfig, folder: Path = Path()) -> Evaluation:
    agent = build_agent(config, training_envs(config.env, 1.0))
    return Evaluator(config, folder).evaluate(agent, PERIODIC)


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def _groups(row: dict[str, str]) -> set[str]:
    return {key.partition("/")[0] for key, value in row.items() if value}


def draw() -> tuple[float, ...]:
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(f"{folder}/model/policy.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def test_isolated_generators_are_seeded_and_put_back_whatever_happens_inside() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    undisturbed = draw(), draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    first = draw()
    with isolated(2**40 + 1):
        inside = draw()
        random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    with contextlib.suppress(ZeroDivisionError), isolated(2**40 + 1):
        assert draw() == inside
        raise ZeroDivisionError
    assert (first, draw()) == undisturbed


@pytest.mark.parametrize(
    ("reseeds", "deterministic"), [(True, False), pytest.param(False, True, marks=pytest.mark.slow)]
)
def test_an_environment_that_uses_global_generators_learns_the_same_whether_or_not_it_is_evaluated(
    train: Train, reseeds: bool, deterministic: bool
) -> None:
    task = (*GLOBAL, f"+env.kwargs.reseeds={reseeds}", f"evaluation.deterministic={deterministic}")
    starts = []
    for folder, interval in (("alone", 0), ("watched", 32), ("again", 32)):
        GlobalGenerators.firsts.clear()
        assert train(*task, f"hydra.run.dir={folder}", f"evaluation.interval={interval}", "env.timesteps=192") == 0
        starts.append(list(GlobalGenerators.firsts))
    assert equal(weights("alone"), weights("watched"))
    assert Path("watched/evaluations.csv").read_bytes() == Path("again/evaluations.csv").read_bytes()
    alone, watched, _ = starts
    # Training's episodes are not repeated, neither in training nor in the evaluations.
    final = 2 * 2  # its episodes, and those that begin when they end
    assert len(set(alone[:-final])) == len(alone[:-final])
    assert not {*alone[:-final]} & {*alone[-final:]}
    assert len(watched) > len(alone)


def test_the_check_before_a_run_draws_nothing() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    check(config_of(*GLOBAL, "env.timesteps=64"))
    assert before[0].equal(torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()


def test_a_run_draws_the_same_whatever_was_drawn_before_it(train: Train) -> None:
    for folder in ("a", "b"):
        draw()
        assert train(*GLOBAL, f"hydra.run.dir={folder}") == 0
    assert equal(weights("a"), weights("b"))


@pytest.mark.few(2)
@pytest.mark.parametrize("what", ["reward", "observation"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_is_not_finite_counts_only_in_an_episode_that_counts(what: str, value: float) -> None:
    task = ("env=gymnasium", "env.id=misbehaving_envs:NotFinite-v0", f"+env.kwargs.what={what}", "env.n_envs=1")
    config = config_of(*task, f"+env.kwargs.value={value}", "evaluation.episodes=3")
    evaluation = evaluate(config)
    assert evaluation.returns.tolist() == evaluation.lengths.tolist()
    assert len(set(evaluation.lengths)) == 3
    config = config_of(*task, f"+env.kwargs.value={value}", "+env.kwargs.episode=1")
    with pytest.raises(ValueError, match=f"the environment gave an? {what} that is not finite"):
        evaluate(config)


BANDIT = ("env=gymnasium", "env.id=misbehaving_envs:Bandit-v0", "env.n_envs=1", "evaluation.episodes=400")


def test_a_stochastic_evaluation_draws_actions_as_training_does() -> None:
    config = config_of(*BANDIT, "evaluation.deterministic=false", "network.ortho_init=false")
    agent = build_agent(config, training_envs(config.env, 1.0))
    evaluation = Evaluator(config, Path()).evaluate(agent, PERIODIC)
    probability = agent.policy.get_distribution(torch.full((1, 2), 0.5)).distribution.probs[0, 1].item()
    assert evaluation.return_mean == pytest.approx(probability, abs=4 * math.sqrt(0.25 / 400))
    assert set(evaluate(config_of(*BANDIT)).returns) in ({0.0}, {1.0})


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("settings", "deviation"),
    [
        (("agent.use_sde=false",), math.sqrt(2)),
        (("agent.use_sde=true",), 2),
        (("agent.use_sde=true", "agent.sde_sample_freq=1"), math.sqrt(2)),
    ],
)
def test_exploration_is_drawn_as_in_training_for_each_episode(settings: tuple[str, ...], deviation: float) -> None:
    """Episodes of two steps: the deviation of one action's distribution, times 2 where both have the same noise."""
    task = (*BANDIT, "+env.kwargs.continuous=true", "+env.kwargs.length=2", "agent=a2c", *settings)
    config = config_of(*task, "evaluation.deterministic=false")
    agent = build_agent(config, training_envs(config.env, 1.0))
    evaluation = Evaluator(config, Path()).evaluate(agent, PERIODIC)
    single = agent.policy.get_distribution(torch.full((1, 2), 0.5)).distribution.stddev.item()
    assert evaluation.return_std == pytest.approx(deviation * single, rel=4 / math.sqrt(2 * 400))


def test_the_result_tells_the_untrained_networks_return_from_the_best_and_from_trainings(train: Train) -> None:
    assert train("logging=csv", "evaluation.deterministic=false") == 0
    result = json.loads(Path("run/result.json").read_text())
    means: dict[str, list[float]] = {}
    for row in rows("run/evaluations.csv"):
        means.setdefault(row["timesteps"], []).append(float(row["return"]))
    assert list(means) == ["0", "32", "64"]
    assert result["untrained_return_mean"] == fmean(means["0"])
    assert result["best_return_mean"] == max(fmean(means["32"]), fmean(means["64"]))
    assert result["return_mean"] == fmean(means["64"])
    assert result["evaluation_deterministic"] is False
    assert result["training_return_mean"] == float(rows("run/progress.csv")[-1]["eval/training_return_mean"])

    assert train("evaluation.interval=0", "overwrite=true", "env.timesteps=4", "agent.n_steps=2") == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["best_return_mean"] == result["return_mean"]
    assert result["untrained_return_mean"] is result["training_return_mean"] is None
    assert result["evaluation_deterministic"] is True


def test_progress_has_a_timestep_in_every_row_and_repeats_nothing(train: Train) -> None:
    assert train("logging=csv", "rule=kolen_pollack", "env.timesteps=128") == 0
    found = rows("run/progress.csv")
    columns = list(found[0])
    assert columns == ["time/total_timesteps", *sorted(columns[1:])]
    steps = [(int(row["time/total_timesteps"]), *sorted(_groups(row) & {"eval", "train"})) for row in found]
    # What an update recorded is in the row of the rollout that follows it; the last one has none.
    assert steps == [
        (0, "eval"), (32,), (32, "eval"), (64, "train"), (64, "eval"), (96, "train"), (96, "eval"), (128, "train"),
        (128, "train"), (128, "eval"),
    ]  # fmt: skip
    assert all(_groups(row) == {"time", "eval", "feedback_angle"} for row in found if row["eval/mean_reward"])
    losses = [row["train/loss"] for row in found if row["train/loss"]]
    assert len(losses) == len(set(losses)) == 4, "the losses of each update, once"


def test_progress_takes_what_comes_later_and_refuses_what_is_no_number_as_sb3_does(tmp_path: Path) -> None:
    logger = Logger(str(tmp_path), [ProgressFile(tmp_path / "progress.csv")])
    write_row(logger, {"b": 1, "text": 'a "quoted", line'}, 1)
    logger.record("c/hidden", 3, exclude="csv")
    logger.dump(2)
    logger.record("a", np.float32(0.5))
    logger.dump(3)
    assert (tmp_path / "progress.csv").read_text() == (
        'time/total_timesteps,a,b,text\n1,,1,"a ""quoted"", line"\n3,0.5,,\n'
    )
    logger.record("image", Image(np.zeros((1, 2, 2)), "CHW"))
    with pytest.raises(FormatUnsupportedError, match="image"):
        logger.dump(4)


def test_the_bar_is_quiet_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert ProgressBar("title", 10).bar.disable
