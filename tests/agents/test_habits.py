"""What users of Stable-Baselines3 type means here what it means there, or is refused in one line."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from alike import seeded_alike
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from torch import nn

from agents import A2C, PPO, REINFORCE, RulePolicy, load_model, save_model
from bio_rl import make_rule
from bio_rl.rules.kolen_pollack import KolenPollack

SMALL = {PPO: {"n_steps": 64, "batch_size": 32, "n_epochs": 1}, A2C: {}, REINFORCE: {"n_episodes": 1}}
each_agent = pytest.mark.parametrize("kind", SMALL)


class OwnPolicy(RulePolicy):
    pass


class DictTask(gym.Env):
    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"a": np.zeros(2, np.float32), "b": 1}, {}

    def step(self, action):
        return {"a": np.ones(2, np.float32), "b": 2}, 1.0, False, False, {}


def widths(agent):
    return {name: [layer.out_features for layer in net.layers[:-1]] for name, net in agent.policy.networks.items()}


def activations(agent):
    return {layer.activation_name for net in agent.policy.networks.values() for layer in net.layers[:-1]}


# Policies


@each_agent
@pytest.mark.parametrize("policy", ["MlpPolicy", "MultiInputPolicy", ActorCriticPolicy, RulePolicy])
def test_a_policy_may_come_first(kind, policy):
    short, long, named = (
        kind("CartPole-v1", rule="feedback_alignment", seed=0, **SMALL[kind]),
        kind(policy, "CartPole-v1", rule="feedback_alignment", seed=0, **SMALL[kind]),
        kind(env=gym.make("CartPole-v1"), policy=policy, rule="feedback_alignment", seed=0, **SMALL[kind]),
    )
    assert type(short.policy) is type(long.policy) is type(named.policy) is RulePolicy
    for agent in (long, named):
        left, right = short.policy.state_dict(), agent.policy.state_dict()
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_an_own_policy_is_used():
    assert type(PPO(OwnPolicy, "CartPole-v1", **SMALL[PPO]).policy) is OwnPolicy


class Constant(ActorCriticPolicy):
    def _predict(self, observation, deterministic=False):
        return torch.ones_like(super()._predict(observation, deterministic))


def test_a_policy_of_sb3s_keeps_what_it_overrides(tmp_path):
    agent = A2C(Constant, "CartPole-v1", rule="feedback_alignment", seed=0).learn(5)
    assert isinstance(agent.policy, Constant)
    assert isinstance(agent.policy, RulePolicy)
    agent.save(tmp_path / "agent")
    save_model(agent, tmp_path / "model")
    for loaded in (A2C.load(tmp_path / "agent"), load_model(tmp_path / "model")):
        assert loaded.predict(np.zeros((9, 4)))[0].all()
        assert type(loaded.policy.networks["actor"].rule).__name__ == "FeedbackAlignment"


@pytest.mark.parametrize("base", [ActorCriticPolicy, RulePolicy])
def test_a_policy_whose_change_training_would_not_notice_is_refused(base):
    class Changed(base):
        def evaluate_actions(self, obs, actions):
            return super().evaluate_actions(obs, actions)

    with pytest.raises(ValueError, match=r"Changed cannot be used: .* would not call its evaluate_actions"):
        A2C(Changed, "CartPole-v1")


def test_a_policy_that_builds_its_own_networks_is_refused():
    class Built(ActorCriticPolicy):
        def _build_mlp_extractor(self):
            pass

    with pytest.raises(ValueError, match="Built cannot be used: its _build_mlp_extractor builds what no rule"):
        A2C(Built, "CartPole-v1")


def test_dict_observations_want_their_own_policy_as_in_sb3():
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        PPO("MlpPolicy", DictTask())
    for arguments in ((DictTask(),), ("MultiInputPolicy", DictTask())):
        assert PPO(*arguments, **SMALL[PPO]).policy.networks["actor"].in_features == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CnnPolicy", "CartPole-v1"), r"CnnPolicy cannot be used: networks have no convolutions yet; MlpPolicy"),
        ((ActorCriticCnnPolicy, "CartPole-v1"), "CnnPolicy cannot be used"),
        (("LstmPolicy", "CartPole-v1"), "LstmPolicy cannot be used; MlpPolicy"),
        ((sb3.DQN.policy_aliases["MlpPolicy"], "CartPole-v1"), "DQNPolicy cannot be used"),
        (("CartPole-v1", "feedback_alignment"), "'CartPole-v1' is no policy"),
        ((), "PPO needs an environment"),
        (("MlpPolicy",), "PPO needs an environment"),
        ((None,), "PPO needs an environment"),
    ],
)
def test_other_policies_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        PPO(*arguments)
    assert "\n" not in str(caught.value)


# Settings of the policy


@each_agent
@pytest.mark.parametrize(
    ("net_arch", "expected"),
    [
        ([32], {"actor": [32], "critic": [32]}),
        ([], {"actor": [], "critic": []}),
        (None, {"actor": [64, 64], "critic": [64, 64]}),
        ({"pi": [8, 4], "vf": [16]}, {"actor": [8, 4], "critic": [16]}),
        ({"vf": [16]}, {"actor": [], "critic": [16]}),
        ({"pi": [16]}, {"actor": [16], "critic": []}),
        ({}, {"actor": [], "critic": []}),
    ],
)
def test_net_arch(kind, net_arch, expected):
    kwargs = {"net_arch": net_arch, "activation_fn": nn.ReLU}
    agent = kind("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, **SMALL[kind]).learn(64)
    assert widths(agent) == expected
    assert activations(agent) <= {"relu"}


def test_net_arch_in_its_old_form_warns():
    with pytest.warns(UserWarning, match=r"net_arch={'vf': \[8\]} is today's"):
        agent = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [{"vf": [8]}]}, **SMALL[PPO])
    assert widths(agent) == {"actor": [], "critic": [8]}


def test_widths_apart_are_sb3s():
    """The same weights, drawn in the same order."""
    ours = PPO("CartPole-v1", hidden={"actor": [8], "critic": [16, 4]}, seed=1, **SMALL[PPO])
    kwargs = {"net_arch": {"pi": [8], "vf": [16, 4]}}
    theirs = seeded_alike(sb3.PPO)("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, seed=1, device="cpu", **SMALL[PPO])
    extractor = theirs.policy.mlp_extractor
    assert torch.equal(ours.policy.networks["actor"].layers[0].weight, extractor.policy_net[0].weight)
    assert torch.equal(ours.policy.networks["critic"].layers[1].weight, extractor.value_net[2].weight)


def test_sb3s_own_agent_takes_its_own_names_with_our_policy():
    kwargs = {"net_arch": {"pi": [8], "vf": [4]}, "activation_fn": nn.ELU, "rule": "readout"}
    agent = sb3.PPO(RulePolicy, "CartPole-v1", policy_kwargs=kwargs, device="cpu", **SMALL[PPO])
    assert widths(agent) == {"actor": [8], "critic": [4]}
    assert activations(agent) == {"elu"}


def test_what_flattens_may_be_named():
    kwargs = {"features_extractor_class": FlattenExtractor, "share_features_extractor": False, "ortho_init": False}
    agent = A2C("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs).learn(10)
    assert agent.policy.ortho_init is False
    assert agent.policy.activities(np.zeros(4, np.float32)).keys() == {"actor", "critic"}


@pytest.mark.parametrize("activation", ["relu", nn.ReLU])
def test_activations_by_name_or_class(activation):
    assert activations(A2C("CartPole-v1", activation=activation)) == {"relu"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy_kwargs": {"activation_fn": nn.LeakyReLU}}, "unknown activation LeakyReLU; known: identity, relu"),
        ({"activation": 3}, "unknown activation 3"),
        ({"policy_kwargs": {"features_extractor_class": NatureCNN}}, "learnt feature extractors are not there yet"),
        ({"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}}}, "learnt feature extractors"),
        ({"policy_kwargs": {"net_arch": [8]}, "hidden": [8]}, "net_arch is SB3's name for hidden: give one"),
        ({"policy_kwargs": {"activation_fn": nn.ReLU}, "activation": "relu"}, "activation_fn is SB3's name"),
        ({"policy_kwargs": {"ortho_init": True}, "ortho_init": True}, "give ortho_init to the agent itself"),
        ({"hidden": 64}, r"hidden must hold .* not 64"),
        ({"hidden": "64"}, "hidden must hold .* not '64'"),
        ({"hidden": [64.0]}, r"hidden must hold .* not \[64.0\]"),
        ({"hidden": [8, {"actor": [8]}]}, "hidden must hold"),
        ({"hidden": {"actor": [8]}}, "a list each for actor and critic, not for actor"),
        ({"hidden": {"actor": [8], "value": [8]}}, "a list each for actor and critic, not for actor, value"),
        ({"hidden": {"actor": [8], "critic": [0]}}, r"hidden must hold .* not \[0\]"),
        ({"hidden": {"actor": [8], "critic": [4]}, "shared_trunk": True}, "has no critic network"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        A2C("CartPole-v1", **settings)
    assert "\n" not in str(caught.value)


def test_widths_apart_need_a_critic():
    with pytest.raises(ValueError, match="has no critic network"):
        REINFORCE("CartPole-v1", baseline=False, hidden={"actor": [8], "critic": [4]})


# Names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rule": "kolen_pollack", "decay": 0.1},
            r"no argument 'decay'; it is the rule's: rule=make_rule\('kolen_pollack', decay=0.1\)",
        ),
        ({"rule": KolenPollack(), "decay": 0.1}, r"rule=KolenPollack\(decay=0.1\)"),
        ({"critic_rule": "readout", "hidden_bias": 1.0}, r"critic_rule=make_rule\('readout', hidden_bias=1.0\)"),
        ({"net_arch": [8]}, r"it is the policy's: policy_kwargs=dict\(net_arch=\[8\]\)"),
        ({"squash_output": True}, "it is the policy's"),
        ({"learning_rates": 1e-3}, "PPO has no argument 'learning_rates'; did you mean 'learning_rate'"),
        ({"hiden": [8]}, "did you mean 'hidden'"),
        ({"xyz": 1}, "PPO has no argument 'xyz'$"),
        ({"policy_kwargs": {"net_archs": [8]}}, "RulePolicy has no argument 'net_archs'; did you mean 'net_arch'"),
    ],
)
def test_an_unknown_name_says_what_was_meant(settings, message):
    with pytest.raises(TypeError, match=message) as caught:
        PPO("CartPole-v1", **settings)
    assert "\n" not in str(caught.value)


def test_the_rules_setting_is_written_as_it_was_said():
    assert PPO("CartPole-v1", rule=make_rule("kolen_pollack", decay=0.1)).policy.networks["actor"].rule.decay == 0.1


# Schedules


def rates(agent, timesteps, monkeypatch):
    """Every learning rate by which the agent's optimizer stepped."""
    seen = []
    step = agent.policy.optimizer.step
    monkeypatch.setattr(
        agent.policy.optimizer, "step", lambda: (seen.append(agent.policy.optimizer.param_groups[0]["lr"]), step())
    )
    agent.learn(timesteps)
    return seen


@each_agent
@pytest.mark.parametrize("learning_rate", [lambda progress: progress * 1e-3, "lin_0.001"])
def test_no_rate_is_negative_where_the_last_rollout_exceeds_the_total(kind, learning_rate, monkeypatch):
    settings = {**SMALL[kind], "learning_rate": learning_rate}
    seen = rates(kind("CartPole-v1", seed=0, **settings), 100, monkeypatch)
    assert len(seen) >= 2
    assert seen[0] > 0
    assert min(seen) >= 0


def test_clip_ranges_do_not_fall_below_zero_either():
    ranges = []

    def clip_range(progress):
        ranges.append(progress)
        return 0.2 * progress

    PPO("CartPole-v1", clip_range=clip_range, **SMALL[PPO]).learn(100)
    assert ranges[-1] == 0
    assert min(ranges) == 0


@pytest.mark.parametrize("kind", [PPO, A2C])
def test_a_run_of_one_rollout_that_learns_nothing_says_so(kind):
    agent = kind("CartPole-v1", learning_rate="lin_0.001", seed=0, **SMALL[kind])
    before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    with pytest.warns(UserWarning, match="nothing was learnt: the learning rate was 0") as caught:
        agent.learn(3)
    (warning,) = caught
    assert "\n" not in str(warning.message)
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.policy.state_dict().items())
    with warnings.catch_warnings(action="error", category=UserWarning):
        agent.learn(130)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": -1e-3}, "learning_rate must not be below 0, and is -0.001 at the beginning"),
        ({"learning_rate": lambda progress: progress - 0.5}, "learning_rate .* is -0.5 at the end"),
        ({"learning_rate": "lin_-1"}, "learning_rate must not be below 0"),
        ({"learning_rate": float("nan")}, "learning_rate must not be below 0, and is nan"),
        ({"clip_range": lambda progress: -progress}, "clip_range must not be below 0"),
        ({"clip_range_vf": lambda progress: -0.1}, "clip_range_vf must not be below 0"),
        ({"learning_rate": [1e-3]}, r"learning_rate must be .* not \[0.001\]"),
        ({"learning_rate": None}, "learning_rate must be .* not None"),
    ],
)
def test_a_schedule_that_learns_uphill_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PPO("CartPole-v1", **settings)


def test_a_schedule_may_miss_zero_by_rounding(monkeypatch):
    assert min(rates(A2C("CartPole-v1", learning_rate=lambda progress: progress - 1e-17), 10, monkeypatch)) == 0


def test_a_schedule_that_dips_below_zero_ends_the_training():
    agent = A2C("CartPole-v1", learning_rate=lambda progress: abs(progress - 0.5) - 0.2)
    with pytest.raises(ValueError, match=r"learning_rate fell to -0\.\d+ with \d+% of the training left"):
        agent.learn(200)


# Activities


def test_activities_are_those_of_what_acts():
    agent = PPO(DictTask(), rule="equilibrium_propagation", seed=0, **SMALL[PPO]).learn(64)
    observations = {"a": np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32), "b": np.arange(7) % 3}
    activities = agent.policy.activities(observations)
    assert [tuple(a.shape) for a in activities["actor"]] == [(7, 5), (7, 64), (7, 64), (7, 2)]
    actions, _ = agent.predict(observations, deterministic=True)
    np.testing.assert_array_equal(activities["actor"][-1].argmax(1), actions)
    torch.testing.assert_close(
        activities["critic"][-1], agent.policy.predict_values(agent.policy.obs_to_tensor(observations)[0])
    )
    one = agent.policy.activities({"a": observations["a"][0], "b": 0})
    torch.testing.assert_close(one["actor"][1], activities["actor"][1][:1])
