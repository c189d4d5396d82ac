"""A run, from top to bottom: build the agent, train it, evaluate it, leave everything in one folder."""

import shutil
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from bio_rl.diagnostics.alignment import feedback_angles
from bio_rl.experiment import result as results
from bio_rl.experiment.callbacks import make_callbacks
from bio_rl.experiment.checkpoints import save_model
from bio_rl.experiment.environments import training_envs
from bio_rl.experiment.evaluation import (
    FINAL_SEED,
    Evaluator,
    PeriodicEvaluation,
    evaluation_scalars,
    training_return_mean,
)
from bio_rl.experiment.isolation import isolated
from bio_rl.experiment.logger import log_config, log_final, make_logger
from bio_rl.experiment.progress import ProgressBar
from bio_rl.experiment.settings import check_settings
from bio_rl.network import Network
from bio_rl.rule import Divergence

WRITTEN = ("tensorboard", "progress.csv", "evaluations.csv", "model", "checkpoints", "traceback.txt", results.FILE)
"""What a run leaves in its folder beside Hydra's own files."""

MEASURED = (
    "return_mean",
    "return_std",
    "return_episodes",
    "best_return_mean",
    "untrained_return_mean",
    "training_return_mean",
    "steps_per_second",
)
"""What is known of a run's success at its end; null until then."""


def run(config: DictConfig, folder: Path, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Train and evaluate one agent, and leave everything that is known about it in its folder.

    A run that fails, diverges or is interrupted leaves the same files as far as it got; its
    result says what happened.

    Args:
        config: the composed config.
        folder: where to write. What an earlier run left there is removed.
        choices: the names chosen for ``agent``, ``rule`` and ``critic_rule``.

    Returns:
        What ``result.json`` holds.
    """
    torch.set_num_threads(config.torch_threads)
    results.reset_peak_memory()
    _clear(folder)
    names = {**choices, "env": config.env.name, "seed": config.seed}
    result = {"status": "running", **names, "env_id": config.env.id, "timesteps": config.env.timesteps}
    result["evaluation_deterministic"] = config.evaluation.deterministic
    result |= dict.fromkeys(MEASURED)
    provenance = {"versions": results.versions(), "git_revision": results.git_revision()}
    results.write_result(folder, result | provenance)

    started = time.perf_counter()
    try:
        train(config, folder, names, result)
        result["status"] = "done"
    except KeyboardInterrupt:
        result["status"] = "interrupted"
    except Exception as error:
        diverged = isinstance(error, Divergence | NotFinite)
        result |= {"status": "diverged" if diverged else "failed", "error": f"{type(error).__name__}: {error}"}
        (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
    result |= {"wall_seconds": round(time.perf_counter() - started, 3), "peak_memory_mb": results.peak_memory_mb()}
    result |= provenance
    results.write_result(folder, result)
    return result


def train(config: DictConfig, folder: Path, names: Mapping[str, Any], result: dict[str, Any]) -> None:
    """The run itself. What is known so far is in ``result`` and the folder whenever it ends, or breaks off.

    Raises:
        Divergence, NotFinite: the rule diverged, or its updates did.
        Exception: whatever else goes wrong.
    """
    # The agent seeds them too, but after its environments are built, and these may draw from them.
    set_random_seed(config.seed)
    envs = training_envs(config.env, config.agent.get("gamma", 1.0))
    agent = build_agent(config, envs)
    added = make_callbacks(config.callbacks)
    agent.set_logger(make_logger(config.logging, folder))
    evaluator = Evaluator(config, folder)
    title = f"{names['rule']} seed={names['seed']}"
    try:
        log_config(agent.logger, config)
        with ProgressBar(title, config.env.timesteps) as bar:
            callbacks = [
                FiniteParameters(),
                PeriodicEvaluation(evaluator, config.evaluation.interval, _angle_scalars),
                *added,
                bar,
            ]
            agent.learn(config.env.timesteps, callbacks, **_given(log_interval=config.logging.interval))
        learning_seconds = bar.seconds - evaluator.seconds
        final = evaluator.evaluate(agent, FINAL_SEED)
        scalars = evaluation_scalars(agent, final) | _angle_scalars(agent)
        log_final(agent.logger, config, names, scalars, agent.num_timesteps)
        result |= {
            "return_mean": final.return_mean,
            "return_std": final.return_std,
            "return_episodes": len(final.returns),
            "steps_per_second": round(agent.num_timesteps / learning_seconds, 1),
            "feedback_angle": _angles(agent),
        }
    except Exception as error:
        # Non-finite parameters show as all kinds of errors, in distributions and environments.
        if isinstance(error, Divergence | NotFinite) or _is_finite(agent):
            raise
        raise NotFinite(agent.num_timesteps) from error
    finally:
        result |= {
            "timesteps": agent.num_timesteps,
            "best_return_mean": evaluator.best_return_mean,
            "untrained_return_mean": evaluator.untrained_return_mean,
            "training_return_mean": training_return_mean(agent),
        }
        if _is_finite(agent):
            save_model(agent, folder / "model")
        agent.logger.close()
        envs.close()
        evaluator.close()


@isolated(seed=0)
def check(config: DictConfig) -> None:
    """Build in memory all that a run of this config will build, and save it where nothing stays.

    Raises:
        Exception: whatever a setting, the environment, the rule or the agent has against it.
    """
    check_settings(config)
    envs = training_envs(config.env, config.agent.get("gamma", 1.0), in_process=True)
    agent = build_agent(config, envs)
    # A rule that cannot be saved would say so after the training only.
    with TemporaryDirectory() as folder:
        save_model(agent, Path(folder))
    make_callbacks(config.callbacks)
    envs.close()


def build_agent(config: DictConfig, envs: VecEnv) -> BaseAlgorithm:
    """The agent of a config, in its training environments.

    Raises:
        Exception: whatever the environment, the rule or the agent has against its settings.
    """
    optimizer, network = _plain(config.optimizer), _plain(config.network)
    make_agent = instantiate(config.agent, _partial_=True, _convert_="object")
    return make_agent(
        env=envs,
        rule=instantiate(config.rule, _convert_="object"),
        critic_rule=instantiate(config.critic_rule, _convert_="object"),
        **network,
        optimizer=optimizer.pop("name"),
        learning_rate=optimizer.pop("learning_rate"),
        critic_learning_rate=optimizer.pop("critic_learning_rate"),
        optimizer_kwargs=optimizer,
        seed=config.seed,
        device=config.device,
    )


class NotFinite(ArithmeticError):
    """Parameters that are no longer finite: the updates diverged."""

    def __init__(self, timesteps: int):
        super().__init__(f"a parameter was no longer finite after {timesteps} timesteps")


class FiniteParameters(BaseCallback):
    """Ends a run whose last update left a parameter that is not finite, before it acts on it."""

    def _on_rollout_start(self) -> None:
        self._check()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._check()

    def _check(self) -> None:
        if not _is_finite(self.model):
            raise NotFinite(self.num_timesteps)


def _is_finite(agent: BaseAlgorithm) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in agent.policy.parameters())


def _angles(agent: BaseAlgorithm) -> dict[str, list[float]]:
    """The angles between feedback and forward weights of each network whose rule has layerwise feedback."""
    networks: dict[str, Network] = agent.policy.networks  # type: ignore[assignment]
    angles = {name: feedback_angles(network) for name, network in networks.items()}
    return {name: values for name, values in angles.items() if values}


def _angle_scalars(agent: BaseAlgorithm) -> dict[str, float]:
    # The first layer gets no feedback from below: numbers start at layer 2.
    return {
        f"feedback_angle/{name}/layer_{number}": angle
        for name, angles in _angles(agent).items()
        for number, angle in enumerate(angles, start=2)
    }


def _plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def _given(**arguments: Any) -> dict[str, Any]:
    """The arguments that are not null in the config; for the others the agent has a default."""
    return {name: value for name, value in arguments.items() if value is not None}


def _clear(folder: Path) -> None:
    for name in WRITTEN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
