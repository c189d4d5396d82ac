"""What a run ran on: versions, the revision of the code, the files of its rules."""

import platform
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bio_rl
from bio_rl import Rule

PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "hydra-core", "omegaconf")
SOURCES = ("bio_rl", "agents", "conf")
"""What decides what a run computes, in a checkout."""


def versions() -> dict[str, str]:
    """What the run ran on."""
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


def source_hashes(rules: Iterable[Rule]) -> dict[str, str]:
    """The SHA-256 of each file that the rules' classes are written in, those of their parents too, by its module.

    A rule's own settings are in the config; a rule of the user's is under no revision of ours.
    """
    classes = {each for rule in rules for each in type(rule).__mro__ if issubclass(each, Rule)}
    modules = {each.__module__: sys.modules[each.__module__] for each in classes if each.__module__ in sys.modules}
    files = {name: Path(file) for name, module in modules.items() if (file := getattr(module, "__file__", None))}
    return {name: _digest(file) for name, file in sorted(files.items()) if file.is_file()}


def _digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


def changed_code(result: Mapping[str, Any], modules: Collection[str]) -> str:
    """How the code that a run ran on differs from today's, in words; empty if it does not.

    Args:
        result: of the run.
        modules: those that may be looked up besides ours: the result alone may name any.
    """
    then = result["versions"]["bio-rl"]
    if then != bio_rl.__version__:
        return f"bio-rl {then}, not {bio_rl.__version__}"
    recorded: Mapping[str, str] = result.get("rule_source_sha256") or {}
    for module, digest in recorded.items():
        if module.startswith("bio_rl.") or module in modules:
            spec = find_spec(module)
            if spec is None or spec.origin is None or _digest(Path(spec.origin)) != digest:
                return f"another {module} than today's"
    return ""
