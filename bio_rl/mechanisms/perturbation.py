"""What the perturbation rules share: noise in every sample, and its correlation with the loss.

Each sample takes K directions u of normal noise, independent of every other sample's, and learns
how the loss changes along them. The mean of ``(dL . u) u`` is the gradient for any number of
draws; its variance is what these rules pay for having no feedback.

**The loss of a perturbed output.** A rule sees dL/dy, not the loss. To first order in the noise a
perturbed output changes the loss by ``dL/dy . (change of y)``: one number per sample and draw,
such as a global signal could tell every synapse. As the noise vanishes it is the loss's
directional derivative.

**Noise in the weights at the price of noise in the drives.** Weight noise of its own for every
sample would take K * batch * inputs * neurons random numbers. But a sample feels it only as
``d = U p`` in its drives, with p its presynaptic activities (and 1, for the bias): normal noise of
deviation ``|p|``, and so we draw d. Given d, the weight noise was ``U = d p^T / |p|^2 + U'`` with U'
perpendicular to p and independent of all that happened in the sweep. The first part gives the
update of node perturbation. The second, times the change of the loss and summed over samples and
draws, is normal, with rows of covariance ``sum_b w_b (1 - p_b p_b^T / |p_b|^2)``: one matrix is drawn
from that. The update is distributed exactly as if each sample and draw had had a noise matrix.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bio_rl.layers import Dense, Updates
from bio_rl.mechanisms.arithmetic import nonzero
from bio_rl.mechanisms.descent import local_updates
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace
from bio_rl.settings import Count, Positive

Readout = Literal["exact", "perturbed"]
Scale = Literal["fixed", "drive"]


class PerturbationRule(Rule):
    """Correlates what the noise did to the loss with the noise itself.

    A subclass says how the output changes along given directions (``output_change``) and may say
    how large these are (``deviation``).

    Args:
        draws: noise directions per sample, K.
        readout: ``exact``, the last layer's neurons see their own error, as under every other
            rule, and need no noise; or ``perturbed``, they are treated as all others are.
        in_weights: whether the noise is in the weights; otherwise it is in the drives.

    Raises:
        ValueError: fewer than 1 ``draws``, or an unknown ``readout``.
    """

    ngrad: ClassVar = "perturbation"
    extra_sweeps = True

    def __init__(self, draws: Count, readout: Readout, in_weights: bool):
        super().__init__()
        self.draws = draws
        self.readout = readout
        self.in_weights = in_weights

    @abstractmethod
    def output_change(
        self, network: Network, trace: Trace, noise: Sequence[Tensor], deviations: Sequence[Tensor]
    ) -> Tensor:
        """How the output changes along noise in the drives, per unit of it.

        Args:
            network, trace: as for ``assign``.
            noise: for each perturbed layer, from the first, ``(*members, draws, batch, o)``, all of
                deviation 1; never empty.
            deviations: for each of these, what its noise is multiplied by, ``(*members, 1, batch, 1)``.

        Returns:
            ``(*members, draws, batch, out)``, the caller's to overwrite.
        """

    def deviation(self, layer: Dense, pre: Tensor) -> Tensor:
        """The standard deviation of each sample's noise in a layer's drive, ``(*members, batch, 1)``."""
        return _length(_inputs(layer, pre)) if self.in_weights else torch.ones_like(pre[..., :1])

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        exact = self.readout == "exact"
        layers = network.layers[:-1] if exact else network.layers
        output_delta = network.layers[-1].activation.gate(output_error, trace.activities[-1])
        if not layers:
            return local_updates(network, trace, [output_delta])
        deviations = [self._deviation(layer, pre) for layer, pre in zip(layers, trace.activities, strict=False)]
        noise = [self._draw(layer, pre) for layer, pre in zip(layers, trace.activities, strict=False)]
        output_change = self.output_change(network, trace, noise, [each.unsqueeze(-3) for each in deviations])
        loss_change = output_change.mul_(output_error.unsqueeze(-3)).sum(-1, keepdim=True)

        deltas = [
            directions.mul_(loss_change).mean(-3).div_(nonzero(deviation))
            for directions, deviation in zip(noise, deviations, strict=True)
        ]
        if exact:
            deltas.append(output_delta)
        updates = local_updates(network, trace, reversed(deltas))
        if self.in_weights:
            size = loss_change.square().mean(-3).div_(self.draws).sqrt_()
            for layer, pre, deviation in zip(layers, trace.activities, deviations, strict=False):
                self._add_perpendicular_noise(updates, layer, pre, size / nonzero(deviation))
        return updates

    def _deviation(self, layer: Dense, pre: Tensor) -> Tensor:
        """Noise that nothing is learnt from would only hide what the other layers' noise did."""
        return self.deviation(layer, pre) if layer.learns else torch.zeros_like(pre[..., :1])

    def _draw(self, layer: Dense, pre: Tensor) -> Tensor:
        *members, batch, _ = pre.shape
        return self.randn((*members, self.draws, batch, layer.out_features), pre)

    def _add_perpendicular_noise(self, updates: Updates, layer: Dense, pre: Tensor, size: Tensor) -> None:
        """Add the part of the weight noise that no sample's drive felt.

        Its rows have the covariance ``w - B^T B`` where the rows of B are ``sqrt(w_b) p_b / |p_b|`` and w is
        the sum of the w_b. As ``sqrt(w_b) = size_b |p_b|``, B is ``size * p``.

        Args:
            updates: changed in place.
            layer: the layer.
            pre: ``(*members, batch, i)``.
            size: the loss change per unit of deviation of the drive, ``(*members, batch, 1)``.
        """
        inputs = _inputs(layer, pre)
        root_total = _length((size * _length(inputs)).mT)
        noise = self.randn((*pre.shape[:-2], layer.out_features, inputs.shape[-1]), pre)
        noise = _unfelt(noise, felt=size * inputs / nonzero(root_total)).mul_(root_total)
        updates[layer.weight] += noise[..., : layer.in_features]
        if layer.bias is not None:
            updates[layer.bias] += noise[..., -1]


class FiniteDifference(PerturbationRule):
    """Runs the network a second time, with small noise, and sees what became of its output.

    Args:
        draws, readout, in_weights: as for ``PerturbationRule``.
        noise: the noise's size; the update's bias is of its second order.
        scale: ``fixed``, or ``drive``, noise proportional to the size of what it disturbs: to the
            root mean square of a sample's drives in the layer.
        antithetic: whether each direction is run with both signs (2 K sweeps). At small noise the
            difference to the undisturbed sweep is as good for half the price; with
            large noise the pair cancels the loss's curvature.

    Raises:
        ValueError: as for ``PerturbationRule``; a ``noise`` that is not positive; an unknown ``scale``.
    """

    separate_phases = True

    def __init__(
        self, draws: Count, readout: Readout, in_weights: bool, noise: Positive, scale: Scale, antithetic: bool
    ):
        super().__init__(draws, readout, in_weights)
        self.noise = noise
        self.scale = scale
        self.antithetic = antithetic

    def deviation(self, layer: Dense, pre: Tensor) -> Tensor:
        if self.scale == "drive":
            return layer.drive(pre).square().mean(-1, keepdim=True).sqrt_()
        return super().deviation(layer, pre)

    def output_change(
        self, network: Network, trace: Trace, noise: Sequence[Tensor], deviations: Sequence[Tensor]
    ) -> Tensor:
        above = perturbed_output(network, trace.activities[0], noise, deviations, self.noise)
        if self.antithetic:
            below = perturbed_output(network, trace.activities[0], noise, deviations, -self.noise)
            return above.sub_(below).div_(2 * self.noise)
        return above.sub_(trace.activities[-1].unsqueeze(-3)).div_(self.noise)


def perturbed_output(
    network: Network, x: Tensor, noise: Sequence[Tensor], deviations: Sequence[Tensor], size: float
) -> Tensor:
    """The output with ``size * deviation * noise`` added to the drives, all draws in one sweep.

    Args:
        network: the network.
        x: input, ``(*members, batch, in)``.
        noise, deviations: as for ``PerturbationRule.output_change``.
        size: what the noise is multiplied by.

    Returns:
        ``(*members, draws, batch, out)``.
    """
    first, *others = network.layers
    # The noise comes in behind the synapses, so the first layer's work is the same in all draws.
    drive = torch.addcmul(first.drive(x).unsqueeze(-3), noise[0], deviations[0], value=size)
    activity = first.activation.forward(drive, out=drive)
    for index, layer in enumerate(others, start=1):
        drive = in_one_batch(layer.drive, activity)
        if index < len(noise):
            drive.addcmul_(noise[index], deviations[index], value=size)
        activity = layer.activation.forward(drive, out=drive)
    return activity


def in_one_batch(product: Callable[[Tensor], Tensor], signal: Tensor) -> Tensor:
    """What a product with a layer's weights makes of every draw, ``(*members, draws, batch, i) -> (..., o)``."""
    return product(signal.flatten(-3, -2)).unflatten(-2, signal.shape[-3:-1])


def _inputs(layer: Dense, pre: Tensor) -> Tensor:
    """What a neuron's weights are multiplied by: the activities below, and 1 for a bias."""
    return pre if layer.bias is None else torch.cat([pre, torch.ones_like(pre[..., :1])], -1)


def _length(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)


def _unfelt(noise: Tensor, felt: Tensor) -> Tensor:
    """Rows of standard normal noise, made such that their covariance is ``1 - A^T A``.

    They are multiplied by ``L^T``, where ``L L^T = 1 - A^T A``. Where A has fewer rows than columns the smaller
    root ``K K^T = 1 - A A^T`` gives one: ``L = 1 - A^T (1 + K)^-1 A``, as multiplying it out shows.

    Args:
        noise: ``(*members, o, i)``.
        felt: A, ``(*members, b, i)``, of singular values of at most 1.

    Returns:
        A tensor of ``noise``'s shape, the caller's to overwrite.
    """
    samples, features = felt.shape[-2:]
    rounding = (samples + features) * torch.finfo(felt.dtype).eps
    if samples >= features:
        return torch.matmul(noise, _root_of_rest(torch.matmul(felt.mT, felt), rounding).mT)
    root = _root_of_rest(torch.matmul(felt, felt.mT), rounding)
    root.diagonal(dim1=-2, dim2=-1).add_(1)
    share = torch.linalg.solve_triangular(root, torch.matmul(felt, noise.mT), upper=False)
    return noise - torch.matmul(share.mT, felt)


def _root_of_rest(gram: Tensor, rounding: float) -> Tensor:
    """The Cholesky root of ``1 + rounding - gram``, ``(*members, n, n)``; without rounding it might have none."""
    rest = gram.neg_()
    rest.diagonal(dim1=-2, dim2=-1).add_(1 + rounding)
    return torch.linalg.cholesky_ex(rest).L
