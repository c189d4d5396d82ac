"""result.json: the contract between a run and whatever reads it later."""

import contextlib
import json
import math
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "result.json"
DRAFT = f".{FILE}.*"
"""What a process leaves that is killed while it writes the file."""
MOST_BYTES = 2**24
STATUSES = ("running", "done", "failed", "diverged", "interrupted")


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Replace the folder's result in one step: a reader sees the old one or the new one, whole.

    A number that is not finite, for which JSON has no word, becomes null.
    """
    draft = folder / f".{FILE}.{os.getpid()}"
    try:
        draft.write_text(json.dumps(_finite(result), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        draft.replace(folder / FILE)
    finally:
        draft.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_result(folder: Path) -> dict[str, Any] | None:
    """The folder's result, or ``None`` where there is none, or a file that no run of ours wrote."""
    file = folder / FILE
    try:
        # What is no plain file may never end, and what is too long fill the memory.
        found = file.lstat()
        is_read = stat.S_ISREG(found.st_mode) and found.st_size <= MOST_BYTES
        result = json.loads(file.read_text(encoding="utf-8")) if is_read else None
    except (OSError, ValueError, RecursionError):
        return None
    return result if _is_ours(result) else None


def _is_ours(result: Any) -> bool:
    if not isinstance(result, dict) or result.get("status") not in STATUSES:
        return False
    return isinstance(result.get("versions"), dict) and "bio-rl" in result["versions"]


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
