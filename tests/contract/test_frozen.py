"""Frozen layers: under every rule they stay exactly as they are, alone, as members, saved and loaded."""

import copy
from pathlib import Path

import pytest
import torch
import yaml
from variants import EVERY_RULE

from agents import PPO, REINFORCE, load_model, save_model
from bio_rl import Network
from bio_rl.cli import main
from bio_rl.cli.configs import compose_jobs
from bio_rl.cli.train import check_builds, parse
from bio_rl.rules import make_rule, rule_class


def updated(network: Network, x, output_error) -> list[torch.Tensor | None]:
    network = copy.deepcopy(network)
    network.modulator = torch.ones(x.shape[-2], dtype=x.dtype)
    network(x).backward(output_error)
    return [parameter.grad for layer in network.layers for parameter in layer.parameters()]


@pytest.mark.few(26)
@pytest.mark.parametrize("number", [1, 2, -1])
@pytest.mark.parametrize(("name", "settings"), EVERY_RULE)
def test_a_frozen_layer_stays_and_the_others_learn(build, batch, name, settings, number):
    network = build(make_rule(name, **settings))
    x, output_error = batch(network)
    free = updated(network, x, output_error)
    network.freeze([number])
    index = network.frozen[0] - 1
    assert network.frozen == ({1: 1, 2: 2, -1: 3}[number],)
    for own, (got, expected) in enumerate(zip(updated(network, x, output_error), free, strict=True)):
        if own // 2 == index:
            assert got is None
        elif rule_class(name).ngrad != "perturbation":
            torch.testing.assert_close(got, expected, rtol=0, atol=0)
        else:
            assert expected is None or got.ne(0).any()
    before = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=0.1)
    network.modulator = torch.ones(x.shape[-2], dtype=x.dtype)
    for _ in range(3):
        optimizer.zero_grad()
        network(x).backward(output_error)
        optimizer.step()
    for position, (layer, old) in enumerate(zip(network.layers, before.layers, strict=True)):
        is_taught = rule_class(name).teaches != "some" or position == 2
        if position == index:
            assert layer.weight.equal(old.weight)
            assert layer.bias.equal(old.bias)
        elif is_taught and name != "gated":
            assert not layer.weight.equal(old.weight)


@pytest.mark.parametrize("name", ["kolen_pollack", "weight_mirror"])
def test_feedback_beside_a_frozen_layer_repeats_nothing_but_may_find_its_weights(build, batch, name):
    network = build(make_rule(name))
    network.freeze([-1])
    feedback = list(network.rule.parameters())
    x, output_error = batch(network)
    network(x).backward(output_error)
    assert feedback[0].grad.ne(0).any()
    assert feedback[1].grad.ne(0).any() == (name == "weight_mirror")


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["node_perturbation", "weight_perturbation", "forward_gradient"])
def test_what_does_not_learn_is_not_perturbed(build, batch, name):
    """Noise in the first layer would reach the second's update through the loss."""
    network = build(make_rule(name, draws=1), sizes=(5, 40, 3, 2))
    with torch.no_grad():
        network.layers[1].weight *= 4  # so that most of what changes the loss comes from below
    x, output_error = batch(network, 1)

    def variance() -> float:
        draws = []
        for _ in range(200):
            network.zero_grad()
            network(x).backward(output_error)
            draws.append(network.layers[1].bias.grad.clone())
        return float(torch.stack(draws).var(0).sum())

    free = variance()
    network.freeze([1])
    assert variance() < free / 2


def test_layers_are_numbered_from_either_end_and_some_must_learn(build):
    network = build(make_rule("backprop"))
    for numbers, frozen in (([], ()), ([1, -1], (1, 3)), ([-3, 1], (1,)), ([3], (3,))):
        network.freeze(numbers)
        assert network.frozen == frozen
        assert [layer.bias.requires_grad for layer in network.layers] == [n not in frozen for n in (1, 2, 3)]
    for wrong in ([0], [4], [-4], [True], [1.0], ["1"]):
        with pytest.raises(ValueError, match=r"there is no layer .* to freeze: layers are numbered from 1"):
            network.freeze(wrong)
    with pytest.raises(ValueError, match="all layers would be frozen"):
        network.freeze([1, 2, -1])
    assert network.frozen == (3,), "a refusal changes nothing"


def test_networks_are_stacked_with_their_frozen_layers(build):
    one, other = build(make_rule("backprop")), build(make_rule("backprop"))
    one.freeze([2])
    with pytest.raises(ValueError, match="its frozen layers are"):
        Network.stack([one, other])
    other.freeze([2])
    together = Network.stack([one, other])
    assert together.frozen == together.member(1).frozen == (2,)


def weights(agent, network="actor"):
    return [layer.weight.detach().clone() for layer in agent.policy.networks[network].layers]


@pytest.mark.parametrize("agent_class", [PPO, REINFORCE])
@pytest.mark.parametrize("members", [1, 2])
def test_an_agents_frozen_layers_stay(agent_class, members):
    settings = {"n_steps": 16, "batch_size": 32, "n_epochs": 1} if agent_class is PPO else {"n_episodes": 2}
    agent = agent_class(
        "CartPole-v1",
        members=members,
        frozen={"actor": [-1], "critic": [1, 2]},
        optimizer="adam",
        optimizer_kwargs={"weight_decay": 0.1},
        seed=0,
        **settings,
    )
    before = [{name: weights(each, name) for name in ("actor", "critic")} for each in agent.members]
    agent.learn(256)
    for each, old in zip(agent.members, before, strict=True):
        moved = {
            name: [not new.equal(was) for new, was in zip(weights(each, name), old[name], strict=True)] for name in old
        }
        assert moved == {"actor": [True, True, False], "critic": [False, False, True]}


def test_members_learn_what_each_would_alone_beside_frozen_layers():
    settings = {"frozen": [2], "n_steps": 16, "batch_size": 16, "n_epochs": 2, "policy_kwargs": {}}
    together = PPO("CartPole-v1", members=2, seed=3, rule="kolen_pollack", **settings).learn(64)
    alone = PPO("CartPole-v1", seed=4, rule="kolen_pollack", **settings).learn(64)
    for one, other in zip(weights(together.members[1]), weights(alone), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_frozen_layers_are_saved_and_may_change_when_training_goes_on(tmp_path: Path):
    agent = PPO("CartPole-v1", frozen={"actor": [-1]}, n_steps=16, batch_size=16, seed=0)
    save_model(agent, tmp_path / "model")
    assert yaml.safe_load((tmp_path / "model/policy.yaml").read_text())["policy"]["frozen"] == {
        "actor": [-1],
        "critic": [],
    }
    agent.save(tmp_path / "agent.zip")
    for loaded in (load_model(tmp_path / "model", "CartPole-v1"), PPO.load(tmp_path / "agent.zip", "CartPole-v1")):
        assert loaded.policy.networks["actor"].frozen == (3,)
        assert loaded.policy.networks["critic"].frozen == ()
    for loaded in (
        load_model(tmp_path / "model", "CartPole-v1", frozen=[1], n_steps=16, batch_size=16),
        PPO.load(tmp_path / "agent.zip", "CartPole-v1", frozen=[1]),
    ):
        before = weights(loaded)
        loaded.learn(32)
        moved = [not new.equal(was) for new, was in zip(weights(loaded), before, strict=True)]
        assert moved == [False, True, True]


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("network.frozen=1", "network.frozen must be a list"),
        ("network.frozen=[4]", "there is no layer 4 to freeze: layers are numbered from 1, at the input, to 3"),
        ("network.frozen=[0]", "there is no layer 0 to freeze"),
        ("network.frozen=[one]", "frozen must hold the numbers of layers"),
        ("network.frozen=[1,2,3]", "all layers would be frozen"),
        ("network=separate network.frozen.actor=[-4]", "in the actor network: there is no layer -4"),
        ("network=separate ++network.frozen.actr=[1]", "a list each for actor and critic, not for actr"),
        ("network=separate network.frozen.critic=2", "network.frozen must be a list"),
        ("agent.frozen=[1]", "set network.frozen"),
    ],
)
def test_wrong_numbers_are_one_line(line: str, expected: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", *line.split()]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "network.frozen=[1]",
        "agent=reinforce agent.baseline=false network.frozen=[1]",
        "network=separate network.frozen.critic=[1,2]",
        "network.shared_trunk=true network.frozen=[-1]",
    ],
)
def test_settings_that_are_right_build(line: str) -> None:
    check_builds(compose_jobs(parse(line.split())))


def test_layers_of_a_critic_that_there_is_not_are_refused():
    for settings in ({"shared_trunk": True}, {"critic": False}):
        with pytest.raises(ValueError, match="no critic network of its own"):
            PPO("CartPole-v1", frozen={"critic": [1]}, policy_kwargs=settings)
    actor = PPO("CartPole-v1", frozen={"actor": [1]}, policy_kwargs={"critic": False}).policy.networks["actor"]
    assert actor.frozen == (1,)
