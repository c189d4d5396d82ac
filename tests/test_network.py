"""A Network behaves as a torch module should, and refuses what it cannot do."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from variants import EVERY_RULE

from bio_rl import Dense, Network, activations, layers, make_rule
from bio_rl.diagnostics.alignment import feedback_angles
from bio_rl.rules import (
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    KolenPollack,
    PredictiveCoding,
    Rule,
    SegregatedDendrites,
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


@pytest.mark.parametrize("out_features", [1, layers.FEW - 1, layers.FEW, 20])
@pytest.mark.parametrize("batch_size", [1, 3, 70])
def test_a_stacks_drives_and_updates_are_each_layers_own(out_features, batch_size):
    stack = Dense(5, out_features, "identity", members=(3,)).double()
    pre, delta = torch.randn(3, batch_size, 5).double(), torch.randn(3, batch_size, out_features).double()
    updates = stack.outer(pre, delta)
    for member in range(3):
        weight, bias = stack.weight[member], stack.bias[member]
        torch.testing.assert_close(stack.drive(pre)[member], nn.functional.linear(pre[member], weight, bias))
        torch.testing.assert_close(updates[stack.weight][member], delta[member].mT @ pre[member])


@pytest.mark.parametrize("is_fast", [False, True])
@pytest.mark.parametrize("count", [7, 2 * activations.WORTH_THREE_CALLS])
def test_tanh_is_tanh_in_either_way(monkeypatch, is_fast, count):
    monkeypatch.setattr(activations.Tanh, "is_fast", is_fast)
    drive = torch.linspace(-12, 12, count).double()
    tanh, out = activations.find_activation("tanh"), torch.empty_like(drive)
    torch.testing.assert_close(tanh.forward(drive), torch.tanh(drive), rtol=0, atol=1e-15)
    assert tanh.forward(drive, out=out) is out
    torch.testing.assert_close(out, torch.tanh(drive), rtol=0, atol=1e-15)


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


DECLARED = [
    "paper",
    "ngrad",
    "weight_transport",
    "separate_phases",
    "error_neurons",
    "extra_sweeps",
    "nonlocal_scalars",
]


@pytest.mark.parametrize("name", rule_names())
def test_every_rule_says_what_it_is(name):
    cls = rule_class(name)
    assert cls.paper
    assert cls.__doc__
    assert set(DECLARED) <= vars(cls).keys()
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
        teaches = "some"

        def assign(self, network, trace, output_error):
            return {layer.weight: 0.5 * layer.weight for layer in network.layers}

    network = build(Half())
    x, output_error = batch(network)
    network(x).backward(output_error)
    for layer in network.layers:
        torch.testing.assert_close(layer.weight.grad, 0.5 * layer.weight.detach())
        assert layer.bias.grad is None


class Assigning(Rule):
    """Assigns what a test says: a function of the network and of what backprop would assign."""

    paper = "none"

    def __init__(self, what):
        super().__init__()
        self.what = what

    def assign(self, network, trace, output_error):
        return self.what(network, Backprop.assign(Backprop(), network, trace, output_error))


WRONG = [
    (lambda network, exact: None, "must return a dictionary of updates, not None"),
    (lambda network, exact: {}, "no update to layers.0.weight; a rule that means to leave"),
    (lambda network, exact: {**exact, "weight": 1}, "an update to 'weight', which is no parameter of this network"),
    (
        lambda network, exact: {**exact, nn.Parameter(torch.ones(2)): torch.ones(2)},
        r"a tensor of shape \(2,\), which is",
    ),
    (
        lambda network, exact: {**exact, network.layers[1].bias: None},
        "update of layers.1.bias must be a tensor, not None",
    ),
    (
        lambda network, exact: {**exact, network.layers[1].bias: 0.5},
        "update of layers.1.bias must be a tensor, not 0.5",
    ),
    (
        lambda network, exact: {**exact, network.layers[1].bias: torch.ones(1, 6).double()},
        r"layers.1.bias must have its shape \(6,\) and torch.float64, not \(1, 6\)",
    ),
    (
        lambda network, exact: {key: update.float() for key, update in exact.items()},
        "layers.2.weight must have its shape .* and torch.float64, not .*torch.float32",
    ),
    (
        lambda network, exact: {key: update for key, update in exact.items() if key is not network.layers[0].bias},
        "Assigning: assign gives no update to layers.0.bias",
    ),
]


@pytest.mark.parametrize(("what", "message"), WRONG)
def test_a_rule_that_assigns_what_it_should_not_is_refused_by_name(build, batch, what, message):
    network = build(Assigning(what))
    x, output_error = batch(network)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=message):
        network.probe()
    with pytest.raises(ValueError, match=message):
        network(x).backward(output_error)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_probe_finds_what_is_not_finite_and_changes_nothing(build):
    network = build(
        Assigning(lambda network, exact: exact | {network.layers[0].bias: torch.full((8,), torch.nan).double()})
    )
    with pytest.raises(ValueError, match=r"the update of layers\.0\.bias is not finite at the first step"):
        network.probe()
    drawing = build(WeightMirror())
    state, seed = copy.deepcopy(drawing.state_dict()), torch.get_rng_state()
    drawing.probe()
    assert all(torch.equal(tensor, state[name]) for name, tensor in drawing.state_dict().items())
    assert torch.equal(seed, torch.get_rng_state())
    assert drawing.modulator is None


@pytest.mark.few(28)
@pytest.mark.parametrize("sizes", [(5, 3), (5, 4, 3), (5, 4, 4, 3)])
@pytest.mark.parametrize(("name", "settings"), EVERY_RULE)
def test_every_rule_teaches_what_it_says(build, batch, name, settings, sizes):
    network = build(make_rule(name, **settings), sizes)
    network.probe()
    x, output_error = batch(network)
    network.modulator = torch.ones(len(x))
    network(x).backward(output_error)
    taught = [p.grad is not None for p in network.parameters() if p.requires_grad]
    assert all(taught) if network.rule.teaches == "all" else any(taught)


def test_a_rule_that_teaches_nothing_says_so(build, batch):
    class Nothing(Assigning):
        teaches = "none"

    network = build(Nothing(lambda network, exact: {}))
    x, output_error = batch(network)
    network.probe()
    network(x).backward(output_error)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_frozen_parameter_may_have_an_update(build, batch):
    network = build(Backprop())
    network.layers[0].weight.requires_grad_(False)
    x, output_error = batch(network)
    network(x).backward(output_error)
    assert network.layers[0].weight.grad is None


def test_a_constructor_that_leaves_out_rules_own_is_named(build):
    class Hasty(Rule):
        def __init__(self):
            self.gain = 1

    with pytest.raises(ValueError, match=r"Hasty.__init__ must begin with super\(\).__init__\(\)"):
        build(Hasty())


@pytest.mark.parametrize("parent", [Backprop, KolenPollack, DirectFeedbackAlignment])
def test_a_rule_that_builds_on_another_finds_its_trace_as_it_was(build, batch, parent):
    class Heir(parent):
        def assign(self, network, trace, output_error):
            before = list(trace.activities)
            updates = super().assign(network, trace, output_error)
            assert len(trace.activities) == len(before)
            assert all(now is then for now, then in zip(trace.activities, before, strict=True))
            return updates

    network = build(Heir())
    x, output_error = batch(network)
    network(x).backward(output_error)
    with torch.no_grad():
        trace = network.rule.forward(network, x)
        parent.assign(network.rule, network, trace, output_error)
    assert len(trace.activities) == 4


def test_a_rule_shows_its_settings():
    assert repr(PredictiveCoding(steps=5)).startswith("PredictiveCoding(variant='inference', steps=5, nudge=0.003,")


def test_settings_for_a_rule_that_has_its_own_are_refused():
    rule = KolenPollack()
    assert make_rule(rule) is rule
    with pytest.raises(TypeError, match=r"KolenPollack\(decay=0.5, .* has its settings already; decay cannot be given"):
        make_rule(rule, decay=0.1)


def test_an_import_error_inside_a_rules_module_is_not_hidden(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_more.py").write_text("import no_such_library")
    (tmp_path / "has_none.py").write_text("")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        make_rule("needs_more:Rule")
    for name in ("has_none:Rule", "no_such_module:Rule", "no_such.module:Rule"):
        with pytest.raises(ValueError, match=f"unknown rule '{name}'"):
            make_rule(name)


@pytest.mark.parametrize("rule", [DirectFeedbackAlignment, SegregatedDendrites])
def test_direct_feedback_has_an_angle_to_the_path_that_leads_to_the_output(build, rule):
    network = build(rule(), members=(2,))
    second, third = (layer.weight for layer in network.layers[1:])
    assert all(60 < angle < 120 for angle in feedback_angles(network))
    with torch.no_grad():
        network.rule.feedback[0].copy_(3 * third @ second)
        network.rule.feedback[1].copy_(-third)
    assert feedback_angles(network) == pytest.approx([0, 180], abs=1e-4)
