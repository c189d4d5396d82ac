"""Deep feedback control: a controller drives the output to its target, and layers learn from its help."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn

from bio_rl.layers import Updates
from bio_rl.network import Network
from bio_rl.rules.base import Rule, Trace, check_positive, descend, local_updates, random_feedback
from bio_rl.rules.errors import Divergence, matched, unit_error
from bio_rl.rules.relaxation import add_product, relax

Feedback = Literal["learnt", "transpose"]


class DeepFeedbackControl(Rule):
    """A layer's delta is what the controller had to add to its drive.

    The target is the output moved by ``nudge`` along -dL/dy. A proportional-integral controller with
    leak ``alpha`` sends its control u to every layer at once, through feedback weights Q, until the
    output error e obeys ``e = alpha u``. A layer then learns by the difference that control makes to
    its drive, ``Q u`` (Meulemans et al. 2021, eq. 5 in its voltage-difference form). To first order
    in the nudge (their lemma 1) ::

        Q u = Q (J Q + alpha)^-1 (target - y)

    with J the Jacobian of the output to all drives: for ``Q = J^T`` the damped Gauss-Newton step
    of least norm. Theirs are neurons with time constants; here they settle at once, so that a step
    of the controller is one sweep of the network.

    Learnt feedback goes straight from the controller to the neurons, where it passes their slope. It
    learns while the network does: the mean product of noise on hidden activities and the output's
    response is the Jacobian, to which a Hebbian update with decay brings it (their feedback learning, with
    the response itself in place of the control that it evokes). Its updates are scaled to the norm
    of the forward update that they go with.

    Args:
        feedback: ``learnt``, or ``transpose`` for the true J^T of each sample, as a reference.
        steps: the most steps of the controller; few of them interpolate between the gradient and
            the Gauss-Newton step.
        tolerance: it stops when ``e - alpha u`` is everywhere below this fraction of its largest.
        nudge: the distance of the target from the output.
        alpha: the leak, which damps the Gauss-Newton step.
        proportional: the proportional gain as a fraction of the integral one.
        noise: the deviation of the noise on activities from which feedback learns.

    Memory does not grow with ``steps``; for ``transpose`` it does with batch times outputs times neurons.

    Raises:
        ValueError: an unknown ``feedback`` or a number out of its range.
        Divergence: from ``assign``, where control drives the output away from its target.
    """

    paper = "Meulemans et al. 2021, Credit assignment in neural networks through deep feedback control; 2022"
    ngrad = "time"
    # `transpose` alone reads forward weights.
    weight_transport = False
    separate_phases = True
    extra_sweeps = True
    nonlocal_scalars = "trace of Q Q^T (the controller's gain), norms of the output error and of the feedback updates"

    def __init__(
        self,
        feedback: Feedback = "learnt",
        steps: int = 10,
        tolerance: float = 0.01,
        nudge: float = 0.01,
        alpha: float = 0.1,
        proportional: float = 0.1,
        noise: float = 0.1,
    ):
        super().__init__()
        if feedback not in get_args(Feedback):
            raise ValueError(f"feedback must be one of {', '.join(get_args(Feedback))}, not {feedback!r}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        if tolerance < 0:
            raise ValueError(f"tolerance must be 0 or more, not {tolerance}")
        if alpha < 0:
            raise ValueError(f"alpha must be 0 or more, not {alpha}")
        if not 0 <= proportional <= 1:
            raise ValueError(f"proportional must lie between 0 and 1, not {proportional}")
        check_positive(nudge=nudge, noise=noise)
        self.feedback = feedback
        self.steps = steps
        self.tolerance = tolerance
        self.nudge = nudge
        self.alpha = alpha
        self.proportional = proportional
        self.noise = noise

    def connect(self, network: Network) -> None:
        learning = network.layers[:-1] if self.feedback == "learnt" else ()
        self.weights = nn.ParameterList(
            random_feedback(self, layer.weight, network.out_features, layer.out_features, scale=1.0)
            for layer in learning
        ).requires_grad_()

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        direction, size = unit_error(output_error)
        feedback: _Feedback = (
            _Jacobian(network, trace) if self.feedback == "transpose" else self._learnt(network, trace)
        )
        control = self._control(network, trace, direction.mul_(-self.nudge), feedback)
        signal = control.mul_(size.div_(-self.nudge))
        numbered = reversed(list(enumerate(trace.activities[1:])))
        deltas = (feedback.send(index, signal, out=torch.empty_like(activity)) for index, activity in numbered)
        updates = local_updates(network, trace, deltas)
        for weight, layer, update in zip(self.weights, network.layers, self._learn(network, trace), strict=False):
            updates[weight] = matched(update, updates[layer.weight])
        return updates

    def _control(self, network: Network, trace: Trace, step: Tensor, feedback: "_Feedback") -> Tensor:
        """The control ``(*members, batch, out)`` that brings the output from y to ``y + step``.

        The gain is below the inverse of the loop's as long as Q is near J^T. Where it is not, and
        a sample's imbalance grows, that sample's gain is halved.
        """
        gain = 0.5 / (1 + self.alpha + feedback.trace())
        distance = torch.full_like(gain, torch.inf)
        integral, control, imbalance = (torch.zeros_like(step) for _ in range(3))
        plant = _Plant(network, trace, feedback)

        def sweep() -> Sequence[Tensor]:
            nonlocal distance
            torch.sub(step, plant.response, out=imbalance).sub_(control, alpha=self.alpha)
            previous, distance = distance, imbalance.norm(dim=-1, keepdim=True)
            gain.mul_(torch.where(distance > previous, 0.5, 1.0))
            integral.addcmul_(gain, imbalance)
            torch.addcmul(integral, gain, imbalance, value=self.proportional, out=control)
            plant.drive(control)
            return (imbalance,)

        try:
            relax("deep_feedback_control", sweep, self.steps, self.tolerance)
        except Divergence as divergence:
            # The imbalance is the output layer's, where the controller sits.
            raise Divergence(divergence.rule, len(network.layers), divergence.step) from None
        return control

    def _learnt(self, network: Network, trace: Trace) -> "_Learnt":
        unit = torch.eye(network.out_features, dtype=trace.activities[-1].dtype, device=trace.activities[-1].device)
        layers = zip(network.layers, trace.activities[1:], strict=True)
        return _Learnt([*self.weights, unit], [layer.activation.slope(activity) for layer, activity in layers])

    def _learn(self, network: Network, trace: Trace) -> Iterator[Tensor]:
        """The updates of the feedback weights, whose fixed point is the mean of dy / d activity."""
        if not self.weights:
            return
        activity, noises = trace.activities[0], []
        for layer in network.layers[:-1]:
            activity = layer.forward(activity)
            noises.append(self.randn(activity.shape, like=activity))
            activity.add_(noises[-1], alpha=self.noise)
        response = network.layers[-1].forward(activity).sub_(trace.activities[-1]).div_(self.noise)
        for weight, noise in zip(self.weights, noises, strict=True):
            yield weight * noise.shape[-2] - torch.matmul(response.mT, noise)


class _Feedback(Protocol):
    """Q, the way from the controller to the drives."""

    def send(self, index: int, control: Tensor, out: Tensor) -> Tensor:
        """What control ``(*members, batch, out)`` adds to the drives of a layer, ``(*members, batch, o)``."""
        ...

    def trace(self) -> Tensor:
        """Each sample's trace of Q^T Q, ``(*members, batch, 1)``."""
        ...


class _Learnt(NamedTuple):
    """One matrix ``(*members, out, o)`` a layer, for all samples, through the slopes of each sample."""

    weights: Sequence[Tensor]
    slopes: Sequence[Tensor]

    def send(self, index: int, control: Tensor, out: Tensor) -> Tensor:
        return torch.matmul(control, self.weights[index], out=out).mul_(self.slopes[index])

    def trace(self) -> Tensor:
        pairs = zip(self.slopes, self.weights, strict=True)
        return torch.stack([slope.square() @ weight.square().sum(-2).unsqueeze(-1) for slope, weight in pairs]).sum(0)


class _Jacobian:
    """dy / d drive of each sample, one ``(*members, batch, out, o)`` a layer."""

    def __init__(self, network: Network, trace: Trace):
        output = trace.activities[-1]

        def repeated(tensor: Tensor) -> Tensor:
            return tensor.unsqueeze(-2).expand(*tensor.shape[:-1], output.shape[-1], -1).flatten(-3, -2)

        unit = torch.eye(output.shape[-1], dtype=output.dtype, device=output.device).expand(*output.shape, -1)
        rows = descend(
            network,
            Trace([repeated(activity) for activity in trace.activities]),
            unit.flatten(-3, -2),
            [layer.weight for layer in reversed(network.layers[1:])],
        )
        self.rows = [row.reshape(*output.shape, -1) for row in rows][::-1]

    def send(self, index: int, control: Tensor, out: Tensor) -> Tensor:
        torch.matmul(control.unsqueeze(-2), self.rows[index], out=out.unsqueeze(-2))
        return out

    def trace(self) -> Tensor:
        return torch.stack([row.square().sum((-2, -1)) for row in self.rows]).sum(0).unsqueeze(-1)


class _Plant:
    """What the controller drives: the network, in deviations from its feedforward sweep.

    Args:
        network, trace: as for ``Rule.assign``.
        feedback: Q.

    Attributes:
        response: the change of the output, ``(*members, batch, out)``.
    """

    def __init__(self, network: Network, trace: Trace, feedback: _Feedback):
        self.layers = network.layers
        self.weights = [layer.weight.mT for layer in network.layers]
        self.feedback = feedback
        self.free = trace.activities[1:]
        self.drives = [layer.drive(pre) for layer, pre in zip(network.layers, trace.activities, strict=False)]
        self.added = [torch.empty_like(free) for free in self.free]
        self.changes = [torch.zeros_like(free) for free in self.free]
        self.response = self.changes[-1]

    def drive(self, control: Tensor) -> None:
        """One sweep under a control ``(*members, batch, out)``."""
        for index, (layer, change) in enumerate(zip(self.layers, self.changes, strict=True)):
            added = self.feedback.send(index, control, out=self.added[index])
            if index:
                add_product(added, self.changes[index - 1], self.weights[index], out=added)
            torch.add(self.drives[index], added, out=change)
            layer.activation.forward(change, out=change)
            change -= self.free[index]
