"""From the overrides of a command line to a config, as Hydra composes it; what many runs share is composed once."""

from argparse import Namespace
from collections.abc import Iterable
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig

import bio_rl
from bio_rl.cli.errors import UserError, first_line, shortened

CONFIG = "train"
"""The name of our primary config."""
SEARCH = "search"
"""The folder beside the groups that holds what ``bio-rl tune`` tries, and which is none."""
VERSION_BASE = "1.3"
"""The version of Hydra whose habits hold, whichever is installed."""
LOOKED_AT = ("hydra.searchpath", "hydra.job.env_copy")
"""What Hydra does something by while it composes; any other setting can follow."""


class Loader(ConfigLoaderImpl):
    """Hydra's loader, which composes files once for all runs that choose the same.

    The runs of a sweep differ in their settings for the most part, and few of them in their choices. Hydra composes
    each several times: to learn whether it sweeps, to see that the sweep is legal, and when the run begins.

    Args:
        search_path: the folders of config files.
    """

    def __init__(self, search_path: ConfigSearchPath):
        super().__init__(search_path)
        self.repository = _Files(search_path)
        self._parsed: dict[str, Override] = {}
        self._composed: dict[tuple[str | None, tuple[str, ...], RunMode], DictConfig] = {}

    def __getstate__(self) -> dict[str, Any]:
        # What a launcher sends to each of its workers is small.
        return vars(self) | {"_parsed": {}, "_composed": {}}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """As Hydra's own: a new config with ``overrides`` applied, and Hydra's node.

        Raises:
            UserError: an override that cannot be read.
            HydraException, OmegaConfBaseException: one that cannot be applied.
        """
        parsed = [self.parsed(line) for line in overrides]
        if validate_sweep_overrides:
            self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        # What is swept over is a job's to set.
        settings = [each for each in parsed if not (self.is_choice(each) or each.is_sweep_override())]
        looked_at = [override for override in settings if override.key_or_group in LOOKED_AT]
        full = self.composed(config_name, [*self.choices(parsed), *lines_of(looked_at)], run_mode).copy()
        self._apply_overrides_to_config([each for each in settings if each not in looked_at], full)
        ours = [override for override in parsed if not override.is_hydra_override()]
        full.hydra.overrides.task = lines_of(ours)
        full.hydra.overrides.hydra = lines_of(override for override in parsed if override.is_hydra_override())
        naming = full.hydra.job.config.override_dirname
        full.hydra.job.override_dirname = get_overrides_dirname(
            ours, naming.exclude_keys, naming.item_sep, naming.kv_sep
        )
        return full

    def composed(self, config_name: str | None, lines: Iterable[str], mode: RunMode) -> DictConfig:
        """As Hydra composes the lines, once for all that ask for the same; not to be changed."""
        asked = (config_name, tuple(lines), mode)
        if asked not in self._composed:
            try:
                self._composed[asked] = super().load_configuration(
                    config_name, list(asked[1]), run_mode=mode, validate_sweep_overrides=False
                )
            except KeyError as error:
                raise UserError(f"hydra.job.env_copy: there is no environment variable {error}") from error
        return self._composed[asked]

    def parsed(self, line: str) -> Override:
        """An override; not to be changed.

        Raises:
            UserError: it is none.
        """
        if line not in self._parsed:
            self._parsed[line] = self._parse(line)
        return self._parsed[line]

    def _parse(self, line: str) -> Override:
        try:
            override = OverridesParser.create(self).parse_override(line)
        except HydraException as error:
            raise UserError(f"{shortened(line)!r} is not of the form key=value: {first_line(error)}") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, a list of as many levels
            raise UserError(f"{shortened(line)!r} cannot be read: {first_line(error)}") from error
        if not override.key_or_group:
            raise UserError(f"{shortened(line)!r} is not of the form key=value: it has no key")
        return override

    @cached_property
    def groups(self) -> list[str]:
        ours = [group for group in self.list_groups("") if group not in ("hydra", SEARCH)]
        return [*ours, *(f"hydra/{group}" for group in self.list_groups("hydra"))]

    def is_choice(self, override: Override) -> bool:
        """Whether an override chooses a file, or several, from a group."""
        return override.key_or_group in self.groups and not (is_plain(override) and isinstance(override.value(), dict))

    def choices(self, overrides: Iterable[Override]) -> list[str]:
        """The lines that choose a file from a group, in one order whatever theirs, which means nothing."""
        return sorted(lines_of(each for each in overrides if self.is_choice(each) and not each.is_sweep_override()))


class _Files(ConfigRepository):
    """Config files, each read once. A composition takes a copy of the repository, and changes what this gives."""

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self._read: dict[str, ConfigResult | None] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._read:
            self._read[config_path] = super().load_config(config_path)
        return deepcopy(self._read[config_path])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_read": {}}


def loader_of(args: Namespace) -> Loader:
    """The loader of these arguments of ``bio-rl train``.

    Raises:
        UserError: ``--config-dir`` names no folder.
    """
    version.setbase(VERSION_BASE)
    search_path = create_config_search_path(str(config_folder()))
    if args.config_dir is not None:
        if not Path(args.config_dir).is_dir():
            raise UserError(f"--config-dir: there is no folder {args.config_dir!r}")
        # Where Hydra itself puts it.
        folder = f"file://{Path(args.config_dir).resolve()}"
        search_path.prepend(provider="command-line", path=folder, anchor=SearchPathQuery(provider="schema"))
    return Loader(search_path)


def config_folder() -> Path:
    """conf/: inside the package where it was installed from a wheel, beside it in a checkout."""
    package = Path(bio_rl.__file__).parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def is_plain(override: Override) -> bool:
    """Whether an override sets what is there, with none of Hydra's signs."""
    return not (override.is_add() or override.is_force_add() or override.is_delete())


def lines_of(overrides: Iterable[Override]) -> list[str]:
    return [line for override in overrides if (line := override.input_line) is not None]
