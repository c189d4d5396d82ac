"""Burst-dependent plasticity: events carry activity up, bursts carry errors down, in the same neurons."""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from bio_rl.activations import ACTIVATIONS, Activation
from bio_rl.layers import Updates
from bio_rl.mechanisms.arithmetic import outer_product
from bio_rl.mechanisms.descent import local_updates
from bio_rl.mechanisms.feedback_weights import at_most, random_feedback
from bio_rl.mechanisms.nudging import Preset, unit_error
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace
from bio_rl.settings import Between, Positive

Form = Literal["burstccn", "burstprop"]


class Burst(Rule):
    """A neuron's events are spikes or bursts; feedback decides how many are bursts, and nothing else.

    A neuron emits events at rate e, which is its activity, and a share p of them as bursts, so that
    its burst rate is ``b = p e``. The apical dendrite sets p from what the layer above sends::

        p = 2 p0 sigmoid(2 / p0 * h * u)      h = activation'(drive) / e

    whose slope at rest is 1 (Greedy et al. 2022; Payeur et al. 2021 with free slope). The
    output's bursts deviate from ``p0 e`` by the teaching signal. Synapses learn by the bursts beyond
    those at rest, times the activity below. Two forms differ in what rest is:

    ``burstccn``
        ``u = Y b_above - Q e_above``: a second pathway carries events and cancels the bursts at rest,
        ``Q = p0 Y``. So p is p0 without teaching, and a single phase suffices (Greedy et al. 2022).
    ``burstprop``
        ``u = Y b_above``: bursts before and during teaching are compared, in two phases
        (Payeur et al. 2021, without their recurrent input, which keeps u small).

    **What it comes to.** For small signals ``(p - p0) e`` is ``activation' * Y (b - p0 e)_above``: feedback
    alignment, and backprop where Y is the forward weights. Larger ones saturate, p being a probability.

    **How far a nudge can go.** The output's burst probability is a probability: a teaching signal of norm p0 takes it
    from rest to 0 or, with p0 = 1/2, to 1. Feedback moves bursts alone, never the events that synapses below and
    above see, so that no nudge, however large, makes activity prospective: what is finite there is the bursts'
    saturation.

    Rates are not negative: e is the activity above the activation's lower bound, so that of ``tanh``
    is ``1 + tanh``, and the shift belongs to the biases. A read-out without lower bound has no rate;
    its neurons count as firing steadily at 1.

    Args:
        form: one of the two.
        nudge: the norm of each sample's teaching signal, whatever its error's size.
        baseline: p0, the probability of a burst at rest, at most 1/2.
        learn_cancellation: for ``burstccn``, whether Q begins random and learns to silence the apical dendrite
            from the state that acted. Its update never outweighs the forward one.
        feedback_scale: the size of Y, 1 for that of fresh forward weights.
        preset: ``limit``, or ``prospective``: the output's bursts between none and all.

    Raises:
        ValueError: an unknown ``form`` or ``preset``, a ``baseline`` outside (0, 1/2], a number that is not positive,
            ``learn_cancellation`` where nothing cancels, or, from ``Network``, a hidden layer whose
            activity has no lower bound.
    """

    paper = "Payeur et al. 2021, Burst-dependent synaptic plasticity; Greedy et al. 2022, BurstCCN"
    weight_transport = False
    error_neurons = False
    extra_sweeps = False
    ngrad = "space"
    # `burstprop` has two.
    separate_phases = False
    nonlocal_scalars = "norm of the output error; where Q learns, of its update"
    limit = "feedback_alignment"
    presets: ClassVar = {"prospective": {"nudge": 0.5}}

    def __init__(
        self,
        form: Form = "burstccn",
        nudge: Positive = 0.1,
        baseline: Annotated[float, Between(1e-3, 0.5)] = 0.5,
        learn_cancellation: bool = False,
        feedback_scale: Positive = 1.0,
        preset: Preset = "limit",
    ):
        super().__init__()
        if learn_cancellation and form == "burstprop":
            raise ValueError("learn_cancellation needs form 'burstccn': 'burstprop' has no pathway that cancels")
        self.form = form
        self.nudge = nudge
        self.baseline = baseline
        self.learn_cancellation = learn_cancellation
        self.feedback_scale = feedback_scale
        self.preset = preset

    def connect(self, network: Network) -> None:
        self._floors = [_lowest(layer.activation) for layer in network.layers]
        for number, (layer, floor) in enumerate(zip(network.layers[:-1], self._floors, strict=False), start=1):
            if math.isinf(floor):
                known = ", ".join(name for name, other in ACTIVATIONS.items() if not math.isinf(_lowest(other)))
                raise ValueError(
                    f"burst: layer {number} is {layer.activation_name!r}, whose activity has no lower bound and "
                    f"cannot be an event rate; hidden layers may be {known}"
                )
        self.feedback = nn.ParameterList(self._random(network))
        if self.form == "burstccn":
            fresh = self._random(network) if self.learn_cancellation else self.feedback
            self.cancellation = nn.ParameterList(self.baseline * weight.detach() for weight in fresh)
            self.cancellation.requires_grad_(self.learn_cancellation)

    def feedback_weights(self, network: Network) -> Sequence[Tensor]:
        return list(self.feedback)

    def event_rates(self, trace: Trace) -> list[Tensor]:
        """Every layer's event rate, ``(*members, batch, features)``: no feedback enters."""
        return [
            torch.ones_like(activity) if math.isinf(floor) else activity - floor
            for activity, floor in zip(trace.activities[1:], self._floors, strict=True)
        ]

    def burst_rates(self, network: Network, trace: Trace, teaching: Tensor | float) -> Iterator[Tensor]:
        """Every layer's burst rate, from the last layer to the first, each ``(*members, batch, features)``.

        Args:
            network, trace: as for ``assign``.
            teaching: what is added to the output's burst rate; 0 for none.
        """
        events = self.event_rates(trace)
        bursts = self.baseline * events[-1] + teaching
        yield bursts
        for index in reversed(range(len(network.layers) - 1)):
            apical = self._apical(network, index, bursts, events[index + 1])
            # Where the slope is 0 so may the rate be, and the ratio is taken as 0.
            rate = events[index].clamp_min(torch.finfo(apical.dtype).tiny)
            drive = network.layers[index].activation.gate(apical, trace.activities[index + 1], out=apical).div_(rate)
            bursts = torch.sigmoid(drive.mul_(2 / self.baseline)).mul_(2 * self.baseline).mul_(events[index])
            yield bursts

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        direction, size = unit_error(output_error)
        updates = local_updates(network, trace, self._deltas(network, trace, direction, size))
        if self.learn_cancellation:
            self._learn_cancellation(network, trace, size, updates)
        return updates

    def _deltas(self, network: Network, trace: Trace, direction: Tensor, size: Tensor) -> Iterator[Tensor]:
        teaching = network.layers[-1].activation.gate(direction, trace.activities[-1]) * -self.nudge
        unit = size / self.nudge
        taught = self.burst_rates(network, trace, teaching)
        for at_rest, bursts in zip(self._at_rest(network, trace), taught, strict=True):
            yield (at_rest - bursts).mul_(unit)

    def _at_rest(self, network: Network, trace: Trace) -> Iterator[Tensor]:
        """The burst rates that a teaching signal is seen against, from the last layer to the first."""
        if self.form == "burstprop":
            return self.burst_rates(network, trace, teaching=0.0)
        return (self.baseline * events for events in reversed(self.event_rates(trace)))

    def _apical(self, network: Network, index: int, bursts: Tensor, events: Tensor) -> Tensor:
        """u of hidden layer ``index`` (from 0), from the burst and event rates of the layer above."""
        layer = network.layers[index + 1]
        excitation = layer.feedback(bursts, self.feedback[index])
        if self.form == "burstprop":
            return excitation
        return excitation.sub_(layer.feedback(events, self.cancellation[index]))

    def _learn_cancellation(self, network: Network, trace: Trace, size: Tensor, updates: Updates) -> None:
        """Q's update is ``-u e_above`` (Greedy et al. 2022), with u of the state that acted."""
        events = self.event_rates(trace)
        for index, (layer, weight) in enumerate(zip(network.layers[1:], self.cancellation, strict=True)):
            above = events[index + 1]
            apical = self._apical(network, index, self.baseline * above, above)
            update = outer_product(above, apical.mul_(-size))
            updates[weight] = at_most(update, updates[layer.weight])

    def _random(self, network: Network) -> list[nn.Parameter]:
        return [
            random_feedback(self, layer.weight, layer.out_features, layer.in_features, self.feedback_scale)
            for layer in network.layers[1:]
        ]


def _lowest(activation: Activation) -> float:
    """An activation's lower bound, ``-inf`` where it has none."""
    return activation.forward(torch.tensor(-math.inf)).item()
