"""A setting that is given to a loaded agent is what it goes on with, or is refused."""

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from alike import seeded_alike
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from agents import A2C, PPO, REINFORCE, RulePolicy, load_model, save_model
from bio_rl import make_rule
from bio_rl.rules import rule_names

SMALL = {PPO: {"n_steps": 64, "batch_size": 32, "n_epochs": 2}, A2C: {}, REINFORCE: {"n_episodes": 2}}
each_agent = pytest.mark.parametrize("kind", SMALL)


class OwnPolicy(RulePolicy):
    pass


class Store:
    """An agent saved, as a zip or as a folder, and loaded again."""

    def __init__(self, where, form):
        self.where, self.form = where / form, form

    def save(self, agent):
        self.kind = type(agent)
        if self.form == "zip":
            agent.save(self.where)
        else:
            save_model(agent, self.where)
        return agent

    def load(self, env=None, **settings):
        if self.form == "zip":
            return self.kind.load(self.where, env, **settings)
        return load_model(self.where, env, **settings)


@pytest.fixture(params=["zip", "folder"])
def store(request, tmp_path):
    return Store(tmp_path, request.param)


def make(kind=A2C, env="CartPole-v1", **settings):
    return kind(env, seed=0, **{**SMALL[kind], **settings})


def forward_weights(agent):
    networks = agent.policy.networks.items()
    return {
        f"{name}.{i}.{k}": p
        for name, net in networks
        for i, x in enumerate(net.layers)
        for k, p in x.state_dict().items()
    }


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def rules(agent):
    return {name: type(net.rule).__name__ for name, net in agent.policy.networks.items()}


# The rule


@pytest.mark.few(3)
@each_agent
def test_pretrained_by_backprop_it_goes_on_by_feedback_alignment(kind, store):
    agent = store.save(make(kind).learn(100))
    loaded = store.load("CartPole-v1", rule="feedback_alignment", **SMALL[kind])
    assert rules(loaded) == {"actor": "FeedbackAlignment", "critic": "FeedbackAlignment"}
    assert_same(forward_weights(agent), forward_weights(loaded))
    observations = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        agent.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )
    before = {name: weight.clone() for name, weight in forward_weights(loaded).items()}
    loaded.learn(200)
    assert all(not torch.equal(before[name], weight) for name, weight in forward_weights(loaded).items())


@pytest.mark.few(8)
@pytest.mark.parametrize("rule", rule_names())
def test_every_rule_takes_over_what_backprop_learnt(rule, store):
    agent = store.save(make(hidden=[8, 8]).learn(20))
    loaded = store.load("CartPole-v1", rule=rule)
    assert_same(forward_weights(agent), forward_weights(loaded))
    loaded.learn(20)
    again = Store(store.where.parent, store.form)
    again.where = store.where.parent / "again"
    again.save(loaded)
    assert_same(loaded.policy.state_dict(), again.load().policy.state_dict())
    assert rules(again.load()) == rules(loaded)


def test_the_updates_are_the_new_rules(store):
    """From one batch: what the new rule assigns, with its own feedback, and not what the old one would."""
    store.save(make(hidden=[8, 8]))
    loaded = store.load(rule="feedback_alignment")
    network, (x, error) = loaded.policy.networks["actor"], (torch.randn(5, 4), torch.randn(5, 2))
    network(x).backward(error)
    first, second, third = network.layers
    h1 = torch.tanh(x @ first.weight.T + first.bias)
    h2 = torch.tanh(h1 @ second.weight.T + second.bias)
    below = (error @ network.rule.feedback[1]) * (1 - h2**2)
    torch.testing.assert_close(second.weight.grad, below.T @ h1)
    assert not torch.allclose(second.weight.grad, ((error @ third.weight) * (1 - h2**2)).T @ h1)


def test_the_same_rule_keeps_its_feedback(store):
    agent = store.save(make(rule="kolen_pollack").learn(20))
    assert_same(agent.policy.state_dict(), store.load(rule="kolen_pollack").policy.state_dict())
    other = store.load(rule=make_rule("kolen_pollack", decay=0.25))
    assert other.policy.networks["actor"].rule.decay == 0.25
    feedback = [one.policy.networks["actor"].rule.feedback[0] for one in (agent, other)]
    assert not torch.equal(*feedback)


def test_the_same_seed_gives_the_same_new_feedback(store):
    store.save(make())
    first, second, other = (store.load(rule="feedback_alignment", seed=seed) for seed in (1, 1, 2))
    feedback = [agent.policy.networks["actor"].rule.feedback[0] for agent in (first, second, other)]
    assert torch.equal(feedback[0], feedback[1])
    assert not torch.equal(feedback[0], feedback[2])


def test_a_new_rule_changes_no_other_random_number(store):
    store.save(make())
    draws = set()
    for settings in ({}, {"rule": "feedback_alignment"}, {"critic_rule": "kolen_pollack"}):
        store.load(seed=3, **settings)
        draws.add(torch.rand(()).item())
    assert len(draws) == 1


def test_a_rule_of_the_critics_own_stays_and_can_be_changed(store):
    store.save(make(rule="readout", critic_rule="weight_mirror"))
    assert rules(store.load(rule="backprop")) == {"actor": "Backprop", "critic": "WeightMirror"}
    assert rules(store.load(critic_rule="backprop")) == {"actor": "Readout", "critic": "Backprop"}
    assert rules(store.load(critic_rule=None)) == {"actor": "Readout", "critic": "Readout"}
    store.save(make(rule="readout"))
    assert rules(store.load(rule="backprop")) == {"actor": "Backprop", "critic": "Backprop"}


def test_a_shared_trunk_changes_its_rule(store):
    store.save(make(shared_trunk=True, rule="readout"))
    assert rules(store.load(rule="feedback_alignment")) == {"shared": "FeedbackAlignment"}
    with pytest.raises(ValueError, match="are for a critic network"):
        store.load(critic_rule="backprop")


def test_a_changed_rule_begins_with_an_optimizer_without_memory(tmp_path):
    agent = make(optimizer="adam").learn(50)
    agent.save(tmp_path / "agent")
    loaded = A2C.load(tmp_path / "agent", rule="kolen_pollack", critic_rule="backprop")
    optimizer, networks = loaded.policy.optimizer, loaded.policy.networks
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for net in networks.values() for p in net.parameters() if p.requires_grad}
    assert not any(p in optimizer.state for p in networks["actor"].parameters())
    before = agent.policy.optimizer.state
    for old, new in zip(agent.policy.networks["critic"].parameters(), networks["critic"].parameters(), strict=True):
        assert torch.equal(before[old]["exp_avg_sq"], optimizer.state[new]["exp_avg_sq"])


def test_gated_networks_still_hear_the_prediction_error_after_a_change(store):
    store.save(make())
    loaded = store.load("CartPole-v1", rule="gated").learn(10)
    assert all(net.modulator is not None for net in loaded.policy.networks.values())


def test_a_changed_rule_is_saved_again(store):
    store.save(make(rule="backprop"))
    store.save(store.load(rule="weight_mirror"))
    assert rules(store.load()) == {"actor": "WeightMirror", "critic": "WeightMirror"}


# How else it learns


def test_settings_of_learning_are_honoured(store):
    store.save(make(PPO))
    loaded = store.load(
        "CartPole-v1",
        n_steps=32,
        batch_size=16,
        n_epochs=3,
        learning_rate="lin_0.01",
        clip_range="lin_0.3",
        clip_range_vf=0.4,
        gamma=0.9,
        gae_lambda=0.8,
        ent_coef=0.1,
        vf_coef=0.2,
        max_grad_norm=0.3,
        normalize_advantage=False,
        target_kl=0.5,
        stats_window_size=7,
        seed=5,
        verbose=0,
    )
    assert (loaded.n_steps, loaded.batch_size, loaded.n_epochs, loaded.gamma, loaded.seed) == (32, 16, 3, 0.9, 5)
    assert (loaded.gae_lambda, loaded.ent_coef, loaded.vf_coef, loaded.max_grad_norm) == (0.8, 0.1, 0.2, 0.3)
    assert (loaded.normalize_advantage, loaded.target_kl, loaded._stats_window_size) == (False, 0.5, 7)
    assert loaded.rollout_buffer.buffer_size == 32
    assert (loaded.rollout_buffer.gamma, loaded.rollout_buffer.gae_lambda) == (0.9, 0.8)
    assert [loaded.lr_schedule(p) for p in (1, 0.5)] == [0.01, 0.005]
    assert loaded.clip_range(0.5) == pytest.approx(0.15)
    assert loaded.clip_range_vf(1) == 0.4
    loaded.learn(64)
    assert len(loaded.ep_info_buffer) <= 7


def test_reinforces_own_settings(store):
    store.save(make(REINFORCE))
    loaded = store.load("CartPole-v1", n_episodes=3, normalize_advantage=False)
    assert (loaded.rollout_buffer.quota, loaded.normalize_advantage) == (3, False)
    with pytest.raises(ValueError, match="critic=False does not fit the saved agent, whose critic is True"):
        store.load(baseline=False)


def test_the_optimizer_is_honoured(store):
    store.save(make().learn(20))
    loaded = store.load("CartPole-v1", optimizer="sgd", optimizer_kwargs={"momentum": 0.5}, learning_rate=0.1)
    assert type(loaded.policy.optimizer) is torch.optim.SGD
    assert loaded.policy.optimizer.param_groups[0]["momentum"] == 0.5
    loaded.learn(10)
    loaded = store.load(policy_kwargs={"optimizer_class": torch.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.5}})
    assert type(loaded.policy.optimizer) is torch.optim.AdamW
    assert loaded.policy.optimizer.param_groups[0]["weight_decay"] == 0.5


def test_the_critics_learning_rate_is_honoured(store):
    store.save(make(learning_rate=1e-3, critic_learning_rate=1e-2))
    loaded = store.load("CartPole-v1", learning_rate=2e-3, critic_learning_rate=1e-3).learn(5)
    assert [group["lr"] for group in loaded.policy.optimizer.param_groups] == pytest.approx([2e-3, 1e-3])
    loaded = store.load("CartPole-v1", learning_rate=2e-3, critic_learning_rate=None).learn(5)
    assert [group["lr"] for group in loaded.policy.optimizer.param_groups] == pytest.approx([2e-3])


def test_a_zip_loads_onto_the_cpu_and_into_an_environment_by_its_id(tmp_path):
    make().save(tmp_path / "agent")
    loaded = A2C.load(tmp_path / "agent", "CartPole-v1")
    assert loaded.device.type == "cpu"
    assert loaded.learn(10).num_timesteps == 10
    more = A2C.load(tmp_path / "agent", make_vec_env("CartPole-v1", n_envs=3))
    assert more.n_envs == 3


# What the networks compute


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": [8]}, r"hidden=\[8\] does not fit the saved agent, whose hidden is \[16, 8\]"),
        ({"hidden": {"actor": [16, 8], "critic": [4]}}, "does not fit"),
        ({"activation": "relu"}, "activation='relu' does not fit the saved agent, whose activation is 'tanh'"),
        ({"shared_trunk": True}, "shared_trunk=True does not fit"),
        ({"ortho_init": False}, "ortho_init=False does not fit"),
        ({"log_std_init": -1.0}, "log_std_init=-1.0 does not fit"),
        ({"use_sde": True}, "use_sde=True does not fit"),
        ({"policy": OwnPolicy}, "does not fit the saved agent, whose policy_class"),
        ({"policy": "CnnPolicy"}, "CnnPolicy cannot be used"),
        ({"policy_kwargs": {"net_arch": [8]}}, r"hidden=\[8\] does not fit"),
        ({"policy_kwargs": {"activation_fn": nn.ReLU}}, "activation='relu' does not fit"),
        ({"policy_kwargs": {"normalize_images": False}}, "normalize_images=False does not fit"),
        ({"rule": "no_such_rule"}, "unknown rule 'no_such_rule'"),
        ({"optimizer": "adamw"}, "unknown optimizer"),
        ({"learning_rate": -1.0}, "must not be below 0"),
        ({"learning_rate": "linear"}, "learning_rate must be"),
    ],
)
def test_what_the_weights_do_not_fit_is_refused_in_one_line(settings, message, store):
    store.save(make(env="Pendulum-v1", hidden=[16, 8]))
    with pytest.raises(ValueError, match=message) as caught:
        store.load(**settings)
    assert "\n" not in str(caught.value)


def test_what_is_said_again_is_taken(store):
    agent = store.save(make(env="Pendulum-v1", hidden=[16, 8]))
    loaded = store.load(
        policy="MlpPolicy",
        hidden=(16, 8),
        activation="tanh",
        shared_trunk=False,
        ortho_init=True,
        log_std_init=0.0,
        use_sde=False,
        policy_kwargs={"share_features_extractor": True},
    )
    assert_same(agent.policy.state_dict(), loaded.policy.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "kolen_pollack", "decay": 0.1}, r"rule=make_rule\('kolen_pollack', decay=0.1\)"),
        ({"lerning_rate": 0.1}, "did you mean 'learning_rate'"),
        ({"policy_kwargs": {"net_archs": [8]}}, "net_archs"),
    ],
)
def test_an_unknown_name_is_refused(settings, message, store):
    store.save(make())
    with pytest.raises((TypeError, ValueError), match=message):
        store.load(**settings)


def test_what_only_a_constructor_can_do_is_refused(tmp_path):
    make().save(tmp_path / "agent")
    with pytest.raises(ValueError, match="use_rms_prop cannot be changed in an agent that is loaded"):
        A2C.load(tmp_path / "agent", use_rms_prop=False)


# What SB3's own agents saved


@pytest.mark.few(3)
@pytest.mark.parametrize("kind", [PPO, A2C])
@pytest.mark.parametrize("rule", [None, "feedback_alignment", "kolen_pollack"])
def test_a_zip_of_sb3s_own(kind, rule, tmp_path):
    kwargs = {"net_arch": {"pi": [8, 6], "vf": [4]}, "activation_fn": nn.ReLU}
    theirs = getattr(sb3, kind.__name__)(
        "MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, seed=0, device="cpu", **SMALL[kind]
    ).learn(128)
    theirs.save(tmp_path / "theirs")
    ours = kind.load(tmp_path / "theirs", "Pendulum-v1", **({} if rule is None else {"rule": rule}))
    expected = "".join(part.capitalize() for part in (rule or "backprop").split("_"))
    assert rules(ours) == {"actor": expected, "critic": expected}
    observations = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    actions = [one.predict(observations, deterministic=True)[0] for one in (ours, theirs)]
    np.testing.assert_allclose(*actions, rtol=1e-5)
    values = [one.policy.predict_values(torch.as_tensor(observations)) for one in (ours, theirs)]
    torch.testing.assert_close(*values)
    assert torch.equal(ours.policy.log_std, theirs.policy.log_std)
    assert (ours.num_timesteps, ours.n_steps) == (theirs.num_timesteps, theirs.n_steps)
    before = {name: weight.clone() for name, weight in forward_weights(ours).items()}
    ours.learn(256)
    assert any(not torch.equal(before[name], weight) for name, weight in forward_weights(ours).items())
    ours.save(tmp_path / "ours")
    assert_same(kind.load(tmp_path / "ours").policy.state_dict(), ours.policy.state_dict())


def test_a_zip_of_sb3s_goes_on_as_sb3_would(tmp_path):
    """By backprop, from a fresh optimizer, the next update is that of SB3."""
    settings = {"seed": 0, "device": "cpu", "policy_kwargs": {"optimizer_class": torch.optim.SGD}}
    alike = seeded_alike(sb3.A2C)
    alike("MlpPolicy", "CartPole-v1", **settings).learn(50).save(tmp_path / "theirs")
    theirs = alike.load(tmp_path / "theirs", make_vec_env("CartPole-v1"), device="cpu").learn(25)
    ours = A2C.load(tmp_path / "theirs", "CartPole-v1").learn(25)
    extractor = theirs.policy.mlp_extractor
    expected = [extractor.policy_net[0], extractor.policy_net[2], theirs.policy.action_net]
    for layer, module in zip(ours.policy.networks["actor"].layers, expected, strict=True):
        torch.testing.assert_close(layer.weight, module.weight, atol=1e-6, rtol=0)


def test_parameters_of_sb3s_own_agent(tmp_path):
    theirs = sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, seed=1, device="cpu").learn(64)
    ours = make(PPO, rule="weight_mirror").learn(64)
    feedback = ours.policy.networks["actor"].rule.feedback[0].clone()
    ours.set_parameters(theirs.get_parameters())
    assert torch.equal(ours.policy.networks["critic"].layers[2].weight, theirs.policy.value_net.weight)
    assert torch.equal(ours.policy.networks["actor"].rule.feedback[0], feedback)
    assert not ours.policy.optimizer.state


def test_what_sb3_saved_and_cannot_be_had_is_refused(tmp_path):
    sb3.DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu").save(tmp_path / "dqn")
    with pytest.raises(ValueError, match="DQNPolicy cannot be used"):
        PPO.load(tmp_path / "dqn")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="wasn't a zip-file"):
        PPO.load(tmp_path / "text")


@pytest.mark.parametrize(
    ("saved", "other"), [(A2C, REINFORCE), (REINFORCE, A2C), (REINFORCE, PPO), (sb3.PPO, REINFORCE)]
)
def test_an_agent_of_whole_episodes_is_not_loaded_as_one_of_steps_nor_the_other_way(saved, other, tmp_path):
    saved(*(["MlpPolicy"] if saved is sb3.PPO else []), "CartPole-v1", device="cpu").save(tmp_path / "agent")
    with pytest.raises(ValueError, match=f"{other.__name__} cannot go on with .* load it by its own class"):
        other.load(tmp_path / "agent", "CartPole-v1")
