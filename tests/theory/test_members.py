"""A member is a run: stacked networks go on as each would have alone, and none feels another."""

import copy
import functools

import pytest
import torch
from variants import EVERY_RULE

from bio_rl import Network, Rule, make_rule
from bio_rl.rules import Backprop, FeedbackAlignment, PredictiveCoding

MEMBERS = 3
# Steps enough for some members to come to rest before others do.
RELAXING = [
    pytest.param("predictive_coding", {"steps": 60, "tolerance": 0.01}, id="predictive_coding-60"),
    pytest.param("predictive_coding", {"steps": 60, "tolerance": 0.01, "variant": "incremental"}, id="incremental-60"),
    pytest.param("deep_feedback_control", {"steps": 60}, id="deep_feedback_control-60"),
]
BATCH = 7
UPDATES = 4


def singles(build, name, settings, activation="tanh"):
    """Networks of one kind, each with its own generator and size of weights: one relaxes sooner than another."""
    return [build(make_rule(name, **settings), activation=activation, gain=gain) for gain in (1, 0.2, 1.5)]


def learn(network, inputs, errors, rate=0.01):
    """Updates by plain descent; every output that was seen."""
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    outputs = []
    for x, error in zip(inputs, errors, strict=True):
        network.modulator = error[..., 0]
        optimizer.zero_grad()
        output = network(x)
        outputs.append(output.detach().clone())
        output.backward(error)
        optimizer.step()
    return outputs


def lessons(networks):
    first = networks[0]
    inputs = torch.randn(UPDATES, MEMBERS, BATCH, first.in_features, dtype=torch.float64)
    sizes = torch.tensor([0.1, 1e-3, 0.3], dtype=torch.float64).view(-1, 1, 1)
    return inputs, sizes * torch.randn(UPDATES, MEMBERS, BATCH, first.out_features, dtype=torch.float64)


def assert_same_state(network, expected, **tolerances):
    state, other = network.state_dict(), expected.state_dict()
    assert state.keys() == other.keys()
    for name in state:
        named = functools.partial("{}: {}".format, name)
        torch.testing.assert_close(state[name], other[name], **tolerances, msg=named)


@pytest.mark.few(22)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("name", "settings"), EVERY_RULE + RELAXING)
def test_a_member_learns_as_it_would_alone(build, name, settings, activation):
    alone = singles(build, name, settings, activation)
    together = Network.stack(alone)
    inputs, errors = lessons(alone)
    outputs = learn(together, inputs, errors)
    for number, network in enumerate(alone):
        expected = learn(network, inputs[:, number], errors[:, number])
        for output, other in zip(outputs, expected, strict=True):
            torch.testing.assert_close(output[number], other, rtol=1e-9, atol=1e-9)
        assert_same_state(together.member(number), network, rtol=1e-9, atol=1e-9)


@pytest.mark.few(22)
@pytest.mark.parametrize("fault", [float("nan"), 1e300])
@pytest.mark.parametrize(("name", "settings"), EVERY_RULE + RELAXING)
def test_a_member_that_diverges_leaves_the_others_alone(build, name, settings, fault):
    healthy = Network.stack(singles(build, name, settings))
    ill = copy.deepcopy(healthy)
    inputs, errors = lessons([healthy.member(0)])
    learn(healthy, inputs, errors)
    errors[1, 1, 2, 0] = fault
    inputs[2, 1, 0, 0] = fault
    learn(ill, inputs, errors)
    for number in (0, 2):
        assert_same_state(ill.member(number), healthy.member(number), rtol=0, atol=0)
    assert not set(ill.divergences) - {1}


@pytest.mark.parametrize("rule", [PredictiveCoding, lambda: PredictiveCoding("incremental")])
def test_a_member_that_diverges_is_named_and_its_updates_are_nan(build, batch, rule):
    network = Network.stack([build(rule()) for _ in range(MEMBERS)])
    x, error = batch(network)
    error[1, 0, 0] = torch.nan
    network(x).backward(error)
    assert {number: str(each) for number, each in network.divergences.items()} == {
        1: "predictive_coding diverged in layer 2 at relaxation step 1"
    }
    for parameter in network.parameters():
        assert parameter.grad.isnan().flatten(1).all(-1).tolist() == [False, True, False]
        assert parameter.grad[[0, 2]].isfinite().all()


@pytest.mark.parametrize(("name", "settings"), EVERY_RULE)
def test_seeds_are_all_that_a_member_draws_from(build, name, settings):
    layers, own = build(Backprop(), members=(2, 2)).layers, build(Backprop()).layers
    for layer, single in zip(layers, own, strict=True):
        single.load_state_dict({name: tensor[1, 0] for name, tensor in layer.state_dict().items()})
    together = Network(layers, make_rule(name, **settings), seeds=[3, 4, 5, 6])
    alone = Network(own, make_rule(name, **settings), seeds=[5])
    assert_same_state(together.member(2), alone, rtol=0, atol=0)


def test_stack_and_member_undo_each_other_and_share_nothing(build):
    alone = [build(FeedbackAlignment()) for _ in range(MEMBERS)]
    for network in alone:
        network.layers[0].weight.requires_grad_(False)
    torch.manual_seed(5)
    together = Network.stack(alone)
    assert together.members == (MEMBERS,)
    assert not together.layers[0].weight.requires_grad
    assert not together.rule.feedback[0].requires_grad
    back = together.member(1)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert_same_state(back, alone[1], rtol=0, atol=0)
    with torch.no_grad():
        together.layers[0].weight.zero_()
    assert back.layers[0].weight.ne(0).all()
    assert alone[1].layers[0].weight.ne(0).all()
    deeper = Network.stack([together, together])
    assert deeper.members == (2, MEMBERS)
    assert_same_state(deeper.member(4), together.member(1), rtol=0, atol=0)
    with pytest.raises(IndexError, match="no member 6: members are numbered from 0 to 5"):
        deeper.member(6)


class Forgetful(Rule):
    """Keeps a count that all members would share."""

    paper = "none"

    def connect(self, network):
        self.register_buffer("count", torch.zeros(()))

    def assign(self, network, trace, output_error):
        return {}


def test_what_cannot_be_stacked_is_refused_by_its_name(build):
    with pytest.raises(ValueError, match=r"Forgetful cannot be stacked: rule\.count has no dimensions for members"):
        Network.stack([build(Forgetful()), build(Forgetful())])
    with pytest.raises(ValueError, match="at least one network"):
        Network.stack([])
    with pytest.raises(ValueError, match="network 1 cannot be stacked on network 0: its rule is FeedbackAlignment"):
        Network.stack([build(Backprop()), build(FeedbackAlignment())])
    with pytest.raises(ValueError, match=r"its settings are {'feedback_scale': 2.0}, not {'feedback_scale': 1.0}"):
        Network.stack([build(FeedbackAlignment()), build(FeedbackAlignment(2.0))])
    with pytest.raises(ValueError, match="its layers are"):
        Network.stack([build(Backprop()), build(Backprop(), (5, 8, 3))])
    with pytest.raises(ValueError, match="one seed for each member: 2, not 1"):
        Network(build(Backprop(), members=(2,)).layers, Backprop(), seeds=[1])


def test_random_numbers_of_members_begin_with_the_members(build):
    with pytest.raises(ValueError, match=r"for members \(2,\) must begin with these dimensions"):
        build(Backprop(), members=(2,)).rule.randn((3, 4), torch.zeros(()))
