"""Evaluation: episodes in environments of their own, by a twin of the policy.

Nothing here touches what training uses, random numbers least of all, the global generators
included: a run learns the same whether or not it is evaluated.
"""

import csv
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from hydra.utils import get_method
from omegaconf import DictConfig
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from bio_rl.experiment.checkpoints import Checkpoints
from bio_rl.experiment.environments import evaluation_envs
from bio_rl.experiment.isolation import isolated
from bio_rl.experiment.logger import write_row
from bio_rl.seeding import Stream, derive_seeds
from bio_rl.tasks.vec_env import BatchedVecEnv, seed_copies

STACK = "agents.Stack"
"""By its name, as Hydra's ``_target_`` names the agent: what evaluates agents does not depend on them."""
PERIODIC, FINAL = 0, 1
"""Which episodes an evaluation plays: those during training, the same each time, or those at its end.

They spring from the run's seed: runs of different seeds are evaluated on different episodes, runs that differ otherwise
on the same ones.
"""


class Evaluation(NamedTuple):
    """Returns (undiscounted, of raw rewards) and lengths, one for each episode."""

    returns: np.ndarray
    lengths: np.ndarray

    @property
    def return_mean(self) -> float:
        return float(self.returns.mean())

    @property
    def return_std(self) -> float:
        return float(self.returns.std())


class Evaluator:
    """Plays an agent's policy, and keeps the episodes in evaluations.csv and the model in checkpoints/.

    Args:
        config: of the run.
        folder: of the run.

    Attributes:
        untrained_return_mean: before the first update; ``None`` where that was not evaluated.
        best_return_mean: the highest after it; ``None`` before there is one.
        seconds: that evaluating took.
    """

    def __init__(self, config: DictConfig, folder: Path):
        self.run_seed = config.seed
        self.deterministic = config.evaluation.deterministic
        with isolated(derive_seeds(self.run_seed, Stream.EVALUATION, 1)[0]):
            self.envs = evaluation_envs(config.env, config.evaluation.episodes)
        self.file = EvaluationsFile(folder, config.seed)
        self.checkpoints = Checkpoints(folder, config.evaluation.checkpoints)
        self.together: TogetherEvaluated | None = None
        self.untrained_return_mean: float | None = None
        self.best_return_mean: float | None = None
        self.seconds = 0.0

    def evaluate(self, agent: BaseAlgorithm, which: int) -> Evaluation:
        """Play one episode in each environment.

        Args:
            agent: who plays, by a twin of its policy.
            which: the episodes, ``PERIODIC`` or ``FINAL``.

        Raises:
            ValueError: an episode has a reward or an observation that is not finite.
        """
        started = time.perf_counter()
        evaluation = None if self.together is None else self.together.evaluation_of(self, agent, which)
        if evaluation is None:
            with isolated(self.seeds(which)[0]):
                evaluation = self._play(agent, which)
        self.file.append(agent.num_timesteps, evaluation)
        is_best = False
        if agent.num_timesteps == 0:
            self.untrained_return_mean = evaluation.return_mean
        elif self.best_return_mean is None or evaluation.return_mean > self.best_return_mean:
            self.best_return_mean, is_best = evaluation.return_mean, True
        self.checkpoints.add(agent, is_best)
        self.seconds += time.perf_counter() - started
        return evaluation

    def close(self) -> None:
        self.envs.close()

    def seeds(self, which: int) -> list[int]:
        """Of the episodes ``PERIODIC`` or ``FINAL``, one for each environment."""
        return derive_seeds(self.run_seed, Stream.EVALUATION, self.envs.num_envs, which)

    def _play(self, agent: BaseAlgorithm, which: int) -> Evaluation:
        policy = _twin(agent.policy)
        normalizer = agent.get_vec_normalize_env()

        def choose(observations: Any, step: int) -> np.ndarray:
            if not self.deterministic and _noise_is_due(agent, step):
                policy.reset_noise(self.envs.num_envs)  # type: ignore[operator]
            inputs = observations if normalizer is None else normalizer.normalize_obs(observations)
            return policy.predict(inputs, deterministic=self.deterministic)[0]

        seed_copies(self.envs, self.seeds(which))
        return play_episodes(self.envs, self.envs.reset(), choose)


class TogetherEvaluated:
    """Runs that learn together and are evaluated together, where their tasks' copies are one computation.

    What the first of them asks for is played for all that are as far in their training; the others
    find it ready. Nobody learns between the one and the other.

    Args:
        evaluators, agents: of each run.
    """

    def __init__(self, evaluators: Sequence[Evaluator], agents: Sequence[BaseAlgorithm]):
        self.runs = list(zip(evaluators, agents, strict=True))
        self._asked: tuple[int, int] | None = None
        self._ready: dict[Evaluator, Evaluation] = {}
        for evaluator in evaluators:
            evaluator.together = self

    @staticmethod
    def is_possible(evaluators: Sequence[Evaluator], agents: Sequence[BaseAlgorithm]) -> bool:
        """Whether there are several, whose actions need no random numbers and whose observations no statistics."""
        return len(evaluators) > 1 and all(
            evaluator.deterministic
            and isinstance(evaluator.envs, BatchedVecEnv)
            and agent.get_vec_normalize_env() is None
            for evaluator, agent in zip(evaluators, agents, strict=True)
        )

    def evaluation_of(self, evaluator: Evaluator, agent: BaseAlgorithm, which: int) -> Evaluation | None:
        """What one of them played; ``None`` where it has to play alone."""
        asked = (which, agent.num_timesteps)
        if asked != self._asked:
            self._asked, self._ready = asked, self._play(which, agent.num_timesteps)
        return self._ready.pop(evaluator, None)

    def _play(self, which: int, timesteps: int) -> dict[Evaluator, Evaluation]:
        present = [(evaluator, agent) for evaluator, agent in self.runs if agent.num_timesteps == timesteps]
        if len(present) < 2:
            return {}
        evaluators = [evaluator for evaluator, _ in present]
        observations: list[Any] = []
        for evaluator in evaluators:
            seed_copies(evaluator.envs, evaluator.seeds(which))
            observations.append(evaluator.envs.reset())
        envs = BatchedVecEnv.join([evaluator.envs for evaluator in evaluators])  # type: ignore[misc]
        if envs is None:
            return {}
        stack = get_method(STACK)([agent for _, agent in present])
        episodes = play_episodes(envs, np.concatenate(observations), lambda seen, _: stack.predict(seen))
        shares = (np.split(numbers, len(evaluators)) for numbers in episodes)
        return {
            evaluator: Evaluation(*own) for evaluator, own in zip(evaluators, zip(*shares, strict=True), strict=True)
        }


def play_episodes(envs: VecEnv, observations: Any, choose: Callable[[Any, int], np.ndarray]) -> Evaluation:
    """One episode in each environment.

    Args:
        envs: at the start of an episode each.
        observations: what they show there.
        choose: the actions for observations, at a step that counts from 0.

    Raises:
        ValueError: an episode has a reward or an observation that is not finite.
    """
    returns, lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs, dtype=int)
    running, steps = np.ones(envs.num_envs, dtype=bool), 0
    while running.any():
        for array in _arrays(observations):
            if not np.isfinite(array).all():
                raise ValueError("the environment gave an observation that is not finite, in an evaluation")
        following, _, dones, infos = envs.step(choose(observations, steps))
        steps += 1
        for number in np.flatnonzero(running & dones):
            # The monitor's: the task's own, whatever wrappers make of rewards and steps.
            returns[number], lengths[number] = infos[number]["episode"]["r"], infos[number]["episode"]["l"]
        running &= ~dones
        # Environments whose episode is over have begun another one, which does not count: nobody looks at it.
        for array, new in zip(_arrays(observations), _arrays(following), strict=True):
            array[running] = new[running]
    if not np.isfinite(returns).all():
        raise ValueError("the environment gave a reward that is not finite, in an evaluation")
    return Evaluation(returns, lengths)


def training_return_mean(agent: BaseAlgorithm) -> float | None:
    """The mean return of training's last episodes, whose actions are drawn; Stable-Baselines3 keeps 100.

    ``None`` before the first one is over, and where their rewards are not finite.
    """
    mean = fmean(returns) if (returns := [episode["r"] for episode in agent.ep_info_buffer or ()]) else math.nan
    return mean if math.isfinite(mean) else None


def evaluation_scalars(agent: BaseAlgorithm, evaluation: Evaluation) -> dict[str, float]:
    """What an evaluation logs: its means under Stable-Baselines3's names, and training's own return beside them."""
    scalars = {"eval/mean_reward": evaluation.return_mean, "eval/mean_ep_length": float(evaluation.lengths.mean())}
    training = training_return_mean(agent)
    return scalars if training is None else scalars | {"eval/training_return_mean": training}


def _twin(policy: BasePolicy) -> BasePolicy:
    """A policy of its own with the same parameters, feedback and generators: acting may draw from them."""
    twin = type(policy)(**policy._get_constructor_parameters()).to(policy.device)
    twin.load_state_dict(policy.state_dict())
    twin.set_training_mode(False)
    return twin


def _noise_is_due(agent: BaseAlgorithm, step: int) -> bool:
    """Whether exploration that depends on the state (gSDE) is drawn at this step: for each episode, or as in training.

    Training draws it every ``sde_sample_freq`` steps, or once a rollout, which here is an episode.
    """
    every = agent.sde_sample_freq
    return agent.use_sde and (step == 0 or (every > 0 and step % every == 0))


def _arrays(observations: Any) -> list[np.ndarray]:
    """The arrays of a batch of observations, ``(environments, ...)`` each."""
    return list(observations.values()) if isinstance(observations, dict) else [observations]


class PeriodicEvaluation(BaseCallback):
    """Evaluates between two rollouts, every ``interval`` timesteps, before the first update too.

    Args:
        evaluator: plays and keeps the episodes.
        interval: in timesteps; 0 for never.
        scalars: what else to log then, of the agent.
    """

    def __init__(
        self, evaluator: Evaluator, interval: int, scalars: Callable[[BaseAlgorithm], dict[str, float]] = lambda _: {}
    ):
        super().__init__()
        self.evaluator = evaluator
        self.interval = interval
        self.scalars = scalars
        self.due = 0

    def _on_rollout_start(self) -> None:
        if not self.interval or self.num_timesteps < self.due:
            return
        self.due = (self.num_timesteps // self.interval + 1) * self.interval
        evaluation = self.evaluator.evaluate(self.model, PERIODIC)
        with isolated(self.num_timesteps):
            scalars = evaluation_scalars(self.model, evaluation) | self.scalars(self.model)
        write_row(self.logger, scalars, self.num_timesteps)

    def _on_step(self) -> bool:
        return True


class EvaluationsFile:
    """evaluations.csv: one row for each episode of each evaluation.

    ``seed`` is the run's, so that the files of several runs can be put together as they are.
    """

    HEADER = ("timesteps", "seed", "episode", "return", "length")

    def __init__(self, folder: Path, seed: int):
        self.path = folder / "evaluations.csv"
        self.seed = seed
        if not self.path.exists():  # a run that goes on has one
            self._write("w", [self.HEADER])

    def append(self, timesteps: int, evaluation: Evaluation) -> None:
        episodes = zip(evaluation.returns.tolist(), evaluation.lengths.tolist(), strict=True)
        self._write("a", [(timesteps, self.seed, n, *episode) for n, episode in enumerate(episodes)])

    def _write(self, mode: str, rows: Sequence[Sequence[object]]) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
