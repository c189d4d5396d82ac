"""A run, from top to bottom: build the agent, train it, evaluate it, leave everything in one folder."""

import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from bio_rl.diagnostics.alignment import feedback_angles
from bio_rl.experiment import result as results
from bio_rl.experiment.callbacks import make_callbacks
from bio_rl.experiment.checkpoints import save_model
from bio_rl.experiment.diagnostics import Diagnostics
from bio_rl.experiment.environments import training_envs
from bio_rl.experiment.evaluation import (
    FINAL_SEED,
    Evaluator,
    PeriodicEvaluation,
    evaluation_scalars,
    training_return_mean,
)
from bio_rl.experiment.finite import NotFinite
from bio_rl.experiment.folder import RunFolder, this_process
from bio_rl.experiment.interruption import Interrupted, Interruption, signal_of
from bio_rl.experiment.isolation import isolated
from bio_rl.experiment.logger import log_config, log_final, make_logger
from bio_rl.experiment.output import complain
from bio_rl.experiment.progress import ProgressBar
from bio_rl.experiment.provenance import git_revision, source_hashes, versions
from bio_rl.experiment.settings import check_settings
from bio_rl.network import Network
from bio_rl.rule import Divergence, Rule

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


def run(
    config: DictConfig, folder: RunFolder, choices: Mapping[str, Any], launch: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Train and evaluate one agent, and leave everything that is known about it in its folder.

    A run that fails, diverges or is interrupted leaves the same files as far as it got; its
    result says what happened. SIGTERM and SIGHUP interrupt as Ctrl-C does; one that comes while
    the result is written is raised thereafter.

    Args:
        config: the composed config.
        folder: where to write, claimed. What an earlier run left there is removed.
        choices: the names chosen for ``agent``, ``rule`` and ``critic_rule``.
        launch: Hydra's files that are kept with the config, see ``RunFolder.begin``.

    Returns:
        What ``result.json`` holds.
    """
    torch.set_num_threads(config.torch_threads)
    results.reset_peak_memory()
    names = {**choices, "env": config.env.name, "seed": config.seed}
    result = {"status": "running", **names, "env_id": config.env.id}
    result |= {"timesteps": 0, "timesteps_requested": config.env.timesteps}
    result["evaluation_deterministic"] = config.evaluation.deterministic
    result |= dict.fromkeys(MEASURED)
    process = this_process(datetime.now().astimezone().isoformat(timespec="seconds"))
    provenance = {"process": process, "versions": versions(), "git_revision": git_revision()}

    started = time.perf_counter()
    with Interruption() as interruption, interruption.held():
        folder.begin(result | provenance, config, launch or {})
        try:
            with interruption.raised():
                train(config, folder.path, names, result, interruption)
            result["status"] = "done"
        except KeyboardInterrupt as told:
            result |= {"status": "interrupted", "signal": signal_of(told).name}
        except BaseException as error:  # an environment may even call sys.exit
            diverged = isinstance(error, Divergence | NotFinite)
            by_exit = " (something called sys.exit)" if isinstance(error, SystemExit) else ""
            result |= {"status": "diverged" if diverged else "failed"}
            result |= {"error": f"{type(error).__name__}: {error}{by_exit}"}
            with suppress(OSError):
                (folder.path / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        result |= {"wall_seconds": round(time.perf_counter() - started, 3), "peak_memory_mb": results.peak_memory_mb()}
        result |= provenance
        folder.write_result(result)
    return result


def train(
    config: DictConfig, folder: Path, names: Mapping[str, Any], result: dict[str, Any], interruption: Interruption
) -> None:
    """The run itself. What is known so far is in ``result`` and the folder whenever it ends, or breaks off.

    Raises:
        Divergence, NotFinite: the rule diverged, or its updates did.
        BaseException: whatever else goes wrong.
    """
    # The agent seeds them too, but after its environments are built, and these may draw from them.
    set_random_seed(config.seed)
    envs = training_envs(config.env, config.agent.get("gamma", 1.0))
    agent = build_agent(config, envs)
    added = make_callbacks(config.callbacks)
    result["rule_source_sha256"] = source_hashes(_rules(agent))
    timesteps = whole_rollouts(agent, config.env.timesteps)
    if timesteps != config.env.timesteps:
        complain(f"env.timesteps={config.env.timesteps} is rounded up to whole rollouts: {timesteps}")
    agent.set_logger(make_logger(config.logging, folder))
    evaluator = Evaluator(config, folder)
    diagnostics = Diagnostics(config.diagnostics, folder)
    title = f"{names['rule']} seed={names['seed']}"
    try:
        log_config(agent.logger, config)
        with ProgressBar(title, timesteps) as bar:
            callbacks = [
                EndsWhenTold(interruption),
                FiniteParameters(),
                PeriodicEvaluation(evaluator, config.evaluation.interval, _rule_scalars),
                diagnostics,
                *added,
                bar,
            ]
            agent.learn(config.env.timesteps, callbacks, **_given(log_interval=config.logging.interval))
        learning_seconds = bar.seconds - evaluator.seconds - diagnostics.seconds
        final = evaluator.evaluate(agent, FINAL_SEED)
        scalars = evaluation_scalars(agent, final) | _rule_scalars(agent)
        log_final(agent.logger, config, names, scalars, agent.num_timesteps)
        result |= {
            "return_mean": final.return_mean,
            "return_std": final.return_std,
            "return_episodes": len(final.returns),
            "steps_per_second": round(agent.num_timesteps / learning_seconds, 1),
            "feedback_angle": _angles(agent),
        }
    except Exception as error:
        # Parameters or outputs that are not finite show as all kinds of errors, in distributions and environments.
        if isinstance(error, Divergence | NotFinite) or (_is_finite(agent) and _answers_finitely(agent)):
            raise
        raise NotFinite(f"the network was no longer finite after {agent.num_timesteps} timesteps") from error
    finally:
        with interruption.held():
            result |= {
                "timesteps": agent.num_timesteps,
                "best_return_mean": evaluator.best_return_mean,
                "untrained_return_mean": evaluator.untrained_return_mean,
                "training_return_mean": training_return_mean(agent),
                "diagnostics": diagnostics.result(),
            }
            if _is_finite(agent):
                save_model(agent, folder / "model")
            agent.logger.close()
        envs.close()
        evaluator.close()


def whole_rollouts(agent: OnPolicyAlgorithm, timesteps: int) -> int:
    """The timesteps that an agent takes when it is asked for some: what it collects at a time, it collects whole."""
    # A buffer of whole episodes has no size, and ends with any step of all environments.
    rollout = agent.n_envs * getattr(agent.rollout_buffer, "buffer_size", 1)
    return -(-timesteps // rollout) * rollout


@isolated(seed=0)
def check(config: DictConfig) -> None:
    """Build in memory all that a run of this config will build, and save it where nothing stays.

    Raises:
        Exception: whatever a setting, the environment, the rule or the agent has against it.
    """
    check_settings(config)
    envs = training_envs(config.env, config.agent.get("gamma", 1.0), in_process=True)
    agent = build_agent(config, envs)
    check_advantages(agent)
    for network in agent.policy.networks.values():  # type: ignore[operator]
        network.probe()
    # A rule that cannot be saved would say so after the training only.
    with TemporaryDirectory() as folder:
        save_model(agent, Path(folder))
    make_callbacks(config.callbacks)
    envs.close()


def check_advantages(agent: OnPolicyAlgorithm) -> None:
    """Raise a ValueError if advantages would be normalised that stand alone: one sample has no spread to divide by."""
    steps = getattr(agent.rollout_buffer, "buffer_size", None)
    if steps is None or not getattr(agent, "normalize_advantage", False):
        return
    rollout = steps * agent.n_envs
    minibatch = getattr(agent, "batch_size", rollout)
    if rollout % minibatch == 1 or rollout == 1:
        raise ValueError(
            f"agent.normalize_advantage=true cannot normalise a single advantage: of {rollout} samples "
            f"(agent.n_steps x env.n_envs) in minibatches of {minibatch} the last has one"
        )


def build_agent(config: DictConfig, envs: VecEnv) -> OnPolicyAlgorithm:
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


class EndsWhenTold(BaseCallback):
    """Ends a run that was interrupted where the error was swallowed: by a bare ``except`` of an environment, say."""

    def __init__(self, interruption: Interruption):
        super().__init__()
        self.interruption = interruption

    def _on_step(self) -> bool:
        if self.interruption.told is not None:
            raise Interrupted(self.interruption.told)
        return True


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
            raise NotFinite(f"a parameter was no longer finite after {self.num_timesteps} timesteps")


def _is_finite(agent: BaseAlgorithm) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in agent.policy.parameters())


def _answers_finitely(agent: BaseAlgorithm) -> bool:
    """Whether the networks' outputs for the last observations are finite: finite weights may still overflow."""
    try:
        with torch.no_grad():
            observations, _ = agent.policy.obs_to_tensor(agent._last_obs)  # type: ignore[arg-type]
            features = agent.policy.extract_features(observations, agent.policy.features_extractor)
            return all(bool(network(features).isfinite().all()) for network in _networks(agent).values())
    except Exception:  # whatever went wrong may go wrong again
        return True


def _networks(agent: BaseAlgorithm) -> dict[str, Network]:
    return agent.policy.networks  # type: ignore[return-value]


def _rules(agent: BaseAlgorithm) -> list[Rule]:
    """The networks' rules, and the rules inside them."""
    return [module for network in _networks(agent).values() for module in network.modules() if isinstance(module, Rule)]


def _angles(agent: BaseAlgorithm) -> dict[str, list[float]]:
    """The angles between feedback and forward weights of each network whose rule has layerwise feedback."""
    angles = {name: feedback_angles(network) for name, network in _networks(agent).items()}
    return {name: values for name, values in angles.items() if values}


def _rule_scalars(agent: BaseAlgorithm) -> dict[str, float]:
    """How far feedback has come to agree with forward weights, and what a rule has to say for itself."""
    # The first layer gets no feedback from below: numbers start at layer 2.
    angles = {
        f"feedback_angle/{name}/layer_{number}": angle
        for name, angles in _angles(agent).items()
        for number, angle in enumerate(angles, start=2)
    }
    networks: dict[str, Network] = agent.policy.networks  # type: ignore[assignment]
    own = {
        f"rule/{name}/{key}": value
        for name, network in networks.items()
        for key, value in network.rule.diagnostics(network).items()
    }
    return angles | own


def _plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def _given(**arguments: Any) -> dict[str, Any]:
    """The arguments that are not null in the config; for the others the agent has a default."""
    return {name: value for name, value in arguments.items() if value is not None}
