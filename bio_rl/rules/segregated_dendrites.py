"""Segregated dendrites: an apical plateau potential before and after the output is taught."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from bio_rl.layers import Updates
from bio_rl.mechanisms.descent import local_updates
from bio_rl.mechanisms.feedback_weights import random_feedback
from bio_rl.mechanisms.nudging import Preset, unit_error
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace
from bio_rl.settings import Positive


class SegregatedDendrites(Rule):
    """Hidden neurons whose apical dendrite hears the output, and speaks in plateaus (Guerguiev et al. 2017).

    The apical dendrites of every hidden layer, at any depth, receive the output's activity through
    fixed random weights Y of their own. The phase that acts ends in a plateau potential, ``forward``; then a
    teaching current moves the output, and the target phase ends in another, ``target``. A neuron's basal
    synapses learn from the difference::

        plateau = sigmoid(slope * (Y r_output - centre))
        update(W) = -(target - forward) * activation'(drive), times the activity below

    The output learns from its own distance to its target, which is its part of the gradient.

    **What it comes to.** Where the sigmoid is straight the difference of plateaus is ``-Y error`` and
    the rule is direct feedback alignment. What bends it is an output of many units, such as a
    value of 100: plateaus saturate and the error is no longer seen. Hence a small slope, and a centre
    that follows the feedback, as a dendrite's excitability adapts to its usual input: the mean of the forward
    phase over the batch. A sample's update so depends on its batch (but not on its size, nor on the loss's
    scale); a batch of one is its own centre and sits where the sigmoid is steepest.

    **How far a nudge can go.** The paper teaches the output all the way, and its plateaus have a slope of 1. Both
    phases' basal
    synapses see the activity of the first, whatever the nudge: activity is not prospective, and what is finite is
    that plateaus saturate.

    Args:
        nudge: the norm of each sample's teaching current, whatever its error's size.
        slope: the plateau's, per unit of apical potential.
        centred: whether the plateau adapts to the batch's mean apical potential; else its centre is 0, as in the paper.
        feedback_scale: the size of Y, 1 for that of fresh forward weights.
        preset: ``limit``, or ``prospective``: an output taught to a distance of 1, and the paper's slope.

    Raises:
        ValueError: an unknown ``preset``, or a number that is not positive.
    """

    paper = "Guerguiev, Lillicrap & Richards 2017, Towards deep learning with segregated dendrites"
    weight_transport = False
    error_neurons = False
    extra_sweeps = False
    ngrad = "space"
    separate_phases = True
    nonlocal_scalars = "norm of the output error, mean of the apical potential over the batch"
    limit = "direct_feedback_alignment"
    presets: ClassVar = {"prospective": {"nudge": 1.0, "slope": 1.0}}

    def __init__(
        self,
        nudge: Positive = 0.5,
        slope: Positive = 0.01,
        centred: bool = True,
        feedback_scale: Positive = 1.0,
        preset: Preset = "limit",
    ):
        super().__init__()
        self.nudge = nudge
        self.slope = slope
        self.centred = centred
        self.feedback_scale = feedback_scale
        self.preset = preset

    def connect(self, network: Network) -> None:
        self.feedback = nn.ParameterList(
            random_feedback(self, layer.weight, network.out_features, layer.out_features, self.feedback_scale)
            for layer in network.layers[:-1]
        )

    def direct_feedback(self, network: Network) -> list[Tensor]:
        return list(self.feedback)

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        return local_updates(network, trace, self._deltas(network, trace, output_error))

    def plateau_difference(self, network: Network, index: int, forward: Tensor, target: Tensor) -> Tensor:
        """Hidden layer ``index``'s plateau of the target phase minus that of the forward phase.

        Args:
            forward, target: the output's activity in either phase, ``(*members, batch, out)``.

        Returns:
            ``(*members, batch, features)``, between -1 and 1.
        """
        weight = self.feedback[index]
        potential = network.layers[-1].feedback(forward, weight)
        taught = network.layers[-1].feedback(target, weight)
        if self.centred:
            centre = potential.mean(-2, keepdim=True)
            potential -= centre
            taught -= centre
        return torch.sigmoid(taught.mul_(self.slope)).sub_(torch.sigmoid(potential.mul_(self.slope)))

    def _deltas(self, network: Network, trace: Trace, output_error: Tensor) -> Iterator[Tensor]:
        output, activities = network.layers[-1], trace.activities
        yield output.activation.gate(output_error, activities[-1])
        direction, size = unit_error(output_error)
        forward = output.drive(activities[-2])
        target = output.activation.forward(torch.add(forward, direction, alpha=-self.nudge))
        forward = output.activation.forward(forward)
        # In units of the error: a straight sigmoid has the slope 1/4.
        unit = size / (-self.nudge * self.slope / 4)
        for index in reversed(range(len(network.layers) - 1)):
            signal = self.plateau_difference(network, index, forward, target).mul_(unit)
            yield network.layers[index].activation.gate(signal, activities[index + 1], out=signal)
