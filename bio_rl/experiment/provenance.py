"""What a run ran on: versions, the revision of the code, the files that its code is in."""

import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import gymnasium
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch.nn import Module

import bio_rl
from bio_rl import Rule
from bio_rl.trust import targets

PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "hydra-core", "omegaconf")
SOURCES = ("bio_rl", "agents", "conf")
"""What decides what a run computes, in a checkout."""
OF_CODE = ("rule", "critic_rule", "agent", "callbacks", "env")
"""The groups of a config that name classes, which may be the user's own."""
LIBRARIES = ("builtins", "abc", "typing", "torch", "numpy", "gymnasium", "stable_baselines3")
SOURCES_OF_RUN = "source_sha256"
"""The key of a result that holds ``source_hashes``."""


@cache
def versions() -> Mapping[str, str]:
    """What the run ran on. Python keeps an index of a folder for each time that somebody looks versions up in it."""
    return {"python": platform.python_version(), "bio-rl": bio_rl.__version__} | {
        package: version(package) for package in PACKAGES
    }


def git_revision() -> str | None:
    """The commit of the checkout that bio_rl is imported from, ``-dirty`` where files differ from it.

    A file that git does not know counts too, if it lies in a package or among the configs.
    """
    checkout = Path(bio_rl.__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    try:
        revision = _git(checkout, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
        untracked = _git(checkout, "ls-files", "--others", "--exclude-standard", "--", *SOURCES)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{revision}-dirty" if untracked and not revision.endswith("-dirty") else revision


def _git(checkout: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()


def source_hashes(config: DictConfig) -> dict[str, str]:
    """The SHA-256 of each file that a run of this config takes code from, by its module: an edit changes no version.

    They are those of the classes, and their parents, of the rules and rules inside them, the environment, its wrappers,
    the agent and the callbacks. What cannot be imported or built has none here; building the run tells why.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return _digests(_modules(json.dumps({group: plain.get(group) for group in OF_CODE}, default=str)))


def rule_hashes(rules: Iterable[Module]) -> dict[str, str]:
    """The same of rules alone."""
    return _digests(_rule_modules(rules))


@cache
def _modules(groups: str) -> frozenset[str]:
    """Cached, for a sweep's many runs differ in little else than their seeds."""
    config = json.loads(groups)
    found: set[str] = set()
    for group in ("rule", "critic_rule"):
        with suppress(Exception, SystemExit):
            found |= _rule_modules([instantiate(config[group], _convert_="object")])
    for target in chain(*(targets(each) for each in (config["agent"], config["callbacks"], config["env"]["wrapper"]))):
        with suppress(Exception, SystemExit):
            found |= _written_in(get_object(target))
    with suppress(Exception, SystemExit):
        module, _, name = config["env"]["id"].rpartition(":")
        if module:
            found.add(import_module(module).__name__)
        made_by: Any = gymnasium.spec(name).entry_point
        found |= _written_in(get_object(made_by.replace(":", ".")) if isinstance(made_by, str) else made_by)
    return frozenset(found)


def _rule_modules(rules: Iterable[Module]) -> set[str]:
    return set().union(
        *(_written_in(type(each)) for rule in rules for each in rule.modules() if isinstance(each, Rule))
    )


def _written_in(made_by: Any) -> set[str]:
    """The modules of a class and its parents, or of a function, but for those of libraries, which have a version."""
    classes = made_by.__mro__ if isinstance(made_by, type) else [made_by]
    return {each.__module__ for each in classes if each.__module__.partition(".")[0] not in LIBRARIES}


def _digests(modules: Iterable[str]) -> dict[str, str]:
    """Of those that are in a file."""
    found = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(modules)}
    files = {name: Path(file) for name, file in found.items() if file is not None}
    return {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file.is_file()}


def changed_code(result: Mapping[str, Any], config: DictConfig, packages: Iterable[str] = ("bio-rl",)) -> str:
    """How the code that a run ran on differs from today's, in words; empty if it does not.

    Args:
        result: of the run.
        config: of a run of today's, with the same settings.
        packages: whose versions count.
    """
    had, has = result["versions"], versions()
    changed = [f"{name} {had.get(name)}, not {has[name]}" for name in packages if had.get(name) != has[name]]
    before: Any = result.get(SOURCES_OF_RUN)
    today = source_hashes(config)
    for module in before if isinstance(before, dict) else ():
        if before[module] != today.get(module):
            changed.append(f"another {module} than today's")
    return ", ".join(changed)
