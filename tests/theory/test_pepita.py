"""PEPITA: its paper's equations by hand, what it is to first order, and where it points as it learns."""

import copy

import numpy as np
import pytest
import torch

from bio_rl import Dense, Network
from bio_rl.diagnostics.alignment import update_angles
from bio_rl.rules import Pepita

SHAPES = [
    ((4, 2), "tanh", "identity", True, ()),
    ((5, 8, 3), "relu", "identity", False, (3,)),
    ((5, 8, 6, 3), "sigmoid", "tanh", True, (2, 3)),
    ((3, 6, 5, 4, 2), "tanh", "softplus", True, ()),
    ((3, 9, 4, 7, 5, 2), "elu", "identity", True, ()),
]


def by_hand(network, x, output_error, modulation, presynaptic, centred):
    """Dellaferrera & Kreiman 2022, algorithm 1, in plain torch: each layer's weight update."""
    projected = output_error - output_error.mean(-2, keepdim=True) if centred else output_error
    size = projected.square().sum(-1, keepdim=True).sqrt()
    free, modulated = [x], [x - modulation / size * (projected @ network.rule.projection)]
    for layer in network.layers:
        for sweep in (free, modulated):
            drive = sweep[-1] @ layer.weight.mT
            if layer.bias is not None:
                drive = drive + layer.bias.unsqueeze(-2)
            sweep.append(layer.activation.forward(drive))
    pre = modulated if presynaptic == "modulated" else free
    hidden = [
        (size / modulation * (free[index + 1] - modulated[index + 1])).mT @ pre[index]
        for index in range(len(network.layers) - 1)
    ]
    delta = output_error * network.layers[-1].activation.slope(free[-1])
    return [*hidden, delta.mT @ pre[-2]]


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"modulation": 0.5, "presynaptic": "free"},
        {"feedback": "mirrored", "centred": True},
    ],
)
def test_it_is_its_papers_equations(build, batch, settings, sizes, activation, output, bias, members):
    rule = Pepita(**settings)
    network = build(rule, sizes, activation, output, bias, members)
    x, output_error = batch(network)
    network(x).backward(output_error)
    expected = by_hand(network, x, output_error, rule.modulation, rule.presynaptic, rule.centred)
    for layer, update in zip(network.layers, expected, strict=True):
        torch.testing.assert_close(layer.weight.grad, update, rtol=1e-9, atol=1e-11)


def test_to_first_order_the_difference_is_the_jacobian_of_the_modulation(build, batch):
    """(h_l - h'_l) / modulation -> J_l F e, with an error of the modulation's first order."""
    network = build(rule := Pepita(presynaptic="free"), (5, 8, 6, 3))
    x, output_error = batch(network, 1)
    first, second = network.layers[:2]
    drive = x @ first.weight.mT + first.bias
    slope = 1 - torch.tanh(drive).square()
    delta = slope * (output_error @ rule.projection @ first.weight.mT)
    above = 1 - torch.tanh(torch.tanh(drive) @ second.weight.mT + second.bias).square()
    deltas = delta, above * (delta @ second.weight.mT)
    sizes, errors = [1e-1, 1e-2, 1e-3], []
    for rule.modulation in sizes:
        network.zero_grad()
        network(x).backward(output_error)
        # With one sample the update of a bias is the delta.
        errors.append([(layer.bias.grad - d).norm().item() for layer, d in zip(network.layers, deltas, strict=False)])
    slopes = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slopes.tolist() == pytest.approx([1, 1], abs=0.1)


@pytest.mark.parametrize("activation", ["tanh", "softplus", "sigmoid"])
def test_a_modulation_by_the_transposed_jacobian_never_points_away_from_the_gradient(build, activation):
    """The difference is then J_l J_l^T times the true delta: under 90 degrees for each sample and layer."""
    network = build(Pepita(1e-5, presynaptic="free"), (6, 12, 9, 2), activation)
    for _ in range(20):
        x, output_error = torch.randn(1, 6).double(), torch.randn(1, 2).double()
        jacobian = torch.autograd.functional.jacobian(lambda value: plain_output(network, value), x)
        network.rule.projection.data.copy_(jacobian[0, :, 0])
        assert max(update_angles(network, x, output_error)) < 90


@pytest.mark.parametrize("activation", ["tanh", "softplus", "sigmoid", "elu"])
def test_every_layer_is_as_right_as_the_modulation_is(build, batch, activation):
    """The change of each layer, along the error there, is the change of the output along its error: e J F e.

    Where the output falls along the projected error, no hidden layer is told the right sign.
    """
    rule = Pepita(1e-6, presynaptic="free")
    network = build(rule, (4, 9, 7, 8, 2), activation)
    x, output_error = batch(network, 40)
    with torch.no_grad():
        unit = output_error / output_error.norm(dim=-1, keepdim=True)
        sweeps = [network.activities(x - step * unit @ rule.projection) for step in (0.0, rule.modulation)]
    changes = [(free - modulated) / rule.modulation for free, modulated in zip(*sweeps, strict=True)]
    _, outputs = torch.func.jvp(lambda value: plain_output(network, value), (x,), (unit @ rule.projection,))
    expected = (unit * outputs).sum(-1)
    assert (expected < 0).any()
    assert (expected > 0).any()
    for index, change in enumerate(changes[1:-1], start=1):
        activity = sweeps[0][index].clone().requires_grad_()
        (errors,) = torch.autograd.grad(plain_output(network, activity, index), activity, unit)
        torch.testing.assert_close((change * errors).sum(-1), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_sampled_modulations_are_along_the_samples_own_transposed_jacobian_in_the_mean(build, activation):
    """E[v sign(v . a)] = sqrt(2 / pi) a / |a| of normal v: a modulation by J^T e, its size apart."""
    network = build(Pepita(1e-5, "sampled", presynaptic="free"), (4, 9, 7, 2), activation, bias=True)
    x, output_error = torch.randn(1, 4).double(), torch.randn(1, 2).double()
    jacobian = torch.autograd.functional.jacobian(lambda value: plain_output(network, value), x)[0, :, 0]
    along = output_error @ jacobian / (output_error @ jacobian).norm() * output_error.norm() * (2 / np.pi / 4) ** 0.5
    samples = 20_000
    network(x.expand(samples, -1)).backward(output_error.expand(samples, -1) / samples)
    for index, layer in enumerate(network.layers[:-1]):
        _, expected = torch.func.jvp(lambda value, end=index + 1: plain_output(network, value, 0, end), (x,), (along,))
        torch.testing.assert_close(layer.bias.grad, expected[0], rtol=0, atol=0.03 * expected.abs().max().item())


def test_mirrored_feedback_learns_the_mean_transposed_jacobian(build, batch):
    network = build(Pepita(feedback="mirrored"), (6, 12, 9, 2))
    optimizer = torch.optim.Adam([network.rule.projection], lr=1e-2)
    for _ in range(600):
        x, output_error = batch(network, 64)
        network(x).backward(output_error)
        optimizer.step()
        optimizer.zero_grad()
    x, _ = batch(network, 500)
    jacobian = torch.autograd.functional.jacobian(lambda value: plain_output(network, value).sum(0), x).mean(1)
    similarity = torch.nn.functional.cosine_similarity(network.rule.projection, jacobian, dim=-1)
    assert similarity.min() > 0.95


def plain_output(network, x, start=0, end=None):
    for layer in network.layers[start:end]:
        x = layer.activation.forward(x @ layer.weight.mT + layer.bias)
    return x


def teacher_student(rule, steps, sizes=(20, 40, 40, 5), lr=0.03, seeds=8):
    """Members learn a linear teacher each by gradient descent; yields network, input, error and loss."""
    layers = [
        Dense(i, o, a, False, (seeds,)).double()
        for i, o, a in zip(sizes[:-1], sizes[1:], ["tanh"] * (len(sizes) - 2) + ["identity"], strict=True)
    ]
    network = Network(layers, rule)
    teacher = torch.randn(seeds, sizes[0], sizes[-1], dtype=torch.float64) / sizes[0] ** 0.5
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        x = torch.randn(seeds, 64, sizes[0], dtype=torch.float64)
        error = network(x) - x @ teacher
        loss = 0.5 * error.square().sum(-1).mean(-1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield network, x, error.detach() / 64, loss.item()


def test_the_angle_falls_under_90_degrees_on_teacher_student():
    """With random F for as long as the loss falls fast; with mirrored F it stays down, and so does the loss."""
    angles, losses = {}, {}
    for feedback in ("random", "mirrored"):
        torch.manual_seed(0)
        run = teacher_student(Pepita(feedback=feedback), 301)
        seen = [
            (update_angles(n, x, e)[:-1], loss) for step, (n, x, e, loss) in enumerate(run) if step in (0, 100, 300)
        ]
        angles[feedback], losses[feedback] = zip(*seen, strict=True)
    assert min(angles["random"][0] + angles["mirrored"][0]) > 85
    assert max(angles["random"][1]) < 85
    assert max(angles["mirrored"][1] + angles["mirrored"][2]) < 60
    assert losses["random"][2] < 0.25 * losses["random"][0]
    assert losses["mirrored"][2] < 0.5 * losses["random"][2]


@pytest.mark.parametrize("settings", [{}, {"feedback": "mirrored", "centred": True}, {"feedback": "sampled"}])
def test_no_error_no_learning_whatever_its_size_the_same_direction(build, batch, settings):
    network = build(Pepita(**settings))
    x, output_error = batch(network)
    updates = []
    for scale in (0, 1, 1e-6):
        twin = copy.deepcopy(network)  # with the same noise to come
        twin(x).backward(scale * output_error)
        updates.append(torch.cat([layer.weight.grad.flatten() for layer in twin.layers]))
    assert not updates[0].any()
    torch.testing.assert_close(updates[2], 1e-6 * updates[1], rtol=1e-8, atol=1e-16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modulation": 0}, "modulation must be a number from"),
        ({"feedback": "mirror"}, "feedback must be one of random, mirrored, sampled"),
        ({"presynaptic": "both"}, "presynaptic must be one of free, modulated"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Pepita(**settings)
