"""Dendritic microcircuits, against Sacramento et al. 2018: silence, backprop in the limit, self-prediction."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from bio_rl import Network
from bio_rl.diagnostics.alignment import feedback_angles
from bio_rl.rule import Divergence
from bio_rl.rules import Backprop, DendriticMicrocircuit, FeedbackAlignment

SHAPES = [
    ((4, 2), "tanh", "identity", True, ()),
    ((5, 8, 3), "relu", "identity", False, (3,)),
    ((5, 8, 6, 3), "sigmoid", "tanh", True, (2, 3)),
    ((4, 16, 16, 2), "softplus", "identity", True, ()),
    ((4, 9, 7, 8, 3), "tanh", "identity", True, (2,)),
    ((3, 9, 4, 7, 2), "elu", "identity", True, ()),
    ((3, 9, 8, 9, 7, 2), "hard_sigmoid", "identity", False, (2,)),
    ((3, 9, 8, 9, 7, 2), "identity", "softplus", True, ()),
]


def make_symmetric(network):
    """Feedback and inhibition as the forward weights: the self-predicting state with backprop's feedback."""
    rule = network.rule
    with torch.no_grad():
        for layer, feedback, inhibition in zip(network.layers[1:], rule.feedback, rule.inhibition, strict=True):
            feedback.copy_(layer.weight)
            inhibition.copy_(layer.weight)
    return network


def with_rule(network, rule):
    return Network([copy.deepcopy(layer) for layer in network.layers], rule)


def cosines(network, other):
    """The cosine between two networks' weight updates, one a layer and member."""
    pairs = zip(network.layers, other.layers, strict=True)
    gradients = [(a.weight.grad.flatten(-2), b.weight.grad.flatten(-2)) for a, b in pairs]
    return torch.stack([torch.cosine_similarity(a, b, dim=-1) for a, b in gradients])


def acting_apical(network, x):
    """Each hidden layer's apical potential and interneuron potential without a teaching signal."""
    rule, activities = network.rule, network.activities(x)
    found = []
    with torch.no_grad():
        for index, layer in enumerate(network.layers[1:]):
            soma_above = layer.drive(activities[index + 1])
            dendrite = rule.interneurons[index].drive(activities[index + 1])
            interneuron = (1 - rule.somatic) * dendrite + rule.somatic * soma_above
            found.append(rule.apical_potential(network, index, soma_above, interneuron))
    return found


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
def test_the_apical_dendrite_is_silent_at_the_self_predicting_state(
    build, batch, sizes, activation, output, bias, members
):
    network = build(DendriticMicrocircuit(), sizes, activation, output, bias, members)
    x, _ = batch(network)
    for apical in acting_apical(network, x):
        torch.testing.assert_close(apical, torch.zeros_like(apical), rtol=0, atol=1e-14)
    scrambled = build(DendriticMicrocircuit(start="random"), sizes, activation, output, bias, members)
    assert all(apical.abs().max() > 1e-2 for apical in acting_apical(scrambled, x))


def test_a_random_start_knows_nothing_of_the_layers_that_interneurons_are_to_mirror(build):
    network = build(DendriticMicrocircuit())
    others = [copy.deepcopy(layer) for layer in network.layers]
    for parameter in (p for layer in others for p in layer.parameters()):
        nn.init.normal_(parameter)
    one, other = (
        Network(layers, DendriticMicrocircuit(start="random"), [0]).rule for layers in (network.layers, others)
    )
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
@pytest.mark.parametrize("gain", [1.0, 2.0, 4.0])
def test_a_small_nudge_through_symmetric_feedback_is_backprop(
    build, batch, sizes, activation, output, bias, members, gain
):
    network = build(DendriticMicrocircuit(nudge=1e-5), sizes, activation, output, bias, members, gain)
    network, exact = make_symmetric(network), with_rule(network, Backprop())
    x, output_error = batch(network, 20)
    network(x).backward(output_error)
    exact(x).backward(output_error)
    assert cosines(network, exact).min() > 0.999
    for layer, reference in zip(network.layers, exact.layers, strict=True):
        torch.testing.assert_close(layer.weight.grad.norm(), reference.weight.grad.norm(), rtol=0.02, atol=0)


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
def test_a_small_nudge_through_random_feedback_is_feedback_alignment(
    build, batch, sizes, activation, output, bias, members
):
    network = build(DendriticMicrocircuit(nudge=1e-5), sizes, activation, output, bias, members)
    alignment = with_rule(network, FeedbackAlignment())
    for ours, theirs in zip(network.rule.feedback, alignment.rule.feedback, strict=True):
        theirs.data.copy_(ours)
    x, output_error = batch(network, 20)
    network(x).backward(output_error)
    alignment(x).backward(output_error)
    assert cosines(network, alignment).min() > 0.999


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_the_departure_from_backprop_is_of_the_first_order_in_the_nudge(build, batch, activation):
    network = make_symmetric(build(DendriticMicrocircuit(), activation=activation))
    x, output_error = batch(network)
    exact = with_rule(network, Backprop())
    exact(x).backward(output_error)
    nudges, distances = [1e-1, 1e-2, 1e-3], []
    for network.rule.nudge in nudges:
        network.zero_grad()
        network(x).backward(output_error)
        pairs = zip(network.layers, exact.layers, strict=True)
        distances.append(sum((a.weight.grad - b.weight.grad).norm().item() for a, b in pairs))
    slope = torch.tensor(distances).log10().diff()
    torch.testing.assert_close(slope, -torch.ones(2), rtol=0, atol=0.15)


def test_the_default_nudge_stays_near_backprop(build, batch):
    """With the sizes, activation, and batch of an agent's network, and with weights as large as they grow."""
    for gain in (1.0, 2.0, 4.0):
        network = make_symmetric(build(DendriticMicrocircuit(), (4, 64, 64, 1), gain=gain))
        exact = with_rule(network, Backprop())
        x, output_error = batch(network, 256)
        network(x).backward(output_error)
        exact(x).backward(output_error)
        assert cosines(network, exact).min() > 0.95


@pytest.mark.few(6)
@pytest.mark.parametrize("start", ["self_predicting", "random"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "identity"])
@pytest.mark.parametrize("sizes", [(4, 3), (4, 6, 3), (4, 6, 5, 7, 3)])
def test_potentials_in_time_come_to_the_solved_rest(build, batch, start, activation, sizes):
    settings = {"start": start, "feedback_scale": 0.3}
    solved = build(DendriticMicrocircuit(rounds=40, **settings), sizes, activation)
    moving = copy.deepcopy(solved)
    moving.rule.dynamics, moving.rule.duration = "continuous", 60.0
    x, output_error = batch(solved)
    solved(x).backward(output_error)
    moving(x).backward(output_error)
    for ours, theirs in zip(solved.parameters(), moving.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)


def test_every_round_brings_the_solution_nearer_to_rest(build, batch):
    network = build(DendriticMicrocircuit(nudge=0.5), (4, 16, 16, 16, 2))
    x, output_error = batch(network)
    updates = []
    for network.rule.rounds in (1, 2, 3, 4, 30):
        network.zero_grad()
        network(x).backward(output_error)
        updates.append(torch.cat([layer.weight.grad.flatten() for layer in network.layers]))
    distances = [(update - updates[-1]).norm().item() for update in updates[:-1]]
    assert distances[0] < 0.1 * updates[-1].norm()
    assert all(later < 0.3 * sooner for sooner, later in pairwise(distances))


def test_an_unstable_rest_is_reported_with_its_layer(build, batch):
    network = make_symmetric(build(DendriticMicrocircuit(dynamics="continuous"), (4, 64, 64, 2), "relu", gain=6))
    x, output_error = batch(network)
    y = network(x)
    with pytest.raises(Divergence, match=r"dendritic_microcircuit diverged in layer \d at relaxation step 200"):
        y.backward(output_error)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_duration_too_short_to_come_to_rest_is_reported(build, batch, steps):
    rule = DendriticMicrocircuit(dynamics="continuous", nudge=1.0, duration=0.1 * steps, time_step=0.1)
    network = build(rule, (4, 8, 2))
    x, output_error = batch(network)
    y = network(x)
    with pytest.raises(Divergence, match=rf"dendritic_microcircuit diverged in layer \d at relaxation step {steps}$"):
        y.backward(output_error)


def learn(network, steps, lr):
    """Regression on a random teacher under what agents use: Adam, all gradients clipped by one norm."""
    teacher = torch.randn(network.in_features, network.out_features, dtype=torch.float64)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=lr, eps=1e-5)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        x = torch.randn(64, network.in_features, dtype=torch.float64)
        loss = (network(x) - torch.tanh(x @ teacher)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        schedule.step()
    return x


def apical_residue(network, x):
    """The acting apical potential as a share of the feedback that reaches the dendrite."""
    activities = network.activities(x)
    feedback = [
        layer.feedback(activities[index + 2], weight)
        for index, (layer, weight) in enumerate(zip(network.layers[1:], network.rule.feedback, strict=True))
    ]
    return [(a.norm() / f.norm()).item() for a, f in zip(acting_apical(network, x), feedback, strict=True)]


@pytest.mark.few(1)
@pytest.mark.parametrize("nudge", [0.1, 0.01])
def test_interneurons_learn_to_predict_feedback_while_the_network_learns(build, nudge):
    network = build(DendriticMicrocircuit(start="random", nudge=nudge), (6, 20, 20, 3))
    before = apical_residue(network, torch.randn(64, 6, dtype=torch.float64))
    x = learn(network, 400, 2e-2)
    for first, last in zip(before, apical_residue(network, x), strict=True):
        assert last < 0.15 * first


def test_the_self_predicting_state_survives_learning(build):
    """Forward weights move far; interneurons follow them exactly, although Adam and clipping stand between."""
    network = build(DendriticMicrocircuit(), (6, 20, 20, 3))
    before = [layer.weight.detach().clone() for layer in network.layers]
    learn(network, 200, 1e-2)
    for old, layer in zip(before, network.layers, strict=True):
        assert (layer.weight - old).norm() > 0.3 * old.norm()
    for interneurons, layer in zip(network.rule.interneurons, network.layers[1:], strict=True):
        assert torch.equal(interneurons.weight, layer.weight)
        assert torch.equal(interneurons.bias, layer.bias)
    for inhibition, feedback in zip(network.rule.inhibition, network.rule.feedback, strict=True):
        assert torch.equal(inhibition, feedback)


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES[1:])
def test_the_updates_of_inhibition_and_feedback_are_the_papers(build, batch, sizes, activation, output, bias, members):
    """By the state that acted: inhibition by v_A times f(n), feedback by its prediction's error times r above."""
    rule = DendriticMicrocircuit(start="random", learn_feedback=True)
    network = build(rule, sizes, activation, output, bias, members)
    x, output_error = batch(network)
    network(x).backward(output_error)
    size, r = output_error.norm(dim=-1, keepdim=True), network.activities(x)
    for index, layer in enumerate(network.layers[1:]):
        below, apical = network.layers[index].activation.forward, acting_apical(network, x)[index]
        with torch.no_grad():
            dendrite, soma = rule.interneurons[index].drive(r[index + 1]), layer.drive(r[index + 1])
            expected = layer.activation.forward((1 - rule.somatic) * dendrite + rule.somatic * soma)
            prediction = below(r[index + 2] @ rule.feedback[index])
            inhibition = expected.mT @ (-size * apical)
            feedback = r[index + 2].mT @ (size * (prediction - r[index + 1]))
        for got, wanted in ((rule.inhibition[index].grad, inhibition), (rule.feedback[index].grad, feedback)):
            shortened = (layer.weight.grad.norm(dim=(-2, -1)) / wanted.norm(dim=(-2, -1))).clamp_max(1)
            torch.testing.assert_close(got, shortened[..., None, None] * wanted, rtol=1e-8, atol=1e-12)


def test_feedback_may_learn_to_predict_the_layer_below(build):
    network = build(DendriticMicrocircuit(learn_feedback=True), (6, 8, 8))
    x = torch.randn(64, 6, dtype=torch.float64)

    def mismatch():
        activities = network.activities(x)
        return (torch.tanh(activities[2] @ network.rule.feedback[0]) - activities[1]).norm().item()

    before = mismatch()
    optimizer = torch.optim.Adam(network.rule.feedback, lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        network(x).backward(torch.ones(64, 8, dtype=x.dtype))
        optimizer.step()
    assert mismatch() < 0.4 * before


def test_learnt_feedback_leaves_the_apical_dendrite_quiet(build):
    network = build(DendriticMicrocircuit(learn_feedback=True), (6, 20, 3))
    x = learn(network, 300, 1e-2)
    assert max(apical_residue(network, x)) < 0.2
    assert len(feedback_angles(network)) == 1


@pytest.mark.parametrize("settings", [{}, {"start": "random"}, {"learn_feedback": True}, {"dynamics": "continuous"}])
def test_learning_is_homogeneous_in_the_error_and_still_without_one(build, batch, settings):
    network = build(DendriticMicrocircuit(feedback_scale=0.3, **settings))
    x, output_error = batch(network)

    def updates(x, error):
        network.zero_grad()
        network(x).backward(error)
        return {p: p.grad.clone() for p in network.parameters() if p.requires_grad}

    whole = updates(x, output_error)
    for p, update in updates(x, 1e-5 * output_error).items():
        torch.testing.assert_close(update, 1e-5 * whole[p], rtol=1e-8, atol=1e-16)
    for update in updates(x, 0 * output_error).values():
        assert torch.equal(update, torch.zeros_like(update))
    silenced = output_error.clone()
    silenced[3:] = 0
    alone = updates(x[:3], output_error[:3])
    for p, update in updates(x, silenced).items():
        torch.testing.assert_close(update, alone[p], rtol=1e-9, atol=1e-14)


def test_nothing_outweighs_the_forward_update(build, batch):
    network = build(DendriticMicrocircuit(start="random", learn_feedback=True))
    x, output_error = batch(network)
    network(x).backward(1e-6 * output_error)
    for group in (network.rule.inhibition, network.rule.feedback):
        for weight, layer in zip(group, network.layers[1:], strict=True):
            assert 0 < weight.grad.norm() <= layer.weight.grad.norm() * (1 + 1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nudge": 0}, "nudge must be a number from"),
        ({"apical": -1}, "apical must be a number from"),
        ({"somatic": 1}, "somatic must be a number from"),
        ({"start": "selfpredicting"}, "start must be one of self_predicting, random"),
        ({"dynamics": "euler"}, "dynamics must be one of steady, continuous"),
        ({"rounds": 0}, "rounds must be a whole number from"),
        ({"time_step": 0}, "time_step must be a number from"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DendriticMicrocircuit(**settings)
