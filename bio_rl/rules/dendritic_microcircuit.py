"""Dendritic microcircuits: an apical dendrite compares feedback with what local interneurons expect of it."""

import copy
import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bio_rl.layers import Dense, Updates
from bio_rl.mechanisms.arithmetic import outer_product
from bio_rl.mechanisms.feedback_weights import at_most, random_feedback
from bio_rl.mechanisms.nudging import Preset, held, unit_error
from bio_rl.mechanisms.relaxation import largest
from bio_rl.network import Network
from bio_rl.rule import Divergence, Rule, Trace
from bio_rl.settings import Between, Count, Fraction, Positive

Dynamics = Literal["steady", "continuous"]
Start = Literal["self_predicting", "random"]


class DendriticMicrocircuit(Rule):
    """Pyramidal neurons with a basal and an apical dendrite, and interneurons beside them (Sacramento et al. 2018).

    A hidden layer's soma u adds its basal and its apical potential; an interneuron's soma n adds its
    dendrite's and, with weight s, that of the one pyramidal neuron above that it mirrors (their
    dynamics at rest, with the leak absorbed in the weights; f is the activation)::

        u = v_B + a v_A      v_B = W r_below      v_A = B f(u_above) - I f(n)
        n = (1 - s) v_I + s u_above               v_I = M f(u)

    With ``M = W_above`` and ``I = B`` the interneurons predict all feedback that the layer itself has
    caused: the apical dendrite is silent, and the network computes what a feedforward one does. The
    teaching signal, a current into the somata of the output, is what they cannot predict. Plasticity is
    local: dendrites learn to predict somata, and inhibition to silence the apical dendrite::

        W: f(v_B) - f(u), times r_below     M: f(v_I) - f(u_above), times r     I: v_A, times f(n)

    **What it comes to.** To first order in the nudge v_A carries B's share of the error above, so that
    this is feedback alignment, and backprop where ``B = W_above``; what is left is what the microcircuit
    explains: one set of neurons carries activity and error at once.

    **Staying self-predicting.** An interneuron's dendrite learns from the soma that it mirrors (the paper:
    from its own soma, at which that one pulls). M and W_above then take the same update where they agree,
    and so agree for good under any optimizer that treats parameters alike; interneurons that lag
    behind by as much as the nudge would drown the teaching signal. I learns from the state that acted,
    which holds no teaching signal that it could learn to cancel, and so does B where it learns, to
    predict r from the layer above. Neither ever outweighs the update of W_above.

    The state that acts is the feedforward sweep: the apical dendrite counts as silent while nothing is
    taught, which it is at the self-predicting state.

    Args:
        nudge: the norm of each sample's teaching current, whatever its error's size.
        apical: a, the apical conductance in units of the basal one.
        somatic: s, an interneuron's share of the soma above, in (0, 1).
        start: ``self_predicting``, or ``random`` interneurons that have to learn it. Until they have, what they do
            not predict counts as a teaching signal, and over the nudge: updates are larger than any gradient, and
            unrelated to it.
        learn_feedback: whether B learns.
        dynamics: ``steady`` finds the state at rest by alternating sweeps down and up; ``continuous``
            integrates the membrane potentials (Euler). The rest state of large weights that disagree
            with their feedback may be unstable in time.
        rounds: for ``steady``, sweeps down and up; at the self-predicting state one is exact to first order in
            the nudge. With ``random`` interneurons it is not, at any nudge, nor is the update of the nudge's order.
        duration: for ``continuous``, how long, in membrane time constants.
        time_step: for ``continuous``, Euler's step, in membrane time constants.
        feedback_scale: the size of the feedback weights, 1 for that of fresh forward weights.
        clamping: the share of the target in the output's somata, from 0, where the current stays whatever the basal
            potential does, to 1; ``g_som / (g_lk + g_B + g_som)`` in Sacramento et al. 2018, of which ``nudge /
            clamping`` is the target's distance.
        preset: ``limit``, or ``prospective``: the paper's teaching conductance, to a target at a distance of 1, and
            as many rounds as settle.

    Raises:
        ValueError: an unknown ``start``, ``dynamics`` or ``preset``, a ``clamping`` outside [0, 1], ``somatic``
            outside (0, 1), or a number that is not positive.
        Divergence: from ``backward``, where potentials are not finite, or in time have not come to rest.
    """

    paper = "Sacramento, Costa, Bengio & Senn 2018, Dendritic cortical microcircuits approximate backpropagation"
    weight_transport = False
    # Theirs is always taught. Here the network acts by the state without a teaching signal, and learns in one with it.
    separate_phases = True
    error_neurons = False
    extra_sweeps = True
    ngrad = "space"
    nonlocal_scalars = "norms of the output error and of the inhibitory and feedback updates"
    limit = "feedback_alignment"
    presets: ClassVar = {"prospective": {"nudge": 0.42, "clamping": 0.42, "rounds": 16}}

    def __init__(
        self,
        nudge: Positive = 0.01,
        apical: Positive = 0.8,
        somatic: Annotated[float, Between(1e-3, 0.999)] = 0.42,
        start: Start = "self_predicting",
        learn_feedback: bool = False,
        dynamics: Dynamics = "steady",
        rounds: Count = 1,
        duration: Annotated[float, Between(1e-3, 1e4)] = 20.0,
        time_step: Annotated[float, Between(1e-4, 1)] = 0.1,
        feedback_scale: Positive = 1.0,
        clamping: Fraction = 0.0,
        preset: Preset = "limit",
    ):
        super().__init__()
        self.nudge = nudge
        self.apical = apical
        self.somatic = somatic
        self.start = start
        self.learn_feedback = learn_feedback
        self.dynamics = dynamics
        self.rounds = rounds
        self.duration = duration
        self.time_step = time_step
        self.feedback_scale = feedback_scale
        self.clamping = clamping
        self.preset = preset

    def connect(self, network: Network) -> None:
        above = network.layers[1:]
        self.feedback = nn.ParameterList(self._random(layer, self.feedback_scale) for layer in above)
        self.feedback.requires_grad_(self.learn_feedback)
        # Layer l's interneurons mirror layer l + 1: the same number, the same activation.
        self.interneurons = nn.ModuleList(copy.deepcopy(layer) for layer in above)
        self.inhibition = nn.ParameterList(weight.detach().clone() for weight in self.feedback).requires_grad_()
        if self.start == "random":
            self._scramble()

    def feedback_weights(self, network: Network) -> Sequence[Tensor]:
        return list(self.feedback)

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        direction, size = unit_error(output_error)
        basal = [layer.drive(pre) for layer, pre in zip(network.layers, trace.activities[:-1], strict=True)]
        settle = self._steady_state if self.dynamics == "steady" else self._integrate
        state = settle(network, trace, basal, direction * -self.nudge)
        updates = self._forward_and_interneuron_updates(network, state, size)
        for index, update in enumerate(self._inhibition_updates(network, trace, basal, size)):
            updates[self.inhibition[index]] = at_most(update, updates[network.layers[index + 1].weight])
        if self.learn_feedback:
            for index, update in enumerate(self._feedback_updates(network, trace, size)):
                updates[self.feedback[index]] = at_most(update, updates[network.layers[index + 1].weight])
        return updates

    def apical_potential(self, network: Network, index: int, soma_above: Tensor, interneuron: Tensor) -> Tensor:
        """v_A of hidden layer ``index`` (from 0), ``(*members, batch, features)``, from the somata that reach it."""
        layer = network.layers[index + 1]
        above, expected = layer.activation.forward(soma_above), layer.activation.forward(interneuron)
        return layer.feedback(above, self.feedback[index]).sub_(layer.feedback(expected, self.inhibition[index]))

    def _steady_state(self, network: Network, trace: Trace, acting: list[Tensor], current: Tensor) -> "_State":
        layers, activities = network.layers, list(trace.activities)
        hidden = range(len(layers) - 1)
        basal, soma = list(acting), list(acting)
        inputs = [current] * len(layers)  # what each soma adds to its basal potential
        for _ in range(self.rounds):
            inputs[-1] = held(current, self.clamping, basal[-1] - acting[-1])
            soma[-1] = basal[-1] + inputs[-1]
            for index in reversed(hidden):
                interneuron = self._interneuron(index, activities, soma)
                inputs[index] = self.apical_potential(network, index, soma[index + 1], interneuron).mul_(self.apical)
                soma[index] = basal[index] + inputs[index]
            for index, layer in enumerate(layers):
                if index:
                    basal[index] = layer.drive(activities[index])
                if layer is layers[-1]:
                    inputs[index] = held(current, self.clamping, basal[index] - acting[index])
                soma[index] = basal[index] + inputs[index]
                activities[index + 1] = layer.activation.forward(soma[index])
        for member, potentials in enumerate(largest(network, soma)):
            _report(network, member, [math.isfinite(potential) for potential in potentials], self.rounds)
        return _State(activities, basal, soma)

    def _integrate(self, network: Network, trace: Trace, acting: list[Tensor], current: Tensor) -> "_State":
        layers, activities = network.layers, list(trace.activities)
        hidden = range(len(layers) - 1)
        soma = [potential.clone() for potential in acting]
        interneurons = [self._interneuron(i, activities, soma) for i in hidden]
        steps = max(1, round(self.duration / self.time_step))
        speeds: list[list[list[float]]] = []
        for step in range(1, steps + 1):
            goals = [layer.drive(pre) for layer, pre in zip(layers, activities[:-1], strict=True)]
            for i in hidden:
                goals[i].add_(self.apical_potential(network, i, soma[i + 1], interneurons[i]), alpha=self.apical)
            goals[-1].add_(held(current, self.clamping, goals[-1] - acting[-1]))
            if step in (1, steps):
                speeds.append(largest(network, [goal - u for goal, u in zip(goals, soma, strict=True)]))
            expected = [self._interneuron(i, activities, soma) for i in hidden]
            for potential, goal in zip([*soma, *interneurons], [*goals, *expected], strict=True):
                potential.lerp_(goal, self.time_step)
            activities[1:] = [layer.activation.forward(u) for layer, u in zip(layers, soma, strict=True)]
        for member, (begun, ended) in enumerate(zip(speeds[0], speeds[-1], strict=True)):
            _report(network, member, [speed <= max(max(begun) / 10, 1e-3) for speed in ended], steps)
        basal = [layer.drive(pre) for layer, pre in zip(layers, activities[:-1], strict=True)]
        return _State(activities, basal, soma)

    def _forward_and_interneuron_updates(self, network: Network, state: "_State", size: Tensor) -> Updates:
        updates: Updates = {}
        rate = size / self.nudge
        for index in reversed(range(len(network.layers))):
            layer = network.layers[index]
            forward, soma = layer.activation.forward, state.soma[index]
            delta = (forward(state.basal[index]) - forward(soma)).mul_(rate)
            updates.update(layer.outer(state.activities[index], delta))
            if index:
                delta = forward(self._dendrite(index - 1, state.activities)) - forward(soma)
                updates.update(self._interneurons(index - 1).outer(state.activities[index], delta.mul_(rate)))
            # A learning rate for each layer, as in the paper: every apical dendrite passes on this share.
            rate = rate / (self.apical * (1 - self.somatic))
        return updates

    def _inhibition_updates(self, network: Network, trace: Trace, acting: list[Tensor], size: Tensor) -> list[Tensor]:
        updates = []
        for index, layer in enumerate(network.layers[1:]):
            interneuron = self._interneuron(index, trace.activities, acting)
            apical = self.apical_potential(network, index, acting[index + 1], interneuron).mul_(-size)
            updates.append(outer_product(layer.activation.forward(interneuron), apical))
        return updates

    def _feedback_updates(self, network: Network, trace: Trace, size: Tensor) -> list[Tensor]:
        updates = []
        for index, layer in enumerate(network.layers[1:]):
            below, activity, above = network.layers[index], trace.activities[index + 1], trace.activities[index + 2]
            expected = below.activation.forward(layer.feedback(above, self.feedback[index]))
            updates.append(outer_product(above, (expected - activity).mul_(size)))
        return updates

    def _interneurons(self, index: int) -> Dense:
        interneurons = self.interneurons[index]
        assert isinstance(interneurons, Dense)
        return interneurons

    def _dendrite(self, index: int, activities: Sequence[Tensor]) -> Tensor:
        """v_I of the interneurons beside hidden layer ``index``."""
        return self._interneurons(index).drive(activities[index + 1])

    def _interneuron(self, index: int, activities: Sequence[Tensor], soma: Sequence[Tensor]) -> Tensor:
        """n of the interneurons beside hidden layer ``index``."""
        return torch.lerp(self._dendrite(index, activities), soma[index + 1], self.somatic)

    def _random(self, layer: Dense, scale: float) -> nn.Parameter:
        return random_feedback(self, layer.weight, layer.out_features, layer.in_features, scale)

    def _scramble(self) -> None:
        with torch.no_grad():
            for index, inhibition in enumerate(self.inhibition):
                interneurons = self._interneurons(index)
                inhibition.copy_(self._random(interneurons, self.feedback_scale))
                interneurons.weight.copy_(self._random(interneurons, 1.0))
                if interneurons.bias is not None:
                    interneurons.bias.zero_()


def _report(network: Network, member: int, good: Sequence[bool], step: int) -> None:
    """Tell the network of a member's first layer that is not good, if there is one."""
    if not all(good):
        network.report(member, Divergence("dendritic_microcircuit", good.index(False) + 1, step))


class _State(NamedTuple):
    """Pyramidal neurons under the teaching signal: activities from the input up, and each layer's potentials."""

    activities: list[Tensor]
    basal: list[Tensor]
    soma: list[Tensor]
