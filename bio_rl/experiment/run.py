"""A run, from top to bottom: build the agent, train it, evaluate it, leave everything in one folder."""

import errno
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from bio_rl.diagnostics.alignment import feedback_angles
from bio_rl.diagnostics.cost import BATCH, cost
from bio_rl.experiment import result as results
from bio_rl.experiment.callbacks import make_callbacks
from bio_rl.experiment.checkpoints import save_model
from bio_rl.experiment.diagnostics import Diagnostics
from bio_rl.experiment.environments import evaluation_envs, how_to_restore, training_envs
from bio_rl.experiment.evaluation import (
    FINAL,
    Evaluator,
    PeriodicEvaluation,
    TogetherEvaluated,
    evaluation_scalars,
    training_return_mean,
)
from bio_rl.experiment.finite import NotFinite
from bio_rl.experiment.folder import RunFolder, this_process
from bio_rl.experiment.interruption import Interrupted, Interruption, signal_of
from bio_rl.experiment.isolation import isolated
from bio_rl.experiment.logger import ProgressFile, log_config, log_final, make_logger, outputs
from bio_rl.experiment.output import complain
from bio_rl.experiment.progress import ProgressBar
from bio_rl.experiment.provenance import SOURCES_OF_RUN, git_revision, source_hashes, versions
from bio_rl.experiment.resume import (
    PeriodicSaving,
    States,
    cut_event_files,
    cut_tables,
    event_files,
    states_to_go_on_from,
    tables,
)
from bio_rl.experiment.settings import check_settings
from bio_rl.network import Network
from bio_rl.rule import Divergence, rule_settings
from bio_rl.seeding import Stream, derive_seeds
from bio_rl.snapshot import Tree, put, take

LEARN_TOGETHER, MEMBERS = "agents.learn_together", "agents.Members"
AGENT_STATE, PUT_AGENT_STATE = "agents.checkpoint.agent_state", "agents.checkpoint.put_agent_state"
"""By their names, as Hydra's ``_target_`` names the agent: what runs agents does not depend on them."""
FULL = os.strerror(errno.ENOSPC)
"""What every library says of a disk without room, in an error of whatever kind."""
IN_CALLBACKS = ("model", "locals", "globals", "parent")
"""What callbacks of Stable-Baselines3 hold of the training that they look at."""
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
    configs: Sequence[DictConfig],
    folders: Sequence[RunFolder],
    choices: Mapping[str, Any],
    launch: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Train and evaluate one agent, or several together, and leave all that is known about each in its folder.

    A run that was cut off goes on from the last state that it saved, to the same end, if it was one of this config and
    of these versions; a finished one of fewer time steps goes on from its end.

    Agents that learn together are members: each is a run with a folder of its own, and what ends
    one before its time ends no other. A run that fails, diverges or is interrupted leaves the same
    files as far as it got; its result says what happened. SIGTERM and SIGHUP interrupt as Ctrl-C
    does; one that comes while results are written is raised thereafter.

    Args:
        configs: the composed config of each run; they differ in nothing but the seed.
        folders: where each writes, claimed. What earlier runs left there is removed.
        choices: the names chosen for ``agent``, ``rule`` and ``critic_rule``.
        launch: Hydra's files that are kept with the config, see ``RunFolder.begin``.

    Returns:
        What each ``result.json`` holds.
    """
    torch.set_num_threads(configs[0].torch_threads)
    results.reset_peak_memory()
    provenance = {
        "members": len(configs),
        "process": this_process(datetime.now().astimezone().isoformat(timespec="seconds")),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    with Interruption() as interruption, interruption.held():
        runs = [
            Run(config, folder, choices, provenance, interruption)
            for config, folder in zip(configs, folders, strict=True)
        ]
        for each, state in zip(runs, states_to_go_on_from(runs), strict=True):
            each.begin(launch or {}, state)
        try:
            with interruption.raised():
                _train(runs)
        except KeyboardInterrupt as told:
            for each in runs:
                if each.is_running:
                    each.end("interrupted", signal=signal_of(told).name)
        for each in runs:
            each.close()
    return [each.result for each in runs]


def _train(runs: Sequence["Run"]) -> None:
    """From the first environment to the last evaluation; whatever goes wrong in a run is that run's."""
    for each in runs:
        with each.accounted():
            each.build()
    learning = [each for each in runs if each.is_running]
    if not learning:
        return
    config, seeds = learning[0].config, [each.config.seed for each in learning]
    title = f"{learning[0].result['rule']} seed={seeds[0]}" + (f"..{seeds[-1]}" if len(seeds) > 1 else "")
    timesteps = whole_rollouts(learning[0].agent, config.env.timesteps)
    if timesteps != config.env.timesteps and not learning[0].begun:
        complain(f"env.timesteps={config.env.timesteps} is rounded up to whole rollouts: {timesteps}")
    evaluators, agents = [each.evaluator for each in learning], [each.agent for each in learning]
    if TogetherEvaluated.is_possible(evaluators, agents):
        TogetherEvaluated(evaluators, agents)
    started = time.perf_counter()
    with ProgressBar(title, timesteps) as bar:
        _learn(learning, config, bar)
    seconds = time.perf_counter() - started - sum(each.seconds_looking for each in learning)
    for each in learning:
        if each.is_running:
            with each.accounted():
                each.finish(seconds)


def _learn(runs: Sequence["Run"], config: DictConfig, bar: ProgressBar) -> None:
    settings = _given(log_interval=config.logging.interval)
    if config.resume.interval:
        settings["after_update"] = PeriodicSaving(runs)
    agents, left = [each.agent for each in runs], [config.env.timesteps - each.begun for each in runs]
    callbacks = [each.look(bar) for each in runs]
    with runs[0].accounted() if len(runs) == 1 else nullcontext():
        goes_on = any(each.begun for each in runs)
        failures = get_method(LEARN_TOGETHER)(agents, left, callbacks, reset_num_timesteps=not goes_on, **settings)
        for index, error in failures.items():
            runs[index].fail(error)


class Run:
    """One run: its agent, what it leaves in its folder, and how it ended.

    Args:
        config: its own.
        folder: where it writes, claimed.
        choices: the names chosen for ``agent``, ``rule`` and ``critic_rule``.
        provenance: what its result says of the process.
        interruption: by which it may be told to end.

    Attributes:
        result: what is known of it so far.
        states: which it saves on the way.
        begun: the time steps from which it goes on; 0 for a run from the start.
        agent, evaluator: once they are built.
    """

    agent: OnPolicyAlgorithm
    evaluator: Evaluator
    begun = 0

    def __init__(
        self,
        config: DictConfig,
        folder: RunFolder,
        choices: Mapping[str, Any],
        provenance: dict[str, Any],
        interruption: Interruption,
    ):
        self.config = config
        self.folder = folder
        self.provenance = provenance
        self.interruption = interruption
        self.names = {**choices, "env": config.env.name, "seed": config.seed}
        self.result: dict[str, Any] = {
            "status": "running",
            **self.names,
            "env_id": config.env.id,
            "timesteps": 0,
            "timesteps_requested": config.env.timesteps,
            "evaluation_deterministic": config.evaluation.deterministic,
            **dict.fromkeys(MEASURED),
            SOURCES_OF_RUN: source_hashes(config),
        }
        self.states = States(folder.path)
        self._from: Tree = None
        self._seconds_before = 0.0
        self._started = time.perf_counter()
        self._closing = ExitStack()

    @property
    def is_running(self) -> bool:
        return self.result["status"] == "running"

    def begin(self, launch: Mapping[str, Any], state: Tree = None) -> None:
        """Take over the folder.

        Args:
            launch: Hydra's files.
            state: from which the run there goes on; ``None`` for one from the start.
        """
        self._from = state
        if state is not None:
            cut_event_files(self.folder.path, state["event_files"])
            cut_tables(self.folder.path, state["tables"])
        self.folder.begin(self.result | self.provenance, self.config, launch, clear=state is None)

    @property
    def seconds_looking(self) -> float:
        """That its evaluations and diagnostics took."""
        return self.evaluator.seconds + self.diagnostics.seconds

    # -- how it ends ---------------------------------------------------------------------

    @contextmanager
    def accounted(self) -> Iterator[None]:
        """An error within ends this run, and its result says so."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # an environment may even call sys.exit
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End it by an error."""
        # Parameters or outputs that are not finite show as all kinds of errors, in distributions and environments.
        if isinstance(error, Exception) and not isinstance(error, Divergence | NotFinite) and self._went_astray():
            cause, error = error, NotFinite(f"the network was no longer finite after {self._timesteps} timesteps")
            error.__cause__ = cause
        by_exit = " (something called sys.exit)" if isinstance(error, SystemExit) else ""
        status = "diverged" if isinstance(error, Divergence | NotFinite) else "failed"
        self.end(status, error=f"{type(error).__name__}: {error}{by_exit}")
        if FULL in str(error):  # which is no fault of the run: with more room the same command goes on with it
            self.result["resumable"] = True
        with suppress(OSError):
            text = "".join(traceback.format_exception(error))
            (self.folder.path / "traceback.txt").write_text(text, encoding="utf-8")

    def end(self, status: str, **why: str) -> None:
        self.result |= {"status": status, **why}

    def _went_astray(self) -> bool:
        return hasattr(self, "agent") and not (_is_finite(self.agent) and _answers_finitely(self.agent))

    @property
    def _timesteps(self) -> int:
        return self.agent.num_timesteps if hasattr(self, "agent") else 0

    # -- what it does --------------------------------------------------------------------

    def build(self) -> None:
        """Its environments, its agent, and what looks at it."""
        config = self.config
        # The agent seeds them too, but after its environments are built, and these may draw from them.
        set_random_seed(derive_seeds(config.seed, Stream.AGENT, 1)[0])
        envs = training_envs(config.env, config.agent.get("gamma", 1.0))
        self._closing.callback(envs.close)
        self.agent = build_agent(config, envs)
        self.added = make_callbacks(config.callbacks)
        self.result["rule_settings"] = {
            name: rule_settings(network.rule) for name, network in _networks(self.agent).items()
        }
        self.result["cost"] = _costs(self.agent)
        self.agent.set_logger(make_logger(config.logging, self.folder.path))
        self.evaluator = Evaluator(config, self.folder.path)
        self._closing.callback(self.evaluator.close)
        self.diagnostics = Diagnostics(config.diagnostics, self.folder.path)
        self.looking = [
            PeriodicEvaluation(self.evaluator, self.config.evaluation.interval, _rule_scalars),
            self.diagnostics,
            *self.added,
        ]
        if self._from is None:
            log_config(self.agent.logger, config)
        else:
            self._go_on(self._from)

    def look(self, bar: ProgressBar) -> list[BaseCallback]:
        """What sees its training."""
        return [EndsWhenTold(self.interruption), FiniteParameters(), *self.looking, bar.follower()]

    def state(self) -> Tree:
        """All that the rest of the run depends on, as plain data."""
        for output in outputs(self.agent.logger, TensorBoardOutputFormat):
            output.writer.flush()
        return {
            "agent": get_method(AGENT_STATE)(self.agent),
            "looking": take(self._followed(), self._not_followed(), unnamed=IN_CALLBACKS),
            "tables": tables(self.folder.path),
            "event_files": event_files(self.folder.path),
            "seconds": self._seconds(),
        }

    def _go_on(self, state: Tree) -> None:
        """Bring the agent and what looks at it to where they were."""
        replay = how_to_restore(self.config.env)
        get_method(PUT_AGENT_STATE)(self.agent, state["agent"], replay)
        put(self._followed(), state["looking"])
        self.begun, self._seconds_before = self.agent.num_timesteps, state["seconds"]
        self.result["resumed_at"] = self.begun
        if replay is None:
            self.result["resumed_exactly"] = False

    def _followed(self) -> list[Any]:
        return [self.evaluator, *self.looking, *outputs(self.agent.logger, ProgressFile)]

    def _not_followed(self) -> list[Any]:
        return [self.agent, self.agent.env, self.agent.logger, self.evaluator.envs, self.evaluator.together]

    def _seconds(self) -> float:
        """That the run has taken, before it was cut off too."""
        return self._seconds_before + time.perf_counter() - self._started

    def finish(self, learning_seconds: float) -> None:
        """Evaluate it once more, and say what was measured.

        Args:
            learning_seconds: that it and those who learnt with it took, without evaluations.
        """
        final = self.evaluator.evaluate(self.agent, FINAL)
        scalars = evaluation_scalars(self.agent, final) | _rule_scalars(self.agent)
        log_final(self.agent.logger, self.config, self.names, scalars, self.agent.num_timesteps)
        self.result |= {
            "return_mean": final.return_mean,
            "return_std": final.return_std,
            "return_episodes": len(final.returns),
            "steps_per_second": round((self.agent.num_timesteps - self.begun) / learning_seconds, 1),
            "feedback_angle": _angles(self.agent),
        }
        self.end("done")

    def close(self) -> None:
        """Leave what is known, however it ended."""
        with self._closing:
            if hasattr(self, "diagnostics"):
                self.result |= {
                    "timesteps": self.agent.num_timesteps,
                    "best_return_mean": self.evaluator.best_return_mean,
                    "untrained_return_mean": self.evaluator.untrained_return_mean,
                    "training_return_mean": training_return_mean(self.agent),
                    "diagnostics": self.diagnostics.result(),
                }
                with self.accounted():
                    if _is_finite(self.agent):
                        save_model(self.agent, self.folder.path / "model")
                    self.agent.logger.close()
        self.result["wall_seconds"] = round(self._seconds(), 3)
        self.result["peak_memory_mb"] = results.peak_memory_mb()
        self.result |= self.provenance
        self.folder.write_result(self.result)


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
    if config.members > 1:
        check_members(agent, build_agent(config, envs), config.members)
    # A rule that cannot be saved would say so after the training only.
    with TemporaryDirectory() as folder:
        save_model(agent, Path(folder))
    make_callbacks(config.callbacks)
    envs.close()
    if config.env.evaluation_kwargs:
        evaluation_envs(config.env, 1).close()


def check_members(agent: OnPolicyAlgorithm, another: OnPolicyAlgorithm, members: int) -> None:
    """Raise a ValueError if such agents cannot learn together."""
    try:
        get_method(MEMBERS)([agent, another]).release()
    except (ValueError, AttributeError) as error:
        raise ValueError(f"members={members}: {error}") from error


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


def _costs(agent: BaseAlgorithm) -> dict[str, Any]:
    """What an update of each network costs for each of ``batch`` samples; ``None`` where its rule cannot be counted."""
    return {"batch": BATCH} | {name: _cost(network) for name, network in _networks(agent).items()}


def _cost(network: Network) -> dict[str, float] | None:
    try:
        return cost(network)._asdict()
    except Exception:  # what a rule raises of numbers that are not the task's says nothing of the run
        return None


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
