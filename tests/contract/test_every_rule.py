"""What every rule owes its users, whatever its theory: a new rule is held to it by its file alone."""

import copy
import sys

import pytest
import torch
from variants import EVERY_RULE

from agents import PPO
from bio_rl.rules import make_rule, rule_class

# Samples that draw directions of their own are not equal; nor is there novelty among equal samples, only rounding.
UNEQUAL = ({"feedback": "sampled"}, {"gate": "novelty"})
DRAW_NO_NOISE = [
    each for each in EVERY_RULE if rule_class(each.values[0]).ngrad != "perturbation" and each.values[1] not in UNEQUAL
]

# A rule that reads a mean over the batch says so.
SAMPLE_BY_SAMPLE = [each for each in EVERY_RULE if "over the batch" not in rule_class(each.values[0]).nonlocal_scalars]


def updates_of(network, x, output_error):
    """The updates of the forward weights, one list; what is random is drawn the same each time."""
    network = copy.deepcopy(network)
    network.modulator = torch.ones(x.shape[-2], dtype=x.dtype)
    network(x).backward(output_error)
    parameters = [parameter for layer in network.layers for parameter in layer.parameters()]
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


@pytest.mark.parametrize(("name", "settings"), EVERY_RULE)
def test_a_copy_draws_the_same_and_is_freed_with_its_last_reference(build, name, settings):
    network = build(make_rule(name, **settings))
    twin = copy.deepcopy(network)
    assert type(twin.rule) is type(network.rule)
    for own, copied in zip(network.rule.generators, twin.rule.generators, strict=True):
        assert sys.getrefcount(copied) == sys.getrefcount(own)
        assert torch.rand(3, generator=copied).equal(torch.rand(3, generator=own))
        torch.rand(1, generator=copied)
        assert not torch.rand(3, generator=copied).equal(torch.rand(3, generator=own))


@pytest.mark.few(13)
@pytest.mark.parametrize(("name", "settings"), EVERY_RULE)
def test_no_error_no_update(build, batch, name, settings):
    network = build(make_rule(name, **settings))
    x, output_error = batch(network)
    assert all(update.eq(0).all() for update in updates_of(network, x, torch.zeros_like(output_error)))


@pytest.mark.few(12)
@pytest.mark.parametrize(("name", "settings"), SAMPLE_BY_SAMPLE)
def test_a_sample_without_an_error_changes_nothing(build, batch, name, settings):
    network = build(make_rule(name, **settings))
    x, output_error = batch(network)
    output_error[3:] = 0
    learnt = updates_of(network, x, output_error)
    x[3:] = torch.randn_like(x[3:])
    torch.testing.assert_close(updates_of(network, x, output_error), learnt, rtol=0, atol=1e-15)


@pytest.mark.few(26)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize(("name", "settings"), EVERY_RULE)
def test_an_update_is_as_large_as_its_error(build, batch, name, settings, scale):
    network = build(make_rule(name, **settings))
    x, output_error = batch(network)
    expected = [scale * update for update in updates_of(network, x, output_error)]
    torch.testing.assert_close(updates_of(network, x, scale * output_error), expected, rtol=1e-6, atol=1e-9 * scale)


@pytest.mark.few(11)
@pytest.mark.parametrize(("name", "settings"), DRAW_NO_NOISE)
def test_a_mean_over_equal_samples_is_one_sample(build, batch, name, settings):
    network = build(make_rule(name, **settings))
    x, output_error = batch(network, 1)
    many = updates_of(network, x.repeat(2048, 1), output_error.repeat(2048, 1) / 2048)
    torch.testing.assert_close(many, updates_of(network, x, output_error), rtol=1e-9, atol=1e-12)


@pytest.mark.few(8)
@pytest.mark.parametrize(("name", "settings"), EVERY_RULE)
def test_ppos_ratio_is_one_before_the_first_step_of_an_update(name, settings):
    """A sweep that draws noise or has not settled would compare an action with another network's.

    Observations are evaluated in other company than they were acted on, and once more after weights have grown.
    """
    rule = make_rule(name, **settings)
    agent = PPO("CartPole-v1", rule=rule, n_steps=64, batch_size=32, n_epochs=1, learning_rate=1e-2, seed=0)
    loss, ratios = agent._loss, []

    def comparing(members, batch, scalars):
        if not scalars.get("value_loss"):  # the first minibatch of an update
            distribution, _ = members.outputs(batch.features)
            ratios.append((distribution.log_prob(batch.actions) - batch.old_log_prob).exp().detach())
        return loss(members, batch, scalars)

    agent._loss = comparing
    for factor, agent.batch_size in ((1, 32), (2, 16), (1, 64)):
        with torch.no_grad():
            for network in agent.policy.networks.values():
                for layer in network.layers:
                    layer.weight *= factor
        agent.learn(2 * 64, reset_num_timesteps=False)
    assert len(ratios) == 6
    torch.testing.assert_close(torch.cat(ratios), torch.ones(2 * (32 + 16 + 64)), rtol=0, atol=1e-4)
