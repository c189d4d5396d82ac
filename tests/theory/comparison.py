"""What theory tests of several families share: twins, grown and trained weights, distances and their slopes."""

import copy
import math

import pytest
import torch
from torch import nn

from bio_rl import Network
from bio_rl.rules import Backprop

WEIGHTS = [1, 2, 4, "trained"]
"""What is stable at the start often is not later: factors of the initial weights, and weights after training."""


def updates_of(network, x, output_error):
    """The updates of all of the layers' parameters."""
    network.zero_grad()
    network(x).backward(output_error)
    return [parameter.grad.clone() for layer in network.layers for parameter in layer.parameters()]


def with_rule(network, rule):
    """The same layers under another rule."""
    return Network([copy.deepcopy(layer) for layer in network.layers], rule)


def grow(network, weights):
    """The network itself, its layers' weights as one of ``WEIGHTS`` says."""
    if weights == "trained":
        twin = trained(with_rule(network, Backprop()))
        for layer, learnt in zip(network.layers, twin.layers, strict=True):
            layer.load_state_dict(learnt.state_dict())
    else:
        with torch.no_grad():
            for layer in network.layers:
                layer.weight *= weights
    return network


def trained(network, steps=100):
    """The network after fitting a random nonlinear teacher with large weights, by its own rule."""
    x = torch.randn(*network.members, 40, network.in_features, dtype=network.layers[0].weight.dtype)
    target = 3 * torch.sin(2 * x.cumsum(-1))[..., : network.out_features]
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(network(x)[..., : target.shape[-1]], target).backward()
        optimizer.step()
    return network


def relative_error(updates, expected):
    """``|updates - expected| / |expected|``, over all parameters."""
    return float((flat(updates) - flat(expected)).norm() / flat(expected).norm())


def angle(updates, expected):
    """The angle between them in radians, exact for small ones, where a cosine rounds to 1."""
    directions = [flat(each) / flat(each).norm() for each in (updates, expected)]
    return 2 * math.asin(min(1.0, float((directions[0] - directions[1]).norm() / 2)))


def flat(updates):
    return torch.cat([update.flatten() for update in updates])


def assert_limit(update, expected, nudges, order):
    """An update comes to its limit with this power of the nudge: in its size, and its cosine with twice the power.

    ``1 - cosine`` is half of the squared angle.
    """
    found = [update(nudge) for nudge in nudges]
    for distance in (relative_error, angle):
        coarse, *_, fine = (distance(each, expected) for each in found)
        slope = math.log(coarse / fine) / math.log(nudges[0] / nudges[-1])
        assert slope == pytest.approx(order, abs=0.1), distance.__name__
