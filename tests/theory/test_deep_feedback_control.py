"""The controller's steady state against the damped Gauss-Newton step of least norm, and what feedback learns."""

import copy

import pytest
import torch
from comparison import WEIGHTS, assert_limit, grow
from test_feedback_pathways import start_and_end, teacher_student
from torch.nn.functional import cosine_similarity

from bio_rl.activations import ACTIVATIONS
from bio_rl.diagnostics.alignment import exact_updates, feedback_angles, updates_of
from bio_rl.rule import Divergence
from bio_rl.rules import DeepFeedbackControl
from bio_rl.rules.deep_feedback_control import _Plant

SHAPES = [
    ((4, 2), "tanh", True, ()),
    ((5, 8, 3), "relu", False, (3,)),
    ((5, 8, 6, 3), "sigmoid", True, (2, 3)),
    ((4, 7, 9, 6, 2), "softplus", False, ()),
    ((3, 9, 4, 7, 5, 2), "elu", True, (2,)),
]


def settled(feedback="transpose", **settings):
    """Control that is run to its steady state, with a nudge so small that the network is linear."""
    return DeepFeedbackControl(feedback, **{"steps": 3000, "tolerance": 1e-9, "nudge": 1e-6, **settings})


@torch.no_grad()
def jacobian(network, x):
    """dy / d drives by torch's own autograd, ``(*members, batch, out, all neurons)``."""
    activations = [layer.activation.module() for layer in network.layers]

    def output(*added):
        activity = x
        for layer, activation, extra in zip(network.layers, activations, added, strict=True):
            drive = activity @ layer.weight.mT + extra
            activity = activation(drive if layer.bias is None else drive + layer.bias.unsqueeze(-2))
        return activity

    zeros = tuple(x.new_zeros(*x.shape[:-1], layer.out_features) for layer in network.layers)
    rows = []
    for unit in torch.eye(network.out_features, dtype=x.dtype):
        with torch.enable_grad():
            added = tuple(zero.clone().requires_grad_() for zero in zeros)
            gradients = torch.autograd.grad(output(*added), added, unit.expand(*x.shape[:-1], -1).contiguous())
        rows.append(torch.cat(gradients, -1))
    return torch.stack(rows, -2)


def loop(network, x):
    """``J J^T + alpha``, what the controller sees of the network, ``(*members, batch, out, out)``."""
    j = jacobian(network, x)
    return j @ j.mT + network.rule.alpha * torch.eye(network.out_features, dtype=x.dtype)


def least_norm_steps(network, x, output_error):
    """``J^T (J J^T + alpha)^-1 output_error`` for the drives of each layer."""
    steps = output_error.unsqueeze(-2) @ torch.linalg.pinv(loop(network, x)) @ jacobian(network, x)
    return steps.squeeze(-2).split([layer.out_features for layer in network.layers], -1)


def least_norm_updates(network, x, output_error):
    steps = least_norm_steps(network, x, output_error)
    return [step.mT @ pre for step, pre in zip(steps, network.activities(x), strict=False)]


def assert_least_norm(network, x, output_error, rtol):
    for update, expected in zip(
        updates_of(network, x, output_error), least_norm_updates(network, x, output_error), strict=True
    ):
        assert (update - expected).norm() < rtol * expected.norm()


@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize(("sizes", "activation", "bias", "members"), SHAPES)
def test_steady_control_is_the_damped_gauss_newton_step(build, batch, sizes, activation, bias, members, alpha):
    network = build(settled(alpha=alpha), sizes, activation, bias=bias, members=members)
    assert_least_norm(network, *batch(network), rtol=1e-5)


@pytest.mark.few(7)
@pytest.mark.parametrize("gain", [1, 2, 4])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_so_for_every_activation_however_large_the_weights(build, batch, activation, gain):
    network = build(settled(alpha=0.5), (5, 8, 6, 2), activation, gain=gain)
    assert_least_norm(network, *batch(network, 3), rtol=1e-3)


def test_it_is_so_after_training():
    *_, (network, x, target) = teacher_student(
        DeepFeedbackControl("transpose"), 100, lr=1e-2, sizes=(10, 16, 12, 3), activation="tanh"
    )
    rule, x, target = network.rule, x[:, :4], target[:, :4]
    rule.steps, rule.tolerance, rule.nudge = 3000, 1e-9, 1e-6
    for _ in range(3):
        assert_least_norm(network, x, network.activities(x)[-1] - target, rtol=1e-3)
        with torch.no_grad():
            for layer in network.layers:
                layer.weight *= 2


def test_the_proportional_part_leaves_the_steady_state_where_it_is(build, batch):
    network = build(settled(proportional=0))
    x, output_error = batch(network)
    integral_only = updates_of(network, x, output_error)
    network.rule.proportional = 0.5
    for update, expected in zip(updates_of(network, x, output_error), integral_only, strict=True):
        torch.testing.assert_close(update, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(
    ("sizes", "activation", "members"),
    [((4, 7, 2), "sigmoid", (2,)), ((4, 7, 6, 3), "tanh", ()), ((4, 7, 6, 5, 6, 2), "softplus", ())],
)
def test_the_update_comes_to_its_limit_in_proportion_to_the_nudge(build, batch, sizes, activation, members, weights):
    network = grow(build(settled(alpha=1.0), sizes, activation, members=members), weights)
    x, output_error = batch(network, 1)

    def update(nudge):
        network.rule.nudge = nudge
        return updates_of(network, x, output_error)

    assert_limit(update, least_norm_updates(network, x, output_error), nudges=[1e-2, 1e-3], order=1)


@pytest.mark.parametrize(("sizes", "activation", "bias", "members"), SHAPES)
def test_the_first_step_of_control_points_along_each_sample_s_gradient(build, batch, sizes, activation, bias, members):
    network = build(DeepFeedbackControl("transpose", steps=1), sizes, activation, bias=bias, members=members)
    x, output_error = batch(network, 1)
    for update, exact in zip(
        updates_of(network, x, output_error), exact_updates(network, x, output_error), strict=True
    ):
        cosine = cosine_similarity(update.flatten(-2), exact.flatten(-2), dim=-1)
        torch.testing.assert_close(cosine, torch.ones_like(cosine))


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("depth", [1, 2, 3])
@torch.no_grad()
def test_control_comes_to_its_steady_state_as_fast_as_its_gain_says(build, batch, depth, alpha):
    """Of linear layers that only rotate J J^T is their number, and a gain of half of 1 / (1 + J J^T + alpha)
    takes at every step the same share of what control is still to do."""
    rule = DeepFeedbackControl("transpose", alpha=alpha, proportional=0, tolerance=0)
    network = build(rule, [3] * (depth + 1), "identity")
    for layer in network.layers:
        layer.weight.copy_(torch.linalg.qr(layer.weight).Q)
    x, step = batch(network)
    trace = rule.forward(network, x)
    loop = depth + alpha
    for rule.steps in (1, 2, 5):
        control = rule._control(network, _Plant(network, trace, rule.feedback_weights(network)), step)
        left = (1 - 0.5 * loop / (1 + loop)) ** rule.steps
        torch.testing.assert_close(control, (1 - left) / loop * step, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gain", [1, 2, 4])
@torch.no_grad()
def test_the_imbalance_never_rises(build, batch, gain):
    """In a linear network, where it is ``step - (J J^T + alpha) u``."""
    network = build(DeepFeedbackControl("transpose", proportional=0, tolerance=0), activation="identity", gain=gain)
    rule = network.rule
    x, step = batch(network)
    trace, seen = rule.forward(network, x), loop(network, x)
    sizes = [step.norm(dim=-1)]
    for rule.steps in range(1, 30):
        control = rule._control(network, _Plant(network, trace, rule.feedback_weights(network)), step)
        sizes.append((step - (control.unsqueeze(-2) @ seen).squeeze(-2)).norm(dim=-1))
    assert (torch.stack(sizes).diff(dim=0) <= 1e-12).all()


@pytest.mark.parametrize(("sizes", "activation", "bias", "members"), SHAPES)
def test_feedback_that_has_learnt_the_forward_weights_controls_like_the_transpose(
    build, batch, sizes, activation, bias, members
):
    network = build(DeepFeedbackControl(), sizes, activation, bias=bias, members=members)
    x, output_error = batch(network)
    with torch.no_grad():
        for feedback, layer in zip(network.rule.weights, network.layers[1:], strict=True):
            feedback.copy_(layer.weight)
    learnt = updates_of(network, x, output_error)
    network.rule.feedback = "transpose"
    for update, expected in zip(learnt, updates_of(network, x, output_error), strict=True):
        assert torch.equal(update, expected)


def follows_the_weights(rule, activation, optimizer):
    """How far feedback, and the updates by it, are from the transposed Jacobian's, in degrees and as a ratio."""
    run = teacher_student(rule, 300, lr=5e-3, activation=activation, optimizer=optimizer)

    def measure(network, x, target):
        error = network.activities(x)[-1] - target
        updates = updates_of(network, x, error)
        twin = copy.deepcopy(network)
        twin.rule.feedback = "transpose"
        cosines = [
            cosine_similarity(update.flatten(1), expected.flatten(1), dim=1).min().item()
            for update, expected in zip(updates, updates_of(twin, x, error), strict=True)
        ]
        pairs = zip(network.rule.weights, network.layers[1:], strict=True)
        ratios = [(feedback.norm() / layer.weight.norm()).item() for feedback, layer in pairs]
        return feedback_angles(network), ratios, cosines[:-1]

    return start_and_end(run, measure)


@pytest.mark.few(1)
@pytest.mark.parametrize(("activation", "optimizer"), [("identity", "adam"), ("sigmoid", "adam"), ("tanh", "rmsprop")])
def test_feedback_turns_to_the_transposed_jacobian_while_the_network_learns(activation, optimizer):
    (angles, _, cosines), (angles_end, ratios_end, cosines_end) = follows_the_weights(
        DeepFeedbackControl(), activation, optimizer
    )
    assert min(angles) > 75
    assert max(cosines) < 0.6
    assert max(angles_end) < 15
    assert ratios_end == pytest.approx([1] * len(ratios_end), abs=0.1)
    assert min(cosines_end) > 0.95


@pytest.mark.parametrize(("sizes", "activation", "bias", "members"), SHAPES)
@pytest.mark.parametrize("feedback", ["learnt", "transpose"])
def test_no_error_means_no_update(build, batch, feedback, sizes, activation, bias, members):
    network = build(DeepFeedbackControl(feedback), sizes, activation, bias=bias, members=members)
    x, output_error = batch(network)
    network(x).backward(torch.zeros_like(output_error))
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in network.parameters() if p.requires_grad)
    output_error[..., 2:, :] = 0
    alone = updates_of(network, x[..., :2, :], output_error[..., :2, :])
    for update, expected in zip(updates_of(network, x, output_error), alone, strict=True):
        torch.testing.assert_close(update, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("feedback", ["learnt", "transpose"])
def test_neither_the_loss_s_scale_nor_the_batch_s_size_changes_the_direction(build, batch, feedback):
    network = build(DeepFeedbackControl(feedback), (5, 8, 6, 7, 3), "softplus")
    x, output_error = batch(network, 1)
    single = updates_of(network, x, output_error)
    for copies, scale in [(1, 1e-9), (1, 1e9), (2048, 1 / 2048), (2048, 1.0)]:
        repeated = updates_of(network, x.repeat(copies, 1), scale * output_error.repeat(copies, 1))
        for update, expected in zip(repeated, single, strict=True):
            torch.testing.assert_close(update, copies * scale * expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("activation", "gain"), [("tanh", 1), ("tanh", 2), ("tanh", 4), ("identity", 1), ("identity", 2)]
)
def test_feedback_that_lags_behind_the_weights_does_not_diverge(build, batch, activation, gain):
    """Feedback of a network whose weights then grow, or that has the wrong sign everywhere."""
    network = build(DeepFeedbackControl(steps=200, tolerance=0), (5, 16, 16, 16, 2), activation)
    x, output_error = batch(network)
    with torch.no_grad():
        fresh = [layer.weight.clone() for layer in network.layers[1:]]
        for sign in (1, -1):
            for feedback, weight in zip(network.rule.weights, fresh, strict=True):
                feedback.copy_(sign * weight)
            for layer in network.layers:
                layer.weight *= gain
            exact = exact_updates(network, x, output_error)
            for update, gradient in zip(updates_of(network, x, output_error), exact, strict=True):
                assert update.norm() < 100 * gradient.norm()


def test_float32_agrees_with_float64(build, batch):
    for feedback in ("learnt", "transpose"):
        network = build(DeepFeedbackControl(feedback), (5, 32, 32, 3), gain=2)
        x, output_error = batch(network)
        single = updates_of(copy.deepcopy(network).float(), x.float(), output_error.float())
        for update, expected in zip(single, updates_of(network, x, output_error), strict=True):
            assert cosine_similarity(update.double().flatten(), expected.flatten(), dim=0) > 1 - 1e-5


def test_a_divergence_is_named(build, batch):
    network = build(DeepFeedbackControl())
    x, output_error = batch(network)
    x[0] = torch.nan
    with pytest.raises(Divergence, match="deep_feedback_control diverged in layer 3 at relaxation step 2"):
        network(x).backward(output_error)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feedback": "learned"}, "feedback must be one of learnt, transpose, not 'learned'"),
        ({"steps": 0}, "steps must be a whole number from"),
        ({"nudge": 0}, "nudge must be a number from"),
        ({"noise": 0}, "noise must be a number from"),
        ({"alpha": -1}, "alpha must be a number from 0 to"),
        ({"tolerance": -1}, "tolerance must be a number from 0 to"),
        ({"proportional": 2}, "proportional must be a number from"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DeepFeedbackControl(**settings)
