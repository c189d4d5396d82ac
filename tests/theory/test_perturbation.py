"""Node perturbation, weight perturbation and forward gradients, against the statistics that define them.

For a sample whose loss has the gradient g along N directions, normal noise u gives the estimate
``(g . u) u`` with mean g, and with covariance ``|g|^2 + g g^T``: a total variance of (N + 1) |g|^2.
"""

import copy
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bio_rl import Network
from bio_rl.rules import Backprop, ForwardGradient, NodePerturbation, Trace, WeightPerturbation

SHAPES = [
    ((4, 2), "tanh", "identity", True, ()),
    ((5, 8, 3), "softplus", "sigmoid", False, (3,)),
    ((5, 8, 6, 3), "sigmoid", "tanh", True, (2, 3)),
    ((3, 6, 5, 4, 2), "tanh", "softplus", True, ()),
    ((3, 9, 4, 7, 5, 2), "elu", "identity", True, ()),
]
RULES = [
    lambda **settings: NodePerturbation(noise=1e-5, **settings),
    lambda **settings: NodePerturbation(noise=1e-5, scale="drive", antithetic=True, **settings),
    lambda **settings: WeightPerturbation(noise=1e-5, **settings),
    lambda **settings: WeightPerturbation(noise=1e-5, scale="drive", **settings),
    lambda **settings: ForwardGradient(**settings),
    lambda **settings: ForwardGradient(directions="activities", **settings),
]
PERTURB_DRIVES = [RULES[0], RULES[5]]
PERTURB_WEIGHTS = [RULES[2], RULES[4]]


def updates(network, x, output_error):
    """The rule's updates of the layers' parameters, as one vector a member."""
    network.zero_grad()
    network(x).backward(output_error)
    parameters = [p for layer in network.layers for p in layer.parameters()]
    return torch.cat([p.grad.flatten(len(network.members)) for p in parameters], -1)


def with_backprop(network):
    return Network([copy.deepcopy(layer) for layer in network.layers], Backprop())


def equal_members(network):
    """Every member gets the first one's weights: repetitions that differ in their noise alone."""
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(p[:1].expand_as(p))
    return network


def sample_gradients(network, x, output_error):
    """Backprop's update from each sample alone, ``(batch, parameters)``, of the first member."""
    exact = with_backprop(network)
    alone = torch.eye(x.shape[1], dtype=x.dtype).unsqueeze(-1)
    return torch.stack([updates(exact, x, output_error * one)[0] for one in alone])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("readout", ["exact", "perturbed"])
def test_the_error_of_the_mean_falls_as_one_over_root_draws(build, batch, rule, readout):
    network = equal_members(build(rule(readout=readout), (4, 6, 5, 2), members=(60,)))
    x, output_error = (value[:1].expand_as(value) for value in batch(network, 3))
    exact = updates(with_backprop(network), x, output_error)
    draws, errors = [4, 16, 64, 256], []
    for network.rule.draws in draws:
        errors.append((updates(network, x, output_error) - exact).norm(dim=-1).mean().item())
    slope = np.polyfit(np.log(draws), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.06)


@pytest.mark.parametrize("rule", RULES)
def test_noise_that_no_sample_feels_is_named_where_there_is_some(build, batch, rule):
    """A sample's own part of an update is an outer product with its inputs; that noise is none."""
    network = build(rule(), bias=False)
    updates(network, *batch(network, 1))
    ranks = [torch.linalg.matrix_rank(layer.weight.grad).item() for layer in network.layers[:-1]]
    has_more = max(ranks) > 1
    assert has_more == ("no sample feels" in network.rule.nonlocal_scalars)


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
@pytest.mark.parametrize("rule", RULES)
def test_the_mean_over_many_draws_is_backprops_update(build, batch, rule, sizes, activation, output, bias, members):
    draws = 6000
    network = build(rule(draws=draws, readout="perturbed"), sizes, activation, output, bias, members)
    x, output_error = batch(network, 2)
    exact = updates(with_backprop(network), x, output_error)
    error = (updates(network, x, output_error) - exact).norm(dim=-1) / exact.norm(dim=-1)
    # At most (N + 1) / draws of the samples' squared gradients, with N the number of parameters.
    coherence = 2  # of two samples' gradients: |g1|^2 + |g2|^2 against |g1 + g2|^2, about
    bound = math.sqrt(coherence * (exact.shape[-1] + 1) / draws)
    assert error.max() < 3 * bound


@pytest.mark.parametrize("rule", PERTURB_DRIVES)
@pytest.mark.parametrize("width", [4, 16, 64])
def test_node_perturbations_variance_is_that_of_the_number_of_neurons(build, batch, rule, width):
    network = equal_members(build(rule(draws=2, readout="perturbed"), (3, width, width, 2), members=(3000,)))
    x, output_error = (value[:1].expand_as(value) for value in batch(network, 1))
    network(x).backward(output_error)
    exact = with_backprop(network)
    exact(x).backward(output_error)
    # With one sample the update of the biases is that of the drives.
    noisy, mean = (torch.cat([layer.bias.grad for layer in n.layers], -1) for n in (network, exact))
    variance = (noisy - mean).square().sum(-1).mean() / mean[0].square().sum()
    assert variance.item() == pytest.approx((2 * width + 2 + 1) / 2, rel=0.1)


@pytest.mark.parametrize("rule", PERTURB_WEIGHTS)
@pytest.mark.parametrize(("width", "bias"), [(3, True), (6, False), (12, True)])
def test_weight_perturbations_variance_is_that_of_the_number_of_weights(build, batch, rule, width, bias):
    """In all and along any direction: as if every sample and draw had weight noise of its own."""
    sizes = (3, width, width, 2)
    network = equal_members(build(rule(draws=2, readout="perturbed"), sizes, bias=bias, members=(4000,)))
    x, output_error = (value[:1].expand_as(value) for value in batch(network, 4))
    gradients = sample_gradients(network, x, output_error)
    deviations = updates(network, x, output_error) - gradients.sum(0)
    squared = gradients.square().sum()
    number = gradients.shape[-1]
    assert (deviations.square().sum(-1).mean() / squared).item() == pytest.approx((number + 1) / 2, rel=0.1)

    directions = torch.cat([torch.randn(4, number, dtype=x.dtype), gradients])
    along = (deviations @ directions.mT).square().mean(0)
    expected = (squared * directions.square().sum(-1) + (gradients @ directions.mT).square().sum(0)) / 2
    torch.testing.assert_close(along, expected, rtol=0.15, atol=0)


def drives_to_output(network, x, noise):
    """The output as a function of noise in the drives, in plain torch."""
    activity = x
    for layer, kick in zip(network.layers, noise, strict=True):
        activity = layer.activation.forward(activity @ layer.weight.mT + layer.bias.unsqueeze(-2) + kick)
    return activity


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "elu", "relu", "identity"])
@pytest.mark.parametrize("members", [(), (2,)])
def test_the_change_of_the_loss_is_its_directional_derivative(build, batch, activation, members):
    """Exactly for forward gradients; up to the noise's first order one-sided and its second in pairs."""
    network = build(ForwardGradient(1, "activities", "perturbed"), (4, 7, 6, 5, 2), activation, members=members, gain=2)
    x, output_error = batch(network)
    noise = tuple(torch.randn(*members, 7, layer.out_features, dtype=x.dtype) for layer in network.layers)
    still = tuple(torch.zeros_like(kick) for kick in noise)
    one_draw = [kick.unsqueeze(-3) for kick in noise], [torch.ones(1, 1, 1, dtype=x.dtype)] * len(noise)
    _, derivative = torch.func.jvp(lambda *kicks: drives_to_output(network, x, kicks), still, noise)
    trace = Trace(network.activities(x))
    with torch.no_grad():
        change = network.rule.output_change(network, trace, *one_draw).squeeze(-3)
    torch.testing.assert_close(change, derivative, rtol=1e-10, atol=1e-12)
    if activation in ("identity", "relu", "elu"):
        return  # no curvature, or one that jumps: nothing smooth to be wrong by

    sizes = np.array([1e-1, 1e-2, 1e-3])
    for antithetic, order in ((False, 1), (True, 2)):
        errors = []
        for size in sizes:
            rule = NodePerturbation(1, size, antithetic=antithetic)
            with torch.no_grad():
                loss_change = (output_error * rule.output_change(network, trace, *one_draw).squeeze(-3)).sum(-1)
            errors.append((loss_change - (output_error * derivative).sum(-1)).norm().item())
        slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
        assert slope == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("output", ["identity", "tanh"])
def test_an_exact_readout_is_backprops_and_lowers_the_variance_below(build, batch, rule, output):
    network = build(rule(draws=4), output=output)
    x, output_error = batch(network)
    exact = with_backprop(network)
    updates(network, x, output_error)
    updates(exact, x, output_error)
    torch.testing.assert_close(network.layers[-1].weight.grad, exact.layers[-1].weight.grad, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(network.layers[0].weight.grad, exact.layers[0].weight.grad)
    single = build(rule(draws=1), (4, 3), output=output)
    x, output_error = batch(single)
    torch.testing.assert_close(updates(single, x, output_error), updates(with_backprop(single), x, output_error))


@pytest.mark.parametrize("rule", RULES)
def test_updates_are_homogeneous_in_the_error_and_zero_without_one(build, batch, rule):
    network = build(rule(draws=3, readout="perturbed"))
    x, output_error = batch(network)
    twin = copy.deepcopy(network)
    torch.testing.assert_close(
        1e-4 * updates(network, x, output_error), updates(twin, x, 1e-4 * output_error), rtol=1e-8, atol=1e-14
    )
    assert torch.equal(updates(network, x, 0 * output_error), torch.zeros_like(updates(twin, x, output_error)))
    silent = torch.zeros_like(x)
    assert updates(network, silent, output_error).isfinite().all()


@pytest.mark.parametrize("rule", RULES)
def test_acting_is_free_of_noise(build, batch, rule):
    network = build(rule())
    x, _ = batch(network)
    before = network.rule.get_extra_state()
    assert torch.equal(network(x), network(x))
    assert torch.equal(network(x), with_backprop(network)(x))
    assert torch.equal(before, network.rule.get_extra_state())


def test_noise_differs_between_samples(build, batch):
    network = build(NodePerturbation(1))
    x, output_error = batch(network, 2)
    trace = Trace(network.activities(x[:1].expand(2, -1)))
    seen = []
    network.rule.output_change = lambda network, trace, noise, deviations: (
        seen.extend(noise) or output_error.unsqueeze(0)
    )
    with torch.no_grad():
        network.rule.assign(network, trace, output_error)
    assert len(seen) == 2
    assert all(not torch.allclose(*noise.squeeze(0)) for noise in seen)


def test_noise_can_follow_the_size_of_the_drives(build, batch):
    network = build(NodePerturbation(scale="drive"), bias=False)
    x, _ = batch(network)
    layer = network.layers[0]
    expected = (x @ layer.weight.mT).square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(network.rule.deviation(layer, x), expected)
    torch.testing.assert_close(network.rule.deviation(layer, 3 * x), 3 * expected)


@pytest.mark.parametrize("rule", [NodePerturbation, WeightPerturbation, ForwardGradient])
def test_all_draws_run_in_one_sweep(build, batch, rule):
    network = build(rule(draws=16))
    x, output_error = batch(network)
    y = network(x)
    rows = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            left = {torch.ops.aten.mm.default: 0, torch.ops.aten.addmm.default: 1}.get(function)
            if left is not None:
                rows.append(args[left].shape[0])
            return function(*args, **(kwargs or {}))

    with Products():
        y.backward(output_error)
    # The first layer's product is the same in all draws.
    assert rows.count(16 * 7) == len(network.layers) - 1
    assert max(rows) == 16 * 7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NodePerturbation(0), "draws must be a whole number from"),
        (lambda: WeightPerturbation(noise=0), "noise must be a number from"),
        (lambda: NodePerturbation(noise=-1e-3), "noise must be a number from"),
        (lambda: NodePerturbation(scale="drives"), "scale must be one of fixed, drive"),
        (lambda: WeightPerturbation(readout="noisy"), "readout must be one of exact, perturbed"),
        (lambda: ForwardGradient(-1), "draws must be a whole number from"),
        (lambda: ForwardGradient(directions="nodes"), "directions must be one of weights, activities"),
    ],
)
def test_a_bad_setting_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
