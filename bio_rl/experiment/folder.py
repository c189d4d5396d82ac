"""A run's folder: whose it is, who writes in it now, and what an earlier run left there."""

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from bio_rl.experiment import result as results
from bio_rl.trust import read_yaml

LOCK, CONFIG = ".lock", ".hydra/config.yaml"
STATES, STATE, FINAL = "resume", ".safetensors", "final"
"""The folder of a run's saved states, what their names end with, and that of the last one."""
HYDRAS = ("train.log", "multirun.yaml")
"""What Hydra may have written before the run begins: the log where one is configured, and of a sweep of one folder."""
KEPT = (results.FILE, LOCK, *HYDRAS)
"""Not removed before a new run: the first is replaced whole, the second is held, the others are of this run."""
UNFINISHED = (LOCK, results.DRAFT)
"""What a run leaves that was killed before it had said anything."""
TABLES = ("evaluations.csv", "progress.csv", "diagnostics.csv")
"""What a run's callbacks and loggers add rows to."""
MODEL = ("policy.yaml", "policy.safetensors", "vec_normalize.yaml", "vec_normalize.safetensors")
DRAFTS = (
    results.DRAFT,
    *(f".{name}" for name in TABLES),
    *(f"checkpoints/.*/{name}" for name in MODEL),
    f"{STATES}/.*{STATE}",
)
"""What is written aside before it takes its place, and is left there by a run that was killed meanwhile."""
WRITTEN = (
    *KEPT,
    *DRAFTS,
    CONFIG,
    ".hydra/hydra.yaml",
    ".hydra/overrides.yaml",
    "tensorboard/events.out.tfevents.*",
    *TABLES,
    "probes.safetensors",
    "interface.safetensors",
    *(f"{folder}/{file}" for folder in ("model", "checkpoints/*") for file in MODEL),
    "traceback.txt",
    f"{STATES}/*{STATE}",
)
"""All that a run may leave in its folder, ``*`` being any text. What else is there is somebody's, and so the folder."""
PATIENCE = 1.0
"""Seconds for which a folder may be locked by one who only looks whether it is."""


class FolderError(Exception):
    """A folder that this run must not write in: why, in one line."""


class RunFolder:
    """The folder of one run. As a context manager it is claimed: by this run, and by no other process until it ends.

    A run of ours is known by its ``result.json``, which is written before anything else. A folder
    is claimed if it is empty or holds a run and nothing but what runs write; what else there may
    be, links among it, was put there by somebody, and nothing of it is touched. A process that
    dies, however it dies, holds no folder any more.

    Args:
        path: made when it is claimed, if it is not there.

    Raises:
        FolderError: on entering: the folder is somebody else's, another process has it, or it cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(path / LOCK)

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.refuse_foreign(besides=HYDRAS)
            self._lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise FolderError(f"{self.path} is in use by {self._owner()}") from None
        except OSError as error:
            raise FolderError(f"the folder {self.path} cannot be written: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    # -- looking -------------------------------------------------------------------------

    def read_result(self) -> dict[str, Any] | None:
        """What the run in this folder says of itself; ``None`` where there is no run."""
        return results.read_result(self.path)

    def refuse_foreign(self, besides: tuple[str, ...] = ()) -> None:
        """Raise a FolderError if the folder holds anything that no run of ours wrote.

        Args:
            besides: what else may lie in a folder without a run.
        """
        allowed = WRITTEN if self.read_result() is not None else (*UNFINISHED, *besides)
        foreign = sorted(_not_among(allowed, self.path)) if self.path.is_dir() else []
        if foreign:
            names = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
            raise FolderError(
                f"the folder {self.path} holds what no run of bio-rl wrote there ({names}); a run needs a new folder"
            )

    def owner(self) -> str | None:
        """The process that has the folder now, in words; ``None`` where it is free."""
        return self._owner() if self._is_locked() else None

    def owner_pid(self) -> int | None:
        """The same by its number, where it runs on this machine."""
        process = (self.read_result() or {}).get("process", {})
        is_here = process.get("host") == socket.gethostname()
        return process.get("pid") if is_here and self._is_locked() else None

    def _is_locked(self) -> bool:
        if not (self.path / LOCK).is_file():
            return False
        try:
            with self._lock.acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    def _owner(self) -> str:
        result = self.read_result() or {}
        if "process" not in result:
            return "another process"
        process = result["process"]
        return f"process {process['pid']} on {process['host']}, since {process['started']}"

    def is_run_of(self, config: DictConfig) -> bool:
        """Whether the run in this folder had this config."""
        try:
            recorded = read_yaml(self.path / CONFIG)
            return _what_is_learnt(recorded) == _what_is_learnt(OmegaConf.to_container(config, resolve=True))
        except Exception:  # whatever a file that is no config brings about
            return False

    def goes_on(self, config: DictConfig) -> str | None:
        """How a run of this config goes on with the one in this folder: from where that was cut off, or from its end.

        Returns:
            ``"cut off"``, ``FINAL`` for a finished run of fewer time steps, or ``None`` if it cannot.
        """
        result = self.read_result() or {}
        status, timesteps = result.get("status"), result.get("timesteps_requested")
        if status in ("running", "interrupted") or result.get("resumable"):
            return "cut off" if self.is_run_of(config) else None
        has_end = status == "done" and (self.path / STATES / f"{FINAL}{STATE}").is_file()
        if not has_end or config.env.timesteps <= (timesteps or 0):
            return None
        shorter = config.copy()
        shorter.env.timesteps = timesteps
        return FINAL if self.is_run_of(shorter) else None

    # -- writing -------------------------------------------------------------------------

    def begin(
        self, result: Mapping[str, Any], config: DictConfig, launch: Mapping[str, Any], clear: bool = True
    ) -> None:
        """Put a new run in the place of an earlier one: its first result, and what it was started with.

        Args:
            result: with the status ``running``.
            config: of the run, kept with every interpolation resolved.
            launch: Hydra's own files, by their names without suffix.
            clear: whether what the earlier run left is removed; ``False`` where it goes on, and only its drafts are.
        """
        self.write_result(result)
        self._clear(WRITTEN if clear else DRAFTS)
        hydra = self.path / ".hydra"
        hydra.mkdir(exist_ok=True)
        OmegaConf.save(config, self.path / CONFIG, resolve=True)
        for name, content in launch.items():
            OmegaConf.save(content, hydra / f"{name}.yaml")

    def write_result(self, result: Mapping[str, Any]) -> None:
        results.write_result(self.path, result)

    def _clear(self, patterns: tuple[str, ...]) -> None:
        for folder, _, names in os.walk(self.path, topdown=False):
            for file in (Path(folder, name) for name in names):
                name = file.relative_to(self.path).as_posix()
                if name not in KEPT and _matches(name, patterns):
                    file.unlink()
            with suppress(OSError):  # it is not empty
                os.rmdir(folder)


def this_process(started: str) -> dict[str, Any]:
    """Who runs, for whoever finds the folder in use."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started}


def _not_among(patterns: tuple[str, ...], folder: Path, prefix: str = "") -> Iterator[str]:
    """What lies in a folder and matches no pattern. Links match none, and a folder is looked into if a pattern does."""
    folders = [parent.as_posix() for pattern in patterns for parent in PurePosixPath(pattern).parents]
    for entry in os.scandir(folder):
        name = prefix + entry.name
        if entry.is_dir(follow_symlinks=False) and _matches(name, folders):
            yield from _not_among(patterns, folder / entry.name, f"{name}/")
        elif not (entry.is_file(follow_symlinks=False) and _matches(name, patterns)):
            yield name


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _what_is_learnt(settings: Any) -> dict[str, Any]:
    """A config without what says what may be replaced and what is saved on the way."""
    return {name: value for name, value in settings.items() if name not in ("overwrite", "retry", "resume")}
