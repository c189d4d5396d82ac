"""Forward gradients: a directional derivative times its direction."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from bio_rl.mechanisms.perturbation import PerturbationRule, Readout, in_one_batch
from bio_rl.network import Network
from bio_rl.rule import Trace
from bio_rl.settings import Count

Directions = Literal["weights", "activities"]


class ForwardGradient(PerturbationRule):
    """Perturbation in the limit of no noise: tangents run forward beside the activities.

    For a direction u, drawn anew for each sample, the tangent ``t_l = slope_l * (W_l t_(l-1) + d_l)``
    starts from 0 at the input and is at the output the derivative along u. Then ``(dL/dy . t) u`` is
    an unbiased estimate of the gradient (Baydin et al. 2022, theorem 1). ``d_l`` is what the direction
    does to a drive: a direction among the weights, which is theirs, or among the drives themselves,
    with far less variance (the activity perturbation of Ren et al. 2023).

    Args:
        draws: directions per sample, all of them run in one sweep.
        directions: ``weights`` or ``activities``.
        readout: ``exact``, output neurons learn from their own error, or ``perturbed``, by
            directions.

    Raises:
        ValueError: fewer than 1 ``draws``, or unknown ``directions`` or ``readout``.
    """

    paper = "Baydin, Pearlmutter, Syme, Wood & Torr 2022, Gradients without backpropagation"
    ngrad = "perturbation"
    weight_transport = False
    separate_phases = False
    error_neurons = False
    extra_sweeps = True
    nonlocal_scalars = "weight noise that no sample feels, drawn once for the whole batch"

    def __init__(self, draws: Count = 16, directions: Directions = "weights", readout: Readout = "exact"):
        super().__init__(draws, readout, in_weights=directions == "weights")
        self.directions = directions
        if directions == "activities":
            self.nonlocal_scalars = ""  # type: ignore[misc]

    def output_change(
        self, network: Network, trace: Trace, noise: Sequence[Tensor], deviations: Sequence[Tensor]
    ) -> Tensor:
        tangent = noise[0] * deviations[0]  # the input has none
        for index, (layer, activity) in enumerate(zip(network.layers, trace.activities[1:], strict=True)):
            if index > 0:
                tangent = in_one_batch(partial(torch.matmul, other=layer.weight.mT), tangent)  # a bias has no tangent
            if 0 < index < len(noise):
                tangent.addcmul_(noise[index], deviations[index])
            tangent = layer.activation.gate(tangent, activity.unsqueeze(-3), out=tangent)
        return tangent
