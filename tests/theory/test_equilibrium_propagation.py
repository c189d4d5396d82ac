"""Equilibrium propagation against its energy, and against autograd through the fixed point."""

import math

import pytest
import torch
from comparison import WEIGHTS, assert_limit, grow, relative_error, trained, updates_of, with_rule
from torch import nn

from bio_rl import Dense, Network
from bio_rl.activations import ACTIVATIONS
from bio_rl.diagnostics.alignment import feedback_angles
from bio_rl.mechanisms.relaxation import response
from bio_rl.rule import Divergence
from bio_rl.rules import Backprop, EquilibriumPropagation

SIZES = [(4, 2), (5, 8, 3), (5, 8, 6, 3), (4, 7, 9, 5, 2), (3, 6, 1, 7, 5, 2)]
SETTLED = {"steps": 300, "tolerance": 1e-14}
NUDGINGS = ["one_sided", "symmetric"]


def gradient_through_fixed_point(network, x, output_error, strengths):
    """Autograd through the fixed point, by implicit differentiation: ``(I - J^T) v = dL/ds`` iterated to its end."""
    parameters = [p.detach().clone().requires_grad_() for layer in network.layers for p in layer.parameters()]
    matrices, biases = parameters[0::2], [bias.unsqueeze(-2) for bias in parameters[1::2]]
    functions = [layer.activation.module() for layer in network.layers]
    count = len(network.layers) - 1

    def one_sweep(states):
        states = [x, *states]
        drives = [states[i] @ matrices[i].mT + biases[i] for i in range(count)]
        for i in range(count - 1):
            drives[i] = drives[i] + strengths[i] * (states[i + 2] @ matrices[i + 1])
        return [function(drive) for function, drive in zip(functions, drives, strict=False)]

    with torch.no_grad():
        states = [torch.zeros(*x.shape[:-1], layer.out_features, dtype=x.dtype) for layer in network.layers[:-1]]
        for _ in range(300):
            states = one_sweep(states)
    states = [state.requires_grad_() for state in states]
    output = functions[-1](([x, *states][-1]) @ matrices[-1].mT + biases[-1])
    at_readout = torch.autograd.grad(output, parameters[-2:], output_error, retain_graph=True)
    if not count:
        return at_readout
    (at_last,) = torch.autograd.grad(output, states[-1], output_error)
    at_states = [*map(torch.zeros_like, states[:-1]), at_last]
    moved, adjoint = one_sweep(states), at_states
    for _ in range(300):
        carried = torch.autograd.grad(moved, states, adjoint, retain_graph=True, allow_unused=True)
        adjoint = [a if c is None else a + c for a, c in zip(at_states, carried, strict=True)]
    return [*torch.autograd.grad(moved, parameters[:-2], adjoint), *at_readout]


@pytest.mark.few(14)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize(("bias", "members"), [(True, ()), (False, (2, 3))])
def test_the_agent_acts_on_the_fixed_point(build, batch, sizes, activation, bias, members):
    for weights in WEIGHTS:
        rule = EquilibriumPropagation(steps=300, tolerance=1e-13)
        network = grow(build(rule, sizes, activation, bias=bias, members=members), weights)
        x, _ = batch(network)
        assert_settled(network, x)


@torch.no_grad()
def assert_settled(network, x):
    trace = network.rule.forward(network, x)
    count = len(network.layers) - 1
    strengths = trace.extra[count:]
    for strength, layer in zip(strengths, network.layers[1:-1], strict=True):
        # Below a loop gain of 1/4 between any two layers the whole chain's is below 1.
        assert (strength[..., 0, 0] * torch.linalg.matrix_norm(layer.weight, 2).square() < 0.25).all()
        assert (strength <= network.rule.kappa).all()
    for index, layer in enumerate(network.layers):
        drive = layer.drive(trace.activities[index])
        if index + 1 < count:
            above = network.layers[index + 1].weight
            drive = drive + strengths[index] * (trace.activities[index + 2] @ above)
        expected = layer.activation.forward(drive)
        torch.testing.assert_close(trace.activities[index + 1], expected, rtol=1e-9, atol=1e-10)


def energy(network, x, states, strengths):
    """Each sample's energy; G is the integral of the activation's inverse, from its lowest point."""
    total, below, weight = 0, x, 1
    for state, layer, strength in zip(states, network.layers, [*strengths, None], strict=False):
        if layer.activation_name == "sigmoid":
            integral = torch.special.xlogy(state, state) + torch.special.xlogy(1 - state, 1 - state)
        else:  # tanh
            integral = (torch.special.xlogy(1 + state, 1 + state) + torch.special.xlogy(1 - state, 1 - state)) / 2
        total = total + weight * (integral - state * (below @ layer.weight.mT + layer.bias.unsqueeze(-2))).sum(-1)
        below = state
        weight = weight if strength is None else weight * strength.squeeze(-1)
    return total


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("members", [(), (2,)])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_free_phase_descends_its_energy_to_a_minimum(build, batch, activation, members, weights):
    """A sweep sets one layer after the other to the minimum given its neighbours, so that no sweep raises it."""
    network = grow(build(EquilibriumPropagation(**SETTLED), (5, 8, 6, 7, 3), activation, members=members), weights)
    x, _ = batch(network)
    with torch.no_grad():
        trace = network.rule.forward(network, x)
        strengths = trace.extra[3:]
        levels = []
        for network.rule.steps in (1, 2, 3, 4, 8):
            levels.append(energy(network, x, network.activities(x)[1:-1], strengths))
        levels = torch.stack(levels)
    assert (levels.diff(dim=0) <= 1e-12 * levels[0].abs()).all()
    assert (levels[1] < levels[0]).all()

    states = [state.detach().clone().requires_grad_() for state in trace.activities[1:-1]]
    lowest = energy(network, x, states, strengths)
    for gradient, state in zip(torch.autograd.grad(lowest.sum(), states), states, strict=True):
        # Where a neuron saturates, its inverse's rounding shows.
        assert (gradient.abs() * (state * (1 - state) if activation == "sigmoid" else 1 - state**2) < 1e-10).all()
    low, high = (0, 1) if activation == "sigmoid" else (-1, 1)
    for _ in range(5):
        with torch.no_grad():
            aside = [(state + 0.01 * torch.randn_like(state)).clamp(low + 1e-12, high - 1e-12) for state in states]
            assert (energy(network, x, aside, strengths) > lowest).all()


@pytest.mark.few(8)
@pytest.mark.parametrize("nudging", NUDGINGS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(
    ("sizes", "activation", "output", "members"),
    [
        (SIZES[1], "tanh", "identity", ()),
        (SIZES[2], "sigmoid", "tanh", (2, 3)),
        (SIZES[3], "sigmoid", "softplus", (2,)),
        (SIZES[4], "tanh", "identity", ()),
    ],
)
def test_the_estimate_tends_to_the_gradient(build, batch, nudging, sizes, activation, output, members, weights):
    network = grow(build(EquilibriumPropagation(**SETTLED), sizes, activation, output, True, members), weights)
    x, output_error = batch(network)
    with torch.no_grad():
        strengths = network.rule.forward(network, x).extra[len(sizes) - 2 :]
    settled = lambda nudge: EquilibriumPropagation(nudging, nudge=nudge, **SETTLED)  # noqa: E731
    assert_limit(
        lambda nudge: updates_of(with_rule(network, settled(nudge)), x, output_error),
        gradient_through_fixed_point(network, x, output_error, strengths),
        nudges=[0.02, 0.01, 0.005],
        order=1 if nudging == "one_sided" else 2,
    )


@pytest.mark.parametrize("nudging", NUDGINGS)
@pytest.mark.parametrize("activation", ["identity", "relu", "hard_sigmoid"])
@torch.no_grad()
def test_the_update_is_the_change_of_the_energy_s_slope_between_two_settled_phases(build, batch, nudging, activation):
    """However large the nudge, where an activation's response to it is computed exactly."""
    network = build(EquilibriumPropagation(nudging, nudge=2.0, **SETTLED), (5, 8, 6, 7, 3), activation, bias=False)
    x, output_error = batch(network)
    strengths = network.rule.forward(network, x).extra[3:]
    matrices, size = [layer.weight for layer in network.layers], output_error.norm(dim=-1, keepdim=True)
    push = -2.0 * output_error / size @ matrices[-1]

    def settled(push):
        states = [x, *(x.new_zeros(len(x), layer.out_features) for layer in network.layers[:-1])]
        for _ in range(300):
            for index, layer in enumerate(network.layers[:-1]):
                above = push if index == 2 else strengths[index] * (states[index + 2] @ matrices[index + 1])
                states[index + 1] = layer.activation.forward(states[index] @ matrices[index].mT + above)
        return states

    one, other = settled(push), settled(-push if nudging == "symmetric" else 0 * push)
    factor, expected = size / (-4.0 if nudging == "symmetric" else -2.0), []
    for index in reversed(range(3)):
        expected.insert(0, sum(sign * (factor * s[index + 1]).mT @ s[index] for sign, s in ((1, one), (-1, other))))
        factor = factor / strengths[index - 1]
    with torch.enable_grad():
        found = updates_of(network, x, output_error)[:-1]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.few(14)
@pytest.mark.parametrize("nudging", NUDGINGS)
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("sizes", SIZES)
def test_a_small_nudge_gives_the_gradient_for_every_activation(build, batch, nudging, activation, sizes):
    network = build(EquilibriumPropagation(nudging, nudge=1e-6, **SETTLED), sizes, activation)
    x, output_error = batch(network)
    with torch.no_grad():
        strengths = network.rule.forward(network, x).extra[len(sizes) - 2 :]
    expected = gradient_through_fixed_point(network, x, output_error, strengths)
    assert relative_error(updates_of(network, x, output_error), expected) < 1e-4


@pytest.mark.parametrize("nudging", NUDGINGS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("members", [(), (2,)])
def test_errors_are_carried_to_scale_and_zero_as_zero(build, batch, nudging, sizes, members):
    network = build(EquilibriumPropagation(nudging), sizes, members=members)
    x, output_error = batch(network)
    updates = updates_of(network, x, output_error)
    for scale in (1e-9, 1e6):
        scaled = updates_of(network, x, output_error * scale)
        assert relative_error(scaled, [update * scale for update in updates]) < 1e-9
    assert all((update == 0).all() for update in updates_of(network, x, torch.zeros_like(output_error)))


@pytest.mark.parametrize("nudging", NUDGINGS)
def test_a_batch_is_the_sum_of_its_samples(build, batch, nudging):
    network = build(EquilibriumPropagation(nudging, **SETTLED))
    x, output_error = batch(network, 5)
    output_error *= torch.tensor([0.0, 1e-6, 1e-3, 10.0, 1e3]).unsqueeze(-1)
    alone = [updates_of(network, x[i : i + 1], output_error[i : i + 1]) for i in range(5)]
    assert relative_error(updates_of(network, x, output_error), [sum(u) for u in zip(*alone, strict=True)]) < 1e-9
    assert all((update == 0).all() for update in alone[0])


def float32_network(rule, gain=1.0, head=1.0, activation="tanh"):
    layers = [Dense(4, 64, activation), Dense(64, 64, activation), Dense(64, 64, activation), Dense(64, 2)]
    for layer, scale in zip(layers, (gain, gain, gain, head), strict=True):
        nn.init.orthogonal_(layer.weight, scale * math.sqrt(2))
    return Network(layers, rule)


@torch.no_grad()
@pytest.mark.parametrize("gain", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_an_action_does_not_depend_on_who_shares_the_batch(gain, activation):
    network = float32_network(EquilibriumPropagation(), gain, 0.01 * gain, activation)
    x = torch.randn(64, 4) * torch.logspace(-2, 1, 64).unsqueeze(-1)
    together = network(x)
    alone = torch.cat([network(sample) for sample in x.split(1)])
    ratio = (together.log_softmax(-1) - alone.log_softmax(-1)).exp()
    assert (ratio - 1).abs().max() < 1e-4


@pytest.mark.parametrize("nudging", NUDGINGS)
@pytest.mark.parametrize("gain", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("head", [0.01, 1.0])
def test_float32_loses_nothing(nudging, gain, head):
    network = float32_network(EquilibriumPropagation(nudging), gain, head)
    exact = with_rule(network, EquilibriumPropagation(nudging, **SETTLED)).double()
    x, output_error = torch.randn(64, 4), torch.randn(64, 2) * torch.rand(64, 1) / 64
    updates = updates_of(network, x, output_error)
    assert relative_error(updates, updates_of(exact, x.double(), output_error.double())) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_a_response_is_the_difference_of_two_activities_without_its_rounding(activation):
    drive = torch.linspace(-4, 4, 4001)
    for size in (1e-3, -1e-3, 1e-5):
        change = torch.full_like(drive, size)
        activity, scratch, out = (torch.empty_like(drive) for _ in range(3))
        ACTIVATIONS[activation].forward(drive, out=activity)
        found = response(ACTIVATIONS[activation], drive, activity, change, scratch=scratch, out=out)
        function = ACTIVATIONS[activation].module()
        exact = function(drive.double() + change.double()) - function(drive.double())
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=3e-6 * abs(size))


@pytest.mark.few(1)
@pytest.mark.parametrize("settings", [{}, {"nudging": "one_sided"}, {"feedback": "learnt"}])
def test_it_stays_stable_while_it_trains(build, batch, settings):
    network = trained(build(EquilibriumPropagation(**settings), (5, 40, 40, 3)).float(), 200)
    assert float(torch.linalg.matrix_norm(network.layers[1].weight, 2).detach()) > 3
    x, output_error = batch(network, 64)
    expected = updates_of(with_rule(network, Backprop()), x, output_error)
    for update, gradient in zip(updates_of(network, x, output_error), expected, strict=True):
        assert torch.cosine_similarity(update.flatten(), gradient.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("members", [(), (2,)])
def test_learnt_feedback_that_agrees_with_the_forward_weights_is_tied_feedback(build, batch, sizes, members):
    tied = build(EquilibriumPropagation(), sizes, members=members)
    learnt = with_rule(tied, EquilibriumPropagation(feedback="learnt", decay=0))
    with torch.no_grad():
        for backward, layer in zip(learnt.rule.backward, learnt.layers[1:], strict=True):
            backward.copy_(layer.weight)
    x, output_error = batch(tied)
    assert relative_error(updates_of(learnt, x, output_error), updates_of(tied, x, output_error)) < 1e-9
    for backward, layer in zip(learnt.rule.backward, learnt.layers[1:], strict=True):
        assert torch.equal(backward.grad, layer.weight.grad)


@pytest.mark.parametrize("clamping", [0.2, 1.0])
def test_a_spring_is_at_rest_at_once_where_the_output_follows_every_force_alike(build, batch, clamping):
    """A linear layer under read-outs of equal norm and at right angles: the force's first step is all of its way."""
    network = build(Backprop(), SIZES[1], "identity")
    with torch.no_grad():
        network.layers[-1].weight.copy_(2 * torch.linalg.qr(network.layers[-1].weight.mT).Q.mT)
    x, output_error = batch(network)
    # The change that follows a sweep's force is seen in the next one.
    early, late, free = (
        updates_of(with_rule(network, EquilibriumPropagation("one_sided", **settings)), x, output_error)
        for settings in (
            {"clamping": clamping, "steps": 2, "tolerance": 0},
            {"clamping": clamping, "steps": 50, "tolerance": 0},
            {},
        )
    )
    assert relative_error(early, late) < 1e-9
    assert relative_error(early, free) > 0.1


def test_learnt_feedback_comes_to_agree_with_the_forward_weights(build):
    network = build(EquilibriumPropagation(feedback="learnt"), (5, 20, 15, 3))
    assert min(feedback_angles(network)) > 60
    trained(network, 400)
    assert max(feedback_angles(network)) < 15


def test_divergence_names_the_rule_the_layer_and_the_step(build, batch):
    network = build(EquilibriumPropagation())
    x, _ = batch(network)
    with torch.no_grad():
        network.layers[0].weight[0, 0] = math.nan
    with pytest.raises(Divergence, match="equilibrium_propagation diverged in layer 1 at relaxation step 1"):
        network(x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nudging": "symetric"}, "nudging must be one of symmetric, one_sided, not 'symetric'"),
        ({"feedback": "random"}, "feedback must be one of tied, learnt, not 'random'"),
        ({"kappa": 0.3}, "kappa must be a number from"),
        ({"steps": 0}, "steps must be a whole number from"),
        ({"nudge": -0.1}, "nudge must be a number from"),
        ({"tolerance": 2}, "tolerance must be a number from"),
        ({"decay": -1}, "decay must be a number from 0 to"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        EquilibriumPropagation(**settings)
