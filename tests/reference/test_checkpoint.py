"""What goes on from a checkpoint ends as what never stopped, to the last bit."""

import random

import numpy as np
import pytest
import torch
from test_members_are_runs import MEMBERS, PPO_SETTINGS, SETTINGS, make, numbers, quick, timesteps

from agents import load_checkpoint, save_checkpoint
from agents.learning import learn_together
from bio_rl.rules import rule_names

CUT = 3
"""Updates after which training is cut off."""


class Cut(BaseException):
    pass


def saving(folder, cut=False):
    """Saves all members once, and perhaps ends the training there."""
    calls = []

    def after_update(members):
        calls.append(members)
        if len(calls) == CUT:
            for index, agent in members.still_learning():
                members.settle(index)
                save_checkpoint(agent, folder / str(index))
            if cut:
                raise Cut

    return after_update


def train(agents, total, after_update=None, begun=0):
    failures = learn_together(
        agents, total - begun, [None] * len(agents), 1, "run", reset_num_timesteps=not begun, after_update=after_update
    )
    assert not failures


def exact(agent):
    kept = numbers(agent) | {"obs": torch.as_tensor(np.asarray(agent._last_obs))}
    return {name: tensor.cpu() for name, tensor in kept.items()} | {
        "global": torch.tensor([random.random(), np.random.random(), torch.rand(()).item()]),  # noqa: NPY002
        "returns": torch.tensor([episode["r"] for episode in agent.ep_info_buffer]),
    }


def check(folder, name, members, make=make, **settings):
    total = timesteps(name)
    whole, saved, cut = ([make(name, seed, **settings) for seed in range(members)] for _ in range(3))
    train(whole, total)
    expected = [exact(agent) for agent in whole]
    train(saved, total, saving(folder))
    with pytest.raises(Cut):
        train(cut, total, saving(folder, cut=True))
    resumed = [make(name, seed, **settings) for seed in range(members)]
    for index, agent in enumerate(resumed):
        load_checkpoint(agent, folder / str(index))
        assert 0 < agent.num_timesteps < total
    train(resumed, total, begun=resumed[0].num_timesteps)
    for agents in (saved, resumed):
        for agent, numbers_of_whole in zip(agents, expected, strict=True):
            torch.testing.assert_close(agent.num_timesteps, numbers_of_whole["count"][0].item())
            for key, value in exact(agent).items():
                if key != "global":
                    assert torch.equal(value, numbers_of_whole[key]), key


@pytest.mark.few(6)
@pytest.mark.parametrize("members", [1, MEMBERS])
@pytest.mark.parametrize("rule", quick(rule_names(), ("backprop", "kolen_pollack", "node_perturbation", "gated")))
@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_a_training_goes_on_under_every_rule(name, rule, members, tmp_path):
    check(tmp_path, name, members, rule=rule, normalised=True)


@pytest.mark.few(1)
@pytest.mark.parametrize("rule", quick(rule_names(), ("backprop", "kolen_pollack", "node_perturbation", "gated")))
def test_whole_episodes_go_on_under_every_rule(rule, tmp_path):
    check(tmp_path, "reinforce", 1, rule=rule, normalised=True)


@pytest.mark.few(4)
@pytest.mark.parametrize("settings", [*SETTINGS, *PPO_SETTINGS])
def test_a_training_goes_on_with_every_setting(settings, tmp_path):
    check(tmp_path, "ppo", 2, rule="kolen_pollack", **(SETTINGS | PPO_SETTINGS)[settings])
