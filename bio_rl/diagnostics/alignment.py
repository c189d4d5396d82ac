"""Angles between a rule's signals and backprop's."""

import copy
import math
from itertools import accumulate

import torch
from torch import Tensor, nn

from bio_rl.network import Network
from bio_rl.rules.backprop import Backprop


def angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle in degrees between matrices as vectors, ``(*members, o, i) -> (*members,)``; NaN where one is 0.

    By Kahan's formula, in float64: from a cosine no angle below a millionth of a degree could be told from 0.
    """
    a, b = (each.flatten(-2).double() for each in (a, b))
    a, b = (each / torch.linalg.vector_norm(each, dim=-1, keepdim=True) for each in (a, b))
    difference, total = torch.linalg.vector_norm(a - b, dim=-1), torch.linalg.vector_norm(a + b, dim=-1)
    return 2 * torch.atan2(difference, total).rad2deg()


@torch.no_grad()
def feedback_angles(network: Network) -> list[float]:
    """The angle in degrees between feedback and forward weights, for each layer but the first.

    0 where feedback is the transpose that backprop uses; about 90 where it is unrelated to it.
    Feedback that comes straight from the output is held against the product of the weights that lead
    there, from the layer on. Empty for a rule that has neither. The mean over members.
    """
    return [float(each.mean()) for each in feedback_angles_by_member(network)]


@torch.no_grad()
def feedback_angles_by_member(network: Network) -> list[Tensor]:
    """As ``feedback_angles``, each member's: one ``(*members,)`` a layer but the first."""
    layers, direct = network.layers[1:], network.rule.direct_feedback(network)
    if direct:
        paths = list(accumulate((layer.weight for layer in reversed(layers)), torch.matmul))[::-1]
        return [angle(weight, path) for weight, path in zip(direct, paths, strict=True)]
    feedback = network.rule.feedback_weights(network)
    return [angle(weight, layer.weight) for weight, layer in zip(feedback, layers, strict=False)]


def update_angles(network: Network, x: Tensor, output_error: Tensor) -> list[float]:
    """The angle in degrees between the rule's update and backprop's, for each layer's weights.

    The network itself is left as it was, its generator included. A layer to which the rule
    assigns nothing counts as perpendicular. The mean over members.

    Args:
        network: any network.
        x: input ``(*members, batch, in)``.
        output_error: dL/dy ``(*members, batch, out)``.
    """
    assigned, exact = updates_of(network, x, output_error), exact_updates(network, x, output_error)
    return [90.0 if a is None else float(angle(a, e).mean()) for a, e in zip(assigned, exact, strict=True)]


def updates_of(network: Network, x: Tensor, output_error: Tensor) -> list[Tensor | None]:
    """The rule's update of each layer's weights, computed on a copy of the network."""
    return [layer.weight.grad for layer in after_backward(network, x, output_error).layers]


def exact_updates(network: Network, x: Tensor, output_error: Tensor) -> list[Tensor]:
    """Backprop's update of each layer's weights through the feedforward sweep."""
    layers = backward(by_backprop(network), x, output_error).layers
    return [layer.weight.grad for layer in layers if layer.weight.grad is not None]


def after_backward(network: Network, x: Tensor, output_error: Tensor, modulator: Tensor | None = None) -> Network:
    """A copy of the network with its rule's updates in ``grad``.

    The network itself, its generators and torch's are left as they were; what it draws next, the
    copy drew.

    Args:
        network, x, output_error: as for ``update_angles``.
        modulator: what a rule finds in ``network.modulator``; by default what is there.

    Raises:
        Divergence: as a backward sweep of the network itself would.
    """
    twin = copy.deepcopy(network)
    if modulator is not None:
        twin.modulator = modulator
    return backward(twin, x, output_error)


def backward(network: Network, x: Tensor, output_error: Tensor) -> Network:
    """The network itself, with its rule's updates and no earlier ones in ``grad``."""
    network.zero_grad()
    with torch.enable_grad():
        network(x).backward(output_error)
    return network


def by_backprop(network: Network) -> Network:
    """A copy of the network's layers, all of them learning, under backprop."""
    layers = nn.ModuleList(copy.deepcopy(layer) for layer in network.layers).requires_grad_()
    # Backprop draws nothing; seeds that are given cost no look at torch's generator.
    return Network(layers, Backprop(), [0] * math.prod(network.members))  # type: ignore[arg-type]
