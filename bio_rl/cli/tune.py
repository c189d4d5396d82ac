"""``bio-rl tune``: each rule's learning rates and own settings, found with the same budget for all."""

import os
import time
from collections.abc import Mapping, Sequence
from datetime import date
from functools import reduce
from importlib.metadata import version
from operator import getitem
from pathlib import Path
from shlex import join, quote
from typing import Any

import yaml

from bio_rl.cli.configs import Job, compose_jobs, plain
from bio_rl.cli.errors import UserError, first_line
from bio_rl.cli.loader import SEARCH, config_folder
from bio_rl.cli.schema import RULES
from bio_rl.cli.train import check_agents, check_builds, check_numbers, parse
from bio_rl.experiment.interruption import Interruption
from bio_rl.experiment.output import as_return, complain, plain_warnings, say
from bio_rl.names import is_within

DEFAULTS = {
    "study": "tuning",
    # Far from those of any comparison: settings that were chosen on some seeds flatter themselves on them.
    "seed": "1000000",
    "members": "8",
    "logging": "none",
    "diagnostics": '"off"',
    "evaluation.interval": "0",
    "evaluation.checkpoints": "none",
}
"""What differs from ``bio-rl train`` unless it is given: nothing of a trial stays but its returns."""
TUNED = "tuned"
HEADER = """\
# @package _global_
# Found by {command}
# Other settings are the task's own; those of the command that are not the rule's are to be given again.
# `tuned=rule` chooses this file.
"""


def tune(arguments: Sequence[str], trials: int, config_dir: Path | None) -> int:
    """Tune the rules of a command line, and write a file of settings for each.

    Args:
        arguments: overrides, as those of ``bio-rl train``; ``rule``, ``env`` and ``agent`` may be several.
        trials: of each rule.
        config_dir: the user's own configs, where the files are written;
            ``conf`` in the current folder if there is none.

    Returns:
        The exit code.

    Raises:
        UserError: anything wrong with the arguments; nothing has been written then.
    """
    tuning = _optuna()
    jobs = _jobs(arguments, config_dir)
    check_agents()
    folder = config_dir or Path("conf")
    spaces = [_space(job, config_dir) for job in jobs]
    for job in jobs:
        _check(job, folder)
    check_builds(jobs)
    for job in jobs:
        job.config.env.timesteps = _whole(job)
    command = join(["bio-rl", "tune", "--trials", str(trials), *_flags(config_dir), *arguments])
    progress = _Progress(len(jobs) * trials)
    try:
        with Interruption(), plain_warnings():
            for job, space in zip(jobs, spaces, strict=True):
                with tuning.Study(_file(job), job.config, space, _choices(job), _made_of(job, space)) as study:
                    progress.skip(min(len(study.finished), trials))
                    while len(study.finished) < trials:
                        study.run_trial()
                        progress.step(job, study.finished)
                    _write(job, study.tuned(), _given(arguments, job), folder, command)
    except tuning.TuningError as error:
        complain(f"bio-rl tune: {error}")
        return 1
    except KeyboardInterrupt:
        complain(f"the same command goes on with what is left: {command}")
        raise
    tried = ",".join(dict.fromkeys(str(job.choices["rule"]) for job in jobs))
    env, agent = jobs[0].choices["env"], jobs[0].choices["agent"]
    flags = " ".join(map(quote, _flags(config_dir or Path("conf") if folder.resolve() != config_folder() else None)))
    say(f"bio-rl train -m {flags + ' ' if flags else ''}tuned=rule rule={tried} env={env} agent={agent} takes them")
    return 0


def _optuna() -> Any:
    try:
        from bio_rl.experiment import tuning
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise UserError('Optuna is not installed: pip install "bio-rl[tune]"') from error
    return tuning


def _flags(config_dir: Path | None) -> list[str]:
    return [] if config_dir is None else ["--config-dir", str(config_dir)]


def _keys(arguments: Sequence[str]) -> list[str]:
    """What overrides set."""
    return [argument.lstrip("+").partition("=")[0] for argument in arguments]


# -- what is tuned -----------------------------------------------------------------------


def _jobs(arguments: Sequence[str], config_dir: Path | None) -> list[Job]:
    given = _keys(arguments)
    defaults = [f"{key}={value}" for key, value in DEFAULTS.items() if key not in given]
    jobs = compose_jobs(parse(["-m", *_flags(config_dir), *defaults, *arguments]))
    if not jobs:
        raise UserError("tune takes Hydra's own sweeper: leave hydra/sweeper out")
    files = [_file(job) for job in jobs]
    for job, file in zip(jobs, files, strict=True):
        if files.count(file) > 1:
            raise UserError(f"tune sweeps over rule, env and agent only; several would be filed under {file}")
        rule, critics = job.choices["rule"], job.choices.get("rule@critic_rule")
        if critics not in (None, rule):
            raise UserError(f"critic_rule={critics}: what is tuned is one rule's, in both networks; leave it out")
        if str(job.choices.get(TUNED)).count("/") > 1:
            raise UserError("tuned=rule is what tune finds; it begins without")
        if job.config.env.name != job.choices["env"]:
            raise UserError(
                f"env={job.choices['env']} env.name={job.config.env.name}: what is tuned is found again by env=NAME;"
                " give the task a file of its own, env/NAME.yaml in --config-dir"
            )
    return jobs


def _check(job: Job, folder: Path) -> None:
    check_numbers(job)
    ours, theirs = config_folder(), folder
    if theirs.resolve() != ours.resolve() and (ours / _name(job)).exists():
        raise UserError(
            f"bio-rl has tuned values of its own, {_name(job)}, which tuned=rule takes; yours would be hidden"
        )
    existing = next(each for each in ((folder / _name(job)).absolute().parents) if os.path.lexists(each))
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise UserError(f"{folder / _name(job)} cannot be written")


def _whole(job: Job) -> int:
    """The timesteps of a run in whole rollouts, as it would round them each time anew."""
    from bio_rl.experiment.environments import training_envs
    from bio_rl.experiment.isolation import isolated
    from bio_rl.experiment.run import build_agent, whole_rollouts

    with isolated(seed=0):
        envs = training_envs(job.config.env, job.config.agent.get("gamma", 1.0), in_process=True)
        try:
            return whole_rollouts(build_agent(job.config, envs), job.config.env.timesteps)
        finally:
            envs.close()


def _name(job: Job) -> Path:
    env, agent, rule = (str(job.choices[group]) for group in ("env", "agent", "rule"))
    return Path(TUNED, env, agent, f"{rule}.yaml")


def _file(job: Job) -> Path:
    return Path("runs", job.config.study, *_name(job).with_suffix(".db").parts[1:])


def _space(job: Job, config_dir: Path | None) -> Any:
    """What is tried for a rule: what is for all, and its own."""
    entries: dict[str, Any] = {}
    for name in ("default", str(job.choices["rule"])):
        for folder in filter(None, (config_folder(), config_dir)):
            file = folder / SEARCH / f"{name}.yaml"
            if file.is_file():
                entries |= _entries(file)
    try:
        return _optuna().search_space(entries, job.config)
    except _optuna().TuningError as error:
        raise UserError(f"{SEARCH}/ for {job.choices['rule']}: {error}") from error


def _entries(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}") from error
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise UserError(f"{file}: it must hold lines such as rule.noise: {{low: 0.001, high: 0.1, log: true}}")
    return found


def _choices(job: Job) -> dict[str, Any]:
    rule = job.choices["rule"]
    return {"agent": job.choices["agent"], "rule": rule, "critic_rule": rule}


def _made_of(job: Job, space: Mapping[str, Any]) -> dict[str, Any]:
    """All that a study's trials depend on."""
    from bio_rl.experiment.provenance import SOURCES_OF_RUN, source_hashes, versions

    config = plain(job.config)
    del config["overwrite"]
    return {
        "config": config,
        SOURCES_OF_RUN: source_hashes(job.config),
        SEARCH: {key: str(each) for key, each in space.items()},
        "versions": {**versions(), "optuna": version("optuna")},
    }


# -- what is said and written ------------------------------------------------------------


class _Progress:
    """One line for each trial, with the time left."""

    def __init__(self, trials: int):
        self.left, self.ran, self.started = trials, 0, time.perf_counter()
        self.trials = trials

    def skip(self, trials: int) -> None:
        """These were finished before."""
        self.left -= trials

    def step(self, job: Job, finished: Sequence[Any]) -> None:
        self.left, self.ran = self.left - 1, self.ran + 1
        seconds = (time.perf_counter() - self.started) / self.ran * self.left
        last = finished[-1]
        best = max((trial.value for trial in finished if trial.value is not None), default=None)
        outcome = "diverged" if last.value is None else f"return {as_return(last.value)}"
        outcome += ", given up" if last.user_attrs.get("pruned") else ""
        what = f"{job.choices['rule']} on {job.choices['env']}"
        complain(
            f"{self.trials - self.left} of {self.trials} trials | {what}: {outcome}"
            + (f" (best {as_return(best)})" if best is not None else "")
            + (f" | about {_duration(seconds)} left" if self.left else "")
        )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _given(arguments: Sequence[str], job: Job) -> dict[str, Any]:
    """The rule's settings that the command line gave, as its preset: the values found hold only beside them."""
    keys = [key for key in _keys(arguments) if "." in key and is_within(key, RULES)]
    settings = plain(job.config)
    return {key: reduce(getitem, key.split("."), settings) for key in keys}


def _write(job: Job, tuned: Any, given: Mapping[str, Any], folder: Path, command: str) -> None:
    """The settings that were given and found, as a choice from ``tuned``."""
    config = job.config
    provenance = {
        "trials": tuned.trials,
        "pruned": tuned.pruned,
        "diverged": tuned.diverged,
        "timesteps": config.env.timesteps,
        "seeds": [config.seed, config.seed + config.members - 1],
        "steps_of_all": tuned.steps,
        "return_mean": tuned.value,
        "untuned_return_mean": tuned.untuned,
        "date": date.today().isoformat(),
        "versions": _made_of(job, {})["versions"],
    }
    content: dict[str, Any] = {}
    base = job.choices.get(TUNED)
    if base is not None and any((each / TUNED / f"{base}.yaml").is_file() for each in (config_folder(), folder)):
        content["defaults"] = [f"/{TUNED}/{base}", "_self_"]
    for key, value in {**given, **tuned.values}.items():
        *parents, name = key.split(".")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    content["tuning"] = provenance
    file = folder / _name(job)
    file.parent.mkdir(parents=True, exist_ok=True)
    header = HEADER.format(command=command)
    file.write_text(header + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    before = "diverged" if tuned.untuned is None else f"{as_return(tuned.untuned)}"
    say(f"{job.choices['rule']} on {job.choices['env']}: return {as_return(tuned.value)}, {before} before | {file}")
