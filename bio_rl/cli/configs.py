"""The configs of a command line: found, composed, and checked before anything is written."""

import os
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bio_rl.cli.errors import UserError, first_line, nearest, nearest_of, shortened
from bio_rl.cli.loader import CONFIG, Loader, config_folder, is_plain, lines_of, loader_of
from bio_rl.cli.schema import as_text, check_values, fill_presets, is_open, unknown_keys, where
from bio_rl.names import CRITIC_RULE, CRITIC_RULE_IN_FULL, in_full, is_within

REMOVABLE = ("experiment", "tuned")
"""The groups that a run can do without."""
CHOSEN = ("agent", "rule", "rule@critic_rule", "optimizer", "callbacks", "env")
ARGUMENTS = ("agent", "rule", "critic_rule", "optimizer", "callbacks")
"""Where the keys are those of the file that was chosen, and any other argument of what it describes."""
LONGEST_NAME, LONGEST_PATH = 255, 4000
"""What file systems take, in bytes; of the path something is left for the files in it."""
LAUNCHERS = {
    "joblib": "parallel",
    "ray": "ray",
    "ray_aws": "ray",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
}
"""Hydra's launchers, and which of our extras brings each."""
LONGEST_SUFFIX = 200
"""The end of a folder's name, in bytes, before a hash takes the place of what is cut; the rule's name stands before."""


@dataclass
class Job:
    """One run of a command line.

    Attributes:
        config: what the run gets, without interpolations.
        folder: where it will write.
        choices: the file chosen from each group.
        sweep_folder: where Hydra writes of the sweep that it belongs to; ``None`` if to none.
        is_member: whether others learn with it.
    """

    config: DictConfig
    folder: Path
    choices: dict[str, Any]
    sweep_folder: Path | None = None
    is_member: bool = False

    @property
    def is_one_of_several(self) -> bool:
        """Whether the command makes other runs too."""
        return self.sweep_folder is not None or self.is_member

    def runs(self) -> list["Job"]:
        """This run, or if it has members, each of them."""
        if self.config.members == 1:
            return [self]
        return [replace(self, config=config, folder=folder, is_member=True) for config, folder in members(self)]


def members(job: Job) -> list[tuple[DictConfig, Path]]:
    """The config and the folder of each run that learns with a job's own, as it would be alone."""
    first = job.config.seed
    # Beside the job's own folder, where this is named by its seed.
    beside = job.folder.parent if job.folder.name == f"seed={first}" else job.folder
    runs = []
    for seed in range(first, first + job.config.members):
        config = job.config.copy()
        config.seed, config.members = seed, 1
        runs.append((config, beside / f"seed={seed}"))
    return runs


def folder_suffix(overrides: str, choices: Mapping[str, Any]) -> str:
    """What else was overridden, as the end of a folder's name: ``,key=value,...`` or nothing.

    Args:
        overrides: as Hydra names a job by them, without the choice of ``tuned``.
        choices: Hydra's.
    """
    # Hydra cannot tell the rule, which the folder is named by already, from the critic's.
    overrides = re.sub(r"(^|,)rule=[^,]*", "", overrides).lstrip(",").replace(CRITIC_RULE_IN_FULL, CRITIC_RULE)
    # Whether a key was added or changed makes no other run.
    overrides = re.sub(r"(^|,)\+{1,2}", r"\1", overrides)
    overrides = ",".join(filter(None, [overrides, _tuned_suffix(choices)]))
    if not overrides:
        return ""
    name = os.fsencode("," + overrides.replace(os.sep, "_"))
    if len(name) <= LONGEST_SUFFIX:
        return os.fsdecode(name)
    return f"{name[:LONGEST_SUFFIX].decode(errors='ignore')}~{sha256(name).hexdigest()[:8]}"


def _tuned_suffix(choices: Mapping[str, Any]) -> str:
    """Which tuned settings were chosen, if not those of the task and the agent."""
    tuned, usual = choices.get("tuned"), f"{choices['env']}/{choices['agent']}"
    if tuned == usual:
        return ""
    if tuned is None:
        return "~tuned"
    return "tuned=rule" if tuned == f"{usual}/{choices['rule']}" else f"tuned={tuned}"


OmegaConf.register_new_resolver("folder_suffix", folder_suffix, replace=True)


def compose(*overrides: str) -> DictConfig:
    """The config of ``bio-rl train OVERRIDES``, for a run from Python.

    Raises:
        UserError: as ``compose_jobs``.
    """
    args = Namespace(
        overrides=[*map(in_full, overrides)], config_dir=None, config_name=None, multirun=False, help=False
    )
    (job,) = compose_jobs(args)
    return job.config


def resolved(config: DictConfig) -> DictConfig:
    """A copy with a value in the place of every interpolation and of what a preset says, as it is recorded and run."""
    return _resolve(config.copy())


def _resolve(config: DictConfig) -> DictConfig:
    # Unlike ``resolve``, this names the key whose value cannot be found.
    OmegaConf.to_container(config, resolve=True)
    with read_write(config):
        OmegaConf.resolve(config)
        fill_presets(config)
    return config


def plain(config: DictConfig) -> dict[str, Any]:
    """A config as plain data, without Hydra's own node."""
    data: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    data.pop("hydra", None)
    return data


def compose_jobs(args: Namespace, loader: Loader | None = None) -> list[Job]:
    """The jobs that Hydra will run for these arguments, every setting checked.

    A sweeper other than Hydra's basic one chooses its jobs as it goes; for it there are none.

    Args:
        args: as Hydra parses them. Overrides that add an argument to an open mapping, as
            ``env.kwargs.is_slippery=false``, leave as Hydra wants them, with ``++``.
        loader: that of these arguments, where somebody else is to compose with it too.

    Raises:
        UserError: a setting that names nothing, has the wrong type, does nothing, or cannot be composed.
    """
    loader = loader or loader_of(args)
    try:
        with _in_one_line(args.overrides):
            GlobalHydra.instance().initialize(Hydra(CONFIG, loader))
            composer = _Composer(loader, args.config_name or CONFIG, args.multirun)
            # For the help, in which Hydra would list every folder. A plain text, since launchers pickle all resolvers.
            listed = composer.listed() if args.help else ""
            OmegaConf.register_new_resolver("choices", partial(str, listed), replace=True)
            args.overrides = composer.opened(args.overrides)
            return composer.jobs(args.overrides)
    finally:
        HydraConfig.instance().cfg = None
        GlobalHydra.instance().clear()


def unequal_budgets(jobs: Iterable[Job]) -> str | None:
    """What is unfair between the rules of a sweep, in words: that they were not tuned with one budget."""
    budgets: dict[tuple[str, str], dict[str, str]] = {}
    for job in jobs:
        tuning = job.config.tuning
        seeds = tuning and tuning.seeds[1] - tuning.seeds[0] + 1
        budget = f"{tuning.trials} trials of {seeds} seeds x {tuning.timesteps} steps" if tuning else "not at all"
        same = budgets.setdefault((str(job.choices["env"]), str(job.choices["agent"])), {})
        same.setdefault(budget, str(job.choices["rule"]))
    for (env, agent), found in budgets.items():
        if len(found) > 1:
            how = "; ".join(f"{rule}: {budget}" for budget, rule in found.items())
            return f"the rules were not tuned alike for {agent} on {env} ({how})"
    return None


@contextmanager
def _in_one_line(overrides: Sequence[str]) -> Iterator[None]:
    """What Hydra, OmegaConf and YAML have against these overrides, as a ``UserError``."""
    try:
        yield
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"a config file cannot be read: {error}") from error
    except (HydraException, OmegaConfBaseException) as error:
        causes = [error] if error.__cause__ is None else [error, error.__cause__]
        key = re.search(r"^ *full_key: (.+)", str(error), re.MULTILINE)
        raise UserError((f"{key[1]}: " if key else "") + ": ".join(map(first_line, causes))) from error
    except RecursionError as error:
        raise UserError("a setting is nested too deeply, or refers to itself") from error
    except (ValueError, TypeError, AttributeError) as error:  # Hydra's own, for values that it does not expect
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        # They say nothing of where; what is set in Hydra's own node is the likeliest.
        suspects = [line for line in overrides if line.lstrip("+~").startswith("hydra")] or overrides
        given = " ".join(map(shortened, suspects)) or "this"
        raise UserError(f"Hydra cannot compose {given}: {first_line(error)}") from error


class _Composer:
    def __init__(self, loader: Loader, config_name: str, multirun: bool):
        self.loader = loader
        self.config_name = config_name
        self.mode = RunMode.MULTIRUN if multirun else RunMode.RUN
        self._shipped = cache(self._load_shipped)

    def jobs(self, lines: Sequence[str]) -> list[Job]:
        overrides = [self.loader.parsed(line) for line in lines]
        self._refuse_repeated(overrides)
        for override in overrides:
            self._check_choice(override)
        hydras = [override for override in overrides if override.is_hydra_override()]
        self._check_settings(hydras)
        # Mode and sweeper depend on nothing else.
        decisive = [each for each in overrides if self.loader.is_choice(each) or each.is_hydra_override()]
        master = self._compose(decisive, self.mode)
        self._refuse_hidden_files(master)
        if RunMode.MULTIRUN not in (self.mode, master.hydra.mode):
            self._refuse_sweeps(overrides)
            return [self._job(lines, None)]
        if not master.hydra.sweeper._target_.endswith(".BasicSweeper"):
            return []
        swept = [self.loader.parsed(f"{key}={value}") for key, value in (master.hydra.sweeper.params or {}).items()]
        for override in swept:
            self._check_choice(override)
        ours = [override for override in overrides if not override.is_hydra_override()]
        (combinations,) = BasicSweeper.split_arguments([*swept, *ours], None)
        if not combinations:
            raise UserError("this sweep holds no run: one of its ranges or lists is empty")
        return [self._job([*lines_of(hydras), *lines], number) for number, lines in enumerate(combinations)]

    def opened(self, lines: Sequence[str]) -> list[str]:
        """The overrides, with ``++`` before those that add to a mapping whose keys are not ours to know."""
        overrides = [self.loader.parsed(line) for line in lines]
        for override in overrides:
            self._check_choice(override)
        base = plain(self._load(overrides, self.mode))
        return [
            f"++{line}" if self._adds(override, base) else line for line, override in zip(lines, overrides, strict=True)
        ]

    def _adds(self, override: Override, base: Mapping[str, Any]) -> bool:
        if not is_plain(override) or override.is_hydra_override() or self.loader.is_choice(override):
            return False
        *parents, last = override.key_or_group.split(".")
        node: Any = base
        for depth, name in enumerate(parents):
            if not isinstance(node, Mapping) or name not in node:
                break
            node = node[name]
            if is_open(".".join(parents[: depth + 1]), node):
                return not isinstance(node, Mapping) or last not in node or parents[depth + 1 :] != []
        if not (isinstance(node, Mapping) and isinstance(node.get(last), Mapping)):
            return False
        is_mapping = isinstance(override.value(), dict) or override.is_sweep_override()
        return is_mapping and is_open(override.key_or_group, node[last])

    def _load(self, overrides: Iterable[Override], mode: RunMode = RunMode.RUN) -> DictConfig:
        """What the choices among the overrides make."""
        return self.loader.composed(self.config_name, self.loader.choices(overrides), mode)

    def _compose(self, overrides: Iterable[Override], mode: RunMode = RunMode.RUN) -> DictConfig:
        return self.loader.load_configuration(
            self.config_name, lines_of(overrides), run_mode=mode, validate_sweep_overrides=False
        )

    def _job(self, lines: Sequence[str], number: int | None) -> Job:
        """The job of these lines; ``number`` is its place in a sweep."""
        overrides = [self.loader.parsed(line) for line in lines]
        self._check_settings(overrides)
        full = self._compose(overrides)
        if number is None:
            folder = "${hydra.run.dir}"
        else:
            full.hydra.job.num, full.hydra.job.id = number, f"job_id_for_{number}"
            folder = "${hydra.sweep.dir}/${hydra.sweep.subdir}"
        full.hydra.runtime.output_dir = folder
        for key in _missing(full):
            if not is_within(key, ["hydra"]):
                raise UserError(f"{key} has no value; give one, as {key}=...")
        config, choices = _settings(full), dict(full.hydra.runtime.choices)
        reference, given = self._reference(choices), plain(config)
        for key in unknown_keys(given, reference):
            if not _serves(key, full):
                self._refuse_key(key, choices, reference, overrides)
        check_values(given, reference)
        sweep_folder = None if number is None else Path(full.hydra.sweep.dir)
        job = Job(config, Path(full.hydra.runtime.output_dir), choices, sweep_folder)
        _check_names(job)
        self._check_task(job)
        self._check_tuned(job)
        return job

    # -- checks of the overrides ---------------------------------------------------------

    def _refuse_sweeps(self, overrides: Iterable[Override]) -> None:
        for override in overrides:
            if override.is_sweep_override():
                raise UserError(f"{override.input_line} is a sweep over several runs: add -m")

    def _refuse_repeated(self, overrides: Iterable[Override]) -> None:
        seen: dict[tuple[str, str | None], Override] = {}
        for override in overrides:
            first = seen.setdefault((override.key_or_group, override.package), override)
            if first is not override:
                raise UserError(f"{first.input_line} {override.input_line}: give one of them; the first has no effect")

    def _refuse_hidden_files(self, master: DictConfig) -> None:
        """A file of the user's that has the name of one of ours: Hydra would take ours and say nothing."""
        ours = config_folder()
        for source in master.hydra.runtime.config_sources:
            theirs = Path(source.path)
            if source.schema != "file" or theirs.resolve() == ours.resolve():
                continue
            for file in sorted(ours.rglob("*.yaml")):
                name = file.relative_to(ours)
                if (theirs / name).exists():
                    raise UserError(f"{theirs / name} has the name of bio-rl's own {name}; give it another name")

    def _check_choice(self, override: Override) -> None:
        """A group must exist, and so must each choice from it; what a run needs cannot be taken out."""
        group = override.key_or_group
        if override.is_delete():
            if override.package is None and "." not in group and group not in REMOVABLE:
                raise UserError(f"~{group}: a run needs {group}; ~ takes out a setting of a group, as in ~agent.gamma")
            return
        if group not in self.loader.groups:
            return
        known = self._known_choices(group)
        values = override.sweep_string_iterator() if override.is_discrete_sweep() else [override.value()]
        for value in values:
            choice = as_text(value)
            if choice == "{}":
                raise UserError(f"{group}={{}} changes nothing: {group}=NAME chooses, {group}.KEY=VALUE sets")
            # Any other mapping in a group's place is a setting, which Hydra merges into the choice.
            if choice not in known and not choice.startswith(("$", "{")):
                key = override.get_key_element().removeprefix("rule@")
                remedy = self._task_remedy(choice) if group == "env" else ""
                if group == "hydra/launcher" and (extra := LAUNCHERS.get(choice)):
                    remedy = f': pip install "bio-rl[{extra}]" brings it'
                remedy = remedy or nearest_of(choice, known, f"{group}/")
                raise UserError(f"{key}={choice}: {group} has no choice {choice!r}{remedy}")

    def _known_choices(self, group: str) -> list[str]:
        """The choices from a group, those in its folders included, as ``cartpole/ppo`` from ``tuned``."""
        folders = self.loader.list_groups(group)
        deeper = (f"{folder}/{choice}" for folder in folders for choice in self._known_choices(f"{group}/{folder}"))
        return [*self.loader.get_group_options(group), *deeper]

    def listed(self) -> str:
        """A line for each group, with what there is to choose."""
        ours = sorted(group for group in self.loader.groups if not group.startswith("hydra/"))
        return "\n".join(f"{group}: {', '.join(self._known_choices(group))}" for group in ours) + "\n"

    def _task_remedy(self, choice: str) -> str:
        """What to write for an environment's id in the place of a task's name."""
        for name in self._known_choices("env"):
            file = self.loader.repository.load_config(f"env/{name}")
            if file is not None and OmegaConf.select(file.config, "id", throw_on_missing=False) == choice:
                return f"; the task with this id is env={name}"
        is_id = ":" in choice or "/" in choice or re.search(r"-v\d+$", choice)
        return f"; an id is given as env=gymnasium env.id={choice}" if is_id else ""

    def _check_settings(self, overrides: Sequence[Override]) -> None:
        """A setting must exist in the configs that the choices made, unless it is an argument of something."""
        base = self._load(overrides)
        for override in overrides:
            if self.loader.is_choice(override):
                continue
            if is_plain(override):
                self._check_key(override.key_or_group, base)
            elif (
                override.is_add()
                and _has(base, override.key_or_group)
                and not isinstance(override.value(), dict | list)
            ):
                line = str(override.input_line)
                raise UserError(f"{line}: {override.key_or_group} is there already; write {line.removeprefix('+')}")

    def _check_key(self, key: str, base: DictConfig) -> None:
        path: list[str] = []
        for name in key.split("."):
            # The last name's own value may be missing still, and is not looked at.
            node = OmegaConf.select(base, ".".join(path), throw_on_missing=False) if path else base
            known = list(map(str, node)) if isinstance(node, DictConfig) else []
            if name not in known:
                if not path:
                    raise UserError(self._no_setting(name, known))
                place = where(".".join(path), base.hydra.runtime.choices, self.config_name)
                raise UserError(f"{key}: {place} has no key {name!r}{nearest_of(name, known)}")
            path.append(name)

    def _no_setting(self, name: str, known: Iterable[str], otherwise: str = "") -> str:
        if name in self.loader.groups:
            return f"{name} has no settings of its own: {name}=NAME chooses what others are set to"
        return f"no setting or group {name!r}{nearest(name, [*known, *self.loader.groups]) or otherwise}"

    # -- checks of what is composed ------------------------------------------------------

    def _reference(self, choices: Mapping[str, Any]) -> dict[str, Any]:
        """Our own keys with their defaults, and those of the files that were chosen for what takes arguments."""
        chosen = dict(self._chosen(choices))
        fill_presets(chosen)
        return self._shipped(()) | {group: chosen[group] for group in ARGUMENTS}

    def _chosen(self, choices: Mapping[str, Any]) -> dict[str, Any]:
        usual = self.loader.composed(CONFIG, (), RunMode.RUN).hydra.runtime.choices
        others = (group for group in CHOSEN if choices.get(group) not in (None, usual.get(group)))
        return self._shipped(tuple(sorted(f"{group}={choices[group]}" for group in others)))

    def _refuse_key(
        self, key: str, choices: Mapping[str, Any], reference: Mapping[str, Any], overrides: Iterable[Override]
    ) -> NoReturn:
        parent, _, name = key.rpartition(".")
        study = choices.get("experiment")
        is_given = any(f"{key}.".startswith(f"{override.key_or_group}.") for override in overrides)
        source = "" if study is None or is_given else f"experiment={study}: "
        if not parent:
            raise UserError(source + self._no_setting(name, reference, ", and no other setting refers to it"))
        for part in parent.split("."):
            reference = reference[part]
        place = where(parent, choices, self.config_name)
        raise UserError(f"{source}{key}: {place} has no key {name!r}{nearest_of(name, reference)}")

    def _check_task(self, job: Job) -> None:
        """A run must not be filed under another task's name, nor have its settings."""
        env, task = job.config.env, job.choices["env"]
        task_id = self._chosen(job.choices)["env"]["id"]
        if task_id not in (env.id, MISSING):
            raise UserError(
                f"env.id={env.id}: env={task} is {task_id}, with a name and settings for it;"
                f" write env=gymnasium env.id={env.id}"
            )
        if env.name != task and env.name in self._known_choices("env"):
            raise UserError(f"env.name={env.name}: this is the name of another task, which env={task} is not")

    def _check_tuned(self, job: Job) -> None:
        """What nobody has tuned for a task is left out silently, but not where it was asked for."""
        env, agent, rule = (job.choices[group] for group in ("env", "agent", "rule"))
        tuned = str(job.choices.get("tuned") or f"{env}/{agent}")
        if tuned == f"{env}/{agent}" or tuned in (known := self._known_choices("tuned")):
            return
        if tuned == f"{env}/{agent}/{rule}":
            raise UserError(
                f"tuned=rule: there is no tuned/{tuned}.yaml, the settings of {rule} with {agent} on {env};"
                f" this makes it: bio-rl tune rule={rule} env={env} agent={agent}"
            )
        raise UserError(f"tuned={tuned}: there is no tuned/{tuned}.yaml{nearest_of(tuned, known, 'tuned/')}")

    def _load_shipped(self, lines: tuple[str, ...]) -> dict[str, Any]:
        """What choices alone make of our primary config, whose place no file of the user's takes."""
        return plain(self.loader.composed(CONFIG, lines, RunMode.RUN))


def _has(config: DictConfig, key: str) -> bool:
    """Whether the key has a value, to which Hydra's ``+`` adds nothing."""
    return OmegaConf.select(config, key, throw_on_missing=False) is not None


def _settings(full: DictConfig) -> DictConfig:
    """What a run gets of a composed config."""
    # For the resolver ``hydra``, as when the job runs.
    HydraConfig.instance().set_config(full)
    # Without Hydra's own node, which leaves it before the run too.
    config = _resolve(OmegaConf.masked_copy(full, [key for key in map(str, full) if key != "hydra"]))
    OmegaConf.set_struct(config, True)
    return config


def _serves(key: str, full: DictConfig) -> bool:
    """Whether something refers to a key that is not ours: without it, the run would be another."""
    try:
        without = _without(full, key)
        other, folder = _settings(without), without.hydra.runtime.output_dir
    except (OmegaConfBaseException, HydraException):
        return True
    return (other, folder) != (_without(_settings(full), key), full.hydra.runtime.output_dir)


def _without(config: DictConfig, key: str) -> DictConfig:
    """A copy without a key."""
    copy = config.copy()
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(copy, parent) if parent else copy
    with open_dict(node), read_write(node):
        del node[name]
    return copy


def _missing(node: DictConfig, path: str = "") -> Iterator[str]:
    """The keys without a value, without following interpolations to them."""
    for key in map(str, node):
        if OmegaConf.is_missing(node, key):
            yield path + key
        elif not OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
            yield from _missing(node[key], f"{path}{key}.")


def _check_names(job: Job) -> None:
    """Names become folders, which must be below ``runs`` and such as a file system takes."""
    for key, name in (("study", str(job.config.study)), ("env.name", str(job.config.env.name))):
        if not name.strip() or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise UserError(f"{key}={name!r}: it names a folder below runs/, so neither nothing nor a way out of there")
    longest = max(job.folder.parts, key=lambda part: len(os.fsencode(part)), default="")
    if len(os.fsencode(longest)) > LONGEST_NAME:
        raise UserError(f"the folder's name {shortened(longest)!r} is too long: at most {LONGEST_NAME} bytes")
    if len(os.fsencode(job.folder.absolute())) > LONGEST_PATH:
        raise UserError(f"the folder {shortened(str(job.folder))!r} is too long: at most {LONGEST_PATH} bytes")
