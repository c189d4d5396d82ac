"""What an update costs: against torch's own profiler for every rule, and against counts by hand."""

import copy
import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from variants import EVERY_RULE

from bio_rl import Dense, Network, make_rule
from bio_rl.activations import Tanh
from bio_rl.diagnostics.cost import Operations, cost
from bio_rl.layers import Updates
from bio_rl.rule import Rule, Trace
from bio_rl.rules import Backprop

Build = Callable[..., Network]
SIZES, BATCH = (5, 9, 6, 3), 32
FORWARD = 5 * 9 + 9 * 6 + 6 * 3
"""Synapses of the network, each of which does one multiply-accumulate a sweep and sample."""
FEEDBACK = 9 * 6 + 6 * 3
"""Those by which a signal descends to the first hidden layer."""
PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm")


def one_update(network: Network, batch: int) -> None:
    """An update of the same sizes, as ``cost`` makes it."""
    noise, like = torch.Generator().manual_seed(0), network.layers[0].weight

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=noise, dtype=like.dtype)

    x, output_error = draw(batch, network.in_features), draw(batch, network.out_features) / batch
    network.modulator = draw(batch)
    network.rule.assign(network, network.rule.forward(network, x), output_error)


@pytest.mark.few(11)
@torch.no_grad()
@pytest.mark.parametrize(("name", "settings"), EVERY_RULE)
def test_arithmetic_is_what_the_profiler_counts(build: Build, name: str, settings: dict) -> None:
    network = build(make_rule(name, **settings), SIZES)
    counted = cost(network, BATCH).multiply_accumulates * BATCH
    twin, other = copy.deepcopy(network), copy.deepcopy(network)
    with profile(activities=[ProfilerActivity.CPU], with_flops=True, record_shapes=True) as profiler:
        one_update(twin, BATCH)
    flops = Counter({event.name: 0 for event in profiler.events()})
    for event in profiler.events():
        flops[event.name] += event.flops or 0
    assert counted == sum(flops[product] for product in PRODUCTS) / 2
    with FlopCounterMode(display=False) as counter:
        one_update(other, BATCH)
    assert counted == counter.get_total_flops() / 2


@pytest.mark.few(13)
@pytest.mark.parametrize(("name", "settings"), EVERY_RULE)
def test_counting_leaves_no_trace(build: Build, name: str, settings: dict) -> None:
    network = build(make_rule(name, **settings), SIZES)
    state, drawn = {key: each.clone() for key, each in network.state_dict().items()}, torch.get_rng_state()
    assert cost(network, BATCH) == cost(network, BATCH)
    torch.testing.assert_close(dict(network.state_dict()), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert network.modulator is None
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "settings", "arithmetic", "events", "sweeps"),
    [
        ("backprop", {}, 2 * FORWARD + FEEDBACK, FORWARD + FEEDBACK, 5 / 3),
        ("feedback_alignment", {}, 2 * FORWARD + FEEDBACK, FORWARD + FEEDBACK, 5 / 3),
        ("sign_symmetry", {}, 2 * FORWARD + FEEDBACK, FORWARD + FEEDBACK, 5 / 3),
        ("kolen_pollack", {}, 2 * FORWARD + FEEDBACK, FORWARD + FEEDBACK, 5 / 3),
        # From the output straight to each hidden layer.
        ("direct_feedback_alignment", {}, 2 * FORWARD + 3 * (9 + 6), FORWARD + 3 * (9 + 6), 4 / 3),
        # Nothing descends, and one layer learns.
        ("readout", {}, FORWARD + 6 * 3, FORWARD, 1),
        # As many noise patterns as samples cross each layer but the first, and are correlated with what they evoke.
        ("weight_mirror", {"samples": BATCH}, 2 * FORWARD + 3 * FEEDBACK, FORWARD + 2 * FEEDBACK, 5 / 3),
        # A second sweep, the first layer's once for all draws.
        ("node_perturbation", {"draws": 7}, 2 * FORWARD + 5 * 9 + 7 * FEEDBACK, FORWARD + 5 * 9 + 7 * FEEDBACK, 2),
    ],
)
def test_counts_by_hand(
    build: Build, name: str, settings: dict, arithmetic: float, events: float, sweeps: float
) -> None:
    found = cost(build(make_rule(name, **settings), SIZES), BATCH)
    assert (found.multiply_accumulates, found.synaptic_events) == (arithmetic, events)
    assert found.sweeps == pytest.approx(sweeps)


def test_what_tanh_is_made_of_here_is_not_counted(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for is_fast in (True, False):
        monkeypatch.setattr(Tanh, "is_fast", is_fast)
        torch.manual_seed(0)
        counts.append(cost(build(Backprop(), (5, 64, 64, 3)), 256))
        assert Tanh.is_fast is is_fast
    assert counts[0] == counts[1]


def test_a_step_of_relaxation_crosses_two_synapses(build: Build) -> None:
    """Errors come down by one layer, then predictions go up by one (Whittington & Bogacz 2017)."""
    costs = [
        cost(build(make_rule("predictive_coding", steps=steps, tolerance=1e-30), SIZES), BATCH) for steps in (4, 14)
    ]
    assert costs[1].sweeps - costs[0].sweeps == pytest.approx(10 * 2 / 3)
    # Down through two layers, and up through one: a small nudge leaves the output's own error as it is.
    assert costs[1].synaptic_events - costs[0].synaptic_events == pytest.approx(10 * (FEEDBACK + 9 * 6))


def test_memory_and_state_by_hand() -> None:
    """One layer of 3 neurons with 5 inputs, linear: the sweep, the read-out's delta, the product and the bias's sum."""
    network = Network([Dense(5, 3)], Backprop())
    found = cost(network, BATCH)
    x, output, weight, bias = 5, 3, 15 / BATCH, 3 / BATCH
    drive = (x + weight + bias, output)
    update = (x + output, weight)
    bias_update = (output, bias)
    # The gate of a linear layer is the signal itself.
    assert found.bytes_read == pytest.approx(4 * sum(read for read, _ in (drive, update, bias_update)))
    assert found.bytes_written == pytest.approx(4 * sum(written for _, written in (drive, update, bias_update)))
    assert (found.rule_floats, found.trace_floats) == (0, x + output)


def test_state_counts_feedback_and_what_a_rule_leaves_in_its_trace(build: Build) -> None:
    kolen_pollack = cost(build(make_rule("kolen_pollack"), SIZES), BATCH)
    assert (kolen_pollack.rule_floats, kolen_pollack.trace_floats) == (FEEDBACK, sum(SIZES))
    relaxing = cost(build(make_rule("equilibrium_propagation"), SIZES), BATCH)
    assert relaxing.trace_floats == pytest.approx(sum(SIZES) + 9 + 6, rel=0.01)


@pytest.mark.parametrize("name", ["backprop", "kolen_pollack", "burst", "weight_mirror", "node_perturbation"])
def test_a_member_costs_what_it_costs_alone(build: Build, name: str) -> None:
    alone, together = (cost(build(make_rule(name), SIZES, members=members), BATCH) for members in ((), (2, 2)))
    for field in ("multiply_accumulates", "synaptic_events", "sweeps", "rule_floats", "trace_floats"):
        assert getattr(together, field) == pytest.approx(getattr(alone, field))


class Echo(Rule):
    """A rule of somebody's that sends noise through the weights, multiplies weights, and learns nothing."""

    teaches = "none"

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        first, second = network.layers[:2]
        (second.weight @ first.weight) @ torch.ones(first.in_features, 1).to(output_error)  # about weights, no signal
        noise = self.randn((4, first.in_features), output_error)
        echo = second.drive(first.drive(noise))
        (echo[:, : output_error.shape[-1]] @ output_error.mT).sum()
        return {}


def test_a_rule_of_ones_own_is_counted_as_it_is(build: Build) -> None:
    found = cost(build(Echo(), SIZES), BATCH)
    about_weights, echo = 6 * 9 * 5 + 6 * 5, 4 * (5 * 9 + 9 * 6)
    assert found.multiply_accumulates == FORWARD + (about_weights + echo) / BATCH + 4 * 3
    assert found.synaptic_events == FORWARD + echo / BATCH
    assert found.sweeps == (3 + 2) / 3, "the noise comes after the output"


@pytest.mark.parametrize(
    ("operation", "read", "written"),
    [
        (lambda a, b: a + b, 24, 12),
        (lambda a, b: a.add_(b), 24, 12),
        (lambda a, b: torch.add(a, b, out=torch.empty_like(a)), 24, 12),
        (lambda a, b: a.copy_(b), 12, 12),
        (lambda a, b: a.zero_(), 0, 12),
        (lambda a, b: (a.view(4, 3).mT[1:], a.expand(7, 3, 4), torch.empty_like(b)), 0, 0),
        (lambda a, b: a + b[:1], 16, 12),
        (lambda a, b: a + b[0].expand(3, 4), 16, 12),
        (lambda a, b: torch.cat([a, b]), 24, 24),
        (lambda a, b: a.sum(), 12, 1),
    ],
)
def test_a_kernel_reads_its_arguments_and_writes_its_result(
    operation: Callable[[Tensor, Tensor], object], read: int, written: int
) -> None:
    a, b = torch.ones(3, 4), torch.ones(3, 4)
    with Operations() as counted:
        operation(a, b)
    assert (counted.bytes_read, counted.bytes_written) == (4 * read, 4 * written)


def test_a_sample_costs_the_same_in_any_batch_but_for_its_share_of_the_weights(build: Build) -> None:
    network = build(make_rule("backprop"), SIZES)
    few, many = cost(network, 10), cost(network, 100)
    assert few.multiply_accumulates == many.multiply_accumulates
    assert few.bytes_read - many.bytes_read == pytest.approx(8 * (FORWARD + FEEDBACK + 9 + 6 + 3) * (1 / 10 - 1 / 100))
    assert math.isclose(few.trace_floats, many.trace_floats)
