"""Evaluation: deterministic episodes, in environments of their own, by a twin of the policy.

Nothing here touches what training uses, its random numbers least of all: a run learns the same
whether or not it is evaluated.
"""

import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy

from bio_rl.experiment.environments import evaluation_envs

PERIODIC_SEED, FINAL_SEED = 1_000_000_000, 1_500_000_000
"""From where episodes are seeded during training and at its end: far apart, and far from training's own seeds."""
SEEDS_A_RUN = 1_000
"""Runs with different seeds are evaluated on different episodes, runs that differ otherwise on the same ones."""


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

    def scalars(self) -> dict[str, float]:
        """The means, under Stable-Baselines3's names."""
        return {"eval/mean_reward": self.return_mean, "eval/mean_ep_length": float(self.lengths.mean())}


class Evaluator:
    """Plays an agent's policy and keeps the episodes in evaluations.csv.

    Args:
        config: of the run.
        folder: of the run.
    """

    def __init__(self, config: DictConfig, folder: Path):
        self.envs = evaluation_envs(config.env, config.evaluation.episodes)
        self.seed = config.seed
        self.file = EvaluationsFile(folder, config.seed)
        self.return_means: list[float] = []
        self.seconds = 0.0

    def evaluate(self, agent: BaseAlgorithm, first_seed: int) -> Evaluation:
        """Play one episode in each environment, seeded from ``first_seed`` and the run's seed.

        Raises:
            ValueError: the environment's rewards are not finite.
        """
        started = time.perf_counter()
        evaluation = self._play(agent, first_seed + self.seed * SEEDS_A_RUN)
        if not np.isfinite(evaluation.returns).all():
            raise ValueError("the environment gave a reward that is not finite")
        self.file.append(agent.num_timesteps, evaluation)
        self.return_means.append(evaluation.return_mean)
        self.seconds += time.perf_counter() - started
        return evaluation

    def _play(self, agent: BaseAlgorithm, seed: int) -> Evaluation:
        policy = _twin(agent.policy)
        normalizer = agent.get_vec_normalize_env()
        self.envs.seed(seed)
        observations: Any = self.envs.reset()
        returns, lengths = np.zeros(self.envs.num_envs), np.zeros(self.envs.num_envs, dtype=int)
        running = np.ones(self.envs.num_envs, dtype=bool)
        while running.any():
            if normalizer is not None:
                observations = normalizer.normalize_obs(observations)
            actions, _ = policy.predict(observations, deterministic=True)
            observations, rewards, dones, _ = self.envs.step(actions)
            # Environments whose episode is over have begun another one, which does not count.
            returns += rewards * running
            lengths += running
            running &= ~dones
        return Evaluation(returns, lengths)


def _twin(policy: BasePolicy) -> BasePolicy:
    """A policy of its own with the same parameters, feedback and generators: acting may draw from them."""
    with torch.random.fork_rng():
        twin = type(policy)(**policy._get_constructor_parameters()).to(policy.device)
    twin.load_state_dict(policy.state_dict())
    twin.set_training_mode(False)
    return twin


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
        evaluation = self.evaluator.evaluate(self.model, PERIODIC_SEED)
        for key, value in {**evaluation.scalars(), **self.scalars(self.model)}.items():
            self.logger.record(key, value)
        self.logger.dump(self.num_timesteps)

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
        self._write("w", [self.HEADER])

    def append(self, timesteps: int, evaluation: Evaluation) -> None:
        episodes = zip(evaluation.returns.tolist(), evaluation.lengths.tolist(), strict=True)
        self._write("a", [(timesteps, self.seed, n, *episode) for n, episode in enumerate(episodes)])

    def _write(self, mode: str, rows: Sequence[Sequence[object]]) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
