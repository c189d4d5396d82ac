"""PEPITA: a second forward sweep on an input that the error has modulated."""

from typing import Literal

import torch
from torch import Tensor

from bio_rl.layers import Updates
from bio_rl.mechanisms.arithmetic import outer_product
from bio_rl.mechanisms.descent import local_updates
from bio_rl.mechanisms.feedback_weights import matched, random_feedback
from bio_rl.mechanisms.nudging import unit_error
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace
from bio_rl.settings import Positive

Feedback = Literal["random", "mirrored", "sampled"]
Presynaptic = Literal["free", "modulated"]


class Pepita(Rule):
    """The error is projected onto the input, and synapses compare two forward sweeps.

    With x the input, h_l the activities of the sweep that acts and e the output error, a second
    sweep starts from ``h'_0 = x - F e``. Hidden layers learn by ``(h_l - h'_l) h'_(l-1)^T``, the
    last layer by ``e h'_(L-1)^T`` (Dellaferrera & Kreiman 2022, algorithm 1, whose random F has no
    sign of its own). Every sample's error is projected at the same small size, ``modulation``, and
    the difference is scaled back by the error's own.

    **What it comes to.** To first order ``h_l - h'_l = J_l F e``, with J_l the layer's Jacobian, and for the
    first layer this is feedback alignment through ``W_1 F`` (Srinivasan et al. 2024). Along the error
    that reaches a layer in backprop the difference is ``e . J F e`` for each of them, with J the whole
    network's Jacobian: all are as right as the modulation is, and right where the output falls with its
    error. A fixed F is so for every sample only if the output rises along it everywhere. A
    value is seldom monotone (in CartPole it is highest in the middle), and so the critic fails.
    With F a sample's own transposed Jacobian the difference is ``J_l J_l^T`` times its true delta, never
    further than 90 degrees from it. What ``mirrored`` learns is the mean over samples, of which that is not
    true; and it takes on the Jacobian's size, which grows with the weights, so that in a trained agent
    the modulation is no longer small (norms of 7 and more, where F began with 1 for each output).

    Args:
        modulation: the size of a sample's modulation, for an F of fresh weights' size.
        feedback: ``random``, F is fixed, as in the paper; ``mirrored``, it learns the network's mean
            transposed Jacobian from the output's response to noise at the input (Srinivasan et al.
            learn a mirror for each layer, to the same end); or ``sampled``, no F: each sample is modulated
            in a random direction, of the sign that brings its output nearer. In the mean over directions
            that is along its own transposed Jacobian, at the price of noise.
        presynaptic: the activities that a difference is multiplied with: ``modulated``, those of the
            second sweep, as in the paper; or ``free``.
        centred: whether the batch's mean error is taken out before the projection.

    Raises:
        ValueError: a ``modulation`` that is not positive, or an unknown ``feedback`` or ``presynaptic``.
    """

    paper = "Dellaferrera & Kreiman 2022, Error-driven input modulation; Srinivasan et al. 2024, Forward learning"
    weight_transport = False
    error_neurons = False
    ngrad = "time"
    separate_phases = True
    extra_sweeps = True
    nonlocal_scalars = "norm of the output error; with mirrored feedback, of its update"

    def __init__(
        self,
        modulation: Positive = 0.05,
        feedback: Feedback = "random",
        presynaptic: Presynaptic = "modulated",
        centred: bool = False,
    ):
        super().__init__()
        self.modulation = modulation
        self.feedback = feedback
        self.presynaptic = presynaptic
        self.centred = centred

    def connect(self, network: Network) -> None:
        if self.feedback == "sampled":
            return
        self.projection = random_feedback(
            self, network.layers[0].weight, network.out_features, network.in_features, 1.0
        )
        self.projection.requires_grad_(self.feedback == "mirrored")

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        error = output_error - output_error.mean(-2, keepdim=True) if self.centred else output_error
        direction, size = unit_error(error)
        x = trace.activities[0]
        second = self.forward(network, x - self.modulation * self._projected(direction, x)).activities

        change = size / self.modulation
        if self.feedback == "sampled":
            # The opposite modulation would, to first order, have had the opposite effect: no third sweep.
            nearer = (direction * (trace.activities[-1] - second[-1])).sum(-1, keepdim=True)
            change *= nearer.sign()
        deltas = [
            (free - modulated) * change for free, modulated in zip(trace.activities[1:-1], second[1:-1], strict=True)
        ]
        deltas.append(network.layers[-1].activation.gate(output_error, trace.activities[-1]))
        pre = Trace(second) if self.presynaptic == "modulated" else trace
        updates = local_updates(network, pre, reversed(deltas))
        if self.feedback == "mirrored":
            towards = self.projection - self._jacobian(network, trace)
            updates[self.projection] = matched(towards, updates[network.layers[0].weight])
        return updates

    def _projected(self, direction: Tensor, x: Tensor) -> Tensor:
        """What the input is modulated by, per unit of modulation, ``(*members, batch, in)``."""
        if self.feedback == "sampled":
            return self.randn(x.shape, x).mul_(x.shape[-1] ** -0.5)
        return torch.matmul(direction, self.projection)

    def _jacobian(self, network: Network, trace: Trace) -> Tensor:
        """The output's covariance with noise at the input, ``(*members, out, in)``: the mean Jacobian and noise."""
        x = trace.activities[0]
        noise = self.randn(x.shape, x)
        response = self.forward(network, x + self.modulation * noise).activities[-1] - trace.activities[-1]
        return outer_product(response, noise) / (self.modulation * x.shape[-2])
