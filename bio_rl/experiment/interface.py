"""The experimenter of ``bio_rl/Interface-v0``: chooses the decoder, swaps it once, measures what learning changed."""

from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from bio_rl.diagnostics.interface import (
    Manifold,
    Perturbation,
    Reading,
    flow_correlation,
    intrinsic_manifold,
    intuitive_decoder,
    mean_angle,
    perturbed_decoder,
    shares_of_change,
    teaching_correlation,
)
from bio_rl.diagnostics.representations import activities_of
from bio_rl.experiment.isolation import isolated
from bio_rl.experiment.logger import write_row
from bio_rl.network import Network
from bio_rl.seeding import Stream, derive_seeds
from bio_rl.settings import Between, checked
from bio_rl.tasks.interface import STEPS, TARGETS, Interface, starts, wanted_velocity, watched_trials

FILE = "interface.safetensors"


class Trials(NamedTuple):
    """One trial to each target, without exploration: observations, activity of the last hidden layer, and errors.

    Each is ``(targets, steps, ...)``; an error is the wanted minus the decoded velocity.
    """

    observations: Tensor
    activity: Tensor
    errors: Tensor


class Decoder(BaseCallback):
    """Makes the actor's last layer a decoder, which never learns, and swaps it once for a perturbed one.

    As in experiments (Sadtler et al. 2014; Golub et al. 2018): before anything is learnt, the network watches the
    cursor go to each target by itself. The main dimensions of its last hidden layer's activity are the intrinsic
    manifold, and the intuitive decoder is what reads the wanted velocities best from it. At ``swap_at`` a perturbed
    decoder takes its place, see ``bio_rl.diagnostics.interface.perturbed_decoder``. From then on only hidden layers
    that learn can bring the cursor back under control.

    Logged as ``interface/...``: at the swap ``open_loop_angle`` and ``teaching_correlation``; at the end this again,
    ``potent_share`` and ``manifold_share`` of what changed since the swap, and ``flow_correlation`` for credit by the
    decoder there is and, as ``flow_correlation_before``, by the one there was. All of it is defined in
    ``bio_rl.diagnostics.interface``; the arrays behind it are left in the run's interface.safetensors.

    Args:
        perturbation: ``within`` or ``outside`` the manifold, or ``none``.
        dimensions: of the manifold.
        swap_at: timesteps before the swap, rounded up to whole rollouts.
        angle: by which the perturbation turns the cursor's velocity at first, in degrees.

    Raises:
        ValueError: an argument out of its range; later, an actor whose last layer learns, or that the task is another.
    """

    @checked
    def __init__(
        self,
        perturbation: Perturbation = "within",
        dimensions: Annotated[int, Between(2, 10**6)] = 8,
        swap_at: Annotated[int, Between(0, 10**12)] = 20_000,
        angle: Annotated[float, Between(0, 180)] = 90.0,
    ):
        super().__init__()
        self.perturbation: Perturbation = perturbation
        self.dimensions = dimensions
        self.swap_at = swap_at
        self.angle = angle
        self.manifold: Manifold | None = None
        self.at_swap: Trials | None = None

    @property
    def actor(self) -> Network:
        networks: dict[str, Network] = self.model.policy.networks  # type: ignore[assignment]
        if "actor" not in networks or networks["actor"].layers[-1].learns or len(networks["actor"].layers) < 2:
            raise ValueError("the decoder must not learn, and read hidden neurons: network=decoder freezes it")
        return networks["actor"]

    def _on_training_start(self) -> None:
        observations, velocities = watched_trials()
        if self.model.observation_space.shape != observations.shape[1:]:
            raise ValueError("a decoder of the cursor's velocity is for env=interface")
        if self.manifold is not None:
            return  # training goes on
        if self.num_timesteps:
            raise ValueError("the decoder is chosen before the first step, and this agent has made some")
        actor = self.actor
        activity = activities_of(actor, self._tensor(observations))[-2]
        self.manifold = intrinsic_manifold(activity, self.dimensions)
        self.intuitive = intuitive_decoder(self.manifold, activity, torch.as_tensor(velocities))
        (seed,) = derive_seeds(self.model.seed or 0, Stream.DECODER, 1)
        self.perturbed = perturbed_decoder(
            self.manifold, self.intuitive, activity, self.perturbation, self.angle, np.random.default_rng(seed)
        )
        self.open_loop_angle = mean_angle(self.intuitive.velocities(activity), self.perturbed.velocities(activity))
        _set(actor, self.intuitive)

    def _on_rollout_start(self) -> None:
        if self.at_swap is None and self.num_timesteps >= self.swap_at:
            _set(self.actor, self.perturbed)
            self.at_swap = self._trials()
            self._log({"open_loop_angle": self.open_loop_angle}, self.at_swap)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self.at_swap is None or self.manifold is None:
            return
        early, late = self.at_swap, self._trials()
        # The same states, however the cursor moves by now; step by step, as they were seen, so that a network that
        # has not changed gives the same numbers to the last bit.
        steps = early.observations.unbind(1)
        revisited = [activities_of(self.actor, seen.contiguous())[-2] for seen in steps]
        now = torch.stack(revisited, dim=1).flatten(0, 1)
        scalars = shares_of_change(self.manifold, early.activity.flatten(0, 1), now, self.perturbed.weight)
        for name, decoder in (("", self.perturbed), ("_before", self.intuitive)):
            scalars[f"flow_correlation{name}"] = flow_correlation(
                self.manifold, early.activity, late.activity, early.errors, decoder.weight
            )
        self._log(scalars, late)
        self._keep(early, late)

    def _log(self, scalars: dict[str, float], trials: Trials) -> None:
        with isolated(self.num_timesteps):
            taught = teaching_correlation(self.actor, trials.observations.flatten(0, 1))
        scalars = {"teaching_correlation": taught, **scalars}
        known = {f"interface/{name}": value for name, value in scalars.items() if np.isfinite(value)}
        write_row(self.logger, known, self.num_timesteps)

    def _keep(self, early: Trials, late: Trials) -> None:
        if self.logger.dir is None:
            return
        parts: dict[str, Any] = {
            "manifold": self.manifold,
            "intuitive": self.intuitive,
            "perturbed": self.perturbed,
            "at_swap": early,
            "at_end": late,
        }
        arrays = {
            f"{name}.{field}": tensor.cpu().clone(memory_format=torch.contiguous_format)
            for name, part in parts.items()
            for field, tensor in part._asdict().items()
        }
        save_file(arrays, f"{self.logger.dir}/{FILE}")

    def _trials(self) -> Trials:
        """A trial to each target by the mean action."""
        actor, task, state = self.actor, Interface(TARGETS), starts(np.arange(TARGETS))
        seen: list[Trials] = []
        for _ in range(STEPS):
            observations = self._tensor(task.observe(state))
            *_, activity, output = activities_of(actor, observations)
            velocity = output.double().cpu()
            errors = torch.as_tensor(wanted_velocity(state).T) - velocity
            seen.append(Trials(observations, activity, errors))
            state, *_ = task.advance(state, velocity.numpy())
        return Trials(*(torch.stack(part, dim=1) for part in zip(*seen, strict=True)))

    def _tensor(self, observations: np.ndarray) -> Tensor:
        return torch.as_tensor(observations, device=self.model.device)


@torch.no_grad()
def _set(actor: Network, reading: Reading) -> None:
    """In place: where the actor learns with others, its weights are part of theirs."""
    decoder = actor.layers[-1]
    decoder.weight.copy_(reading.weight)
    if decoder.bias is not None:
        decoder.bias.copy_(reading.bias)
