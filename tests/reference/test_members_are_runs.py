"""A member is a run: what an agent learns among others is what it learns alone."""

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from agents import A2C, PPO, REINFORCE
from agents.learning import learn_together
from bio_rl import make_rule
from bio_rl.rules import rule_names

MEMBERS = 3
KINDS = {
    "ppo": (PPO, {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "learning_rate": "lin_0.003"}),
    "a2c": (A2C, {"n_steps": 4, "learning_rate": "lin_0.003"}),
    "reinforce": (REINFORCE, {"n_episodes": 2}),
}
TASKS = {"discrete": "CartPole-v1", "continuous": "Pendulum-v1"}
SETTINGS = {
    "plain": {},
    "normalised": {"normalised": True},
    "gsde": {"task": "continuous", "use_sde": True, "sde_sample_freq": 4},
    "critic": {"critic_rule": "direct_feedback_alignment", "critic_learning_rate": 0.01},
    "shared": {"shared_trunk": True},
    "clipped": {"max_grad_norm": 0.01},
    "entropy": {"ent_coef": 0.01, "activation": "relu", "hidden": (16, 8)},
}
PPO_SETTINGS = {
    "stopping": {"target_kl": 1e-4, "learning_rate": 0.01},
    "clipped_values": {"clip_range_vf": 0.1},
    "ragged": {"batch_size": 10},
    "squashed": {"task": "continuous", "use_sde": True, "policy_kwargs": {"squash_output": True}},
}
UPDATES = 20


def quick(names, chosen):
    """The chosen ones by default, all in the slow run."""
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]


def make(name, seed, rule="backprop", task="discrete", normalised=False, **settings):
    kind, defaults = KINDS[name]
    env = make_vec_env(functools.partial(gym.make, TASKS[task], max_episode_steps=30), n_envs=2)
    if normalised:
        env = VecNormalize(env)
    agent = kind(env, rule=make_rule(rule), seed=seed, **{"hidden": (8, 8), **defaults, **settings})
    agent.policy.double()
    agent.policy.features_extractor.register_forward_hook(lambda module, inputs, features: features.double())
    return agent


def timesteps(name):
    """Of some twenty updates."""
    kind, settings = KINDS[name]
    steps = 30 * settings["n_episodes"] if kind is REINFORCE else 2 * settings["n_steps"]
    return UPDATES * steps // settings.get("n_epochs", 1)


def train_together(name, callbacks=(None,) * MEMBERS, **settings):
    agents = [make(name, seed, **settings) for seed in range(MEMBERS)]
    failures = learn_together(agents, timesteps(name), callbacks, log_interval=1, tb_log_name="run")
    return agents, failures


def numbers(agent):
    """Everything that a training changes, generators included."""
    state = {f"policy.{name}": tensor for name, tensor in agent.policy.state_dict().items()}
    for number, values in agent.policy.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{number}.{key}": torch.as_tensor(value) for key, value in values.items()}
    state["generator"] = agent.generator.get_state()
    state["order"] = torch.as_tensor(agent.minibatch_order.get_state()[1].astype(np.int64))
    state["count"] = torch.tensor([agent.num_timesteps, agent._n_updates])
    normalizer = agent.get_vec_normalize_env()
    if normalizer is not None:
        state["normalizer"] = torch.as_tensor(np.concatenate([normalizer.obs_rms.mean, normalizer.obs_rms.var]))
    observation = torch.as_tensor(np.linspace(-0.1, 0.1, agent.observation_space.shape[0])).unsqueeze(0)
    with torch.no_grad():
        state["value"] = agent.policy.predict_values(observation)
    return state


def assert_same(member, alone):
    ours, theirs = numbers(member), numbers(alone)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-9, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def check(name, **settings):
    agents, failures = train_together(name, **settings)
    assert not failures
    for seed, member in enumerate(agents):
        alone = make(name, seed, **settings).learn(timesteps(name), log_interval=1)
        assert alone._n_updates >= UPDATES // 2
        assert_same(member, alone)
    different = [numbers(agent)["value"].item() for agent in agents]
    assert len(set(different)) == MEMBERS


@pytest.mark.few(5)
@pytest.mark.parametrize("rule", ["feedback_alignment", "kolen_pollack", "node_perturbation", "gated"])
@pytest.mark.parametrize("name", KINDS)
def test_a_member_is_a_run(name, rule):
    check(name, rule=rule)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("rule", rule_names())
@pytest.mark.parametrize("name", KINDS)
def test_a_member_is_a_run_under_every_rule(name, rule, task):
    check(name, rule=rule, task=task)


@pytest.mark.few(3)
@pytest.mark.parametrize("setting", quick(SETTINGS, ("normalised", "gsde", "critic")))
@pytest.mark.parametrize("name", KINDS)
def test_a_member_is_a_run_with_every_setting(name, setting):
    check(name, **{"rule": "feedback_alignment", "task": "continuous", **SETTINGS[setting]})


@pytest.mark.parametrize("setting", quick(PPO_SETTINGS, ("stopping", "ragged")))
def test_a_member_is_a_run_with_every_setting_of_ppo(setting):
    check("ppo", **{"rule": "kolen_pollack", **PPO_SETTINGS[setting]})


class Poison(BaseCallback):
    """Makes a parameter NaN, and raises once the network has acted with it."""

    def _on_rollout_start(self):
        if self.num_timesteps > 50:
            raise ArithmeticError("not finite")
        if self.num_timesteps > 20:
            with torch.no_grad():
                next(self.model.policy.parameters()).fill_(torch.nan)

    def _on_step(self):
        return True


class Stop(BaseCallback):
    def _on_step(self):
        return self.num_timesteps < 40


class Raise(BaseCallback):
    def _on_step(self):
        if self.num_timesteps > 40:
            raise RuntimeError("the environment broke")
        return True


@pytest.mark.few(6)
@pytest.mark.parametrize("trouble", [Poison, Stop, Raise])
@pytest.mark.parametrize("rule", quick(["backprop", "equilibrium_propagation", "node_perturbation"], ("backprop",)))
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("troubled", [0, 1])
def test_a_member_fails_alone(name, rule, trouble, troubled):
    """The others' numbers do not change by a bit."""
    undisturbed, _ = train_together(name, rule=rule)
    callbacks = [trouble() if index == troubled else None for index in range(MEMBERS)]
    disturbed, failures = train_together(name, callbacks=callbacks, rule=rule)
    assert list(failures) == ([] if trouble is Stop else [troubled])
    assert disturbed[troubled].num_timesteps < undisturbed[troubled].num_timesteps
    for index in {0, 1, 2} - {troubled}:
        ours, theirs = numbers(disturbed[index]), numbers(undisturbed[index])
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


class Broken(gym.Wrapper):
    """Fails at one of its resets."""

    resets = 0

    def __init__(self, env, at):
        super().__init__(env)
        self.at = at

    def reset(self, **kwargs):
        self.resets += 1
        if self.resets == self.at:
            raise RuntimeError("no reset")
        return super().reset(**kwargs)


@pytest.mark.few(3)
@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_a_member_whose_environment_breaks_ends_alone(name, at):
    undisturbed, _ = train_together(name)
    agents = [make(name, seed) for seed in range(MEMBERS)]
    agents[0].env.envs[0] = Broken(agents[0].env.envs[0], at)
    failures = learn_together(agents, timesteps(name), (None,) * MEMBERS, log_interval=1, tb_log_name="run")
    assert {index: str(error) for index, error in failures.items()} == {0: "no reset"}
    for index in (1, 2):
        ours, theirs = numbers(agents[index]), numbers(undisturbed[index])
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(("name", "settings"), [("ppo", {}), ("ppo", {"target_kl": 1e-4}), ("reinforce", {})])
def test_members_go_on_from_where_they_ended(name, settings):
    settings = {"rule": "kolen_pollack", **settings}
    agents, _ = train_together(name, **settings)
    learn_together(agents, 64, (None,) * MEMBERS, None, "run", reset_num_timesteps=False)
    learn_together(agents, 64, (None,) * MEMBERS, None, "run", reset_num_timesteps=False)
    alone = make(name, 1, **settings).learn(timesteps(name))
    alone.learn(64, reset_num_timesteps=False).learn(64, reset_num_timesteps=False)
    assert_same(agents[1], alone)


def test_members_must_be_alike():
    agents = [make("ppo", 0), make("ppo", 1, hidden=(4,))]
    with pytest.raises(ValueError, match="layers"):
        learn_together(agents, 64, (None, None), None, "run")
    agents = [make("ppo", 0), make("ppo", 1, gamma=0.5)]
    with pytest.raises(ValueError, match="agree in gamma"):
        learn_together(agents, 64, (None, None), None, "run")
