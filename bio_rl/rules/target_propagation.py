"""Target propagation: layers are told what to do, not what they did wrong."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bio_rl.layers import Dense, Updates
from bio_rl.mechanisms.arithmetic import outer_product
from bio_rl.mechanisms.descent import local_updates
from bio_rl.mechanisms.feedback_weights import matched, random_feedback
from bio_rl.mechanisms.local_jacobians import jacobian_updates
from bio_rl.mechanisms.nudging import Preset, unit_error
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace
from bio_rl.settings import NotNegative, Positive

Variant = Literal["local", "dtp", "ddtp_linear"]


class TargetPropagation(Rule):
    """Every layer gets a target for its activity h, and learns by its distance ``h - t`` from it.

    The output's target is a small step along -dL/dy. The variants differ in how feedback carries
    targets down, and in what the feedback learns from, which it does while the network learns:

    ``local``
        Layer by layer, each layer's feedback learns the transposed Jacobian of that layer from noise
        at its inputs: the local difference reconstruction loss of Ernoult et al. 2022. Targets are
        then gradient steps.
    ``dtp``
        Layer by layer, by learnt inverses of the layers, with Lee et al.'s correction for what they get
        wrong. The last hidden layer's target is a gradient step, as theirs is (2015, algorithm 1), so
        it reads the output layer's weights: an inverse of a layer with one output tells nothing.
    ``ddtp_linear``
        Straight from the output to each hidden layer, by a matrix that learns the damped
        pseudo-inverse of the layers between them: the difference reconstruction loss of Meulemans et
        al. 2020. Targets are then Gauss-Newton's.

    Feedback updates are scaled to the norm of the forward update that they go with.

    **How far a nudge can go.** Only ``dtp`` knows: its targets pass nonlinear inverses. The other two carry a
    distance down linearly, so that a target twice as far off teaches the same.

    Args:
        variant: one of the three.
        noise: the deviation of the noise on activities from which feedback learns.
        nudge: for ``dtp``, the distance of the last hidden layer's target. The other two carry down
            a difference linearly, so that its size says nothing.
        damping: for ``ddtp_linear``, the decay of the feedback weights, which is added to the
            eigenvalues that they invert.
        preset: ``limit``, or ``prospective``: ``dtp`` with a target at a distance of 1.

    Raises:
        ValueError: an unknown ``variant`` or ``preset``, or a number that is not positive (``damping``: negative).
    """

    paper = "Lee et al. 2015, Difference target propagation; Meulemans et al. 2020; Ernoult et al. 2022"
    error_neurons = False
    ngrad = "time"
    weight_transport = False
    separate_phases = True
    extra_sweeps = True
    nonlocal_scalars = "norms of the output error and of the feedback updates"
    limit = "backprop"
    presets: ClassVar = {"prospective": {"variant": "dtp", "nudge": 1.0}}

    def __init__(
        self,
        variant: Variant = "local",
        noise: Positive = 0.1,
        nudge: Positive = 0.1,
        damping: NotNegative = 0.1,
        preset: Preset = "limit",
    ):
        super().__init__()
        self.variant = variant
        self.weight_transport = variant == "dtp"  # type: ignore[misc, assignment]
        self.noise = noise
        self.nudge = nudge
        self.damping = damping
        self.preset = preset

    def connect(self, network: Network) -> None:
        pathways = {"local": _LocalJacobians, "dtp": _Inverses, "ddtp_linear": _DirectInverses}
        self.feedback: _Feedback = pathways[self.variant](self, network)

    def feedback_weights(self, network: Network) -> Sequence[Tensor]:
        return list(self.feedback.weights) if self.variant == "local" else ()

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        updates = local_updates(network, trace, self._deltas(network, trace, output_error))
        for parameter, layer, update in self.feedback.learn(self, network, trace.activities):
            updates[parameter] = matched(update, updates[layer.weight])
        return updates

    def _deltas(self, network: Network, trace: Trace, output_error: Tensor) -> Iterator[Tensor]:
        layers, activities = network.layers, trace.activities
        yield layers[-1].activation.gate(output_error, activities[-1])
        hidden = zip(reversed(layers[:-1]), reversed(activities[1:-1]), strict=True)
        distances = self.feedback.distances(self, network, activities, output_error)
        for (layer, activity), distance in zip(hidden, distances, strict=True):
            yield layer.activation.gate(distance, activity)


class _Feedback(nn.Module):
    """How targets come down and what their way learns; one subclass a variant."""

    weights: nn.ParameterList

    def distances(
        self, rule: TargetPropagation, network: Network, activities: Sequence[Tensor], output_error: Tensor
    ) -> Iterator[Tensor]:
        """Each hidden layer's ``h - t`` in units of the output's step, from the last to the first."""
        raise NotImplementedError

    def learn(
        self, rule: TargetPropagation, network: Network, activities: Sequence[Tensor]
    ) -> Iterator[tuple[nn.Parameter, Dense, Tensor]]:
        """Each feedback parameter, the layer whose update it is to match in norm, and its update."""
        raise NotImplementedError


class _LocalJacobians(_Feedback):
    """Layer by layer, weights that learn the transposed Jacobian of their layer, as ``jacobian_updates`` says."""

    def __init__(self, rule: TargetPropagation, network: Network):
        super().__init__()
        self.weights = nn.ParameterList(
            random_feedback(rule, layer.weight, layer.out_features, layer.in_features, scale=1.0)
            for layer in network.layers[1:]
        ).requires_grad_()

    def distances(
        self, rule: TargetPropagation, network: Network, activities: Sequence[Tensor], output_error: Tensor
    ) -> Iterator[Tensor]:
        distance = output_error
        upper = zip(network.layers[1:], self.weights, activities[2:], strict=True)
        for layer, weight, activity in reversed(list(upper)):
            distance = layer.feedback(layer.activation.gate(distance, activity), weight)
            yield distance

    def learn(
        self, rule: TargetPropagation, network: Network, activities: Sequence[Tensor]
    ) -> Iterator[tuple[nn.Parameter, Dense, Tensor]]:
        weights = list(self.weights)
        updates = jacobian_updates(rule, network, activities, weights, rule.noise)
        yield from zip(weights, network.layers[1:], updates, strict=True)


class _Inverses(_Feedback):
    """Layer by layer, ``g(z) = activation(V z + c)``, with the activation of the layer that it aims at.

    The loss is ``|g(f(h + noise)) - (h + noise)|^2`` and the target
    ``t = h + g(t_above) - g(h_above)`` (Lee et al. 2015, algorithm 1). There is none for the output layer, and
    none for the first, which has no layer below.
    """

    def __init__(self, rule: TargetPropagation, network: Network):
        super().__init__()
        layers = network.layers[1:-1]
        self.weights = nn.ParameterList(
            # The size of fresh weights from `out_features` inputs.
            random_feedback(
                rule,
                layer.weight,
                layer.out_features,
                layer.in_features,
                scale=(layer.in_features / layer.out_features) ** 0.5,
            )
            for layer in layers
        ).requires_grad_()
        self.biases = nn.ParameterList(torch.zeros_like(layer.weight[..., :1, :]) for layer in layers).requires_grad_()

    def distances(
        self, rule: TargetPropagation, network: Network, activities: Sequence[Tensor], output_error: Tensor
    ) -> Iterator[Tensor]:
        if len(network.layers) == 1:
            return
        output = network.layers[-1]
        gradient = output.feedback(output.activation.gate(output_error, activities[-1]))
        yield gradient
        direction, size = unit_error(gradient)
        step, unit = direction.mul_(-rule.nudge), size.div_(-rule.nudge)
        for index in range(len(network.layers) - 2, 0, -1):
            target = self._inverse(network, index, activities[index + 1] + step)
            step = target.sub_(self._inverse(network, index, activities[index + 1]))
            yield step * unit

    def learn(
        self, rule: TargetPropagation, network: Network, activities: Sequence[Tensor]
    ) -> Iterator[tuple[nn.Parameter, Dense, Tensor]]:
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), start=1):
            layer, pre = network.layers[index], activities[index]
            noisy = torch.add(pre, rule.randn(pre.shape, like=pre), alpha=rule.noise)
            code = layer.forward(noisy)
            guess = self._inverse(network, index, code)
            delta = network.layers[index - 1].activation.gate(guess - noisy, guess)
            yield weight, layer, outer_product(code, delta)
            yield bias, layer, delta.sum(-2, keepdim=True)

    def _inverse(self, network: Network, index: int, activity: Tensor) -> Tensor:
        drive = network.layers[index].feedback(activity, self.weights[index - 1]).add_(self.biases[index - 1])
        return network.layers[index - 1].activation.forward(drive, out=drive)


class _DirectInverses(_Feedback):
    """For each hidden layer, a matrix Q from the output that learns to undo the layers between.

    With ``response`` the output's to ``noise`` on the layer's activity, the loss is
    ``|Q response - noise|^2 + damping |Q|^2`` (Meulemans et al. 2020, the difference reconstruction
    loss for linear direct feedback), whose minimum is ``J^T (J J^T + damping)^-1``.
    """

    def __init__(self, rule: TargetPropagation, network: Network):
        super().__init__()
        self.weights = nn.ParameterList(
            random_feedback(rule, layer.weight, network.out_features, layer.out_features, scale=1.0)
            for layer in network.layers[:-1]
        ).requires_grad_()

    def distances(
        self, rule: TargetPropagation, network: Network, activities: Sequence[Tensor], output_error: Tensor
    ) -> Iterator[Tensor]:
        for weight in reversed(self.weights):
            yield network.layers[-1].feedback(output_error, weight)

    def learn(
        self, rule: TargetPropagation, network: Network, activities: Sequence[Tensor]
    ) -> Iterator[tuple[nn.Parameter, Dense, Tensor]]:
        for index, weight in enumerate(self.weights):
            noise = rule.randn(activities[index + 1].shape, like=activities[index + 1])
            response = torch.add(activities[index + 1], noise, alpha=rule.noise)
            for layer in network.layers[index + 1 :]:
                response = layer.forward(response)
            response = response.sub_(activities[-1]).div_(rule.noise)
            error = network.layers[-1].feedback(response, weight).sub_(noise)
            update = outer_product(response, error).add_(weight, alpha=rule.damping * error.shape[-2])
            yield weight, network.layers[index], update
