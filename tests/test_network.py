"""A Network behaves as a torch module should, and refuses what it cannot do."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from bio_rl import Dense, Network, make_rule
from bio_rl.rules import (
    Backprop,
    FeedbackAlignment,
    KolenPollack,
    Rule,
    SignSymmetry,
    WeightMirror,
    rule_class,
    rule_names,
)


def gradients(network):
    return [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def mlp():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6, bias=False), nn.Tanh(), nn.Linear(6, 3))


# --- torch habits ---------------------------------------------------------------------------


def test_from_sequential_takes_the_weights_and_computes_the_same():
    plain = mlp()
    network = Network.from_sequential(plain, Backprop())
    x = torch.randn(7, 5)
    assert torch.equal(network(x), plain(x))
    assert len(network.layers) == 3
    assert network.layers[0].weight is not plain[0].weight
    deep = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2), nn.Sigmoid()).double()
    assert torch.equal(Network.from_sequential(deep, Backprop())(x.double()), deep(x.double()))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ((nn.Linear(5, 4), nn.GELU()), "GELU.*is not an activation that a Network has"),
        ((nn.Linear(5, 4), nn.ELU(alpha=0.5)), "ELU"),
        ((nn.Tanh(), nn.Linear(5, 4)), "does not follow an nn.Linear"),
        ((nn.Linear(5, 4), nn.Tanh(), nn.Dropout()), "does not follow an nn.Linear"),
        ((), "at least one layer"),
    ],
)
def test_from_sequential_names_what_it_cannot_take(modules, message):
    with pytest.raises(ValueError, match=message):
        Network.from_sequential(nn.Sequential(*modules), Backprop())


def test_two_forward_sweeps_before_one_backward(build):
    network = build(FeedbackAlignment())
    x, other = torch.randn(2, 7, 5, dtype=torch.float64)
    network(x).square().sum().backward()
    network(other).square().sum().backward()
    separate = gradients(network)
    network.zero_grad()
    (network(x).square().sum() + network(other).square().sum()).backward()
    for a, b in zip(separate, gradients(network), strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-12)


def test_gradients_accumulate_until_zeroed(build, batch):
    network = build(Backprop())
    x, output_error = batch(network)
    network(x).backward(output_error)
    once = gradients(network)
    network(x).backward(output_error)
    for a, b in zip(once, gradients(network), strict=True):
        torch.testing.assert_close(2 * a, b)


def test_several_networks_in_one_loss(build, batch):
    actor, critic = build(FeedbackAlignment()), build(Backprop(), (5, 4, 1))
    x, _ = batch(actor)
    (actor(x).square().mean() + critic(x).square().mean()).backward()
    joint = gradients(critic)
    critic.zero_grad()
    critic(x).square().mean().backward()
    for a, b in zip(joint, gradients(critic), strict=True):
        torch.testing.assert_close(a, b)


def test_no_grad_builds_no_graph(build, batch):
    network = build(Backprop())
    x, _ = batch(network)
    with torch.no_grad():
        y = network(x)
    assert y.grad_fn is None
    assert torch.equal(y, network(x).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(dtype):
    network = Network.from_sequential(mlp(), KolenPollack()).to(dtype)
    y = network(torch.randn(7, 5, dtype=dtype))
    y.sum().backward()
    assert {p.grad.dtype for p in network.parameters()} == {dtype} == {y.dtype}


def test_to_a_device_moves_feedback_too():
    network = Network.from_sequential(mlp(), FeedbackAlignment()).to("meta")
    assert {p.device.type for p in network.parameters()} == {"meta"}


@pytest.mark.parametrize("rule", [lambda: SignSymmetry("batch_random"), WeightMirror])
def test_deepcopy_and_state_dict_carry_feedback_and_generator(build, batch, rule):
    network = build(rule())
    x, output_error = batch(network)
    network(x).backward(output_error)  # the generator has moved on from its seed
    network.zero_grad()
    twin, other = copy.deepcopy(network), build(rule())
    other.load_state_dict(network.state_dict())
    for each in (network, twin, other):
        each(x).backward(output_error)
    for a, b, c in zip(gradients(network), gradients(twin), gradients(other), strict=True):
        assert (a is b is c is None) or (torch.equal(a, b) and torch.equal(a, c))


def test_members_are_independent_networks(build, batch):
    together = build(KolenPollack(), members=(2, 3))
    x, output_error = batch(together)
    together(x).backward(output_error)
    alone = build(KolenPollack())
    for (_, single), whole in zip(alone.named_parameters(), together.parameters(), strict=True):
        single.data = whole.data[1, 2].clone()
    alone(x[1, 2]).backward(output_error[1, 2])
    for single, whole in zip(alone.parameters(), together.parameters(), strict=True):
        assert (single.grad is None and whole.grad is None) or torch.allclose(single.grad, whole.grad[1, 2], rtol=1e-12)


def test_the_trace_is_freed_after_backward(build, batch):
    class Watched(Backprop):
        def forward(self, network, x):
            trace = super().forward(network, x)
            self.hidden = weakref.ref(trace.activities[1])
            return trace

    network = build(Watched())
    x, output_error = batch(network)
    y = network(x)
    y.backward(output_error)
    gc.collect()
    assert network.rule.hidden() is None
    assert y.grad_fn is not None  # the graph is still there: only what it had saved is gone


def test_a_rules_seed_is_torchs_and_leaves_it_alone():
    torch.manual_seed(3)
    Network.from_sequential(mlp(), Backprop())
    after_backprop = torch.rand(1)
    torch.manual_seed(3)
    first = Network.from_sequential(mlp(), FeedbackAlignment())
    second = Network.from_sequential(mlp(), FeedbackAlignment())
    assert not torch.equal(first.rule.feedback[0], second.rule.feedback[0])
    torch.manual_seed(3)
    again = Network.from_sequential(mlp(), FeedbackAlignment())
    assert torch.equal(first.rule.feedback[0], again.rule.feedback[0])
    assert torch.equal(after_backprop, torch.rand(1))


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 4), (5,), (2, 7, 5)])
def test_a_wrong_input_shape_is_an_error(build, shape):
    with pytest.raises(ValueError, match=r"must have shape \(batch, 5\)"):
        build(Backprop())(torch.randn(shape, dtype=torch.float64))


def test_a_wrong_member_count_is_an_error(build):
    with pytest.raises(ValueError, match=r"must have shape \(2, batch, 5\)"):
        build(Backprop(), members=(2,))(torch.randn(3, 7, 5, dtype=torch.float64))


def test_an_input_that_asks_for_a_gradient_is_an_error(build, batch):
    network = build(Backprop())
    x, _ = batch(network)
    with pytest.raises(ValueError, match="asks for a gradient"):
        network(x.requires_grad_())
    with torch.no_grad():
        network(x)


def test_a_second_differentiation_is_an_error(build, batch):
    network = build(Backprop())
    x, _ = batch(network)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.grad(network(x).square().sum(), network.layers[0].weight, create_graph=True)


def test_a_second_backward_needs_retain_graph_as_in_torch(build, batch):
    network = build(Backprop())
    x, output_error = batch(network)
    y = network(x)
    y.backward(output_error, retain_graph=True)
    y.backward(output_error)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward(output_error)


def test_a_parameter_changed_between_forward_and_backward_is_an_error(build, batch):
    network = build(Backprop())
    x, output_error = batch(network)
    y = network(x)
    with torch.no_grad():
        network.layers[1].weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(output_error)


def test_layers_must_fit():
    with pytest.raises(ValueError, match="layers 1 and 2 do not fit"):
        Network([Dense(5, 4), Dense(3, 2)], Backprop())
    with pytest.raises(ValueError, match="at least 1"):
        Dense(5, 0)
    with pytest.raises(ValueError, match="unknown activation 'gelu'"):
        Dense(5, 4, "gelu")


def test_a_rule_serves_one_network(build):
    rule = Backprop()
    build(rule)
    with pytest.raises(ValueError, match="belongs to a network already"):
        build(rule)


# --- rules by name --------------------------------------------------------------------------


@pytest.mark.parametrize("name", rule_names())
def test_every_rule_says_what_it_is(name):
    cls = rule_class(name)
    assert cls.paper
    assert cls.__doc__
    assert cls.ngrad in {"time", "space", "population", "perturbation", "none"}


def test_a_rule_is_found_by_its_name():
    assert isinstance(make_rule("feedback_alignment", feedback_scale=2.0), FeedbackAlignment)
    assert make_rule("bio_rl.rules.backprop:Backprop").paper == Backprop.paper
    for wrong in ("feedback_alinment", "base", "nowhere:Rule"):
        with pytest.raises(ValueError, match=f"unknown rule '{wrong}'; known: .*backprop"):
            make_rule(wrong)
    with pytest.raises(ImportError):
        from bio_rl.rules import Nonesuch  # noqa: F401


def test_a_rule_of_ones_own_needs_assign_only(build, batch):
    class Half(Rule):
        paper = "none"

        def assign(self, network, trace, output_error):
            return {layer.weight: 0.5 * layer.weight for layer in network.layers}

    network = build(Half())
    x, output_error = batch(network)
    network(x).backward(output_error)
    for layer in network.layers:
        torch.testing.assert_close(layer.weight.grad, 0.5 * layer.weight.detach())
        assert layer.bias.grad is None
