"""What the networks would learn from is what they then do learn from."""

import copy

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents import A2C, PPO, REINFORCE, minibatches
from bio_rl import Rule
from bio_rl.diagnostics.alignment import after_backward
from bio_rl.rules import Backprop

# One update of the whole rollout, by a step along the gradient that is not clipped.
PLAIN = {"learning_rate": 1.0, "optimizer": "sgd", "max_grad_norm": 1e9, "seed": 0}
AGENTS = {
    "ppo": (PPO, {"n_steps": 40, "batch_size": 40, "n_epochs": 1, "vf_coef": 0.3, "ent_coef": 0.1}),
    "ppo-clipped-values": (PPO, {"n_steps": 40, "batch_size": 40, "n_epochs": 1, "clip_range_vf": 0.2}),
    "a2c": (A2C, {"n_steps": 30, "ent_coef": 0.1}),
    "reinforce": (REINFORCE, {"n_episodes": 2, "vf_coef": 0.3}),
    "reinforce-without-baseline": (REINFORCE, {"n_episodes": 2, "baseline": False}),
}


class Predict(BaseCallback):
    """Keeps what the networks are about to learn from, and how they are; ends after a number of updates."""

    def __init__(self, samples=10_000, updates=1):
        super().__init__()
        self.samples = samples
        self.updates = updates
        self.found = []

    def _on_step(self):
        return len(self.found) < self.updates

    def _on_rollout_end(self):
        networks = copy.deepcopy(self.model.policy.networks)
        lessons = minibatches(self.model, self.samples)
        assert lessons.keys() == networks.keys()
        self.found.append((networks, lessons))


def expected(networks, lessons):
    """Every parameter of the layers after the step."""
    for name, network in networks.items():
        learner = after_backward(network, *lessons[name])
        for layer in learner.layers:
            yield from (p - (0 if p.grad is None else p.grad) for p in layer.parameters())


@pytest.mark.few(19)
@pytest.mark.parametrize("rule", ["backprop", "gated"])
@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"shared_trunk": True}),
        ("Pendulum-v1", {}),
        ("Pendulum-v1", {"use_sde": True}),
    ],
)
@pytest.mark.parametrize("name", AGENTS)
def test_an_update_is_the_rules_of_its_minibatch(name, env, settings, rule):
    kind, own = AGENTS[name]
    if settings.get("shared_trunk") and not own.get("baseline", True):
        pytest.skip("without a critic nothing is shared")
    agent = kind(env, rule=rule, **{**own, **PLAIN, **settings})
    predict = Predict()
    agent.learn(1000, callback=predict, log_interval=None)
    ((networks, lessons),) = predict.found
    learnt = [p for network in agent.policy.networks.values() for layer in network.layers for p in layer.parameters()]
    for own_parameter, other in zip(learnt, expected(networks, lessons), strict=True):
        torch.testing.assert_close(own_parameter, other, rtol=1e-4, atol=1e-6)
    moved = max(float((p - q).detach().abs().max()) for p, q in zip(learnt, _parameters(networks), strict=True))
    assert moved > 1e-3


def _parameters(networks):
    return [p for network in networks.values() for layer in network.layers for p in layer.parameters()]


def test_after_an_update_nothing_is_clipped_that_the_next_would_not_clip():
    """With a clip range that has fallen to 0, as at a run's end, a policy that has moved would learn from nothing."""
    agent = PPO("CartPole-v1", clip_range="lin_0.2", **{**AGENTS["ppo"][1], "seed": 0}).learn(40)
    assert agent._clip_range(agent.clip_range) == 0
    agent.policy.networks["actor"].layers[-1].weight.data += 1
    error = minibatches(agent, 40)["actor"].output_error
    assert error.abs().amax(-1).min() > 0


@pytest.mark.parametrize("name", AGENTS)
def test_there_are_no_more_samples_than_asked_for(name):
    kind, own = AGENTS[name]
    predict = Predict(7)
    kind("CartPole-v1", rule="gated", **{**own, **PLAIN}).learn(1000, callback=predict)
    for lesson in predict.found[-1][1].values():
        assert lesson.x.shape == (7, 4)
        assert len(lesson.output_error) == len(lesson.modulator) == 7
        assert torch.isfinite(lesson.output_error).all()


def test_without_a_whole_rollout_there_is_nothing_to_learn_from():
    for kind, own in AGENTS.values():
        assert minibatches(kind("CartPole-v1", **own), 10) == {}


def test_a_member_has_the_minibatch_that_it_would_have_alone():
    settings = {**AGENTS["ppo"][1], "rule": "kolen_pollack", "seed": 3}
    alone = Predict(updates=2)
    PPO("CartPole-v1", **settings).learn(80, callback=alone)

    class First(Predict):
        kept = {}

        def _on_rollout_end(self):
            super()._on_rollout_end()
            self.kept.setdefault(self.model.seed, []).append(self.found[-1][1])

    PPO("CartPole-v1", members=2, **settings).learn(80, callback=First(updates=2))
    for (_, lessons), others in zip(alone.found, First.kept[3], strict=True):
        for name, lesson in lessons.items():
            torch.testing.assert_close(tuple(lesson), tuple(others[name]), rtol=1e-4, atol=1e-6)
    assert First.kept.keys() == {3, 4}


class Restless(Backprop):
    """Draws and counts at every sweep."""

    get_extra_state, set_extra_state = Rule.get_extra_state, Rule.set_extra_state

    def connect(self, network):
        self.register_buffer("sweeps", torch.zeros(network.members))

    def forward(self, network, x):
        self.randn((*network.members, 1), like=x)
        self.sweeps += 1
        return super().forward(network, x)


@pytest.mark.parametrize("rule", ["node_perturbation", "gated", Restless()])
def test_looking_leaves_everything_as_it_was(rule):
    agent = PPO("Pendulum-v1", rule=rule, **AGENTS["ppo"][1]).learn(40)
    before = [None if p.grad is None else p.grad.clone() for p in agent.policy.parameters()]
    states = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    drawn = torch.get_rng_state()
    minibatches(agent, 16)
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.testing.assert_close(dict(agent.policy.state_dict()), states, rtol=0, atol=0)
    for parameter, gradient in zip(agent.policy.parameters(), before, strict=True):
        assert (parameter.grad is None) if gradient is None else torch.equal(parameter.grad, gradient)
