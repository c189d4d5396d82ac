"""Angles between a rule's signals and backprop's."""

import copy

import torch
from torch import Tensor, nn

from bio_rl.network import Network
from bio_rl.rules.backprop import Backprop


@torch.no_grad()
def feedback_angles(network: Network) -> list[float]:
    """The angle in degrees between feedback and forward weights, for each layer but the first.

    0 where feedback is the transpose that backprop uses; about 90 where it is unrelated to it.
    Empty for a rule whose signals do not descend layer by layer. The mean over members.
    """
    feedback = network.rule.feedback_weights(network)
    return [_angle(weight, layer.weight) for weight, layer in zip(feedback, network.layers[1:], strict=False)]


def update_angles(network: Network, x: Tensor, output_error: Tensor) -> list[float]:
    """The angle in degrees between the rule's update and backprop's, for each layer's weights.

    The network itself is left as it was, its generator included. A layer to which the rule
    assigns nothing counts as perpendicular.

    Args:
        network: any network.
        x: input ``(*members, batch, in)``.
        output_error: dL/dy ``(*members, batch, out)``.
    """
    assigned, exact = updates_of(network, x, output_error), exact_updates(network, x, output_error)
    return [_angle(a, e) if a is not None else 90.0 for a, e in zip(assigned, exact, strict=True)]


def updates_of(network: Network, x: Tensor, output_error: Tensor) -> list[Tensor | None]:
    """The rule's update of each layer's weights, computed on a copy of the network."""
    twin = copy.deepcopy(network)
    twin.zero_grad()
    with torch.enable_grad():
        twin(x).backward(output_error)
    return [layer.weight.grad for layer in twin.layers]


def exact_updates(network: Network, x: Tensor, output_error: Tensor) -> list[Tensor]:
    """Backprop's update of each layer's weights through the feedforward sweep."""
    twin = Network(nn.ModuleList(copy.deepcopy(layer) for layer in network.layers), Backprop())  # type: ignore[arg-type]
    return [update for update in updates_of(twin, x, output_error) if update is not None]


def _angle(a: Tensor, b: Tensor) -> float:
    # In float64: near 0, float32 resolves no angle below 0.03 degrees.
    cosine = torch.nn.functional.cosine_similarity(a.flatten(-2).double(), b.flatten(-2).double(), dim=-1)
    return float(cosine.clamp(-1, 1).arccos().rad2deg().mean())
