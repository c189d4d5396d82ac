"""The configs of a command line: found, composed, and checked before anything is written."""

import os
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import bio_rl
from bio_rl.cli.errors import UserError, first_line, nearest

CONFIG = "train"
REMOVABLE = ("experiment", "tuned")
"""The groups that a run can do without."""
LONGEST_SUFFIX = 200
"""A longer folder name would hit the file system's limit; a hash takes the place of what is cut."""


def config_folder() -> Path:
    """conf/: inside the package where it was installed from a wheel, beside it in a checkout."""
    package = Path(bio_rl.__file__).parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


@dataclass
class Job:
    """One run of a command line.

    Attributes:
        config: what the run gets.
        folder: where it will write.
    """

    config: DictConfig
    folder: Path


def shorthand(overrides: Iterable[str]) -> list[str]:
    """``critic_rule=NAME`` as Hydra writes it: the group ``rule``, put at ``critic_rule``."""
    return [f"rule@{override}" if override.startswith("critic_rule=") else override for override in overrides]


def folder_suffix(overrides: str) -> str:
    """What else was overridden, as the end of a folder's name: ``,key=value,...`` or nothing."""
    # Hydra cannot tell the rule, which the folder is named by already, from the critic's.
    overrides = re.sub(r"(^|,)rule=[^,]*", "", overrides).lstrip(",").replace("rule@critic_rule=", "critic_rule=")
    if not overrides:
        return ""
    name = "," + overrides.replace(os.sep, "_")
    return name if len(name) <= LONGEST_SUFFIX else f"{name[:LONGEST_SUFFIX]}~{sha256(name.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("folder_suffix", folder_suffix, replace=True)


def compose_jobs(args: Namespace) -> list[Job]:
    """The jobs that Hydra will run for these arguments, every override checked.

    A sweeper other than Hydra's basic one chooses its jobs as it goes; for it there are none.

    Raises:
        UserError: an override that names nothing, has the wrong type, or cannot be composed.
    """
    search_path = create_config_search_path(str(config_folder()))
    if args.config_dir is not None:
        if not Path(args.config_dir).is_dir():
            raise UserError(f"--config-dir: there is no folder {args.config_dir!r}")
        # Where Hydra itself puts it.
        folder = f"file://{Path(args.config_dir).resolve()}"
        search_path.prepend(provider="command-line", path=folder, anchor=SearchPathQuery(provider="schema"))
    hydra = Hydra.create_main_hydra2(CONFIG, search_path)
    try:
        return _Composer(hydra, args.config_name or CONFIG).jobs(args.overrides, args.multirun)
    except (HydraException, OmegaConfBaseException) as error:
        causes = [error] if error.__cause__ is None else [error, error.__cause__]
        raise UserError(": ".join(map(first_line, causes))) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"a config file cannot be read: {error}") from error
    finally:
        GlobalHydra.instance().clear()


class _Composer:
    def __init__(self, hydra: Hydra, config_name: str):
        self.loader = hydra.config_loader
        self.config_name = config_name
        # What the jobs of a sweep are checked against depends on their choices only, which few of them change.
        self._compose = cache(self._load)

    def jobs(self, lines: Sequence[str], multirun: bool) -> list[Job]:
        overrides = [self._parse(line) for line in lines]
        for override in overrides:
            self._check_choice(override)
        hydras = [override for override in overrides if override.is_hydra_override()]
        self._check_settings(hydras)
        # Mode and sweeper depend on nothing else.
        master = self._compose((*self._choices(overrides), *_lines(hydras)), RunMode.MULTIRUN)
        if not (multirun or master.hydra.mode == RunMode.MULTIRUN):
            self._refuse_sweeps(overrides)
            return [self._job(lines, RunMode.RUN)]
        if not master.hydra.sweeper._target_.endswith(".BasicSweeper"):
            return []
        swept = [self._parse(f"{key}={value}") for key, value in (master.hydra.sweeper.params or {}).items()]
        for override in swept:
            self._check_choice(override)
        ours = [override for override in overrides if not override.is_hydra_override()]
        (combinations,) = BasicSweeper.split_arguments([*swept, *ours], None)
        return [self._job([*_lines(hydras), *combination], RunMode.MULTIRUN) for combination in combinations]

    def _load(self, lines: tuple[str, ...], mode: RunMode) -> DictConfig:
        return self.loader.load_configuration(
            self.config_name, list(lines), run_mode=mode, validate_sweep_overrides=False
        )

    def _job(self, lines: Sequence[str], mode: RunMode) -> Job:
        self._check_settings([self._parse(line) for line in lines])
        full = self._compose(tuple(lines), RunMode.RUN)
        config = full.copy()
        _remove_hydra(config)
        for key in _missing(config):
            raise UserError(f"{key} has no value; give one, as {key}=...")
        self._check_study(config, full.hydra.runtime.choices, lines)
        folder = Path(full.hydra.run.dir)
        if mode == RunMode.MULTIRUN:
            folder = Path(full.hydra.sweep.dir, full.hydra.sweep.subdir)
        return Job(config, folder)

    def _is_choice(self, override: Override) -> bool:
        return override.key_or_group in self.groups

    def _choices(self, overrides: Iterable[Override]) -> list[str]:
        return _lines(filter(self._is_choice, overrides))

    # -- checks of the overrides ---------------------------------------------------------

    def _parse(self, line: str) -> Override:
        try:
            return OverridesParser.create(self.loader).parse_override(line)
        except HydraException as error:
            raise UserError(f"{line!r} is not of the form key=value: {first_line(error)}") from error

    def _refuse_sweeps(self, overrides: Iterable[Override]) -> None:
        for override in overrides:
            if override.is_sweep_override():
                raise UserError(f"{override.input_line} is a sweep over several runs: add -m")

    @cached_property
    def groups(self) -> list[str]:
        ours = [group for group in self.loader.list_groups("") if group != "hydra"]
        return [*ours, *(f"hydra/{group}" for group in self.loader.list_groups("hydra"))]

    def _check_choice(self, override: Override) -> None:
        """A group must exist, and so must each choice from it; what a run needs cannot be taken out."""
        group = override.key_or_group
        if override.is_delete():
            if override.package is None and "." not in group and group not in REMOVABLE:
                raise UserError(f"~{group}: a run needs {group}; ~ takes out a setting of a group, as in ~agent.gamma")
            return
        if group not in self.groups:
            return
        known = self._known_choices(group)
        values = override.sweep_string_iterator() if override.is_discrete_sweep() else [override.value()]
        for choice in map(_text, values):
            # A mapping in a group's place is a setting, which Hydra merges into the choice.
            if choice not in known and not choice.startswith(("$", "{")):
                key = override.get_key_element().removeprefix("rule@")
                remedy = nearest(choice, known) or f" ({group}/ has {', '.join(known)})"
                raise UserError(f"{key}={choice}: {group} has no choice {choice!r}{remedy}")

    def _known_choices(self, group: str) -> list[str]:
        """The choices from a group, those in its folders included, as ``cartpole/ppo`` from ``tuned``."""
        folders = self.loader.list_groups(group)
        deeper = (f"{folder}/{choice}" for folder in folders for choice in self._known_choices(f"{group}/{folder}"))
        return [*self.loader.get_group_options(group), *deeper]

    def _check_settings(self, overrides: Sequence[Override]) -> None:
        """A setting must exist in the configs that the choices made, and keep its type."""
        base = self._compose(tuple(self._choices(overrides)), RunMode.RUN)
        for override in overrides:
            if self._is_choice(override) or override.is_add() or override.is_force_add() or override.is_delete():
                continue
            self._check_key(override.key_or_group, base)
            if override.is_hydra_override():
                continue  # Hydra checks the types of its own
            default = OmegaConf.select(base, override.key_or_group, throw_on_missing=False)
            _check_type(override.key_or_group, default, override.value())

    def _check_key(self, key: str, base: DictConfig) -> None:
        path: list[str] = []
        for name in key.split("."):
            # The last name's own value may be missing still, and is not looked at.
            node = OmegaConf.select(base, ".".join(path), throw_on_missing=False) if path else base
            known = list(map(str, node)) if isinstance(node, DictConfig) else []
            if name not in known:
                if not path:
                    raise UserError(f"no setting or group {name!r}{nearest(name, [*known, *self.groups])}")
                # Hydra's own keys are fixed.
                remedy = "" if path[0] == "hydra" else f" (+{key}=... adds a new one)"
                remedy = nearest(name, known) or remedy
                raise UserError(f"{key}: {self._where(path, base)} has no key {name!r}{remedy}")
            path.append(name)

    def _check_study(self, config: DictConfig, choices: Mapping[str, Any], lines: Sequence[str]) -> None:
        """An experiment's keys must be there without it: any other would have no effect."""
        if (study := choices.get("experiment")) is None:
            return
        others = [
            f"{group}={choice}"
            for group, choice in choices.items()
            if choice is not None and not group.startswith(("hydra/", "experiment", "tuned"))
        ]
        added = [line for line in lines if line.startswith("+")]
        base = self._compose((*others, "~experiment", *added), RunMode.RUN)
        for key in _new_keys(config, base):
            try:
                self._check_key(key, base)
            except UserError as error:
                raise UserError(f"experiment={study}: {error}") from None

    def _where(self, path: Sequence[str], base: DictConfig) -> str:
        if path[0] == "hydra":
            return ".".join(path)
        group = f"rule@{path[0]}" if path[0] == "critic_rule" else path[0]
        choice = base.hydra.runtime.choices.get(group)
        file = f"{group.partition('@')[0]}/{choice}.yaml" if choice else f"{self.config_name}.yaml"
        return f"{'.'.join(path)} ({file})"


def _lines(overrides: Iterable[Override]) -> list[str]:
    return [line for override in overrides if (line := override.input_line) is not None]


def _remove_hydra(config: DictConfig) -> None:
    """Hydra's own node leaves the config, as it does for the run."""
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    OmegaConf.set_struct(config, True)


def _missing(node: DictConfig, path: str = "") -> Iterator[str]:
    """The keys without a value, without following interpolations to them."""
    for key in map(str, node):
        if OmegaConf.is_missing(node, key):
            yield path + key
        elif not OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
            yield from _missing(node[key], f"{path}{key}.")


def _new_keys(node: DictConfig, base: DictConfig, path: str = "") -> Iterator[str]:
    """The keys that ``base`` has not, without following interpolations; an empty mapping takes any."""
    known = list(map(str, base))
    for key in map(str, node):
        if key not in known:
            yield path + key
        elif not (OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key)):
            below, base_below = node[key], base._get_node(key)
            if isinstance(below, DictConfig) and isinstance(base_below, DictConfig) and len(base_below):
                yield from _new_keys(below, base_below, f"{path}{key}.")


def _check_type(key: str, default: Any, value: Any) -> None:
    if default is None or (isinstance(value, str) and value.startswith("$")):
        return
    schedule = key.endswith(("learning_rate", "clip_range")) and isinstance(value, str) and value.startswith("lin_")
    if not (schedule or _same_type(default, value, key)):
        example = "" if isinstance(default, DictConfig) else f", as in {key}={_text(default)}"
        raise UserError(f"{key}={_text(value)}: {key} must be {_type_name(default, key)}{example}")


def _same_type(default: Any, value: Any, key: str) -> bool:
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, float) or (isinstance(default, str) and default.startswith("lin_")):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, str):
        return isinstance(value, str | int | float)
    if isinstance(default, ListConfig):
        return isinstance(value, list) and all(_same_type(default[0], each, key) for each in value if len(default))
    # null in the place of an object is none; in the place of settings it would be none to read.
    return isinstance(value, dict) or (value is None and "_target_" in default)


def _type_name(default: Any, key: str) -> str:
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int):
        return "a whole number"
    if isinstance(default, float) or (isinstance(default, str) and default.startswith("lin_")):
        return "a number"
    if isinstance(default, ListConfig):
        return f"a list of {_type_name(default[0], key).removeprefix('a ')}s" if len(default) else "a list"
    return "text" if isinstance(default, str) else "a mapping"


def _text(value: Any) -> str:
    """A value as one writes it on the command line."""
    text = str(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value).replace(" ", "")
    return {"None": "null", "True": "true", "False": "false"}.get(text, text)
