"""Segregated dendrites, against Guerguiev et al. 2017: plateaus tell the error's sign, weights come to agree."""

import copy
from itertools import pairwise

import pytest
import torch

from bio_rl import Dense, Network
from bio_rl.diagnostics.alignment import update_angles
from bio_rl.rules import DirectFeedbackAlignment, SegregatedDendrites

SHAPES = [
    ((4, 2), "tanh", "identity", True, ()),
    ((5, 8, 3), "relu", "identity", False, (3,)),
    ((5, 8, 6, 3), "sigmoid", "tanh", True, (2, 3)),
    ((4, 16, 16, 2), "identity", "identity", True, ()),
    ((3, 9, 4, 7, 2), "elu", "softplus", True, ()),
    ((3, 9, 8, 9, 7, 2), "hard_sigmoid", "identity", False, (2,)),
    ((3, 9, 8, 9, 7, 1), "softplus", "sigmoid", True, ()),
]


def direct(network):
    """The same network under direct feedback alignment with the same feedback weights."""
    twin = Network([copy.deepcopy(layer) for layer in network.layers], DirectFeedbackAlignment())
    for theirs, ours in zip(twin.rule.feedback, network.rule.feedback, strict=True):
        theirs.data.copy_(ours)
    return twin


def cosines(network, other):
    """The cosine between two networks' weight updates, one a layer and member."""
    pairs = zip(network.layers, other.layers, strict=True)
    gradients = [(a.weight.grad.flatten(-2), b.weight.grad.flatten(-2)) for a, b in pairs]
    return torch.stack([torch.cosine_similarity(a, b, dim=-1) for a, b in gradients])


def updates(network, x, output_error):
    network.zero_grad()
    network(x).backward(output_error)
    return [layer.weight.grad for layer in network.layers]


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
@pytest.mark.parametrize("centred", [True, False])
def test_plateaus_differ_in_the_direction_of_the_error(build, batch, centred, sizes, activation, output, bias, members):
    network = build(SegregatedDendrites(centred=centred), sizes, activation, output, bias, members)
    x, output_error = batch(network)
    forward = network.activities(x)[-1]
    step = 0.3 * output_error
    for index, weight in enumerate(network.rule.feedback):
        with torch.no_grad():
            difference = network.rule.plateau_difference(network, index, forward, forward - step)
        assert torch.equal(difference.sign(), -(step @ weight).sign())
        assert difference.abs().max() < 1


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
def test_deltas_are_the_plateau_differences_gated_by_the_slope(build, batch, sizes, activation, output, bias, members):
    """The paper's update, written out: teach the output, take both plateaus, multiply by what is below."""
    network = build(SegregatedDendrites(centred=False), sizes, activation, output, bias, members)
    x, output_error = batch(network)
    found = updates(network, x, output_error)
    rule, readout, activities = network.rule, network.layers[-1], network.activities(x)
    size = output_error.norm(dim=-1, keepdim=True)
    drive = activities[-2] @ readout.weight.mT + (0 if readout.bias is None else readout.bias.unsqueeze(-2))
    taught = readout.activation.forward((drive - rule.nudge * output_error / size).detach())
    for index, layer in enumerate(network.layers[:-1]):
        before, after = (torch.sigmoid(rule.slope * (y @ rule.feedback[index])) for y in (activities[-1], taught))
        signal = (before - after) * size / (rule.nudge * rule.slope / 4)
        delta = signal * layer.activation.slope(activities[index + 1])
        torch.testing.assert_close(found[index], delta.mT @ activities[index], rtol=1e-9, atol=1e-12)
    delta = output_error * readout.activation.slope(activities[-1])
    torch.testing.assert_close(found[-1], delta.mT @ activities[-2], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
def test_small_signals_are_direct_feedback_alignment(build, batch, sizes, activation, output, bias, members):
    network = build(SegregatedDendrites(nudge=1e-4, slope=1e-3), sizes, activation, output, bias, members)
    x, output_error = batch(network, 20)
    twin = direct(network)
    network(x).backward(output_error)
    twin(x).backward(output_error)
    assert cosines(network, twin).min() > 0.999
    for layer, reference in zip(network.layers, twin.layers, strict=True):
        torch.testing.assert_close(layer.weight.grad.norm(), reference.weight.grad.norm(), rtol=0.01, atol=0)


def test_centred_plateaus_see_the_error_of_large_outputs(build, batch):
    """A value head far from 0: the paper's plateaus are saturated, centred ones are not."""
    seen = {}
    for centred in (True, False):
        torch.manual_seed(0)
        network = build(SegregatedDendrites(slope=0.05, centred=centred, feedback_scale=3), (4, 16, 1))
        with torch.no_grad():
            network.layers[-1].bias += 100
        x, output_error = batch(network, 64)
        twin = direct(network)
        network(x).backward(output_error)
        twin(x).backward(output_error)
        seen[centred] = (network.layers[0].weight.grad.norm() / twin.layers[0].weight.grad.norm()).item()
    assert seen[True] > 0.9
    assert seen[False] < 0.3


@pytest.mark.parametrize("rows", [1, 2, 2048])
def test_any_batch_and_any_scale_of_the_loss_will_do(build, batch, rows):
    network = build(SegregatedDendrites(), (5, 16, 16, 2))
    x, output_error = batch(network, rows)
    twin = direct(network)
    summed = [update.clone() for update in updates(network, x, output_error)]
    for update, mean in zip(summed, updates(network, x, output_error / 2048), strict=True):
        torch.testing.assert_close(mean, update / 2048, rtol=1e-9, atol=1e-15)
    updates(network, x, output_error)
    twin(x).backward(output_error)
    assert cosines(network, twin).min() > 0.95
    assert all(torch.equal(update, 0 * update) for update in updates(network, x, 0 * output_error))


def test_repeating_a_batch_repeats_its_update(build, batch):
    """The centre is a mean: what the batch is made of matters, its size does not."""
    network = build(SegregatedDendrites())
    x, output_error = batch(network)
    once = [update.clone() for update in updates(network, x, output_error)]
    for update, single in zip(updates(network, x.repeat(9, 1), output_error.repeat(9, 1)), once, strict=True):
        torch.testing.assert_close(update, 9 * single, rtol=1e-9, atol=1e-12)


def test_a_sample_without_error_adds_nothing(build, batch):
    network = build(SegregatedDendrites(centred=False))
    x, output_error = batch(network)
    output_error[3:] = 0
    whole = [update.clone() for update in updates(network, x, output_error)]
    for update, alone in zip(whole, updates(network, x[:3], output_error[:3]), strict=True):
        torch.testing.assert_close(update, alone, rtol=1e-10, atol=1e-14)


@pytest.mark.few(1)
@pytest.mark.parametrize("sizes", [(30, 20, 10), (20, 20, 20, 10)])
def test_the_angle_to_backprop_falls_during_training(sizes):
    """As feedback alignment: small initial weights, a linear teacher, gradient descent (Lillicrap et al. 2016)."""
    layers = [Dense(i, o, "identity", bias=False).double() for i, o in pairwise(sizes)]
    with torch.no_grad():
        for layer in layers:
            layer.weight *= 0.1
    network = Network(layers, SegregatedDendrites())
    teacher = torch.randn(sizes[0], sizes[-1], dtype=torch.float64) / sizes[0] ** 0.5
    optimizer = torch.optim.SGD([layer.weight for layer in layers], lr=0.1)
    angles = []
    for step in range(1200):
        x = torch.randn(64, sizes[0], dtype=torch.float64)
        y = network(x)
        if step in (0, 1199):
            angles.append(update_angles(network, x, y.detach() - x @ teacher)[:-1])
        optimizer.zero_grad()
        (y - x @ teacher).square().mean().backward()
        optimizer.step()
    for first, last in zip(*angles, strict=True):
        assert 75 < first < 105
        assert last < 60


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nudge": 0}, "nudge must be a number from"),
        ({"slope": -0.2}, "slope must be a number from"),
        ({"feedback_scale": 0}, "feedback_scale must be a number from"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SegregatedDendrites(**settings)
