"""result.json: the contract between a run and whatever reads it later."""

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bio_rl

FILE = "result.json"
PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "hydra-core", "omegaconf")


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Replace the folder's result in one step: a reader sees the old one or the new one, whole."""
    draft = folder / f".{FILE}.{os.getpid()}"
    draft.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(folder / FILE)


def read_result(folder: Path) -> dict[str, Any] | None:
    """The folder's result, or ``None`` where there is none that can be read."""
    try:
        return json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None


def versions() -> dict[str, str]:
    """What the run ran on."""
    return {"python": platform.python_version(), "bio-rl": bio_rl.__version__} | {
        package: version(package) for package in PACKAGES
    }


def git_revision() -> str | None:
    """The commit of the checkout that bio_rl is imported from, ``-dirty`` where files differ from it."""
    checkout = Path(bio_rl.__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def reset_peak_memory() -> None:
    """Begin the measurement anew, where the system can: in a sweep each run has its own peak."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float | None:
    """The most main memory that the process held, in MiB; ``None`` where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)
