"""Diagnostics of a run: what its rules' updates and its networks' representations are like while it learns."""

import csv
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import get_method
from omegaconf import DictConfig
from safetensors.torch import save_file
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat
from torch import Tensor

from bio_rl.diagnostics.measure import Measure
from bio_rl.diagnostics.representations import activities_of, measure_representations
from bio_rl.diagnostics.updates import Minibatch, measure_updates
from bio_rl.experiment.checkpoints import Checkpoints
from bio_rl.experiment.isolation import isolated
from bio_rl.experiment.logger import outputs
from bio_rl.experiment.output import complain
from bio_rl.network import Network
from bio_rl.rule import Divergence

FILE, PROBES = "diagnostics.csv", "probes.safetensors"
UNTRAINED = "untrained"
"""The checkpoint of the agent before it has learnt, so that it can be shown the probes of other runs too."""
MINIBATCHES = "agents.minibatches"
"""By its name: see ``checkpoints.SAVE_MODEL``."""
HEADER = ("timesteps", "network", "layer", "name", "value")
FEWEST_PROBES = 4
"""Debiased similarities need as many."""
CHARTS = {
    "update_angle": "angle of the update to backprop's",
    "update_norm_ratio": "norm of the update over that of backprop's",
    "feedback_angle": "angle of the feedback to the forward weights",
    "target_alignment": "target alignment",
    "cka": "similarity to the untrained layer (debiased CKA)",
    "potent_share": "share of the change of activity that the read-out sees",
}
"""What TensorBoard's custom scalars show, each a chart with all layers of a network."""


class Record(NamedTuple):
    """A row of diagnostics.csv."""

    timesteps: int
    network: str
    layer: int | None
    name: str
    value: float


class Diagnostics(BaseCallback):
    """Measures an agent's networks between a rollout and the update that learns from it, and at the end.

    A record belongs to the timesteps from which the networks have learnt so far: the first, at 0, is of the
    untrained networks. What the loss asks for is taken from the rollout that follows, as in the first
    minibatch of an update; at the end, from the last one. Everything is measured on copies.

    Args:
        config: of the group ``diagnostics``.
        folder: of the run.

    Attributes:
        seconds: that measuring took.
    """

    def __init__(self, config: DictConfig, folder: Path):
        super().__init__()
        self.interval: int = config.interval
        self.samples: int = config.samples
        self.probes: int = config.probes
        self.gauss_newton: bool = config.gauss_newton
        self.folder = folder
        self.seconds = 0.0
        self._due = 0
        self._learnt_from = 0
        self._start: dict[str, list[Tensor]] = {}
        self._observations: Tensor | None = None
        self._last: list[Record] = []

    def result(self) -> dict[str, Any]:
        """What result.json holds: the last record, as network, name and layer, and what measuring took."""
        last: dict[str, dict[str, Any]] = {}
        for record in self._last:
            measured = last.setdefault(record.network, {})
            if record.layer is None:
                measured[record.name] = record.value
            else:
                measured.setdefault(record.name, {})[f"layer_{record.layer}"] = record.value
        return {"seconds": round(self.seconds, 3), **last} if last else {}

    def _on_training_start(self) -> None:
        if self.interval and not self.num_timesteps:  # otherwise training goes on
            if self.probes:
                Checkpoints(self.folder, "none").keep(self.model, UNTRAINED)
            self._write("w", [HEADER])
            for writer in self._tensorboards():
                writer.add_custom_scalars(layout(self._networks()))

    def _on_rollout_start(self) -> None:
        self._learnt_from = self.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.interval and self._learnt_from >= self._due and self._record(self._learnt_from):
            self._due = (self._learnt_from // self.interval + 1) * self.interval

    def _on_training_end(self) -> None:
        if self.interval:
            self._record(self.num_timesteps)

    def _record(self, timesteps: int) -> bool:
        """Measure and write down; whether there was anything to measure."""
        started = time.perf_counter()
        with isolated(timesteps):
            self._keep_probes()
            records = [
                Record(timesteps, network, layer, name, float(value))
                for network, (name, layer, value) in (*self._of_updates(), *self._of_representations())
                if math.isfinite(value)
            ]
        if records:
            self._last = records
            self._write("a", records)
            for writer in self._tensorboards():
                for record in records:
                    writer.add_scalar(tag(record), record.value, timesteps)
        self.seconds += time.perf_counter() - started
        return bool(records)

    def _of_updates(self) -> Iterator[tuple[str, Measure]]:
        for name, minibatch in self._minibatches(self.samples).items():
            try:
                measures = measure_updates(self._networks()[name], minibatch, self.gauss_newton)
            except Divergence:  # learning may go on nonetheless; where it does not, it says so itself
                continue
            yield from ((name, measure) for measure in measures)

    def _of_representations(self) -> Iterator[tuple[str, Measure]]:
        if self._observations is None:
            return
        for name, network in self._networks().items():
            now = activities_of(network, self._observations)
            yield from ((name, measure) for measure in measure_representations(network, self._start[name], now))

    def _keep_probes(self) -> None:
        """Draw the probes from the first rollout, and save them with what the untrained networks make of them."""
        if not self.probes or self._observations is not None:
            return
        minibatches = self._minibatches(self.probes)
        if not minibatches:
            return
        # All networks see the same.
        observations = next(iter(minibatches.values())).x
        if len(observations) < FEWEST_PROBES:
            complain(
                f"no representations are compared: of {FEWEST_PROBES} probes the first rollout has {len(observations)}"
            )
            self.probes = 0
            return
        self._observations = observations
        self._start = {name: activities_of(network, observations) for name, network in self._networks().items()}
        tensors = {f"{name}.layer_{n}": each for name, every in self._start.items() for n, each in enumerate(every, 1)}
        save_file({"observations": observations, **tensors}, self.folder / PROBES)

    def _minibatches(self, samples: int) -> Mapping[str, Minibatch]:
        return get_method(MINIBATCHES)(self.model, samples)

    def _networks(self) -> dict[str, Network]:
        return self.model.policy.networks  # type: ignore[return-value]

    def _tensorboards(self) -> list[Any]:
        return [each.writer for each in outputs(self.logger, TensorBoardOutputFormat)]

    def _write(self, mode: str, rows: Sequence[Sequence[object]]) -> None:
        with (self.folder / FILE).open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def tag(record: Record) -> str:
    """A record's name in TensorBoard."""
    network = f"diagnostics/{record.name}/{record.network}"
    return network if record.layer is None else f"{network}/layer_{record.layer}"


def layout(networks: Mapping[str, Network]) -> dict[str, dict[str, list[Any]]]:
    """The charts of TensorBoard's custom scalars, a category for each network; each takes all tags of a pattern."""
    return {
        network: {
            title: ["Multiline", [f"^diagnostics/{name}/{network}(/layer_[0-9]+)?$"]] for name, title in CHARTS.items()
        }
        for network in networks
    }
