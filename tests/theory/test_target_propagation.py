"""Targets against Gauss-Newton's and backprop's, learnt feedback against its losses and their minima."""

import copy
import math

import pytest
import torch
from comparison import WEIGHTS, flat, grow
from test_feedback_pathways import start_and_end, teacher_student
from torch.nn.functional import cosine_similarity

from bio_rl import Network
from bio_rl.activations import ACTIVATIONS
from bio_rl.diagnostics.alignment import exact_updates, feedback_angles, update_angles, updates_of
from bio_rl.rules import TargetPropagation

VARIANTS = ["local", "dtp", "ddtp_linear"]
SHAPES = [
    ((4, 2), "tanh", True, ()),
    ((5, 8, 3), "relu", False, (3,)),
    ((5, 8, 6, 3), "sigmoid", True, (2, 3)),
    ((4, 7, 9, 6, 2), "softplus", False, ()),
    ((3, 9, 4, 7, 5, 2), "elu", True, (2,)),
]


def jacobian(network, bottom, top):
    """The product of the weights between two activities of a linear network, ``(*members, top, bottom)``."""
    product = torch.eye(network.layers[bottom].in_features, dtype=torch.float64)
    for layer in network.layers[bottom:top]:
        product = layer.weight.detach() @ product
    return product


def hidden_updates(network, x, distances):
    """The updates that follow from each hidden layer's ``h - t``, in a linear network."""
    return [distance.mT @ pre for distance, pre in zip(distances, network.activities(x), strict=False)]


@pytest.mark.parametrize("members", [(), (2,)])
@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_exact_inverses_give_gauss_newton_targets_for_what_the_last_hidden_layer_should_do(
    build, batch, depth, members, weights
):
    network = grow(build(TargetPropagation("dtp"), [6] * depth + [2], "identity", members=members), weights)
    inverses = zip(network.rule.feedback.weights, network.rule.feedback.biases, network.layers[1:-1], strict=True)
    with torch.no_grad():
        for weight, bias, layer in inverses:
            weight.copy_(torch.linalg.inv(layer.weight).mT)
            bias.copy_(-layer.bias.unsqueeze(-2) @ weight)
    x, output_error = batch(network)
    wanted = output_error @ network.layers[-1].weight.detach()
    steps = [wanted @ torch.linalg.pinv(jacobian(network, i, depth - 1)).mT for i in range(1, depth)]
    assigned = updates_of(network, x, output_error)
    for update, expected in zip(assigned, hidden_updates(network, x, steps), strict=False):
        torch.testing.assert_close(update, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("members", [(), (2,)])
@pytest.mark.parametrize("sizes", [(6, 6, 6), (5, 9, 7, 3), (4, 8, 3, 7, 6, 5)])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_exact_direct_inverses_give_gauss_newton_targets_for_every_layer(build, batch, sizes, members, weights):
    network = grow(build(TargetPropagation("ddtp_linear"), sizes, "identity", members=members), weights)
    depth = len(sizes) - 1
    inverses = [torch.linalg.pinv(jacobian(network, i, depth)) for i in range(1, depth)]
    with torch.no_grad():
        for weight, inverse in zip(network.rule.feedback.weights, inverses, strict=True):
            weight.copy_(inverse.mT)
    x, output_error = batch(network)
    assigned = updates_of(network, x, output_error)
    expected = hidden_updates(network, x, [output_error @ inverse.mT for inverse in inverses])
    for update, gauss_newton in zip(assigned, expected, strict=False):
        torch.testing.assert_close(update, gauss_newton, rtol=1e-8, atol=1e-8)


@pytest.mark.few(36)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("sizes", "_activation", "bias", "members"), SHAPES)
def test_local_feedback_that_is_the_transpose_gives_gradient_steps(
    build, batch, sizes, _activation, bias, members, activation, weights
):
    network = grow(build(TargetPropagation("local"), sizes, activation, "tanh", bias, members), weights)
    with torch.no_grad():
        for weight, layer in zip(network.rule.feedback_weights(network), network.layers[1:], strict=True):
            weight.copy_(layer.weight)
    x, output_error = batch(network)
    for update, exact in zip(
        updates_of(network, x, output_error), exact_updates(network, x, output_error), strict=True
    ):
        torch.testing.assert_close(update, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", ["local", "ddtp_linear"])
def test_linear_feedback_begins_with_the_deviation_that_its_fan_gives(build, variant):
    """One over the root of the units that it reaches, as every rule's random feedback has it."""
    for weight in build(TargetPropagation(variant), (20, 300, 200, 100)).rule.feedback.weights:
        assert weight.std().item() == pytest.approx(weight.shape[-1] ** -0.5, rel=0.05)


def limit_of_small_nudges(network, x, output_error):
    """The dtp updates with each inverse replaced by its derivative at the activity it is given."""
    rule, layers, activities = network.rule, network.layers, network.activities(x)
    distance = layers[-1].feedback(output_error * layers[-1].activation.slope(activities[-1]))
    updates = []
    for index in range(len(layers) - 2, -1, -1):
        activity = activities[index + 1]
        updates.insert(0, (distance * layers[index].activation.slope(activity)).mT @ activities[index])
        if index:
            inverse = rule.feedback.weights[index - 1], rule.feedback.biases[index - 1]
            guess = layers[index - 1].activation.forward(activity @ inverse[0] + inverse[1])
            distance = (distance @ inverse[0]) * layers[index - 1].activation.slope(guess)
    return updates


@pytest.mark.few(6)
@pytest.mark.parametrize("gain", [1, 2, 4])
@pytest.mark.parametrize(
    ("activation", "sizes"),
    [("tanh", (5, 9, 7, 6, 3)), ("sigmoid", (5, 9, 7, 3)), ("softplus", (5, 9, 8, 7, 6, 3))],
)
@pytest.mark.parametrize("trained", [False, True])
def test_dtp_comes_to_its_limit_with_the_square_of_the_nudge(activation, sizes, gain, trained):
    """1 - cosine is of second order, because the update is off by the first."""
    run = teacher_student(TargetPropagation("dtp"), 50 if trained else 1, sizes=sizes, activation=activation)
    *_, (network, x, _) = run
    with torch.no_grad():
        for layer in network.layers:
            layer.weight *= gain
        output_error = torch.randn(*x.shape[:-1], 3, dtype=torch.float64)
        limit = flat(limit_of_small_nudges(network, x, output_error))
    nudges = [1e-1, 3e-2, 1e-2, 3e-3]
    gaps = []
    for nudge in nudges:
        network.rule.nudge = nudge
        hidden = flat(updates_of(network, x, output_error)[:-1])
        gaps.append(1 - cosine_similarity(hidden, limit, dim=0).item())
    slope = math.log(gaps[0] / gaps[-1]) / math.log(nudges[0] / nudges[-1])
    assert slope == pytest.approx(2, abs=0.1)
    assert gaps[-1] < 1e-5


@torch.no_grad()
def sweep(layers, activity):
    for layer in layers:
        activity = layer(activity)
    return activity


def losses(network, x):
    """Each variant's loss per feedback parameter, in plain torch, on the noise that the rule draws next."""
    rule, layers, activities = copy.deepcopy(network.rule), network.layers, network.activities(x)
    feedback = network.rule.feedback
    if rule.variant == "local":
        widest = max((layer.in_features for layer in layers[1:]), default=0)
        shared = rule.randn((*x.shape[:-1], widest), like=x)
        for index, weight in enumerate(feedback.weights, start=1):
            noise = shared[..., : layers[index].in_features]
            moved = sweep([layers[index]], activities[index] + rule.noise * noise)
            response = (moved - activities[index + 1]) / rule.noise
            slope = layers[index].activation.slope(activities[index + 1])
            # The mean of |K (slope * noise')|^2 over standard normal noise'.
            decay = (slope.unsqueeze(-1) * weight.unsqueeze(-3)).square().sum()
            yield weight, -(noise * ((slope * response) @ weight)).sum() + decay / 2
    if rule.variant == "dtp":
        for index, (weight, bias) in enumerate(zip(feedback.weights, feedback.biases, strict=True), start=1):
            noisy = activities[index] + rule.noise * rule.randn(activities[index].shape, like=x)
            drive = sweep([layers[index]], noisy) @ weight + bias
            guess = layers[index - 1].activation.module()(drive)
            yield (weight, bias), (guess - noisy).square().sum() / 2
    if rule.variant == "ddtp_linear":
        for index, weight in enumerate(feedback.weights):
            noise = rule.randn(activities[index + 1].shape, like=x)
            output = sweep(layers[index + 1 :], activities[index + 1] + rule.noise * noise)
            response = (output - activities[-1]) / rule.noise
            decay = rule.damping * x.shape[-2] * weight.square().sum()
            yield weight, ((response @ weight - noise).square().sum() + decay) / 2


@pytest.mark.parametrize(("sizes", "activation", "bias", "members"), SHAPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_feedback_learns_by_the_gradient_of_its_paper_s_loss(build, batch, variant, sizes, activation, bias, members):
    network = build(TargetPropagation(variant), sizes, activation, "tanh", bias, members)
    x, _ = batch(network)
    expected = [
        gradient for parameters, loss in losses(network, x) for gradient in torch.autograd.grad(loss, parameters)
    ]
    with torch.no_grad():
        learnt = list(network.rule.feedback.learn(network.rule, network, network.activities(x)))
    for (parameter, _, update), gradient in zip(learnt, expected, strict=True):
        assert update.shape == parameter.shape
        torch.testing.assert_close(update, gradient, rtol=1e-8, atol=1e-9)


@torch.no_grad()
def inverse_errors(network, *_):
    """What each hidden layer's inverse misses of its variance, as a fraction, on fresh inputs."""
    activities = network.activities(torch.randn(2, 256, network.in_features, dtype=torch.float64))
    errors = []
    for index in range(1, len(network.layers) - 1):
        target = activities[index]
        guess = network.rule.feedback._inverse(network, index, activities[index + 1])
        errors.append(
            ((guess - target).square().sum() / (target - target.mean(-2, keepdim=True)).square().sum()).item()
        )
    return errors


@pytest.mark.few(1)
@pytest.mark.parametrize("activation", ["identity", "tanh", "elu"])
def test_learnt_inverses_reconstruct_a_layer_while_the_network_learns(activation):
    """Under Adam with clipped gradients, layers that widen and so lose nothing: 95 % of the variance or more."""
    run = teacher_student(
        TargetPropagation("dtp", noise=0.1), 600, lr=1e-2, sizes=(6, 8, 16, 24, 3), activation=activation
    )
    start, end = start_and_end(run, inverse_errors)
    assert min(start) > 0.5
    assert max(end) < 0.05


@pytest.mark.few(1)
@pytest.mark.parametrize(("activation", "optimizer"), [("identity", "adam"), ("relu", "adam"), ("tanh", "rmsprop")])
def test_local_feedback_turns_to_the_transposed_jacobian_while_the_network_learns(activation, optimizer):
    run = teacher_student(TargetPropagation("local"), 300, lr=5e-3, activation=activation, optimizer=optimizer)

    def angles(network, x, target):
        error = network.activities(x)[-1] - target
        return feedback_angles(network), update_angles(network, x, error)[:-1]

    (feedback, updates), (feedback_end, updates_end) = start_and_end(run, angles)
    assert min(feedback) > 75
    assert max(feedback_end) < 15
    assert min(updates) > 40
    assert max(updates_end) < 20


@pytest.mark.parametrize("gain", [1, 2, 4])
def test_direct_feedback_learns_the_damped_pseudo_inverse(build, gain):
    """Its fixed point on a linear network, where one matrix fits all samples."""
    damping = 0.5
    network = build(TargetPropagation("ddtp_linear", damping=damping), (5, 12, 8, 3), "identity", gain=gain)
    weights = list(network.rule.feedback.weights)
    optimizer = torch.optim.Adam(weights, lr=3e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, 600)
    with torch.no_grad():
        for _ in range(600):
            activities = network.activities(torch.randn(256, 5, dtype=torch.float64))
            for parameter, _, update in network.rule.feedback.learn(network.rule, network, activities):
                parameter.grad = update
            optimizer.step()
            schedule.step()
        for index, weight in enumerate(weights, start=1):
            j = jacobian(network, index, 3)
            expected = torch.linalg.solve(j @ j.mT + damping * torch.eye(3, dtype=torch.float64), j)
            assert (weight - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(("sizes", "activation", "bias", "members"), SHAPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_error_means_no_update(build, batch, variant, sizes, activation, bias, members):
    network = build(TargetPropagation(variant), sizes, activation, bias=bias, members=members)
    x, output_error = batch(network)
    network(x).backward(torch.zeros_like(output_error))
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in network.parameters() if p.requires_grad)
    output_error[..., 2:, :] = 0
    alone = updates_of(network, x[..., :2, :], output_error[..., :2, :])
    for update, expected in zip(updates_of(network, x, output_error), alone, strict=True):
        torch.testing.assert_close(update, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("variant", VARIANTS)
def test_neither_the_loss_s_scale_nor_the_batch_s_size_changes_the_direction(build, batch, variant):
    network = build(TargetPropagation(variant), (5, 8, 6, 7, 3), "softplus")
    x, output_error = batch(network, 1)
    single = updates_of(network, x, output_error)
    for copies, scale in [(1, 1e-9), (1, 1e9), (2048, 1 / 2048), (2048, 1.0)]:
        repeated = updates_of(network, x.repeat(copies, 1), scale * output_error.repeat(copies, 1))
        for update, expected in zip(repeated, single, strict=True):
            torch.testing.assert_close(update, copies * scale * expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_feedback_never_outweighs_the_forward_update(build, batch, variant):
    network = build(TargetPropagation(variant))
    x, output_error = batch(network)
    network(x).backward(1e-5 * output_error)
    forward = [layer.weight.grad.norm().item() for layer in network.layers]
    for weight in network.rule.feedback.weights:
        assert any(weight.grad.norm().item() == pytest.approx(norm, rel=1e-9) for norm in forward)


def test_float32_agrees_with_float64(build, batch):
    for variant in VARIANTS:
        network = build(TargetPropagation(variant), (5, 32, 32, 3), gain=2)
        x, output_error = batch(network)
        exact = updates_of(network, x, output_error)
        for update, expected in zip(
            updates_of(single_precision(network), x.float(), output_error.float()), exact, strict=True
        ):
            assert cosine_similarity(update.double().flatten(), expected.flatten(), dim=0) > 1 - 1e-6


def single_precision(network: Network) -> Network:
    return copy.deepcopy(network).float()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "dpt"}, "variant must be one of local, dtp, ddtp_linear, not 'dpt'"),
        ({"noise": 0}, "noise must be a number from"),
        ({"nudge": -0.1}, "nudge must be a number from"),
        ({"damping": -1}, "damping must be a number from 0 to"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TargetPropagation(**settings)
