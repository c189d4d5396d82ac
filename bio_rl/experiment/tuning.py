"""Tuning one rule on one task: trials by Optuna, each of the same steps and seeds, in a file that resumes."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from bio_rl.experiment.folder import RunFolder
from bio_rl.experiment.interruption import Interrupted
from bio_rl.experiment.run import run

Space = dict[str, BaseDistribution]

GROUP = 4
"""Seeds of a trial that learn together before it is asked whether the others are worth their time: the fewest with
which the signed-rank test can be below ``P_VALUE`` (all four worse: 1 in 16)."""
P_VALUE = 0.1
STARTUP = 6
"""Trials drawn at random before the sampler learns from those before it."""
DIGITS = 3
"""Significant digits of a number that is tried, so that a tuned value is legible and is what ran."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
LEARNING_RATE, CRITICS = "optimizer.learning_rate", "optimizer.critic_learning_rate"
SCHEDULE = "lin_"


class TuningError(Exception):
    """Why tuning cannot begin or go on, in one line."""


@dataclass
class Tuned:
    """What a study has found.

    Attributes:
        values: of the best trial, by their keys.
        value: its mean return over the seeds.
        untuned: that of the settings before; ``None`` where a run of theirs diverged.
        trials, pruned, diverged: how many of the trials; those that were given up, or had a run that diverged.
        steps: of the environment that all of them took.
    """

    values: dict[str, Any]
    value: float
    untuned: float | None
    trials: int
    pruned: int
    diverged: int
    steps: int


# -- what is tried -----------------------------------------------------------------------


def search_space(entries: Mapping[str, Any], config: DictConfig) -> Space:
    """The distribution of each setting that is tried.

    Args:
        entries: key: ``{factor}``, ``{low, high, log}`` or ``{choices}``, as in ``conf/search``.
        config: of a run; its own values are among those that can be drawn, being the first trial.

    Raises:
        TuningError: a key that the config has not, or an entry of another form.
    """
    space = {}
    for key, entry in entries.items():
        if OmegaConf.select(config, key) is None and key != CRITICS:
            raise TuningError(f"{key}: a run has no such setting, or it has no value")
        try:
            space[key] = _distribution(entry, current(config, key))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise TuningError(
                f"{key}: {entry}: it must be {{factor: F}}, {{low: A, high: B}} or {{choices: [A, B]}}"
                f" ({' '.join(str(error).split())})"
            ) from error
        if not space[key]._contains(space[key].to_internal_repr(current(config, key))):
            raise TuningError(f"{key}={current(config, key)}: it lies outside of what is tried, {entry}")
    return space


def _distribution(entry: Mapping[str, Any], value: Any) -> BaseDistribution:
    known = ({"factor"}, {"low", "high"}, {"low", "high", "log"}, {"choices"})
    if set(entry) not in known:
        raise ValueError(f"it has {', '.join(map(str, entry)) or 'nothing'}")
    if "factor" in entry:
        if not entry["factor"] > 1:
            raise ValueError("a factor is above 1")
        return FloatDistribution(value / entry["factor"], value * entry["factor"], log=True)
    if "choices" in entry:
        return CategoricalDistribution([*entry["choices"], *([] if value in entry["choices"] else [value])])
    low, high, log = entry["low"], entry["high"], bool(entry.get("log", False))
    if isinstance(low, int) and isinstance(high, int) and isinstance(value, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def current(config: DictConfig, key: str) -> Any:
    """The value of a setting; of a schedule ``lin_<number>`` the number."""
    value = OmegaConf.select(config, key)
    if value is None and key == CRITICS:
        return current(config, LEARNING_RATE)
    return float(value.removeprefix(SCHEDULE)) if _is_schedule(value) else value


def chosen(config: DictConfig, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial's parameters mean as settings: rounded, and scheduled where the setting is."""
    values: dict[str, Any] = {}
    for key, value in parameters.items():
        rounded = float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
        values[key] = f"{SCHEDULE}{rounded}" if _is_schedule(OmegaConf.select(config, key)) else rounded
    return values


def _is_schedule(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(SCHEDULE)


# -- a study -----------------------------------------------------------------------------


class Study:
    """The trials of one rule, in a file. As a context manager it is this process's alone.

    The first trial has the settings as they are. What a trial draws depends on the seed, its number
    and the trials before it only, so that a study that was broken off and resumed is the one that
    would have been.

    Args:
        file: SQLite's; a study in it goes on.
        config: of the runs; ``seed`` is the first of the ``members`` seeds of every trial.
        space: what is tried.
        choices: the names chosen for ``agent``, ``rule`` and ``critic_rule``.
        made_of: all that its trials depend on; one that was begun with other settings is refused.
    """

    def __init__(
        self, file: Path, config: DictConfig, space: Space, choices: Mapping[str, Any], made_of: Mapping[str, Any]
    ):
        self.file, self.config, self.space, self.choices, self.made_of = file, config, space, choices, made_of
        self._lock = FileLock(file.with_suffix(".lock"))

    def __enter__(self) -> "Study":
        """Raises: TuningError: another process tunes it, or it was begun with other settings."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise TuningError(f"{self.file} is in use by another process") from None
        try:
            if self.config.overwrite:
                self.file.unlink(missing_ok=True)
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _open(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with _quietly():
            pruner = optuna.pruners.WilcoxonPruner(p_threshold=P_VALUE)
            try:
                self.study = optuna.create_study(
                    storage=f"sqlite:///{self.file.absolute()}",
                    study_name="tune",
                    direction="maximize",
                    load_if_exists=True,
                    pruner=pruner,
                )
            except Exception as error:  # SQLAlchemy's, of a file that is none of its own
                raise TuningError(f"{self.file} cannot be read as a study: {str(error).splitlines()[0]}") from error
        begun = self.study.user_attrs.get("made_of")
        if begun is None:
            self.study.set_user_attr("made_of", dict(self.made_of))
        elif differing := _differences(begun, self.made_of):
            raise TuningError(
                f"{self.file} holds a study with another {', '.join(differing[:3])}:"
                " study=NAME begins one beside it, overwrite=true replaces it"
            )
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)  # its process was killed

    @property
    def finished(self) -> list[FrozenTrial]:
        """The trials that are over, in their order."""
        return self.study.get_trials(deepcopy=False, states=FINISHED)

    def run_trial(self) -> None:
        """Run one more.

        Raises:
            Interrupted: it was told to end; the trial does not count.
            TuningError: a run failed.
        """
        number = len(self.finished)
        # One of its own for each trial: a resumed study goes on with the numbers that it would have had.
        self.study.sampler = optuna.samplers.TPESampler(seed=_seed(self.config.seed, number), n_startup_trials=STARTUP)
        if number == 0 and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.study.enqueue_trial({key: current(self.config, key) for key in self.space})
        with _quietly():
            trial = self.study.ask(self.space)
        config = self.config.copy()
        for key, value in chosen(config, trial.params).items():
            OmegaConf.update(config, key, value)
        returns: list[float] = []
        steps = 0
        for group in groups(config):
            try:
                results = _run(group, self.choices)
            except BaseException:
                self.study.tell(trial, state=TrialState.FAIL)
                raise
            steps += sum(result["timesteps"] for result in results)
            trial.set_user_attr("steps", steps)
            if any(result["status"] == "diverged" for result in results):
                trial.set_user_attr("diverged", True)
                self.study.tell(trial, state=TrialState.PRUNED)
                return
            for result in results:
                trial.report(result["return_mean"], step=result["seed"])
                returns.append(result["return_mean"])
            with _quietly():
                is_hopeless = len(returns) < config.members and trial.should_prune()
            if is_hopeless:
                trial.set_user_attr("pruned", True)
                break
        # Of a trial that was given up too: the sampler learns from it, and it is below the best, or it would go on.
        self.study.tell(trial, fmean(returns))

    def tuned(self) -> Tuned:
        """What has been found.

        Raises:
            TuningError: nothing: runs diverged in every trial.
        """
        trials = self.finished
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not complete:
            raise TuningError(f"runs diverged in all of {len(trials)} trials: nothing was found")
        best = self.study.best_trial
        diverged = [trial for trial in trials if trial.user_attrs.get("diverged")]
        return Tuned(
            values=chosen(self.config, best.params),
            value=_mean(best),
            untuned=trials[0].value,
            trials=len(trials),
            pruned=sum(trial.user_attrs.get("pruned", False) for trial in trials),
            diverged=len(diverged),
            steps=sum(trial.user_attrs["steps"] for trial in trials),
        )


def groups(config: DictConfig) -> Iterator[list[DictConfig]]:
    """The runs of a trial, in groups that learn together."""
    seeds = range(config.seed, config.seed + config.members)
    for start in range(0, len(seeds), GROUP):
        group = []
        for seed in seeds[start : start + GROUP]:
            each = config.copy()
            each.seed, each.members = seed, 1
            group.append(each)
        yield group


def _run(configs: Sequence[DictConfig], choices: Mapping[str, Any]) -> list[dict[str, Any]]:
    with TemporaryDirectory() as folder, ExitStack() as claimed:
        folders = [claimed.enter_context(RunFolder(Path(folder, f"seed={each.seed}"))) for each in configs]
        results = run(configs, folders, choices)
    for result in results:
        if result["status"] == "interrupted":
            raise Interrupted(Signals[result["signal"]])
        if result["status"] == "failed":
            raise TuningError(f"a run with seed={result['seed']} failed: {result['error'].splitlines()[0]}")
    return results


def _mean(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _seed(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    """The keys in which two trees of plain data differ."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return [] if before == now else [path.removesuffix(".")]
    keys = [*before, *(key for key in now if key not in before)]
    return [each for key in keys for each in _differences(before.get(key), now.get(key), f"{path}{key}.")]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Optuna's warnings of what may change in it: its version is in the provenance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
