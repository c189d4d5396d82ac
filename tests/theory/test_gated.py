"""Gates, against what they are by definition, around rules of every kind."""

import pytest
import torch

from bio_rl.rules import Backprop, Gated, Trace, make_rule, rule_names
from bio_rl.rules.gated import RunningMean

INNER = [name for name in rule_names() if name != "gated"]


def gradients(network, x, output_error):
    network.zero_grad()
    network(x).backward(output_error)
    return {
        name.replace("rule.inner.", "rule."): p.grad for name, p in network.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("members", [(), (2,)])
def test_a_gate_of_one_is_the_bare_rule_bit_by_bit(build, batch, name, members):
    """Through three steps of learning, random feedback, noise and learnt feedback included."""
    torch.manual_seed(1)
    bare = build(make_rule(name), members=members)
    torch.manual_seed(1)
    gated = build(Gated(name, gate="one"), members=members)
    x, output_error = batch(bare)
    optimizers = [torch.optim.Adam([p for p in n.parameters() if p.requires_grad], 1e-2) for n in (bare, gated)]
    for _ in range(3):
        expected, got = (gradients(network, x, output_error) for network in (bare, gated))
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(bare(x), gated(x))


@pytest.mark.parametrize("name", ["backprop", "feedback_alignment", "kolen_pollack", "target_propagation", "pepita"])
def test_surprise_scales_each_samples_share_of_the_update_in_proportion(build, batch, name):
    """Whatever the rule: the update is the sum of the samples' own, each times |m| / mean |m|."""
    network = build(Gated(name, gate="surprise", rate=1.0))
    x, output_error = batch(network, 4)
    alone = []
    for one in torch.eye(4, dtype=x.dtype):
        network.modulator = torch.ones(4)
        alone.append(gradients(network, x, output_error * one.unsqueeze(-1))["layers.0.weight"].clone())
    network.modulator = torch.tensor([1.0, 2.0, 4.0, 1.0])
    got = gradients(network, x, output_error)["layers.0.weight"]
    expected = sum(weight * update for weight, update in zip([0.5, 1.0, 2.0, 0.5], alone, strict=True))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_surprise_is_relative_to_its_running_mean(build, batch):
    network = build(Gated("backprop", gate="surprise", rate=0.25), members=(2,))
    x, output_error = batch(network, 4)
    first, second = torch.tensor([1.0, 2.0, 3.0, -2.0]), torch.tensor([8.0, -8.0, 8.0, 8.0])
    sizes = []
    for network.modulator in (first, second):
        sizes.append(gradients(network, x, output_error)["layers.0.weight"].clone())
    mean = (0.25 * 0.75 * 2 + 0.25 * 8) / (0.25 * 0.75 + 0.25)
    exact = build(Backprop(), members=(2,))
    for layer, twin in zip(exact.layers, network.layers, strict=True):
        layer.load_state_dict(twin.state_dict())
    for modulator, usual, got in ((first, 2.0, sizes[0]), (second, mean, sizes[1])):
        gate = (modulator.abs() / usual).unsqueeze(-1)
        torch.testing.assert_close(got, gradients(exact, x, output_error * gate)["layers.0.weight"], rtol=1e-6, atol=0)


def test_the_running_mean_is_unbiased_from_the_first_value_on():
    mean = RunningMean((), (), 0.01, torch.zeros((), dtype=torch.float64))
    assert mean(torch.tensor(5.0, dtype=torch.float64)).item() == pytest.approx(5)
    for _ in range(500):
        last = mean(torch.tensor(3.0, dtype=torch.float64))
    assert last.item() == pytest.approx(3, abs=0.02)


def test_what_is_unlike_the_past_is_novel(build, batch):
    network = build(Gated("backprop", gate="novelty"))
    for _ in range(200):
        x, output_error = batch(network, 16)
        network(0.1 * x).backward(output_error)
    x[0] += 5
    trace = network.rule.forward
    with torch.no_grad():
        gate = network.rule.openness(network, trace(network, 0.1 * x))
        average = network.rule.openness(network, trace(network, 0.1 * torch.randn(2000, 5, dtype=x.dtype))).mean()
    assert gate.argmax() == 0
    assert gate[0] > 3 * gate[1:].mean()
    assert average.item() == pytest.approx(1, abs=0.1)


def test_novelty_is_the_mean_over_layers_of_a_squared_distance_relative_to_its_usual_size(build, batch):
    """The running means written out, for two updates of two members."""
    network, rate = build(Gated("backprop", gate="novelty", rate=0.25), members=(2,)), 0.25
    familiar, usual = [0.0] * len(network.layers), [0.0] * len(network.layers)
    for update in (1, 2):
        x, _ = batch(network)
        trace, seen = Trace(network.activities(x)), 1 - (1 - rate) ** update
        novelty = 0.0
        for index, pre in enumerate(trace.activities[:-1]):
            familiar[index] = (1 - rate) * familiar[index] + rate * pre.mean(-2, keepdim=True)
            distance = (pre - familiar[index] / seen).square().sum(-1)
            usual[index] = (1 - rate) * usual[index] + rate * distance.mean(-1, keepdim=True)
            novelty = novelty + distance / (usual[index] / seen) / len(network.layers)
        torch.testing.assert_close(network.rule.openness(network, trace), novelty)


def test_a_window_opens_and_closes(build, batch):
    network = build(Gated("backprop", gate="window", window=2, period=5))
    x, output_error = batch(network)
    seen = [bool(gradients(network, x, output_error)["layers.0.weight"].any()) for _ in range(10)]
    assert seen == [True, True, False, False, False] * 2


def test_a_window_as_long_as_its_period_is_always_open(build, batch):
    network = build(Gated("backprop", gate="window", window=3, period=3))
    x, output_error = batch(network)
    assert all(gradients(network, x, output_error)["layers.0.weight"].any() for _ in range(7))


@pytest.mark.parametrize("gate", ["surprise", "novelty", "window"])
def test_what_a_gate_has_seen_is_saved(build, batch, gate):
    network, other = (build(Gated("feedback_alignment", gate=gate, window=1, period=3)) for _ in "ab")
    for _ in range(4):
        x, output_error = batch(network)
        network.modulator = output_error[:, 0]
        gradients(network, x, output_error)
    other.load_state_dict(network.state_dict())
    other.modulator = network.modulator
    expected, got = (gradients(n, x, output_error) for n in (network, other))
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_surprise_without_a_modulator_says_what_is_missing(build, batch):
    network = build(Gated("backprop"))
    x, output_error = batch(network)
    with pytest.raises(
        ValueError, match=r"reward-prediction error in network.modulator .* shape \(7,\); there is none"
    ):
        gradients(network, x, output_error)
    network.modulator = torch.ones(3)
    with pytest.raises(ValueError, match=r"there is one of shape \(3,\)"):
        gradients(network, x, output_error)


def test_no_surprise_no_learning(build, batch):
    network = build(Gated("backprop"))
    x, output_error = batch(network)
    network.modulator = torch.zeros(7)
    assert not any(g.any() for g in gradients(network, x, output_error).values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "gated"}, "a gate around a gate is a gate"),
        ({"rule": "bursts"}, "unknown rule 'bursts'; known: "),
        ({"gate": "suprise"}, "gate must be one of surprise, novelty, window, one"),
        ({"rate": 0}, "rate must be a number from"),
        ({"window": 3}, "window must be at most the period, 2"),
        ({"window": 0}, "window must be a whole number from"),
        ({"settings": {"feedback_scal": 1}}, "the inner rule 'feedback_alignment' does not take: .*feedback_scal"),
        ({"settings": {"feedback_scale": 0}}, "feedback_scale must be a number from"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Gated(**settings)
