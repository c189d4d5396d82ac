"""Feedback weights that learn, layer by layer, what their layer makes of noise."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bio_rl.mechanisms.arithmetic import add_product
from bio_rl.network import Network
from bio_rl.rule import Rule


def jacobian_updates(
    rule: Rule, network: Network, activities: Sequence[Tensor], feedback: Sequence[Tensor], deviation: float
) -> Iterator[Tensor]:
    """The updates by which feedback weights learn each layer's transposed Jacobian, from noise at its inputs.

    The loss of a layer's feedback K is ``- noise . K (slope * response) + |K (slope * noise')|^2 / 2``
    (Ernoult et al. 2022, the local difference reconstruction loss), where ``response`` is the layer's to
    ``noise`` at its inputs and ``noise'`` is at its outputs; the mean over ``noise'`` is taken exactly, and
    is a decay. A signal passes the slope of the neuron that sends it, so that one K fits every
    sample: to first order in the noise the minimum is the transposed forward weights.

    Args:
        rule: draws the noise.
        network, activities: the network, and the trace's activities.
        feedback: K for each layer but the first, in the orientation of the layer's weights.
        deviation: of the noise.

    Yields:
        An update for each K.
    """
    layers = network.layers[1:]
    size = activities[0].shape[:-1]
    # Each layer's response is to its own noise alone, so that all may share it.
    shared = rule.randn((*size, max((layer.in_features for layer in layers), default=0)), like=activities[0])
    for layer, weight, pre, activity in zip(layers, feedback, activities[1:-1], activities[2:], strict=True):
        noise = shared[..., : layer.in_features]
        response = layer.forward(torch.add(pre, noise, alpha=deviation)).sub_(activity)
        delta = layer.activation.gate(response, activity, out=response)
        decay = weight * layer.activation.slope(activity).square_().sum(-2).unsqueeze(-1)
        yield add_product(decay, delta.mT, noise, scale=-1 / deviation, out=decay)
