"""Predictive coding: every neuron has a value and an error, and learning follows from relaxing both."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bio_rl.layers import Updates
from bio_rl.mechanisms.arithmetic import add_product, nonzero
from bio_rl.mechanisms.descent import descend
from bio_rl.mechanisms.nudging import Preset, unit_error
from bio_rl.mechanisms.relaxation import Cautious, relax, squared_spectral_norm
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace
from bio_rl.settings import Count, Fraction, Positive, Share

Variant = Literal["inference", "fixed_prediction", "incremental", "error_based"]


class PredictiveCoding(Rule):
    """Values x relax on an energy of their prediction errors, then weights learn from the errors.

    With ``eps_l = precision_l * (x_l - W_l f(x_(l-1)) - b_l)`` the energy is
    ``sum_l |eps_l|^2 / (2 precision_l)`` and the nudge adds ``nudge * d . x_L``, where d is the direction
    of the output error, of norm 1 for each sample. Then ``eps_L = - nudge * d`` at any moment, and hidden
    layers descend the energy by what reaches them from above and below (Whittington & Bogacz 2017,
    eqs. 2.10 to 2.19, in the order input to output, where a precision is the inverse of their variance)::

        x_l += step_l * (f'(x_l) * (eps_(l+1) W_(l+1)) - eps_l)
        update(W_l) = - eps_l f(x_(l-1)) * (size of the output error) / nudge

    At the fixed point this is backprop to first order in the nudge. The network acts by its
    feedforward sweep, where all errors are zero; values are kept as deviations from it, because
    the difference of two nearly equal states would be noise in float32. The variants are:

    ``inference``
        As above, with ``precision_l = precision_(l+1) * max(1, |W_(l+1)|^2)``, by the spectral norm, and 1 in the
        last hidden layer. The fixed point's errors do not depend on precisions, but the way there does.
        Descent on all layers at once cannot raise the energy for any
        ``step_l <= 1 / (precision_l + precision_(l+1) |W_(l+1)|^2)``, to first order in the nudge and away from
        an activation's kinks; half of that is used. With precisions of 1 it would shrink as weights
        grow: at a trained CartPole critic's norm of 14, 8 steps would bring the first layer 1 % of its
        update, and bring it 69 % with these (16 steps: 92 %; 32: 99 %), whatever the norm.
    ``incremental``
        The same, and the weights learn at every step (Salvatori et al. 2024). Here the
        optimizer applies their mean.
    ``fixed_prediction``
        Predictions and slopes stay those of the feedforward sweep. As many steps as layers then
        give backprop exactly (Millidge et al. 2022; Rosenbaum 2022, theorem 1).
    ``error_based``
        The errors are the state, and the values follow from them by a sweep, which brings an
        error through all layers in one step (Goemaere et al. 2025). Grown weights amplify it on the
        way, a hundredfold in a trained agent, so that a nudge small at the output is not small below:
        here d is scaled until the largest error that the first step brings to a layer has norm 1.

    **Clamped.** With ``clamping`` c the output is held to a target ``nudge / c`` away from it along -d: its error is
    ``eps_L = - nudge * d - c * (change of the prediction)``, which shrinks as hidden values come to predict the
    target, and with c = 1 the output *is* the target. The values that settle are those that the network should have
    after learning (prospective configuration: Song et al. 2024), and all layers, the output's too, learn from the
    errors that are left. However small the nudge, this is not backprop: where the network is linear, ``eps_l`` is
    ``J_l^T (1 + c * sum_k J_k J_k^T)^-1 (- nudge * d)``, with ``J_l`` the Jacobian of the output to layer l's value.
    ``error_based`` finds the minimum of the energy with precisions of 1, Song et al.'s, in few steps whatever the
    weights' norms: errors descend by ``1 / (1 + c |J^T d|^2)``, a sample's step being halved where its imbalance
    grows. ``inference`` and ``incremental`` settle at the minimum of the energy with their precisions.

    Args:
        variant: one of the four.
        steps: relaxation steps at most.
        nudge: how far each sample's output is pulled, in units of the output's drive; for ``error_based``, unless
            it is clamped, the layer that is pulled furthest.
        clamping: how firmly the output is held to its target, from 0, a force that stays, to 1, clamped.
        step_size: a factor of the steps; at 1 they are those above for ``inference`` and
            ``incremental``, and 1 for the other two.
        tolerance: relaxation stops when no layer's imbalance exceeds this fraction of its largest.
        preset: ``limit``, or ``prospective``: clamped to a target at a distance of 1, and settled.

    Raises:
        ValueError: an unknown ``variant`` or ``preset``, ``steps`` below 1, ``step_size`` outside (0, 1], a
            ``clamping`` outside [0, 1], or of ``fixed_prediction``, or a ``nudge`` or ``tolerance`` that is not
            positive; from ``connect``, fewer steps than layers for ``fixed_prediction``.
        Divergence: from ``assign``, where the relaxation does not settle.
    """

    paper = (
        "Whittington & Bogacz 2017, An approximation of the error backpropagation algorithm "
        "in a predictive coding network"
    )
    ngrad = "population"
    weight_transport = True
    # All but `incremental`: weights wait until values have settled.
    separate_phases = True
    error_neurons = True
    # All but `fixed_prediction`: predictions follow the values.
    extra_sweeps = True
    nonlocal_scalars = (
        "norm of the output error; spectral norms of the weights above (inference, incremental); "
        "norms of the layers' errors (error_based)"
    )
    limit = "backprop"
    presets: ClassVar = {"prospective": {"variant": "error_based", "nudge": 1.0, "clamping": 1.0, "steps": 128}}

    def __init__(
        self,
        variant: Variant = "inference",
        steps: Count = 8,
        nudge: Positive = 0.003,
        step_size: Share = 1.0,
        tolerance: Fraction = 1e-3,
        clamping: Fraction = 0.0,
        preset: Preset = "limit",
    ):
        super().__init__()
        if clamping > 0 and variant == "fixed_prediction":
            raise ValueError("clamping needs predictions that follow values, which those of 'fixed_prediction' do not")
        self.variant = variant
        if variant == "fixed_prediction":  # linear in the errors: what it declares beyond them is the others'
            self.separate_phases = self.extra_sweeps = False  # type: ignore[misc]
            self.nonlocal_scalars = ""  # type: ignore[misc]
        self.steps = steps
        self.nudge = nudge
        self.step_size = step_size
        self.tolerance = tolerance
        self.clamping = clamping
        self.preset = preset

    def connect(self, network: Network) -> None:
        depth = len(network.layers)
        if self.variant == "fixed_prediction" and self.steps < depth:
            raise ValueError(
                f"fixed_prediction carries an error down one layer a step, so a network of {depth} layers "
                f"needs steps of at least {depth}, not {self.steps}"
            )

    def feedback_weights(self, network: Network) -> list[Tensor]:
        return [layer.weight for layer in network.layers[1:]]

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        readout = network.layers[-1]
        output_delta = readout.activation.gate(output_error, trace.activities[-1])
        if len(network.layers) == 1:
            return readout.outer(trace.activities[0], output_delta)

        direction, size = unit_error(output_delta)
        precisions, step_sizes = self._precisions_and_steps(network)
        if self.variant == "error_based":
            brought = self._first_step(network, trace, output_error)
            if self.clamping:
                step_sizes = [step_sizes[0] / (1 + self.clamping * _loop_gain(brought, size))] * len(step_sizes)
            else:
                gain = torch.where(size == 0, 1, torch.stack(brought).amax(0) / size)
                direction, size = direction / gain, size * gain
        pull = -self.nudge * direction
        neurons = Neurons(network, trace, self.variant, pull, precisions, step_sizes, self.clamping)
        incremental = self.variant == "incremental"
        updates: Updates = {}

        def learn(share: float | Tensor) -> None:
            unit = size * (-share / self.nudge)
            deltas = [error * unit for error in neurons.errors[:-1]]
            deltas.append(neurons.errors[-1] * unit if self.clamping else output_delta * share)
            presynaptic = [trace.activities[0], *neurons.activities]
            for layer, pre, delta in zip(network.layers, presynaptic, deltas, strict=True):
                for parameter, update in layer.outer(pre, delta).items():
                    updates[parameter] = updates[parameter].add_(update) if parameter in updates else update

        def sweep() -> Sequence[Tensor]:
            residuals = neurons.step()
            if incremental:
                learn(1 / self.steps)
            return residuals

        def settled() -> list[Tensor]:
            return [*neurons.state(), *updates.values()]

        taken = relax(network, "predictive_coding", sweep, settled, self.steps, self.tolerance)
        if not incremental:
            learn(1)
        elif min(taken) < self.steps:  # what has settled would teach the same at every step that is left
            left = output_delta.new_tensor([1 - steps / self.steps for steps in taken])
            learn(left.view(*network.members, 1, 1))
        return updates

    def _first_step(self, network: Network, trace: Trace, output_error: Tensor) -> list[Tensor]:
        """The norms of what the first step brings to each layer of an error, the output's first."""
        first_step = descend(network, trace, output_error, reversed(self.feedback_weights(network)))
        return [delta.norm(dim=-1, keepdim=True) for delta in first_step]

    def _precisions_and_steps(self, network: Network) -> tuple[list[Tensor], list[Tensor]]:
        """Each hidden layer's precision and step, both broadcastable over ``(*members, batch, o)``."""
        one, step = network.layers[0].weight.new_tensor(1.0), network.layers[0].weight.new_tensor(self.step_size)
        if self.variant in ("fixed_prediction", "error_based"):
            hidden = len(network.layers) - 1
            return [one] * hidden, [step] * hidden
        # Unless it is clamped the output's error does not depend on the values below it.
        stiffness = self.clamping * squared_spectral_norm(network.layers[-1].weight) if self.clamping else 0
        precisions, steps = [one], [step / (2 + 2 * stiffness)]
        for layer in network.layers[-2:0:-1]:
            norm = squared_spectral_norm(layer.weight)
            precisions.append(precisions[-1] * norm.clamp_min(1))
            steps.append(step / (2 + 2 * norm.clamp_max(1)) / precisions[-1])
        return precisions[::-1], steps[::-1]


def _loop_gain(brought: Sequence[Tensor], size: Tensor) -> Tensor:
    """``|J^T d|^2`` of each sample, ``(*members, batch, 1)``, from the norms that a step brings to each layer."""
    _, *hidden = brought
    return torch.stack(hidden).square().sum(0) / nonzero(size).square()


class Neurons:
    """The hidden layers' neurons during one relaxation, all lists from input to output.

    Args:
        network, trace: as for ``Rule.assign``.
        variant: as for ``PredictiveCoding``.
        pull: the output's errors before anything has moved, ``(*members, batch, out)``.
        precisions, step_sizes: one a hidden layer; of ``error_based`` where it is clamped, each sample's.
        clamping: as for ``PredictiveCoding``.

    Attributes:
        values: deviations of x from the feedforward sweep, one ``(*members, batch, o)`` a hidden layer.
        errors: eps, times the layer's precision; the output's last.
        activities: f(x).
        changes: deviations of f(x) from the feedforward sweep, of the layers whose predictions move something.
    """

    def __init__(
        self,
        network: Network,
        trace: Trace,
        variant: Variant,
        pull: Tensor,
        precisions: Sequence[Tensor],
        step_sizes: Sequence[Tensor],
        clamping: float = 0.0,
    ):
        self.weights = [layer.weight for layer in network.layers]
        self.activations = [layer.activation for layer in network.layers]
        self.variant = variant
        self.precisions = precisions
        self.step_sizes = step_sizes
        self.free = trace.activities[1:-1]
        self.pull, self.clamping = pull, clamping
        # The output's error is its signal as well.
        output_error = pull.clone() if clamping else pull
        self.errors = [*map(torch.zeros_like, self.free), output_error]
        self.signals = [*map(torch.empty_like, self.free), output_error]
        # Under any other variant it would be in vain.
        self.cautious = Cautious(step_sizes[0]) if clamping and variant == "error_based" else None
        if variant == "fixed_prediction":
            # With predictions that stay, a value's deviation is its error.
            self.values = self.errors[:-1]
            self.activities = list(self.free)
            return
        # With a precision of 1 so it is in the first layer always, because the input stays.
        first = self.errors[0] if variant == "error_based" else torch.zeros_like(self.errors[0])
        self.values = [first, *map(torch.zeros_like, self.free[1:])]
        self.changes = [*map(torch.zeros_like, self.free if clamping else self.free[:-1])]
        self.activities = [free.clone() for free in self.free]
        self.drives = [layer.drive(pre) for layer, pre in zip(network.layers, trace.activities[:-2], strict=False)]

    def state(self) -> list[Tensor]:
        """What learning reads."""
        if self.variant == "fixed_prediction":
            return self.errors[:-1]
        return [*(self.errors if self.clamping else self.errors[:-1]), *self.activities]

    def step(self) -> Sequence[Tensor]:
        """Move every layer at once by what it got in the step before; returns the imbalances."""
        by_errors = self.variant == "error_based"
        above = self.signals if by_errors else self.errors
        for index in reversed(range(len(self.free))):
            signal = torch.matmul(above[index + 1], self.weights[index + 1], out=self.signals[index])
            self.activations[index].gate(signal, self.activities[index], out=signal)
        state = self.errors if by_errors else self.values
        imbalances = self.signals[:-1]
        for imbalance, error in zip(imbalances, self.errors, strict=False):
            imbalance -= error
        if self.cautious is not None:
            self.cautious.heed(imbalances)
        for own, imbalance, step_size in zip(state, imbalances, self.step_sizes, strict=False):
            own.addcmul_(imbalance, step_size)
        if self.variant != "fixed_prediction":
            self._predict()
        return imbalances

    def _predict(self) -> None:
        """Bring errors in line with values, or values with errors where these are the state."""
        given, wanted, sign = (
            (self.errors, self.values, 1) if self.variant == "error_based" else (self.values, self.errors, -1)
        )
        for index, activity in enumerate(self.activities):
            if index:
                below = torch.sub(self.activities[index - 1], self.free[index - 1], out=self.changes[index - 1])
                add_product(given[index], below, self.weights[index].mT, scale=sign, out=wanted[index])
            if self.variant != "error_based":
                torch.mul(wanted[index] if index else given[0], self.precisions[index], out=wanted[index])
            torch.add(self.drives[index], self.values[index], out=activity)
            self.activations[index].forward(activity, out=activity)
        if self.clamping:
            below = torch.sub(self.activities[-1], self.free[-1], out=self.changes[-1])
            add_product(self.pull, below, self.weights[-1].mT, scale=-self.clamping, out=self.errors[-1])
