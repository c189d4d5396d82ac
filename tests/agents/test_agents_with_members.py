"""An agent with members: one argument, and each member is an ordinary agent."""

import gc

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from agents import A2C, PPO, REINFORCE, load_model, save_model

KINDS = {PPO: {"n_steps": 16, "batch_size": 16, "n_epochs": 2}, A2C: {}, REINFORCE: {"n_episodes": 1}}
each_agent = pytest.mark.parametrize("kind", KINDS)


def make(kind, members=3, env="CartPole-v1", **settings):
    return kind(env, rule="kolen_pollack", members=members, **{"seed": 4, **KINDS[kind], **settings})


def weights(agent):
    return torch.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


@each_agent
def test_members_are_the_agents_of_neighbouring_seeds(kind):
    agent = make(kind).learn(64)
    assert agent.members[0] is agent
    for number, member in enumerate(agent.members):
        assert type(member) is kind
        assert member.seed == 4 + number
        alone = make(kind, members=1, seed=4 + number).learn(64)
        torch.testing.assert_close(weights(member), weights(alone), atol=1e-4, rtol=0)


@each_agent
def test_a_member_acts_is_saved_and_goes_on_alone(kind, tmp_path):
    member = make(kind).learn(64).members[2]
    save_model(member, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    for deterministic_action in (member, loaded):
        action, _ = deterministic_action.predict(observations, deterministic=True)
        np.testing.assert_array_equal(action, member.predict(observations, deterministic=True)[0])
    evaluate_policy(member, make_vec_env("CartPole-v1"), n_eval_episodes=1)
    before = weights(member).clone()
    member.learn(200, reset_num_timesteps=False)
    assert not torch.equal(before, weights(member))


@each_agent
@pytest.mark.filterwarnings("error:nothing was learnt")
def test_no_member_is_told_that_it_learnt_nothing_where_nothing_is_logged(kind):
    make(kind, learning_rate=lambda left: 0.001 * left).learn(200, log_interval=None)


@each_agent
def test_members_are_saved_and_loaded_together(kind, tmp_path):
    agent = make(kind).learn(64)
    agent.save(tmp_path / "agent")
    loaded = kind.load(tmp_path / "agent", env="CartPole-v1")
    assert len(loaded.members) == 3
    for one, other in zip(agent.members, loaded.members, strict=True):
        assert torch.equal(weights(one), weights(other))
    loaded.learn(64)


def test_a_function_makes_each_members_environments():
    made = []

    def environments():
        made.append(make_vec_env("CartPole-v1", n_envs=2))
        return made[-1]

    agent = make(PPO, env=environments).learn(64)
    assert [member.env for member in agent.members] == made


def test_each_member_has_a_callback_of_its_own():
    class Count(BaseCallback):
        def _on_step(self):
            counted.setdefault(self.model.seed, []).append(self.num_timesteps)
            return True

    counted = {}
    make(PPO).learn(32, callback=Count())
    assert set(counted) == {4, 5, 6}
    assert len({tuple(steps) for steps in counted.values()}) == 1


def test_what_ends_a_member_is_raised_once_the_others_have_learnt():
    class Fail(BaseCallback):
        def _on_step(self):
            if self.model.seed == 5 and self.num_timesteps > 20:
                raise RuntimeError("broken")
            return True

    agent = make(PPO)
    with pytest.raises(ExceptionGroup, match="of 3 members, 1 did not finish") as raised:
        agent.learn(64, callback=Fail())
    assert [str(error) for error in raised.value.exceptions] == ["broken"]
    assert [member.num_timesteps for member in agent.members] == [64, 21, 64]


@pytest.mark.parametrize("members", [0, -1, 1.5, True, "2", None])
def test_a_number_of_members_that_cannot_be(members):
    with pytest.raises(ValueError, match="members must be a whole number of at least 1"):
        make(PPO, members=members)


def test_members_share_no_environment():
    with pytest.raises(ValueError, match="members=3: each needs environments of its own; give the id"):
        make(PPO, env=make_vec_env("CartPole-v1"))


@pytest.mark.parametrize("method", ["train", "collect_rollouts"])
def test_an_agent_whose_loop_knows_one_agent_has_no_members(method):
    own = type("Own", (A2C,), {method: lambda self, *arguments, **settings: None})
    with pytest.raises(ValueError, match=f"Own has a {method} of its own, which knows one agent: train it alone"):
        own("CartPole-v1", members=2).learn(10)


@pytest.mark.few(2)
@each_agent
@pytest.mark.parametrize("members", [1, 2])
def test_updates_leave_nothing_to_the_collector_of_cycles(kind, members):
    """It may not come for minutes, and until then networks and rollouts that are over would stay in memory."""

    def garbage(timesteps):
        agent = make(kind, members).learn(32)
        gc.collect()
        gc.disable()
        try:
            agent.learn(timesteps)
            return gc.collect()
        finally:
            gc.enable()

    garbage(64)  # what is made once, at the first time
    of_the_last_step = 5
    assert garbage(256) <= garbage(64) + of_the_last_step
