"""A run as its folder tells it, read file by file when asked for.

Whoever made the folder is not trusted: no link in it is followed, nothing of it is executed, and a file that is cut
or spoilt costs a line in ``Run.problems``, not the rest. Reading is quick, for thousands of runs.
"""

import csv
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from bio_rl.experiment import result as results
from bio_rl.experiment.folder import CONFIG
from bio_rl.names import in_short
from bio_rl.trust import MOST_BYTES as YAML_BYTES
from bio_rl.trust import first_link, parse_yaml, plain_file

EVALUATIONS, PROGRESS, DIAGNOSTICS = "evaluations.csv", "progress.csv", "diagnostics.csv"
PROBES = "probes.safetensors"
TRAINED, UNTRAINED = ("model", "checkpoints/last"), "checkpoints/untrained"
"""Where a run keeps its networks: as they became, the first that there is; and as they began."""
TIMESTEPS = "time/total_timesteps"
OVERRIDES = ".hydra/overrides.yaml"
MOST_BYTES = 2**28
"""Of a table of a run's: what is longer is not ours, and would fill the memory."""

Key = tuple[str, str, int | None]
"""What was measured, of which network, and of which layer, counted from 1; ``None`` where it is the network's."""


class NoRun(Exception):
    """A folder that holds no run: why, in one line."""


class Unreadable(Exception):
    """A file of a run that is there and cannot be read: which, and why, in one line."""


class Series(NamedTuple):
    """A number through time.

    Attributes:
        timesteps, values: ``(records,)``, in the order in which they were recorded.
    """

    timesteps: np.ndarray
    values: np.ndarray


class Evaluations(NamedTuple):
    """Episodes of a run's evaluations: ``(episodes,)`` each, in the order in which they were played."""

    timesteps: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray

    def returns_by_time(self) -> Iterator[tuple[int, np.ndarray]]:
        """The returns of each evaluation, by the timesteps learnt until then.

        The one at a run's end, of other episodes, counts to one at the same timesteps.
        """
        starts = np.flatnonzero(np.diff(self.timesteps, prepend=-1))
        for start, end in pairwise([*starts, len(self.returns)]):
            yield int(self.timesteps[start]), self.returns[start:end]


class Probes(NamedTuple):
    """What a run showed its networks to see their representations.

    Attributes:
        observations: as the networks receive them, ``(probes, in)``.
        untrained: each layer's activities in the untrained networks, ``(probes, features)``, by network.
    """

    observations: Tensor
    untrained: dict[str, list[Tensor]]


class Run:
    """A run's folder. What is not there is empty; what cannot be read is empty too, and told in ``problems``.

    Args:
        folder: of the run.

    Attributes:
        result: what result.json holds; empty where it cannot be read.
        problems: a line for each file that could not be read whole, as they were come upon.

    Raises:
        NoRun: there is no run in the folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.problems: list[str] = []
        found = results.read_result(folder)
        self.result: dict[str, Any] = found or {}
        if found is None:
            self.note(_why_no_result(folder))

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def status(self) -> str:
        return str(self.result.get("status", "unknown"))

    def number(self, *names: str) -> float | None:
        """A number of result.json by its path of names; ``None`` where there is none."""
        value: Any = self.result
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) if abs(value) <= sys.float_info.max else math.inf

    def text(self, name: str) -> str:
        """A word of result.json; ``?`` where there is none."""
        value = self.result.get(name)
        return "?" if value is None else str(value)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's config, resolved."""
        config = self._tried(self.read_yaml, CONFIG)
        return config if isinstance(config, dict) else {}

    @cached_property
    def overrides(self) -> list[str]:
        """What the run was started with, as on the command line, in the order of the names."""
        overrides = self._tried(self.read_yaml, OVERRIDES)
        lines = map(str, overrides) if isinstance(overrides, list) else ()
        return sorted(map(in_short, lines))

    @cached_property
    def evaluations(self) -> Evaluations:
        columns = self._columns(EVALUATIONS, {"timesteps": _count, "return": float, "length": float})
        return Evaluations(*(np.array(column, dtype=float) for column in columns))

    @cached_property
    def progress(self) -> dict[str, Series]:
        """The scalars of progress.csv by their names."""
        header, rows = self._table(PROGRESS, (TIMESTEPS,))
        if not rows:
            return {}
        columns = dict(zip(header, zip(*rows, strict=True), strict=True))
        timesteps = columns.pop(TIMESTEPS)
        found = {name: self._series(PROGRESS, timesteps, values) for name, values in columns.items()}
        return {name: series for name, series in found.items() if len(series.values)}

    @cached_property
    def diagnostics(self) -> dict[Key, Series]:
        """The numbers of diagnostics.csv by what they are of."""
        columns = self._columns(
            DIAGNOSTICS, {"timesteps": _count, "network": str, "layer": _layer, "name": str, "value": float}
        )
        records: dict[Key, list[tuple[float, float]]] = {}
        for timesteps, network, layer, name, value in zip(*columns, strict=True):
            records.setdefault((name, network, layer), []).append((timesteps, value))
        return {key: Series(*np.array(pairs).T) for key, pairs in records.items()}

    @cached_property
    def probes(self) -> Probes | None:
        """The probes, or ``None`` where there are none."""
        tensors = self._tried(self.read_tensors, PROBES)
        if not tensors:
            return None
        try:
            return _probes(dict(tensors))
        except (KeyError, ValueError):
            self.note(f"{self.folder / PROBES} does not hold the probes of a run")
            return None

    @property
    def trained(self) -> str | None:
        """The folder in the run's that holds the networks as they became, or as they are; ``None`` for none."""
        return next((name for name in TRAINED if self._file(f"{name}/policy.yaml") is not None), None)

    @property
    def untrained(self) -> str | None:
        """The same as they began."""
        return UNTRAINED if self._file(f"{UNTRAINED}/policy.yaml") is not None else None

    def note(self, problem: str) -> None:
        """Add a line to ``problems`` that is not there yet."""
        if problem not in self.problems:
            self.problems.append(problem)

    # -- files ---------------------------------------------------------------------------

    def read_yaml(self, name: str) -> Any:
        """What a YAML file in the folder holds, as plain data; ``None`` if it is not there.

        Raises:
            Unreadable: it cannot be read.
        """
        content = self._bytes(name, YAML_BYTES)
        if content is None:
            return None
        try:
            return parse_yaml(content)
        except (yaml.YAMLError, UnicodeError, ValueError, RecursionError) as error:
            raise Unreadable(f"{self.folder / name} cannot be read: {_line(error)}") from None

    def read_tensors(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of a safetensors file in the folder, by name; ``None`` if it is not there.

        Raises:
            Unreadable: it cannot be read.
        """
        content = self._bytes(name)
        if content is None:
            return None
        try:
            return load_tensors(content)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise Unreadable(f"{self.folder / name} cannot be read: {_line(error)}") from None

    def _tried(self, read: Any, name: str) -> Any:
        try:
            return read(name)
        except Unreadable as error:
            self.note(str(error))
            return None

    def _file(self, name: str) -> Path | None:
        """A file in the folder, if it is a plain one in plain folders: what a link leads to is not the run's."""
        if (link := first_link(self.folder, name)) is not None:
            self.note(f"{link} is a link, which is not followed")
        return plain_file(self.folder, name)

    def _bytes(self, name: str, most: float = math.inf) -> bytes | None:
        path = self._file(name)
        try:
            if path is not None and path.stat().st_size > most:
                raise Unreadable(f"{path} is longer than {most} bytes, and is not read")
            return None if path is None else path.read_bytes()
        except OSError as error:
            raise Unreadable(f"{self.folder / name} cannot be read: {error.strerror or error}") from None

    # -- tables --------------------------------------------------------------------------

    def _table(self, name: str, needed: Sequence[str]) -> tuple[list[str], list[list[str]]]:
        """The header of a CSV file and its rows up to the first that is not whole."""
        try:
            text = (self._bytes(name, MOST_BYTES) or b"").decode()
        except Unreadable as error:
            self.note(str(error))
            return [], []
        except UnicodeDecodeError:
            self.note(f"{self.folder / name} cannot be read: it is not UTF-8")
            return [], []
        whole, _, rest = text.rpartition("\n")
        try:
            header, *rows = list(csv.reader(whole.splitlines())) or [[]]
        except csv.Error as error:
            self.note(f"{self.folder / name} cannot be read: {_line(error)}")
            return [], []
        if text and (missing := [column for column in needed if column not in header]):
            self.note(f"{self.folder / name} cannot be read: it has no column {missing[0]!r}")
            return [], []
        odd = next((number for number, row in enumerate(rows) if len(row) != len(header)), None)
        if odd is not None:
            self._breaks_off(name, odd)
        elif rest:
            self._breaks_off(name, len(rows))
        return header, rows[:odd]

    def _columns(self, name: str, kinds: Mapping[str, Any]) -> list[list[Any]]:
        """Some columns of a CSV file, by name and kind; empty where it has no rows."""
        header, rows = self._table(name, tuple(kinds))
        places = [(header.index(column), kind) for column, kind in kinds.items()] if rows else []
        while rows:
            try:
                return [[kind(row[place]) for row in rows] for place, kind in places]
            except ValueError:
                first = next(number for number, row in enumerate(rows) if not _fits(row, places))
                self._breaks_off(name, first)
                rows = rows[:first]
        return [[] for _ in kinds]

    def _series(self, name: str, timesteps: Sequence[str], values: Sequence[str]) -> Series:
        """A column of numbers, some of which may be missing; what are none are left out."""
        there = [(when, value) for when, value in zip(timesteps, values, strict=True) if value]
        try:
            return Series(*np.array(there, dtype=float).reshape(-1, 2).T)
        except ValueError:
            return Series(np.empty(0), np.empty(0))

    def _breaks_off(self, name: str, row: int) -> None:
        self.note(f"{self.folder / name} is no whole table from line {row + 2} on; what precedes is used")


def find_runs(folder: Path) -> Iterator[Path]:
    """The folders of runs in a folder, itself included, at any depth, in the order of their names; through no link."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        if results.FILE in files:
            folders.clear()  # a run holds no other
            yield Path(path)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings, each by its name ``group.key``."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _why_no_result(folder: Path) -> str:
    """What is wrong with the result.json of a folder that a run has left other files in.

    Raises:
        NoRun: nothing in the folder is a run's.
    """
    if not folder.is_dir():
        raise NoRun(f"{folder} is no folder" if folder.exists() else f"there is no folder {str(folder)!r}")
    file = folder / results.FILE
    if file.is_symlink() or not file.is_file():
        inside = next(find_runs(folder), None)
        hint = "" if inside is None else f"; there is one in {inside}"
        raise NoRun(f"{folder} is not the folder of a run: it has no {results.FILE}{hint}")
    try:
        if file.stat().st_size > results.MOST_BYTES:
            raise ValueError(f"it is longer than {results.MOST_BYTES} bytes")
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problem = f"{file} cannot be read: {_line(error)}"
        if any((folder / name).is_file() for name in (EVALUATIONS, DIAGNOSTICS, PROGRESS)):
            return problem
        raise NoRun(f"{folder} is not the folder of a run: {problem}") from None
    raise NoRun(f"{folder} is not the folder of a run: its {results.FILE} is of something else")


def _probes(tensors: dict[str, Tensor]) -> Probes:
    observations = tensors.pop("observations")
    layers = {_network_and_layer(name): tensor for name, tensor in tensors.items()}
    untrained: dict[str, list[Tensor]] = {}
    for network, number in sorted(layers):
        tensor = layers[network, number]
        if tensor.dim() != 2 or len(tensor) != len(observations) or number != len(untrained.get(network, [])) + 1:
            raise ValueError("not a layer's activities")
        untrained.setdefault(network, []).append(tensor)
    return Probes(observations, untrained)


def _network_and_layer(name: str) -> tuple[str, int]:
    network, _, layer = name.rpartition(".layer_")
    return network, int(layer)


def _count(text: str) -> float:
    """A number of timesteps; a ValueError for what is none."""
    count = float(text)
    if not 0 <= count < np.inf:
        raise ValueError(f"{text} is no number of timesteps")
    return count


def _layer(text: str) -> int | None:
    return int(text) if text else None


def _fits(row: Sequence[str], places: Sequence[tuple[int, Any]]) -> bool:
    try:
        for place, kind in places:
            kind(row[place])
    except ValueError:
        return False
    return True


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
