"""Deep feedback control: a controller drives the output to its target, and layers learn from its help."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bio_rl.layers import Updates
from bio_rl.mechanisms.arithmetic import add_product, nonzero
from bio_rl.mechanisms.descent import descend, local_updates
from bio_rl.mechanisms.feedback_weights import matched, random_feedback
from bio_rl.mechanisms.local_jacobians import jacobian_updates
from bio_rl.mechanisms.nudging import Preset, unit_error
from bio_rl.mechanisms.relaxation import Cautious, relax
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace
from bio_rl.settings import Count, Fraction, NotNegative, Positive

Feedback = Literal["learnt", "transpose"]
State = Literal["free", "controlled"]


class DeepFeedbackControl(Rule):
    """A layer's delta is what the controller had to add to its drive.

    The target is the output moved by ``nudge`` along -dL/dy. A proportional-integral controller with
    leak ``alpha`` sends its control u to every layer at once, by feedback Q, until the output
    error e obeys ``e = alpha u``. A layer then learns by the difference that control makes to
    its drive, ``Q u`` (Meulemans et al. 2021, eq. 5 in its voltage-difference form). To first order
    in the nudge (their lemma 1) ::

        Q u = Q (J Q + alpha)^-1 (target - y)

    with J the Jacobian of the output to all drives: for ``Q = J^T`` the damped Gauss-Newton step
    of least norm. Theirs are neurons with time constants; here they settle at once, so that a step
    of the controller is one sweep of the network.

    Control descends from layer to layer, through feedback weights and the slopes of the neurons
    that relay it (the least-control form: Meulemans et al. 2022). Straight from the controller to a
    neuron, as in 2021, one weight would have to be as large as a product of all the forward weights
    above it, and grow as fast; layer by layer, feedback is of the size of the forward weights, and the
    optimizer that moves them keeps it abreast of them. It learns while the network does, from the responses
    to noise, as ``jacobian_updates`` says, its updates scaled to the norm of the forward update
    that they go with.

    In the limit of a small nudge it is the same whether synapses and relays see the ``free`` state or the one that
    control leaves. Strong feedback drives the output all the way (Meulemans et al. 2022): there it is the
    ``controlled`` state at which slopes relay control and activity is presynaptic, and what is minimised is the
    control that is needed.

    Args:
        feedback: ``learnt``, or ``transpose`` for the forward weights' own, as a reference.
        steps: the most steps of the controller; few of them interpolate between the gradient and
            the Gauss-Newton step. Where outputs move together, as a policy's two logits come to, ``J J^T`` is
            ill-conditioned: at the weights of a trained CartPole agent, with ``transpose`` and a random error, 10 steps
            bring the actor 11 to 20 % of backprop's update, at a cosine of 0.3; the critic, of one output, 82 %, at 1.
        tolerance: it stops when ``e - alpha u`` is everywhere below this fraction of its largest.
        nudge: the distance of the target from the output.
        alpha: the leak, which damps the Gauss-Newton step.
        proportional: the proportional gain as a fraction of the integral one.
        noise: the deviation of the noise on activities from which feedback learns.
        state: the one that synapses and relays see, ``free`` or ``controlled``.
        preset: ``limit``, or ``prospective``: a target at a distance of 1, the controlled state, and as many steps as
            bring the output there.

    Memory does not grow with ``steps``.

    Raises:
        ValueError: an unknown ``feedback``, ``state`` or ``preset``, or a number out of its range.
        Divergence: from ``assign``, where control drives the output away from its target.
    """

    paper = "Meulemans et al. 2021, Credit assignment in neural networks through deep feedback control; 2022"
    error_neurons = False
    ngrad = "time"
    weight_transport = False
    separate_phases = True
    extra_sweeps = True
    nonlocal_scalars = "norms of the output error, of what control adds (its gain) and of the feedback updates"
    limit = "gauss_newton"
    presets: ClassVar = {"prospective": {"nudge": 1.0, "state": "controlled", "steps": 64}}

    def __init__(
        self,
        feedback: Feedback = "learnt",
        steps: Count = 10,
        tolerance: Fraction = 0.01,
        nudge: Positive = 0.01,
        alpha: NotNegative = 0.1,
        proportional: Fraction = 0.1,
        noise: Positive = 0.01,
        state: State = "free",
        preset: Preset = "limit",
    ):
        super().__init__()
        self.feedback = feedback
        self.weight_transport = feedback == "transpose"  # type: ignore[misc, assignment]
        self.steps = steps
        self.tolerance = tolerance
        self.nudge = nudge
        self.alpha = alpha
        self.proportional = proportional
        self.noise = noise
        self.state = state
        self.preset = preset

    def connect(self, network: Network) -> None:
        learning = network.layers[1:] if self.feedback == "learnt" else ()
        self.weights = nn.ParameterList(
            random_feedback(self, layer.weight, layer.out_features, layer.in_features, scale=1.0) for layer in learning
        ).requires_grad_()

    def feedback_weights(self, network: Network) -> Sequence[Tensor]:
        return list(self.weights) if self.feedback == "learnt" else [layer.weight for layer in network.layers[1:]]

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        direction, size = unit_error(output_error)
        feedback = self.feedback_weights(network)
        plant = _Plant(network, trace, feedback, relays_follow=self.state == "controlled")
        control = self._control(network, plant, direction.mul_(-self.nudge))
        signal = control.mul_(size.div_(-self.nudge))
        seen = Trace([trace.activities[0], *plant.relays])
        updates = local_updates(network, seen, descend(network, seen, signal, reversed(feedback)))
        learning = jacobian_updates(self, network, trace.activities, list(self.weights), self.noise)
        for weight, layer, update in zip(self.weights, network.layers[1:], learning, strict=False):
            updates[weight] = matched(update, updates[layer.weight])
        return updates

    def _control(self, network: Network, plant: "_Plant", step: Tensor) -> Tensor:
        """The control ``(*members, batch, out)`` that brings the output from y to ``y + step``.

        The gain is half of ``1 / (1 + J Q + alpha)``, with J Q taken along the step as if Q were J^T. Where
        that is too much, and a sample's imbalance grows, that sample's gain is halved.
        """
        gain = 0.5 / (1 + self.alpha + plant.loop_gain(step))
        cautious = Cautious(gain)
        integral, control, imbalance = (torch.zeros_like(step) for _ in range(3))

        def sweep() -> Sequence[Tensor]:
            torch.sub(step, plant.response, out=imbalance).sub_(control, alpha=self.alpha)
            cautious.heed([imbalance])
            integral.addcmul_(gain, imbalance)
            torch.addcmul(integral, gain, imbalance, value=self.proportional, out=control)
            plant.drive(control)
            return (imbalance,)

        # The imbalance is the output layer's, where the controller sits.
        last = len(plant.layers)
        relax(
            network, "deep_feedback_control", sweep, lambda: [control, *plant.moving], self.steps, self.tolerance, last
        )
        return control


class _Plant:
    """What the controller drives: the network, in deviations from its feedforward sweep.

    Args:
        network, trace: as for ``Rule.assign``.
        feedback: as for ``descend``.
        relays_follow: whether the slopes by which layers relay control follow their activity.

    Attributes:
        relays: the activities at which layers relay control, one ``(*members, batch, o)`` a layer.
        moving: those of them that control moves.
        response: the change of the output, ``(*members, batch, out)``.
    """

    def __init__(self, network: Network, trace: Trace, feedback: Sequence[Tensor], relays_follow: bool = False):
        self.layers = network.layers
        self.weights = [layer.weight.mT for layer in network.layers]
        self.feedback = feedback
        self.free = trace.activities[1:]
        self.relays = [free.clone() for free in self.free] if relays_follow else self.free
        self.moving = self.relays if relays_follow else []
        self.drives = [layer.drive(pre) for layer, pre in zip(network.layers, trace.activities, strict=False)]
        self.added = [torch.empty_like(free) for free in self.free]
        self.changes = [torch.empty_like(free) for free in self.free]
        self.response = self.changes[-1].zero_()

    def send(self, control: Tensor) -> None:
        """Leave in ``added`` what a control ``(*members, batch, out)`` adds to each layer's drive."""
        self.layers[-1].activation.gate(control, self.relays[-1], out=self.added[-1])
        for index in range(len(self.layers) - 1, 0, -1):
            signal = torch.matmul(self.added[index], self.feedback[index - 1], out=self.added[index - 1])
            self.layers[index - 1].activation.gate(signal, self.relays[index - 1], out=signal)

    def loop_gain(self, control: Tensor) -> Tensor:
        """``|Q u|^2 / |u|^2`` of each sample, ``(*members, batch, 1)``; 0 where the control u is 0."""
        self.send(control)
        power = torch.stack([added.square().sum(-1, keepdim=True) for added in self.added]).sum(0)
        size = control.square().sum(-1, keepdim=True)
        return power / nonzero(size)

    def drive(self, control: Tensor) -> None:
        """One sweep under a control."""
        self.send(control)
        for index, (layer, change) in enumerate(zip(self.layers, self.changes, strict=True)):
            added = self.added[index]
            if index:
                add_product(added, self.changes[index - 1], self.weights[index], out=added)
            torch.add(self.drives[index], added, out=change)
            layer.activation.forward(change, out=change)
            if self.moving:
                self.moving[index].copy_(change)
            change -= self.free[index]
