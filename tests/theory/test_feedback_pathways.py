"""Random, signed and learnt feedback, against hand-written recursions and the papers' properties."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from bio_rl import Dense, Network
from bio_rl.diagnostics.alignment import feedback_angles, update_angles
from bio_rl.rules import (
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    KolenPollack,
    SignSymmetry,
    WeightMirror,
)

SHAPES = [
    ((4, 2), "tanh", True, ()),
    ((5, 8, 3), "relu", False, (3,)),
    ((5, 8, 6, 3), "sigmoid", True, (2, 3)),
    ((3, 9, 4, 7, 5, 2), "elu", True, ()),
]


def recursion(network, x, output_error, feedback):
    """Lillicrap et al. 2016: delta_l = slope_l * (delta_(l+1) B_(l+1)), written out with plain torch."""
    activities = network.activities(x)
    delta = output_error * network.layers[-1].activation.slope(activities[-1])
    updates = []
    for index in reversed(range(len(network.layers))):
        updates.insert(0, delta.mT @ activities[index])
        if index:
            delta = (delta @ feedback[index - 1]) * network.layers[index - 1].activation.slope(activities[index])
    return updates


@pytest.mark.parametrize(("first", "message"), [(0, "no more feedback weights"), (2, "a feedback weight for each")])
def test_feedback_weights_must_be_as_many_as_the_layers_but_the_first(build, batch, first, message):
    class Miscounted(Backprop):
        def feedback_weights(self, network):
            return [layer.weight for layer in network.layers[first:]]

    network = build(Miscounted(), (4, 4, 4, 4))
    x, output_error = batch(network)
    with pytest.raises(ValueError, match=message):
        network(x).backward(output_error)


@pytest.mark.parametrize(("sizes", "activation", "bias", "members"), SHAPES)
@pytest.mark.parametrize("rule", [FeedbackAlignment, SignSymmetry, WeightMirror, lambda: KolenPollack(decay=0)])
def test_layerwise_feedback_follows_its_recursion(build, batch, rule, sizes, activation, bias, members):
    network = build(rule(), sizes, activation, bias=bias, members=members)
    x, output_error = batch(network)
    network(x).backward(output_error)
    feedback = [weight.detach() for weight in network.rule.feedback_weights(network)]
    for layer, expected in zip(network.layers, recursion(network, x, output_error, feedback), strict=True):
        torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("sizes", "activation", "bias", "members"), SHAPES)
def test_direct_feedback_reaches_each_layer_in_one_step(build, batch, sizes, activation, bias, members):
    network = build(DirectFeedbackAlignment(), sizes, activation, bias=bias, members=members)
    x, output_error = batch(network)
    network(x).backward(output_error)
    activities = network.activities(x)
    for index, layer in enumerate(network.layers[:-1]):
        delta = (output_error @ network.rule.feedback[index]) * layer.activation.slope(activities[index + 1])
        torch.testing.assert_close(layer.weight.grad, delta.mT @ activities[index], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(network.layers[-1].weight.grad, output_error.mT @ activities[-2], rtol=1e-10, atol=1e-12)


def teacher_student(
    rule,
    steps,
    *,
    optimizer="adam",
    lr=5e-3,
    sizes=(10, 30, 20, 5),
    activation="identity",
    noise=1.0,
    clip=0.5,
    gain=1.0,
):
    """Two members learn a linear teacher each; yields the network, the input and the noiseless target at every step.

    Noise on the targets keeps gradients as uncertain as an agent's are.
    """
    names = [activation] * (len(sizes) - 2) + ["identity"]
    layers = [Dense(i, o, name, False, (2,)).double() for (i, o), name in zip(pairwise(sizes), names, strict=True)]
    with torch.no_grad():
        for layer in layers:
            layer.weight *= gain
    network = Network(layers, rule)
    teacher = torch.randn(2, sizes[0], sizes[-1], dtype=torch.float64) / sizes[0] ** 0.5
    optimizers = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}
    stepper = optimizers[optimizer]([p for p in network.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        x = torch.randn(2, 64, sizes[0], dtype=torch.float64)
        target = x @ teacher
        loss = (network(x) - target - noise * torch.randn_like(target)).square().mean((-1, -2)).sum()
        stepper.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), clip)
        stepper.step()
        yield network, x, target


def start_and_end(run, measure):
    """The measure after the first and after the last step of a run."""
    start = measure(*next(run))
    *_, last = run
    return start, measure(*last)


def angles_to_backprop(network, x, target):
    return update_angles(network, x, network.activities(x)[-1] - target)


@pytest.mark.few(1)
@pytest.mark.parametrize("rule", [FeedbackAlignment, DirectFeedbackAlignment])
@pytest.mark.parametrize("sizes", [(30, 20, 10), (20, 20, 20, 10)])
def test_the_forward_weights_come_to_agree_with_random_feedback(rule, sizes):
    """As in Lillicrap et al. 2016, fig. 1: small initial weights, a linear teacher, gradient descent."""
    run = teacher_student(rule(), 1200, optimizer="sgd", lr=0.1, noise=0, clip=torch.inf, gain=0.1, sizes=sizes)
    start, end = start_and_end(run, angles_to_backprop)
    for first, last in zip(start[:-1], end[:-1], strict=True):
        assert 80 < first < 100
        assert last < 60


@pytest.mark.parametrize("magnitudes", ["uniform", "fixed_random", "batch_random"])
def test_sign_symmetry_keeps_the_signs_at_every_step(magnitudes):
    seen = []
    for network, *_ in teacher_student(SignSymmetry(magnitudes), 60):
        for weight, layer in zip(network.rule.feedback_weights(network), network.layers[1:], strict=True):
            assert torch.equal(weight.sign(), layer.weight.sign())
        seen.append(network.rule.feedback_weights(network)[0].abs())
    expected = 30**-0.5
    if magnitudes == "fixed_random":
        torch.testing.assert_close(seen[0], seen[-1])
        assert seen[0].square().mean().sqrt().item() == pytest.approx(expected, rel=0.05)
        assert seen[0].std() > 0.3 * expected
    else:
        torch.testing.assert_close(seen[-1], torch.full_like(seen[-1], expected))


def test_batch_random_magnitudes_are_new_at_every_update_and_half_normal(build, batch):
    """Every layer's are drawn independently, so that the mean update is that of the mean magnitudes."""
    network = build(SignSymmetry("batch_random"))
    uniform = Network(network.layers, SignSymmetry("uniform", feedback_scale=math.sqrt(2 / math.pi)))
    x, output_error = batch(network)

    def update(network):
        network.zero_grad()
        network(x).backward(output_error)
        return network.layers[0].weight.grad.clone()

    draws = torch.stack([update(network) for _ in range(1000)])
    expected = update(uniform)
    assert not torch.allclose(draws[0], draws[1])
    spread = (draws - expected).flatten(1).norm(dim=1).mean()
    assert (draws.mean(0) - expected).norm() < 2 * spread / math.sqrt(1000)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("optimizer", "decay", "lr", "steps"),
    [("adam", 0.5, 5e-3, 2000), ("rmsprop", 0.5, 5e-3, 2000), ("sgd", 3.0, 0.2, 2500)],
)
def test_kolen_pollack_feedback_becomes_the_transpose(optimizer, decay, lr, steps):
    """Under what agents really use (Adam or RMSprop, gradients clipped), and under plain gradient descent."""
    run = teacher_student(KolenPollack(decay), steps, optimizer=optimizer, lr=lr)
    start, end = start_and_end(run, lambda network, *_: feedback_angles(network))
    assert min(start) > 75
    assert max(end) < 5


def test_kolen_pollack_difference_shrinks_elementwise_by_its_law(build, batch):
    """W - B keeps 1 - lr * decay * |g| of itself at a step of gradient descent."""
    network, reference = build(KolenPollack(decay=0.4)), None
    x, output_error = batch(network)
    reference = copy.deepcopy(network)
    reference.rule.decay = 0.0
    network(x).backward(output_error)
    reference(x).backward(output_error)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    pairs = list(zip(network.layers[1:], network.rule.feedback, reference.layers[1:], strict=True))
    before = [(layer.weight - feedback).detach() for layer, feedback, _ in pairs]
    optimizer.step()
    for old, (layer, feedback, bare) in zip(before, pairs, strict=True):
        expected = old * (1 - 0.1 * 0.4 * bare.weight.grad.abs())
        torch.testing.assert_close(layer.weight - feedback, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.few(1)
@pytest.mark.parametrize("activation", ["identity", "tanh"])
def test_the_weight_mirror_finds_the_forward_weights(activation):
    run = teacher_student(WeightMirror(), 600, lr=3e-3, activation=activation)
    start, end = start_and_end(run, lambda network, *_: feedback_angles(network))
    assert min(start) > 75
    assert max(end) < 20


def test_the_weight_mirror_sees_the_forward_weights_in_the_mean_however_few_the_samples(build):
    """The unbiased covariance of a drive with unit noise at the inputs is the weights."""
    network = build(WeightMirror(samples=3), members=(20_000,))
    layer = network.layers[1]
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
        mirrors = network.rule._mirror(layer)
    error = (mirrors.mean(0) - layer.weight[0]).norm()
    assert error < 2 * (mirrors - layer.weight).norm() / 20_000


def test_the_weight_mirror_never_outweighs_the_forward_update(build, batch):
    network = build(WeightMirror())
    x, output_error = batch(network)
    network(x).backward(1e-5 * output_error)
    for layer, feedback in zip(network.layers[1:], network.rule.feedback, strict=True):
        assert feedback.grad.norm().item() == pytest.approx(layer.weight.grad.norm().item(), rel=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeedbackAlignment(0), "feedback_scale must be a number from"),
        (lambda: DirectFeedbackAlignment(-1), "feedback_scale must be a number from"),
        (lambda: SignSymmetry("unifrom"), "uniform, fixed_random, batch_random"),
        (lambda: KolenPollack(decay=-1), "decay must be a number from 0 to"),
        (lambda: WeightMirror(samples=1), "samples must be a whole number from"),
    ],
)
def test_a_bad_setting_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_feedback_and_updates_are_backprops_where_feedback_is_the_transpose(build, batch):
    network, exact = build(FeedbackAlignment()), None
    exact = Network([copy.deepcopy(layer) for layer in network.layers], Backprop())
    with torch.no_grad():
        for layer, feedback in zip(network.layers[1:], network.rule.feedback, strict=True):
            feedback.copy_(layer.weight)
    x, output_error = batch(network)
    assert max(update_angles(network, x, output_error)) < 1e-4
    assert max(feedback_angles(network)) < 1e-4
    assert feedback_angles(exact) == pytest.approx([0, 0], abs=1e-4)
