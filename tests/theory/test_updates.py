"""Measures of updates against closed forms, finite differences and autograd."""

import copy
import math

import pytest
import torch
from comparison import grow
from test_deep_feedback_control import SHAPES, jacobian
from test_deep_feedback_control import settled as controlled

from bio_rl import Dense, Network, make_rule
from bio_rl.activations import ACTIVATIONS
from bio_rl.diagnostics.alignment import after_backward, angle, by_backprop, exact_updates, feedback_angles_by_member
from bio_rl.diagnostics.updates import Minibatch, gauss_newton_updates, measure_updates, target_alignment
from bio_rl.mechanisms.relaxation import watched
from bio_rl.rules import Backprop, FeedbackAlignment, PredictiveCoding, Readout


def measured(network, x, output_error, **settings):
    measures = measure_updates(network, Minibatch(x, output_error), **settings)
    assert all(each.value.shape == network.members for each in measures)
    return {(each.name, each.layer): each.value for each in measures}


@pytest.mark.parametrize("degrees", [0, 1e-9, 1e-3, 1, 90, 179.999, 180])
def test_angles_are_exact_however_small(degrees):
    radians = math.radians(degrees)
    a = torch.tensor([[1e-30, 0.0]], dtype=torch.float64)
    b = 1e20 * torch.tensor([[math.cos(radians), math.sin(radians)]], dtype=torch.float64)
    assert float(angle(a, b)) == pytest.approx(degrees, rel=1e-7, abs=1e-12)


def test_angles_are_each_members_and_nothing_has_none():
    a, b = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    b[1] = 0
    angles = angle(a, b)
    assert angles.isnan().tolist() == [False, True, False]
    assert angles[2] == angle(a[2], b[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("members", [(), (2, 3)])
def test_backprop_is_at_0_degrees_with_a_ratio_of_1(build, batch, members, dtype):
    network = build(Backprop(), members=members).to(dtype)
    found = measured(network, *batch(network))
    for number in (1, 2, 3):
        assert found["update_angle", number].abs().max() < 1e-6
        assert (found["update_norm_ratio", number] - 1).abs().max() < 1e-6
    assert ("relaxation_steps", None) not in found


def test_a_copy_learns_by_the_modulator_that_it_is_given_or_else_by_the_networks_own(build, batch):
    network = build(make_rule("gated", rule="backprop", gate="surprise"))
    x, output_error = batch(network)
    network.modulator, other = torch.linspace(1, 2, len(x)), torch.linspace(3, 1, len(x))
    for given, expected in ((None, network.modulator), (other, other)):
        twin = copy.deepcopy(network)
        twin.modulator = expected
        twin(x).backward(output_error)
        learner = after_backward(network, x, output_error, given)
        for layer, alike in zip(learner.layers, twin.layers, strict=True):
            assert torch.equal(layer.weight.grad, alike.weight.grad)
    assert network.modulator is not other


def test_random_feedback_starts_at_a_right_angle(build):
    width = 400
    network = build(FeedbackAlignment(), (10, width, width, 5), members=(3,))
    # The cosine of two random matrices of n entries has a deviation of 1 / sqrt(n).
    for angles, entries in zip(feedback_angles_by_member(network), (width * width, width * 5), strict=True):
        assert (angles - 90).abs().max() < 4 * math.degrees(1 / math.sqrt(entries))


def test_norms_and_ranks_are_those_of_the_update(build, batch):
    network = build(FeedbackAlignment())
    x, output_error = batch(network, 1)
    found = measured(network, x, output_error)
    layers, exact = after_backward(network, x, output_error).layers, exact_updates(network, x, output_error)
    for number, (layer, gradient) in enumerate(zip(layers, exact, strict=True), start=1):
        norm = float(layer.weight.grad.norm())
        assert found["update_norm", number] == pytest.approx(norm)
        assert found["update_norm_ratio", number] == pytest.approx(norm / float(gradient.norm()))
        assert found["weight_norm", number] == pytest.approx(float(layer.weight.detach().norm()))
        # One sample's update is an outer product.
        assert found["update_rank", number] == pytest.approx(1)


def test_what_does_not_learn_has_no_angle(build, batch):
    network = build(Readout())
    found = measured(network, *batch(network))
    for number, learns in ((1, False), (2, False), (3, True)):
        assert bool(found["update_angle", number].isnan()) is not learns
        assert bool(found["update_rank", number].isnan()) is not learns
        assert bool(found["update_norm", number] > 0) is learns


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("members", [(), (2,)])
def test_target_alignment_is_that_of_a_small_step(build, batch, activation, members):
    network = build(FeedbackAlignment(), activation=activation, members=members)
    x, output_error = batch(network)
    learner = after_backward(network, x, output_error)
    activities = by_backprop(network).activities(x)

    def moved(rate):
        stepped = by_backprop(network)
        with torch.no_grad():
            for own, learnt in zip(stepped.layers, learner.layers, strict=True):
                own.weight -= rate * learnt.weight.grad
                own.bias -= rate * learnt.bias.grad
        return stepped.activities(x)[-1]

    change = (moved(1e-6) - moved(-1e-6)).flatten(-2)
    expected = torch.cosine_similarity(change, -output_error.flatten(-2), dim=-1)
    with torch.no_grad():
        torch.testing.assert_close(target_alignment(learner, activities, output_error), expected, rtol=1e-6, atol=1e-7)


def test_one_sample_of_a_linear_layer_moves_straight_to_its_target(build, batch):
    network = build(Backprop(), (5, 3))
    found = measured(network, *batch(network, 1))
    assert found["target_alignment", None] == pytest.approx(1)


def test_targets_move_the_output_more_directly_than_the_gradient(build, batch):
    """Meulemans et al. 2021: control aims at the output's target, not along the loss's steepest descent."""
    alignments = []
    for rule in (Backprop(), controlled()):
        torch.manual_seed(1)
        network = grow(build(rule, (5, 20, 20, 3), members=(20,)), 2)
        alignments.append(measured(network, *batch(network, 1))["target_alignment", None])
    gradient, control = alignments
    assert gradient.min() > 0
    assert (control > gradient).double().mean() > 0.8


@pytest.mark.parametrize(("sizes", "activation", "bias", "members"), SHAPES)
def test_gauss_newton_is_the_damped_pseudo_inverse_by_autograd(build, batch, sizes, activation, bias, members):
    network = build(Backprop(), sizes, activation, "tanh", bias, members)
    x, output_error = batch(network)
    every = jacobian(network, x)
    own = every.split([layer.out_features for layer in network.layers], -1)
    one = torch.eye(network.out_features, dtype=torch.float64)
    for together in (True, False):
        found = gauss_newton_updates(network, x, output_error, damping=0.3, together=together)
        for update, j, pre in zip(found, own, network.activities(x), strict=False):
            seen = every if together else j
            loop = torch.linalg.inv(seen @ seen.mT + 0.3 * one)
            delta = (output_error.unsqueeze(-2) @ loop @ j).squeeze(-2)
            torch.testing.assert_close(update, delta.mT @ pre, rtol=1e-9, atol=1e-12)


def test_control_that_has_settled_is_at_0_degrees_to_gauss_newton(build, batch):
    network = build(controlled(), members=(2,))
    found = measured(network, *batch(network), gauss_newton=True)
    for number in (1, 2, 3):
        assert found["gauss_newton_angle", number].max() < 0.1
        assert found["update_angle", number].max() > 1


def layer_with(activation, drives):
    """One unit for each drive of a row, over as many samples as there are rows, and a read-out above."""
    layer = Dense(len(drives), len(drives[0]), activation, bias=False).double()
    network = Network([layer, Dense(len(drives[0]), 2).double()], Backprop())
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(drives).T)
    return network, torch.eye(len(drives), dtype=torch.float64)


@pytest.mark.parametrize(
    ("activation", "flat", "steep"),
    [
        ("relu", -1.0, 1.0),
        ("tanh", 5.0, 1.0),
        ("sigmoid", -8.0, 1.0),
        ("hard_sigmoid", 4.0, 1.0),
        ("elu", -6.0, -1.0),
        ("softplus", -6.0, -1.0),
    ],
)
def test_flat_units_and_those_that_are_always(activation, flat, steep):
    network, x = layer_with(activation, [[flat, flat, steep], [flat, steep, steep]])
    found = measured(network, x, torch.randn(2, 2, dtype=torch.float64))
    assert found["flat_share", 1] == pytest.approx(3 / 6)
    assert found["silent_share", 1] == pytest.approx(1 / 3)
    assert ("flat_share", 2) not in found


def test_a_relaxation_reports_its_steps_and_what_was_left(build, batch):
    few = PredictiveCoding(steps=3, tolerance=1e-12)
    many = PredictiveCoding(steps=5000, tolerance=1e-6)
    found = []
    for rule in (few, many):
        torch.manual_seed(0)
        network = build(rule, members=(2,))
        found.append(measured(network, *batch(network)))
    assert found[0]["relaxation_steps", None].tolist() == [3, 3]
    assert (found[0]["relaxation_residual", None] > 1e-3).all()
    assert (found[1]["relaxation_steps", None] < 5000).all()
    assert (found[1]["relaxation_residual", None] <= 1e-6).all()


def test_every_phase_of_a_relaxation_counts(build, batch):
    network = build(make_rule("equilibrium_propagation", nudging="symmetric", steps=10, tolerance=1e-12))
    x, output_error = batch(network)
    with watched() as phases:
        after_backward(network, x, output_error)
    assert [each.steps for each in phases] == [[10]] * 3
    residuals = [each.residuals[0] for each in phases]
    assert len({*residuals}) == 3
    found = measured(network, x, output_error)
    assert found["relaxation_steps", None] == 30
    assert found["relaxation_residual", None] == max(residuals)


@pytest.mark.parametrize("name", ["predictive_coding", "deep_feedback_control", "backprop"])
def test_a_member_that_is_not_finite_leaves_the_others_numbers(build, batch, name):
    network = build(make_rule(name), members=(3,))
    x, output_error = batch(network)
    healthy = measured(network, x, output_error, gauss_newton=True)
    output_error[1, 2] = torch.nan
    ill = measured(network, x, output_error, gauss_newton=True)
    for key, value in healthy.items():
        torch.testing.assert_close(ill[key][[0, 2]], value[[0, 2]], rtol=1e-12, atol=1e-12)
    assert ill["update_angle", 1][1].isnan()
    assert ill["target_alignment", None][1].isnan()
