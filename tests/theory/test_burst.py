"""Burst-dependent plasticity, against Payeur et al. 2021 and Greedy et al. 2022: rates stay, bursts carry backprop."""

import copy

import pytest
import torch
from torch import nn

from bio_rl import Network
from bio_rl.activations import ACTIVATIONS
from bio_rl.rules import Backprop, Burst, FeedbackAlignment, Trace

SHAPES = [
    ((4, 2), "tanh", "identity", True, ()),
    ((5, 8, 3), "relu", "identity", False, (3,)),
    ((5, 8, 6, 3), "sigmoid", "tanh", True, (2, 3)),
    ((4, 16, 16, 2), "softplus", "identity", True, ()),
    ((4, 9, 7, 8, 3), "tanh", "identity", True, (2,)),
    ((3, 9, 4, 7, 2), "elu", "softplus", True, ()),
    ((3, 9, 8, 9, 7, 2), "hard_sigmoid", "identity", False, (2,)),
]
ONE_PHASE = [{}, {"baseline": 0.2}]


def with_feedback(network, weights):
    """The rule's feedback, and the pathway that cancels it, set to these weights."""
    rule = network.rule
    with torch.no_grad():
        for feedback, weight in zip(rule.feedback, weights, strict=True):
            feedback.copy_(weight)
        if rule.form == "burstccn":
            for cancellation, weight in zip(rule.cancellation, weights, strict=True):
                cancellation.copy_(rule.baseline * weight)
    return network


def symmetric(network):
    return with_feedback(network, [layer.weight for layer in network.layers[1:]])


def with_rule(network, rule):
    return Network([copy.deepcopy(layer) for layer in network.layers], rule)


def cosines(network, other):
    """The cosine between two networks' weight updates, one a layer and member."""
    pairs = zip(network.layers, other.layers, strict=True)
    gradients = [(a.weight.grad.flatten(-2), b.weight.grad.flatten(-2)) for a, b in pairs]
    return torch.stack([torch.cosine_similarity(a, b, dim=-1) for a, b in gradients])


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
@pytest.mark.parametrize("form", ["burstccn", "burstprop"])
def test_feedback_moves_bursts_and_no_rate(build, batch, form, sizes, activation, output, bias, members):
    network = build(Burst(form, nudge=0.5), sizes, activation, output, bias, members)
    x, output_error = batch(network)
    feedforward = with_rule(network, Backprop()).activities(x)
    trace = Trace(network.activities(x))
    rates = [rate.clone() for rate in network.rule.event_rates(trace)]
    with torch.no_grad():
        rest = list(network.rule.burst_rates(network, trace, 0.0))
        taught = list(network.rule.burst_rates(network, trace, 0.5 * output_error))
    network(x).backward(output_error)
    assert all(not torch.equal(a, b) for a, b in zip(rest, taught, strict=True))
    for before, after in zip(rates, network.rule.event_rates(trace), strict=True):
        assert torch.equal(before, after)
    with torch.no_grad():
        for weight in network.rule.feedback:
            weight.mul_(-7)
    for ours, plain, same in zip(network.activities(x), feedforward, trace.activities, strict=True):
        assert torch.equal(ours, plain)
        assert torch.equal(ours, same)


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
@pytest.mark.parametrize("settings", [*ONE_PHASE, {"form": "burstprop"}])
def test_a_hidden_burst_is_an_event_with_a_probability(
    build, batch, settings, sizes, activation, output, bias, members
):
    network = build(Burst(**settings), sizes, activation, output, bias, members, gain=3.0)
    x, output_error = batch(network)
    trace = Trace(network.activities(x))
    with torch.no_grad():
        bursts = list(network.rule.burst_rates(network, trace, 100 * output_error))[1:]
    for burst, event in zip(bursts, reversed(network.rule.event_rates(trace)[:-1]), strict=True):
        assert (event >= 0).all()
        assert (burst >= 0).all()
        assert (burst <= 2 * network.rule.baseline * event * (1 + 1e-12)).all()


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
@pytest.mark.parametrize("settings", ONE_PHASE)
def test_without_teaching_one_phase_rests_at_its_baseline(
    build, batch, settings, sizes, activation, output, bias, members
):
    network = build(Burst(**settings), sizes, activation, output, bias, members)
    x, _ = batch(network)
    trace = Trace(network.activities(x))
    events = reversed(network.rule.event_rates(trace))
    with torch.no_grad():
        for burst, event in zip(network.rule.burst_rates(network, trace, 0.0), events, strict=True):
            torch.testing.assert_close(burst, network.rule.baseline * event, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
@pytest.mark.parametrize("settings", ONE_PHASE)
@pytest.mark.parametrize("gain", [1.0, 2.0, 4.0])
def test_small_errors_through_symmetric_feedback_are_backprops(
    build, batch, settings, sizes, activation, output, bias, members, gain
):
    network = symmetric(build(Burst(nudge=1e-4, **settings), sizes, activation, output, bias, members, gain))
    exact = with_rule(network, Backprop())
    x, output_error = batch(network, 20)
    network(x).backward(output_error)
    exact(x).backward(output_error)
    assert cosines(network, exact).min() > 0.99
    for layer, reference in zip(network.layers, exact.layers, strict=True):
        torch.testing.assert_close(layer.weight.grad.norm(), reference.weight.grad.norm(), rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [1.0, 2.0, 4.0])
def test_the_default_nudge_stays_near_backprop(build, batch, dtype, gain):
    network = symmetric(build(Burst(), (4, 64, 64, 1), gain=gain)).to(dtype)
    exact = with_rule(network, Backprop())
    x, output_error = batch(network, 256)
    network(x).backward(output_error)
    exact(x).backward(output_error)
    assert cosines(network, exact).min() > 0.99


@pytest.mark.parametrize(("sizes", "activation", "output", "bias", "members"), SHAPES)
def test_small_errors_through_random_feedback_are_feedback_alignments(
    build, batch, sizes, activation, output, bias, members
):
    network = build(Burst(nudge=1e-4), sizes, activation, output, bias, members)
    alignment = with_rule(network, FeedbackAlignment())
    for ours, theirs in zip(network.rule.feedback, alignment.rule.feedback, strict=True):
        theirs.data.copy_(ours)
    x, output_error = batch(network, 20)
    network(x).backward(output_error)
    alignment(x).backward(output_error)
    assert cosines(network, alignment).min() > 0.99


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "elu"])
def test_two_phases_agree_with_backprop_as_far_as_resting_bursts_leave_room(build, batch, activation):
    """Nothing cancels the bursts at rest in this form: the angle grows with the feedback that they cause."""
    network = build(Burst("burstprop", nudge=1e-4), (4, 16, 16, 2), activation)
    found = []
    for scale in (0.02, 1.0, 5.0):
        network = with_feedback(network, [scale * layer.weight for layer in network.layers[1:]])
        exact = with_rule(network, Backprop())
        x, output_error = batch(network, 50)
        network.zero_grad()
        network(x).backward(output_error)
        exact(x).backward(output_error)
        found.append(cosines(network, exact).min().item())
    assert found[0] > 0.999
    assert found[0] > found[1] > found[2]


def test_large_errors_saturate(build, batch):
    """A probability cannot follow an error of any size: the update grows more slowly than the signal."""
    network = build(Burst(nudge=1e-3), (4, 16, 2))
    x, output_error = batch(network)
    sizes = []
    for network.rule.nudge in (1e-3, 10.0):
        network.zero_grad()
        network(x).backward(output_error)
        sizes.append(network.layers[0].weight.grad.norm().item())
    assert sizes[1] < 0.5 * sizes[0]


def test_the_second_pathway_learns_to_cancel_under_adam_with_clipping(build):
    network = build(Burst(learn_cancellation=True), (6, 20, 20, 3))
    teacher = torch.randn(6, 3, dtype=torch.float64)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=2e-2, eps=1e-5)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 400)

    def residue(x):
        trace = Trace(network.activities(x))
        events = network.rule.event_rates(trace)
        with torch.no_grad():
            bursts = network.rule.burst_rates(network, trace, 0.0)
            pairs = zip(bursts, reversed(events), strict=True)
            return max(((b / e - network.rule.baseline).abs().mean() / network.rule.baseline).item() for b, e in pairs)

    before = residue(torch.randn(64, 6, dtype=torch.float64))
    for _ in range(400):
        x = torch.randn(64, 6, dtype=torch.float64)
        optimizer.zero_grad()
        (network(x) - torch.tanh(x @ teacher)).square().mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        schedule.step()
    assert residue(x) < 0.1 * before


@pytest.mark.parametrize("scale", [10.0, 1e-3])
def test_the_cancelling_pathways_update_is_the_papers_and_never_outweighs_the_forward_one(build, batch, scale):
    """``-u e_above`` with u of the state that acted: Greedy et al. 2022."""
    network = build(Burst(learn_cancellation=True), (5, 8, 6, 3), "sigmoid", members=(2,))
    rule, (x, output_error) = network.rule, batch(network)
    with torch.no_grad():
        for weight, feedback in zip(rule.cancellation, rule.feedback, strict=True):
            weight.copy_(rule.baseline * feedback + scale * torch.randn_like(weight))
    network(x).backward(output_error)
    size, events = output_error.norm(dim=-1, keepdim=True), rule.event_rates(Trace(network.activities(x)))
    for index, layer in enumerate(network.layers[1:]):
        above = events[index + 1]
        apical = rule.baseline * above @ rule.feedback[index] - above @ rule.cancellation[index].detach()
        wanted = above.mT @ (-size * apical)
        limit = layer.weight.grad.norm(dim=(-2, -1))
        shortened = (limit / wanted.norm(dim=(-2, -1))).clamp_max(1)
        assert (shortened < 1).all() if scale > 1 else (shortened == 1).all()
        got = rule.cancellation[index].grad
        torch.testing.assert_close(got, shortened[..., None, None] * wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"form": "burstprop"}, {"learn_cancellation": True}])
def test_learning_is_homogeneous_in_the_error_and_still_without_one(build, batch, settings):
    network = build(Burst(**settings))
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


def test_every_bounded_activation_is_a_rate_and_no_other(build):
    for name in ACTIVATIONS:
        if name != "identity":
            build(Burst(), activation=name)
    with pytest.raises(
        ValueError, match=r"layer 1 is 'identity', whose activity has no lower bound .* may be relu, tanh"
    ):
        build(Burst(), activation="identity")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "burst"}, "form must be one of burstccn, burstprop"),
        ({"nudge": 0}, "nudge must be a number from"),
        ({"baseline": 0.7}, "baseline must be a number from"),
        ({"form": "burstprop", "learn_cancellation": True}, "learn_cancellation needs form 'burstccn'"),
        ({"feedback_scale": -1}, "feedback_scale must be a number from"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Burst(**settings)
