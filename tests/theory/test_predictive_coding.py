"""Predictive coding against its energy by autograd, against backprop, and against its own guarantees."""

import copy
import itertools
import math

import pytest
import torch
from comparison import WEIGHTS, assert_limit, grow, relative_error, trained, updates_of, with_rule
from torch import nn

from bio_rl import Dense, Network
from bio_rl.activations import ACTIVATIONS
from bio_rl.mechanisms.relaxation import GROWTH, relax, squared_spectral_norm
from bio_rl.rule import Divergence
from bio_rl.rules import Backprop, EquilibriumPropagation, PredictiveCoding
from bio_rl.rules.predictive_coding import Neurons

VARIANTS = ["inference", "incremental", "fixed_prediction", "error_based"]
SIZES = [(4, 2), (5, 8, 3), (5, 8, 6, 3), (4, 7, 9, 5, 2), (3, 6, 5, 7, 5, 2)]
SETTLED = {"steps": 300_000, "tolerance": 1e-9}


def descent_on_energy(network, x, output_error, rule):
    """Whittington & Bogacz's energy written out, its gradients by autograd: every state's updates, step by step."""
    layers, nudge = network.layers, rule.nudge
    functions = [layer.activation.module() for layer in layers]
    weights = [p.detach().clone().requires_grad_() for layer in layers for p in layer.parameters()]
    matrices, biases = weights[0::2], [bias.unsqueeze(-2) for bias in weights[1::2]]

    drives, activity = [], x
    for matrix, bias, function in zip(matrices, biases, functions, strict=True):
        drives.append((activity @ matrix.mT + bias).detach().requires_grad_())
        activity = function(drives[-1])
    (output_delta,) = torch.autograd.grad(activity, drives[-1], output_error)
    size = output_delta.norm(dim=-1, keepdim=True)
    *values, _ = drives
    norms = [torch.linalg.matrix_norm(m.detach(), 2)[..., None, None].square() for m in matrices[1:-1]] + [
        torch.tensor(0.0)
    ]
    # Of each hidden layer, and of the output.
    precisions = [
        *itertools.accumulate([torch.tensor(1.0), *(norm.clamp_min(1) for norm in norms[-2::-1])], torch.mul)
    ][::-1]
    precisions.append(torch.tensor(1.0))

    def energy(per_sample):
        pre = [x, *(f(v) for f, v in zip(functions, values, strict=False))]
        predictions = [p @ m.mT + b for p, m, b in zip(pre, matrices, biases, strict=True)]
        # The output's value stays where its own error is the nudge.
        output = predictions[-1].detach() - nudge * output_delta / size
        terms = zip(precisions, [*values, output], predictions, strict=True)
        return sum((per_sample * precision * (value - guess).square()).sum() / 2 for precision, value, guess in terms)

    for _ in range(rule.steps):
        gradients = torch.autograd.grad(energy(torch.ones_like(size)), values)
        values = [
            (value - gradient / (2 + 2 * norm.clamp_max(1)) / precision).detach().requires_grad_()
            for value, gradient, norm, precision in zip(values, gradients, norms, precisions[:-1], strict=True)
        ]
        yield torch.autograd.grad(energy(size / nudge), weights)


@pytest.mark.few(8)
@pytest.mark.parametrize("sizes", SIZES[1:])
@pytest.mark.parametrize(("activation", "output", "members"), [("tanh", "identity", ()), ("softplus", "elu", (2, 3))])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_inference_descends_its_energy_and_learns_by_it(
    build, batch, monkeypatch, sizes, activation, output, members, weights
):
    # Exact norms on both sides: what is compared is the descent.
    exact = lambda weight: torch.linalg.matrix_norm(weight, 2)[..., None, None].square()  # noqa: E731
    monkeypatch.setattr("bio_rl.rules.predictive_coding.squared_spectral_norm", exact)
    settings = {"steps": 6, "nudge": 0.05, "tolerance": 1e-12}
    network = grow(build(PredictiveCoding(**settings), sizes, activation, output, True, members), weights)
    x, output_error = batch(network)
    steps = list(descent_on_energy(network, x, output_error, network.rule))
    assert relative_error(updates_of(network, x, output_error), steps[-1]) < 1e-9
    incremental = with_rule(network, PredictiveCoding("incremental", **settings))
    mean = [sum(updates) / len(steps) for updates in zip(*steps, strict=True)]
    assert relative_error(updates_of(incremental, x, output_error), mean) < 1e-9


@pytest.mark.few(14)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize(("bias", "members", "output"), [(True, (), "identity"), (False, (3,), "tanh")])
def test_fixed_prediction_equals_backprop(build, batch, sizes, activation, bias, members, output):
    for weights in WEIGHTS:
        rule = PredictiveCoding("fixed_prediction", steps=len(sizes) - 1)
        network = grow(build(rule, sizes, activation, output, bias, members), weights)
        x, output_error = batch(network)
        expected = updates_of(with_rule(network, Backprop()), x, output_error)
        torch.testing.assert_close(updates_of(network, x, output_error), expected, rtol=1e-8, atol=1e-12)


def first_order_cases():
    shapes = [(SIZES[1], "tanh", ()), (SIZES[2], "sigmoid", (2,)), (SIZES[3], "softplus", ()), (SIZES[4], "elu", (2,))]
    for variant, shape, weights in itertools.product(["inference", "error_based"], shapes, WEIGHTS):
        # A descent through so many layers of strong weights takes 100 000 steps to the fixed point.
        long = (SIZES[3], 4), (SIZES[3], "trained"), (SIZES[4], 2), (SIZES[4], 4), (SIZES[4], "trained")
        minutes = variant == "inference" and (shape[0], weights) in long
        yield pytest.param(variant, *shape, weights, marks=[pytest.mark.slow] if minutes else [])


@pytest.mark.few(9)
@pytest.mark.parametrize(("variant", "sizes", "activation", "members", "weights"), first_order_cases())
def test_bias_towards_backprop_is_first_order_in_the_nudge(build, batch, variant, sizes, activation, members, weights):
    network = grow(build(Backprop(), sizes, activation, members=members), weights)
    x, output_error = batch(network, 3)
    settled = lambda nudge: PredictiveCoding(variant, nudge=nudge, **SETTLED)  # noqa: E731
    assert_limit(
        lambda nudge: updates_of(with_rule(network, settled(nudge)), x, output_error),
        updates_of(network, x, output_error),
        nudges=[2e-5, 2e-6],
        order=1,
    )


def energies(network, x, output_error, variant, nudge, precisions, step_sizes, steps):
    """Each sample's energy before and after every step, less the constant that the output's own error adds.

    And what rounding may add to it: the pull is a difference of two activities, each rounded to its last bit as its
    drive is, whose terms may be far larger than their sum.
    """
    trace = network.rule.forward(network, x)
    direction = output_error / output_error.norm(dim=-1, keepdim=True)
    neurons = Neurons(network, trace, variant, -nudge * direction, precisions, step_sizes)
    readout = network.layers[-1].weight

    def energy():
        pull = nudge * (direction * ((neurons.activities[-1] - neurons.free[-1]) @ readout.mT)).sum(-1)
        errors = zip(neurons.errors[:-1], precisions, strict=True)
        return sum((error.square() / (2 * precision)).sum(-1) for error, precision in errors) + pull

    levels = [energy()]
    for _ in range(steps):
        neurons.step()
        levels.append(energy())
    hidden, below, activity = network.layers[-2], trace.activities[-3], neurons.free[-1]
    terms = below.abs() @ hidden.weight.abs().mT
    if hidden.bias is not None:
        terms = terms + hidden.bias.abs().unsqueeze(-2)
    last_bits = activity.abs() + hidden.activation.slope(activity) * terms
    rounding = nudge * ((direction.abs() @ readout.abs()) * last_bits).sum(-1)
    return torch.stack(levels), torch.finfo(x.dtype).eps * rounding


@pytest.mark.few(14)
@pytest.mark.parametrize("sizes", SIZES[1:])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("variant", ["inference", "error_based"])
def test_the_energy_never_rises(build, batch, sizes, activation, variant):
    for weights, members in zip(WEIGHTS, [(), (2,), (), (2,)], strict=True):
        network = grow(build(PredictiveCoding(variant), sizes, activation, members=members), weights)
        x, output_error = batch(network)
        with torch.no_grad():
            precisions, step_sizes = network.rule._precisions_and_steps(network)
            levels, rounding = energies(network, x, output_error, variant, 0.003, precisions, step_sizes, 30)
        lowest, total = levels[-1], levels.sum(tuple(range(1, levels.dim())))
        assert total[-1] < 0
        if activation in ("relu", "hard_sigmoid"):
            # A descent overshoots where the energy has a kink; the batch's still never gets back to where it began.
            assert (total <= 0).all()
        else:
            assert (lowest <= 0).all()
            assert (levels.diff(dim=0) <= 1e-12 * lowest.abs() + rounding).all()


@torch.no_grad()
def test_without_the_bound_on_the_step_the_energy_rises(build, batch):
    network = build(PredictiveCoding(), (5, 30, 30, 3), gain=8.0)
    x, output_error = batch(network)
    one, half = [torch.tensor(1.0)] * 2, [torch.tensor(0.5)] * 2
    levels, _ = energies(network, x, output_error, "inference", 0.003, one, half, 10)
    assert (levels[-1] > 0).all()


@pytest.mark.parametrize("norm", [1.0, 14.0, 140.0])
@pytest.mark.parametrize(("variant", "share"), [("inference", 0.6), ("incremental", 0.3)])
def test_a_large_spectral_norm_takes_no_part_of_the_first_layers_update(build, batch, variant, share, norm):
    """With precisions of 1, 8 steps would bring the first layer 1 % of its update at a norm of 14."""
    network = build(PredictiveCoding(variant, nudge=1e-6), (4, 64, 64, 1))
    with torch.no_grad():
        hidden = network.layers[1].weight
        hidden *= norm / torch.linalg.matrix_norm(hidden, 2)
        network.layers[0].weight *= 1e-2  # away from saturation, whatever the norm
    x, output_error = batch(network, 64)
    expected = updates_of(with_rule(network, Backprop()), x, output_error)
    for update, gradient in zip(updates_of(network, x, output_error), expected, strict=True):
        assert share < float(update.norm() / gradient.norm()) < 1.01
        assert torch.cosine_similarity(update.flatten(), gradient.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("members", [(), (2,)])
def test_errors_are_carried_to_scale_and_zero_as_zero(build, batch, variant, sizes, members):
    network = build(PredictiveCoding(variant, steps=9), sizes, members=members)
    x, output_error = batch(network)
    updates = updates_of(network, x, output_error)
    for scale in (1e-9, 1e6):
        scaled = updates_of(network, x, output_error * scale)
        assert relative_error(scaled, [update * scale for update in updates]) < 1e-9
    assert all((update == 0).all() for update in updates_of(network, x, torch.zeros_like(output_error)))
    # A sample without an error adds nothing at all.
    output_error[..., 2:, :] = 0
    tail = updates_of(network, x, output_error)
    head = updates_of(network, x[..., :2, :], output_error[..., :2, :])
    assert relative_error(tail, head) < 1e-9


def test_incremental_teaches_the_readout_in_full_where_nothing_below_moves(build, batch):
    network = build(PredictiveCoding("incremental"))
    with torch.no_grad():
        network.layers[-1].weight.zero_()
    x, output_error = batch(network)
    expected = updates_of(with_rule(network, Backprop()), x, output_error)
    assert relative_error(updates_of(network, x, output_error), expected) < 1e-12


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_is_the_sum_of_its_samples(build, batch, variant):
    network = build(PredictiveCoding(variant, steps=40, tolerance=1e-12))
    x, output_error = batch(network, 5)
    output_error *= torch.tensor([1e-6, 1e-3, 1.0, 10.0, 1e3]).unsqueeze(-1)
    alone = [updates_of(network, x[i : i + 1], output_error[i : i + 1]) for i in range(5)]
    assert relative_error(updates_of(network, x, output_error), [sum(u) for u in zip(*alone, strict=True)]) < 1e-9


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "gains",
    [(gain, gain, head) for gain in (1.0, 2.0, 4.0) for head in (0.01, 1.0)] + [(1.5, 20.0, 15.0)],
    ids=str,
)  # the last: an agent's after 100 k steps of CartPole
def test_in_float32_the_shipped_relaxation_points_where_backprop_does(variant, gains):
    layers = [Dense(4, 64, "tanh"), Dense(64, 64, "tanh"), Dense(64, 2)]
    for layer, scale in zip(layers, gains, strict=True):
        nn.init.orthogonal_(layer.weight, scale * math.sqrt(2))
    network = Network(layers, PredictiveCoding(variant))
    x, output_error = torch.randn(64, 4), torch.randn(64, 2) * torch.rand(64, 1) / 64
    expected = updates_of(with_rule(network, Backprop()), x, output_error)
    for update, gradient in zip(updates_of(network, x, output_error), expected, strict=True):
        assert torch.cosine_similarity(update.flatten(), gradient.flatten(), dim=0) > 0.95


@pytest.mark.few(1)
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_stays_stable_while_it_trains(build, batch, variant):
    network = trained(build(PredictiveCoding(variant), (5, 40, 40, 3)).float(), 200)
    assert float(torch.linalg.matrix_norm(network.layers[1].weight, 2).detach()) > 3
    x, output_error = batch(network, 64)
    expected = updates_of(with_rule(network, Backprop()), x, output_error)
    for update, gradient in zip(updates_of(network, x, output_error), expected, strict=True):
        assert torch.cosine_similarity(update.flatten(), gradient.flatten(), dim=0) > 0.8


def test_divergence_names_the_rule_the_layer_and_the_step(build, batch):
    network = build(PredictiveCoding())
    x, output_error = batch(network)
    with torch.no_grad():
        network.layers[1].weight[0, 0] = math.nan
    with pytest.raises(Divergence, match="predictive_coding diverged in layer 1 at relaxation step 1"):
        network(x).backward(output_error)

    network, sizes = build(Backprop()), iter(100.0**step for step in range(20))
    with pytest.raises(Divergence, match="some_rule diverged in layer 2 at relaxation step 4"):
        relax(network, "some_rule", lambda: [torch.ones(1), torch.full((3,), next(sizes))], list, 20, 1e-3)
    assert 100.0**2 <= GROWTH < 100.0**3


def test_relaxation_stops_when_it_has_converged(build):
    network, halves, still = build(Backprop()), torch.ones(2), torch.zeros(2)
    assert relax(network, "a", lambda: [halves.div_(2), still], list, 100, 1e-3) == [12]
    assert relax(network, "a", lambda: [still], list, 100, 1e-3) == [1]
    assert relax(network, "a", lambda: [halves], list, 7, 1e-3) == [7]


def test_members_relax_each_by_itself(build):
    network = build(Backprop(), members=(2, 2))
    factors = torch.tensor([[0.5, 0.05], [0.9, 1e3]]).unsqueeze(-1)
    state = torch.ones(2, 2, 3)
    taken = relax(network, "a", lambda: [state.mul_(factors)], lambda: [state], 20, 1e-3, first_layer=2)
    assert taken == [12, 4, 20, 4]
    expected = torch.tensor([[0.5**12, 0.05**4], [0.9**20, math.nan]]).unsqueeze(-1).expand(2, 2, 3)
    torch.testing.assert_close(state, expected, equal_nan=True)
    assert {member: (each.layer, each.step) for member, each in network.divergences.items()} == {3: (2, 4)}


@pytest.mark.parametrize("shape", [(6, 6), (3, 40, 20), (2, 2, 1, 64)])
@torch.no_grad()
def test_the_spectral_norm_is_found_from_below(shape):
    weight = torch.randn(shape, dtype=torch.float64)
    exact = torch.linalg.matrix_norm(weight, 2).square()
    found = squared_spectral_norm(weight)[..., 0, 0]
    assert (found <= exact * (1 + 1e-12)).all()
    assert (found >= 0.7 * exact).all()
    assert (squared_spectral_norm(torch.zeros(3, 3)) == 0).all()


@pytest.mark.parametrize("size", [1e-2, 1.0, 60.0, 1e3])
@torch.no_grad()
def test_the_spectral_norm_of_large_weights_does_not_overflow(size):
    """In float32, for weights as large as those of an agent that has become unstable, and beyond."""
    weight = size * torch.linalg.qr(torch.randn(2, 64, 64)).Q
    torch.testing.assert_close(squared_spectral_norm(weight), torch.full((2, 1, 1), size**2), rtol=1e-4, atol=0)


@pytest.mark.parametrize("rule", [PredictiveCoding(), PredictiveCoding("incremental"), EquilibriumPropagation()])
@pytest.mark.parametrize("size", [60.0, 1e3])
def test_the_first_layer_goes_on_learning_when_weights_are_large(rule, size):
    layers = [Dense(4, 64, "tanh"), Dense(64, 64, "tanh"), Dense(64, 2)]
    nn.init.orthogonal_(layers[1].weight, size)
    network = Network(layers, copy.deepcopy(rule))
    updates = updates_of(network, torch.randn(64, 4) / size, torch.randn(64, 2) / 64)
    assert all(update.isfinite().all() and update.any() for update in updates)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "inferrence"}, "variant must be one of inference, .*not 'inferrence'"),
        ({"steps": 0}, "steps must be a whole number from"),
        ({"nudge": 0}, "nudge must be a number from"),
        ({"tolerance": -1}, "tolerance must be a number from"),
        ({"step_size": 1.5}, "step_size must be a number from"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        PredictiveCoding(**settings)


def test_fixed_prediction_needs_as_many_steps_as_layers(build):
    build(PredictiveCoding("fixed_prediction", steps=3), (4, 5, 6, 2))
    with pytest.raises(ValueError, match="a network of 3 layers needs steps of at least 3, not 2"):
        build(PredictiveCoding("fixed_prediction", steps=2), (4, 5, 6, 2))
