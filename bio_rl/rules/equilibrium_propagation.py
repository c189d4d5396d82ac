"""Equilibrium propagation: a network that settles learns by how a nudge moves where it settles."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from bio_rl.layers import Dense, Updates
from bio_rl.mechanisms.arithmetic import add_product
from bio_rl.mechanisms.feedback_weights import learn_alike, random_feedback
from bio_rl.mechanisms.nudging import Preset, held, unit_error
from bio_rl.mechanisms.relaxation import Cautious, large_response, relax, response, squared_spectral_norm
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace
from bio_rl.settings import Between, Count, Fraction, NotNegative, Positive

Nudging = Literal["symmetric", "one_sided"]
Feedback = Literal["tied", "learnt"]
FINITE = 0.1
"""The nudge from which activities change by more than what ``response`` is made for."""


class EquilibriumPropagation(Rule):
    """Hidden layers excite each other in both directions and settle; the agent acts on where they settle.

    Activities ``s_l = f(z_l)`` go to the minimum of the layered energy
    ``E = sum_l c_l (G(s_l) - s_l . (W_l s_(l-1) + b_l))`` with ``G' = f^-1`` and ``c_(l+1) / c_l = k_l``:
    Hopfield's (1984) for a chain of layers. With ``|z|^2 / 2`` in place of G, as in Scellier & Bengio
    2017, eq. 1, slopes would enter the dynamics. Here the minimum is the fixed point of ::

        z_l = W_l s_(l-1) + b_l + k_l W_(l+1)^T s_(l+1)

    A sweep sets one layer after the other to the minimum given its neighbours: with tied feedback, none raises E.

    The read-out ``y = W_L s_(L-1) + b_L`` is no part of the energy and sends nothing back while the
    network acts (Laborieux et al. 2021, section 2.3). For learning, ``- nudge * W_L^T d`` joins the last
    hidden layer's drive, with d the direction of the output error, of norm 1 for each sample. The
    network settles anew, and how far ``dE/dW`` moved, over the nudge, is the update: the gradient
    through the fixed point as the nudge goes to 0 (Scellier & Bengio 2017, theorem 1). A network
    with one hidden layer has nothing to settle and acts as a feedforward one.

    Weak feedback makes the fixed point unique, and quick to find. Without it, a loop gain above 1
    gives fixed points that the free phase never settles into. So k_l is ``kappa``, and
    ``kappa / |W_(l+1)|^2`` where the spectral norm exceeds 1: the loop gain stays below ``kappa``
    as weights grow. k_l counts as a constant where gradients are concerned.

    **Clamped.** With ``clamping`` c the output is held to a target ``nudge / c`` away from it along -d by a spring,
    as a squared distance times c would hold it (Scellier & Bengio 2017, section 2): the force ``- nudge * d - c *
    (change of the output)`` takes the place of ``- nudge * d``, so that activity goes no further than it has to,
    however large the read-out's weights are. The force itself follows the output with a time constant, without which
    a stiff spring would make it swing.

    The nudged phase is run in deviations from the free one: in float32, and after k_l has
    weakened them layer by layer, the difference of two states would be noise.

    Args:
        nudging: ``one_sided`` compares the nudged with the free phase, at a bias of first order in
            the nudge; ``symmetric`` two phases nudged by either sign, at one of second order
            (Laborieux et al. 2021, eq. 7).
        feedback: ``tied``, the transposed forward weights; or ``learnt``, weights of their own, which
            takes the network from an energy to a vector field (Scellier et al. 2018; Ernoult et al.
            2020). They take the forward weights' update, and both decay, so that they come to agree
            (Kolen & Pollack 1994; Laborieux et al. 2021, section 2.4).
        kappa: the strength of feedback while acting, below 0.25, where no chain of layers can sustain itself.
        nudge: the strength of the nudge.
        steps: sweeps of a phase at most.
        tolerance: a phase ends when no drive moves by more than this fraction of its layer's largest.
            Loose values make what the agent does depend on who shares its batch.
        decay: for ``learnt``, decay in proportion to a synapse's own update.
        clamping: for ``one_sided``, the stiffness of the spring that holds the output to its target, up to 1; 0 for a
            constant force. The other sign's spring would push away, without end.
        preset: ``limit``, or ``prospective``: ``one_sided``, to a target at a distance of 1, as in Scellier & Bengio
            2017.

    Raises:
        ValueError: unknown ``nudging``, ``feedback`` or ``preset``, ``steps`` below 1, ``kappa`` outside (0, 0.25), a
            ``clamping`` outside [0, 1] or with ``symmetric``, a ``nudge`` or ``tolerance`` that is not positive, or a
            negative ``decay``.
        Divergence: from ``forward`` and ``assign``, where a phase does not settle.
    """

    paper = (
        "Scellier & Bengio 2017, Equilibrium propagation: bridging the gap between energy-based models "
        "and backpropagation"
    )
    error_neurons = False
    ngrad = "time"
    # With `learnt` feedback there is none.
    weight_transport = True
    separate_phases = True
    extra_sweeps = True
    nonlocal_scalars = "norm of the output error; spectral norm of the weights above"
    limit = "backprop"
    presets: ClassVar = {"prospective": {"nudging": "one_sided", "nudge": 1.0, "clamping": 1.0, "steps": 100}}

    def __init__(
        self,
        nudging: Nudging = "symmetric",
        feedback: Feedback = "tied",
        kappa: Annotated[float, Between(1e-6, 0.249)] = 0.1,
        nudge: Positive = 0.01,
        steps: Count = 30,
        tolerance: Fraction = 1e-6,
        decay: NotNegative = 0.3,
        clamping: Fraction = 0.0,
        preset: Preset = "limit",
    ):
        super().__init__()
        if clamping > 0 and nudging == "symmetric":
            raise ValueError("clamping needs nudging 'one_sided': 'symmetric' has a phase whose spring would push away")
        self.nudging = nudging
        self.feedback = feedback
        self.kappa = kappa
        self.nudge = nudge
        self.steps = steps
        self.tolerance = tolerance
        self.decay = decay
        self.clamping = clamping
        self.preset = preset

    def connect(self, network: Network) -> None:
        layers = network.layers[1:] if self.feedback == "learnt" else ()
        self.backward = nn.ParameterList(
            random_feedback(self, layer.weight, layer.out_features, layer.in_features, 1) for layer in layers
        ).requires_grad_()

    def feedback_weights(self, network: Network) -> list[Tensor]:
        return list(self.backward) if self.feedback == "learnt" else [layer.weight for layer in network.layers[1:]]

    def forward(self, network: Network, x: Tensor) -> Trace:
        """The free phase. Besides the activities, the trace has the hidden drives and the strengths k_l."""
        *hidden, readout = network.layers
        strengths = self._strengths(network)
        if len(hidden) > 1:
            drives, activities = self._free(network, x, self._scaled_feedback(network, strengths))
        else:  # nothing to settle
            drives = [layer.drive(x) for layer in hidden]
            activities = [layer.activation.forward(drive) for layer, drive in zip(hidden, drives, strict=True)]
        states = [x, *activities]
        return Trace([*states, readout.forward(states[-1])], [*drives, *strengths])

    def _free(self, network: Network, x: Tensor, feedback: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The hidden drives and activities that settle at an input."""
        hidden = network.layers[:-1]
        bottom, weights = hidden[0].drive(x), [layer.weight.mT for layer in hidden]
        biases = [_bias_row(layer) for layer in hidden]
        # From silence: the first sweep is then the feedforward one, and shows how large drives are.
        drives = [x.new_zeros(*x.shape[:-1], layer.out_features) for layer in hidden]
        activities = [*map(torch.zeros_like, drives)]
        # Each sweep writes new drives over `moved`, and how far they moved over the old ones.
        moved = [*map(torch.empty_like, drives)]

        def sweep() -> Sequence[Tensor]:
            for index, layer in enumerate(hidden):
                moved[index], drives[index] = drives[index], moved[index]
                drive = drives[index]
                if index == 0:
                    drive.copy_(bottom)
                else:
                    add_product(biases[index], activities[index - 1], weights[index], out=drive)
                if index + 1 < len(hidden):
                    add_product(drive, activities[index + 1], feedback[index], out=drive)
                moved[index] -= drive
                layer.activation.forward(drive, out=activities[index])
            return moved

        def settled() -> list[Tensor]:
            return [*drives, *activities]

        relax(network, "equilibrium_propagation", sweep, settled, self.steps, self.tolerance)
        return drives, activities

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        *hidden, readout = network.layers
        states = trace.activities[:-1]
        output_delta = readout.activation.gate(output_error, trace.activities[-1])
        updates = readout.outer(states[-1], output_delta)
        if hidden:
            direction, size = unit_error(output_delta)
            updates |= self._contrast(network, trace, direction, size)
        for layer, backward in zip(network.layers[1:], self.backward, strict=False):
            learn_alike(updates, layer.weight, backward, self.decay)
        return updates

    def _contrast(self, network: Network, trace: Trace, direction: Tensor, size: Tensor) -> Updates:
        """The hidden layers' updates: the change of ``dE/dW`` from one phase to the other, over the nudge."""
        count = len(network.layers) - 1
        states, strengths = trace.activities[: count + 1], trace.extra[count:]
        feedback = self._scaled_feedback(network, strengths)
        push = network.layers[-1].feedback(direction, self.feedback_weights(network)[-1]).mul_(-self.nudge)
        spring = _Spring(self, network, trace, direction) if self.clamping else None
        changes = self._nudged(network, trace, feedback, push, spring)
        if self.nudging == "symmetric":
            opposite = self._nudged(network, trace, feedback, push.neg_())
            spread = [change - other for change, other in zip(changes, opposite, strict=True)]
            changes = [change.add_(other) for change, other in zip(changes, opposite, strict=True)]
            scale = size / (-2 * self.nudge)
        else:
            spread = changes
            scale = size / -self.nudge

        def centre(index: int) -> Tensor:
            """An activity half-way between the two phases; the input stays."""
            return torch.add(states[index], changes[index - 1], alpha=0.5) if index else states[0]

        updates: Updates = {}
        for index in reversed(range(count)):
            layer = network.layers[index]
            # s s'^T of one phase minus that of the other, exactly: two products of a spread and a centre.
            updates |= layer.outer(centre(index), spread[index] * scale)
            if index:
                update = updates[layer.weight]
                add_product(update, centre(index + 1).mT, spread[index - 1] * scale, out=update)
                scale = scale / strengths[index - 1]
        return updates

    def _nudged(
        self,
        network: Network,
        trace: Trace,
        feedback: Sequence[Tensor],
        push: Tensor,
        spring: "_Spring | None" = None,
    ) -> list[Tensor]:
        """How far each hidden activity settles from its free state when ``push`` joins the last one's drive."""
        hidden = network.layers[:-1]
        free, states = trace.extra[: len(hidden)], trace.activities[1:-1]
        changes, scratch = [*map(torch.zeros_like, free)], [*map(torch.empty_like, free)]

        def respond(index: int, drive: Tensor) -> None:
            to = response if self.nudge < FINITE else large_response
            to(hidden[index].activation, free[index], states[index], drive, scratch=scratch[index], out=changes[index])

        if len(hidden) == 1 and spring is None:  # there at once
            respond(0, push)
            return changes
        weights = [layer.weight.mT for layer in hidden]
        drives, moved = [*map(torch.zeros_like, free)], [*map(torch.empty_like, free)]

        def sweep() -> Sequence[Tensor]:
            for index in reversed(range(len(hidden))):
                moved[index], drives[index] = drives[index], moved[index]
                drive = drives[index]
                if index + 1 == len(hidden):
                    drive.copy_(push if spring is None else spring.push())
                else:
                    torch.matmul(changes[index + 1], feedback[index], out=drive)
                if index:
                    add_product(drive, changes[index - 1], weights[index], out=drive)
                moved[index] -= drive
                respond(index, drive)
            return moved if spring is None else [*moved, spring.follow(changes[-1])]

        relax(network, "equilibrium_propagation", sweep, lambda: changes, self.steps, self.tolerance)
        return changes

    def _strengths(self, network: Network) -> list[Tensor]:
        """k_l for each hidden layer but the last, ``(*members, 1, 1)``."""
        above, feedback = network.layers[1:-1], self.feedback_weights(network)
        norms = [squared_spectral_norm(layer.weight) for layer in above]
        if self.feedback == "learnt":
            backward = [squared_spectral_norm(weight) for weight in feedback[: len(above)]]
            norms = [(norm * other).sqrt() for norm, other in zip(norms, backward, strict=True)]
        return [self.kappa / norm.clamp_min(1) for norm in norms]

    def _scaled_feedback(self, network: Network, strengths: Sequence[Tensor]) -> list[Tensor]:
        weights = self.feedback_weights(network)
        return [weight * strength for weight, strength in zip(weights, strengths, strict=False)]


class _Spring:
    """What holds the output to its target: a force on it, and what that is in the last hidden layer's drives.

    Args:
        rule, network, trace: the rule, and as for its ``assign``.
        direction: d.
    """

    def __init__(self, rule: EquilibriumPropagation, network: Network, trace: Trace, direction: Tensor):
        self.readout = network.layers[-1]
        self.feedback = rule.feedback_weights(network)[-1]
        self.pull, self.clamping = direction * -rule.nudge, rule.clamping
        self.force = self.pull.clone()
        # How far the output follows a force: what steps must not exceed the inverse of.
        down = self.readout.feedback(direction, self.feedback)
        felt = network.layers[-2].activation.gate(down, trace.activities[-2])
        gain = (torch.matmul(felt, self.readout.weight.mT) * direction).sum(-1, keepdim=True)
        self.cautious = Cautious(1 / (1 + self.clamping * gain.clamp_min(0)))

    def push(self) -> Tensor:
        """What joins the last hidden layer's drives, ``(*members, batch, o)``."""
        return self.readout.feedback(self.force, self.feedback)

    def follow(self, change: Tensor) -> Tensor:
        """Let the force follow the last hidden layer's change; returns what it lacked."""
        lack = held(self.pull, self.clamping, torch.matmul(change, self.readout.weight.mT)) - self.force
        self.cautious.heed([lack])
        self.force.addcmul_(lack, self.cautious.step)
        return lack


def _bias_row(layer: Dense) -> Tensor:
    """The bias, ``(*members, 1, o)``, zero where there is none."""
    return (
        layer.weight.new_zeros(*layer.members, 1, layer.out_features)
        if layer.bias is None
        else layer.bias.unsqueeze(-2)
    )
