"""A saved model acts as it did, and loading it runs nothing but our own code."""

import math

import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from agents import A2C, PPO, REINFORCE, RulePolicy, load_model, save_model
from agents.saving import dump_space, load_space, rule_settings
from bio_rl import Rule, make_rule
from bio_rl.rules import Trace, rule_class, rule_names

AGENTS = {
    "ppo": (PPO, "CartPole-v1", {"n_steps": 64, "rule": "feedback_alignment"}),
    "critic_rule": (
        A2C,
        "CartPole-v1",
        {"rule": "kolen_pollack", "critic_rule": make_rule("readout", hidden_bias=0.5)},
    ),
    "shared": (
        A2C,
        "CartPole-v1",
        {"shared_trunk": True, "hidden": (16,), "activation": "relu", "rule": "weight_mirror"},
    ),
    "gsde": (PPO, "Pendulum-v1", {"n_steps": 64, "use_sde": True, "log_std_init": -2.0, "optimizer": "sgd"}),
    "squashed": (PPO, "Pendulum-v1", {"n_steps": 64, "use_sde": True, "policy_kwargs": {"squash_output": True}}),
    "no_critic": (REINFORCE, "CartPole-v1", {"baseline": False}),
    "scheduled": (PPO, "CartPole-v1", {"n_steps": 64, "learning_rate": "lin_0.01", "critic_learning_rate": 0.1}),
}


@pytest.mark.parametrize("name", AGENTS)
def test_a_loaded_model_is_the_same(name, tmp_path):
    kind, env, settings = AGENTS[name]
    agent = kind(env, seed=0, **settings).learn(70)
    save_model(agent, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert type(loaded) is kind
    left, right = agent.policy.state_dict(), loaded.policy.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)
    observations = np.random.default_rng(0).normal(size=(20, *agent.observation_space.shape)).astype(np.float32)
    np.testing.assert_array_equal(
        agent.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )
    rules = [
        [(type(net.rule), rule_settings(net.rule)) for net in one.policy.networks.values()] for one in (agent, loaded)
    ]
    assert rules[0] == rules[1]


def test_rules_go_on_as_they_would_have(tmp_path):
    agent = A2C("CartPole-v1", rule="weight_mirror", seed=0).learn(50)
    save_model(agent, tmp_path)
    loaded = load_model(tmp_path)
    x = torch.randn(6, 4)
    for one in (agent, loaded):
        one.policy.zero_grad()
        one.policy.networks["actor"](x).sum().backward()
    grads = [[p.grad for p in one.policy.networks["actor"].parameters()] for one in (agent, loaded)]
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


def test_the_folder_holds_no_pickle(tmp_path):
    env = VecNormalize(make_vec_env("CartPole-v1"))
    save_model(A2C(env, seed=0), tmp_path)
    suffixes = {path.name for path in tmp_path.iterdir()}
    assert suffixes == {"policy.yaml", "policy.safetensors", "vec_normalize.yaml", "vec_normalize.safetensors"}
    assert yaml.safe_load((tmp_path / "policy.yaml").read_text())["policy"]["rule"] == {
        "name": "backprop",
        "settings": {},
    }


@pytest.mark.parametrize("norm_obs", [True, False])
def test_normalisation_comes_back_frozen(norm_obs, tmp_path):
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=0), norm_obs=norm_obs, clip_obs=3.0, gamma=0.9)
    agent = A2C(env, seed=0).learn(200)
    save_model(agent, tmp_path)
    loaded = load_model(tmp_path, "Pendulum-v1")
    normalizer = loaded.get_vec_normalize_env()
    observations = np.random.default_rng(0).normal(size=(20, 3)) * 5
    np.testing.assert_array_equal(normalizer.normalize_obs(observations), env.normalize_obs(observations))
    assert (normalizer.clip_obs, normalizer.gamma, normalizer.ret_rms.var) == (3.0, 0.9, env.ret_rms.var)
    evaluate_policy(loaded, loaded.get_env(), n_eval_episodes=1)
    assert normalizer.ret_rms.count == env.ret_rms.count
    np.testing.assert_array_equal(normalizer.normalize_obs(observations), env.normalize_obs(observations))
    normalizer.training = normalizer.norm_reward = True
    loaded.learn(20)
    assert normalizer.ret_rms.count > env.ret_rms.count


def test_normalisation_of_a_dict(tmp_path):
    import gymnasium as gym

    class Task(gym.Env):
        observation_space = spaces.Dict({"a": spaces.Box(-9, 9, (2,)), "b": spaces.Discrete(3)})
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 1.0, bool(self.np_random.random() < 0.2), False, {}

    env = VecNormalize(make_vec_env(Task), norm_obs_keys=["a"])
    save_model(A2C(env, seed=0).learn(50), tmp_path)
    normalizer = load_model(tmp_path, Task()).get_vec_normalize_env()
    np.testing.assert_array_equal(normalizer.obs_rms["a"].mean, env.obs_rms["a"].mean)
    assert normalizer.norm_obs_keys == ["a"]


def test_training_goes_on_with_given_settings(tmp_path):
    save_model(PPO("CartPole-v1", n_steps=64, seed=0).learn(64), tmp_path)
    loaded = load_model(tmp_path, "CartPole-v1", n_steps=32, batch_size=32, learning_rate=0.01)
    assert loaded.learn(32).num_timesteps == 32


SPACES = [
    spaces.Box(-1, 1, (2, 3)),
    spaces.Box(np.array([-4.8, -np.inf], np.float32), np.array([4.8, np.inf], np.float32)),
    spaces.Box(0, 255, (4, 4, 1), np.uint8),
    spaces.Box(-math.pi, math.pi, (), np.float64),
    spaces.Discrete(5),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([2, 3, 4]),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 1]], dtype=np.int32),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 3]),
    spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Box(0, 1, (1,)))]),
    spaces.Tuple((spaces.Discrete(2), spaces.Dict({"x": spaces.MultiBinary(2)}))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_survive_yaml(space):
    loaded = load_space(yaml.safe_load(yaml.safe_dump(dump_space(space))))
    assert loaded == space
    assert loaded.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert list(loaded) == list(space)


@pytest.mark.parametrize("name", rule_names())
def test_every_rule_tells_its_settings(name):
    settings = rule_settings(make_rule(name))
    again = rule_settings(rule_class(name)(**yaml.safe_load(yaml.safe_dump(settings))))
    assert settings == again


class OwnRule(Rule):
    paper = "none"
    teaches = "none"

    def __init__(self, scale: float = 1.0, forgotten: float = 0.0):
        super().__init__()
        self.scale = scale

    def assign(self, network, trace: Trace, output_error):
        return {}


class Remembering(OwnRule):
    def __init__(self, scale: float = 1.0):
        super().__init__(scale)


def test_a_rule_of_ones_own_is_found_by_its_name(tmp_path):
    save_model(A2C("CartPole-v1", rule=Remembering(scale=0.25)), tmp_path)
    assert load_model(tmp_path).policy.networks["actor"].rule.scale == 0.25


def test_members_are_not_saved_as_if_they_were_one(tmp_path):
    agent = A2C("CartPole-v1", members=2, seed=0)
    with pytest.raises(ValueError, match=r"saves one agent, not 2 members: save each of agent\.members"):
        save_model(agent, tmp_path / "together")
    assert not list(tmp_path.iterdir())
    for number, member in enumerate(agent.members[1:]):
        save_model(member, tmp_path / f"{number}")


def test_a_rule_that_forgets_a_setting_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"OwnRule cannot be saved: it must keep its setting 'forgotten' as self\.forgotten"
    ):
        save_model(A2C("CartPole-v1", rule=OwnRule()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_rule_is_not_called(tmp_path):
    save_model(A2C("CartPole-v1"), tmp_path)
    path = tmp_path / "policy.yaml"
    description = yaml.safe_load(path.read_text())
    description["policy"]["rule"] = {"name": "pathlib:Path.touch", "settings": {}}
    path.write_text(yaml.safe_dump(description))
    with pytest.raises(ValueError, match=r"pathlib:Path\.touch"):
        load_model(tmp_path)
    description["policy"]["rule"] = {"name": "os:getcwd", "settings": {}}
    path.write_text(yaml.safe_dump(description))
    with pytest.raises(ValueError, match="'os:getcwd' is not a rule: it is no subclass of bio_rl"):
        load_model(tmp_path)


def test_loading_refuses_python_in_yaml(tmp_path):
    save_model(A2C("CartPole-v1"), tmp_path)
    (tmp_path / "policy.yaml").write_text("agent: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ValueError, match=r"policy\.yaml cannot be read: .*python/object"):
        load_model(tmp_path)


def test_mistakes_get_one_clear_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"policy\.yaml"):
        load_model(tmp_path)
    save_model(A2C("CartPole-v1"), tmp_path)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        load_model(tmp_path, "Acrobot-v1")
    (tmp_path / "policy.yaml").write_text("agent: SAC\n")
    with pytest.raises(ValueError, match=r"policy\.yaml does not describe a policy: unknown 'SAC'"):
        load_model(tmp_path)


# Agents and policies of one's own


class OwnAgent(PPO):
    def __init__(self, *arguments, bonus=0.0, **settings):
        super().__init__(*arguments, **settings)
        self.bonus = bonus


class OwnPolicy(RulePolicy):
    pass


def test_an_agent_and_a_policy_of_ones_own_are_found_by_their_names(tmp_path):
    agent = OwnAgent(OwnPolicy, "CartPole-v1", n_steps=64, bonus=1.0, seed=0)
    save_model(agent, tmp_path)
    described = yaml.safe_load((tmp_path / "policy.yaml").read_text())
    assert described["agent"] == f"{__name__}:OwnAgent"
    assert described["policy_class"] == f"{__name__}:OwnPolicy"
    loaded = load_model(tmp_path, "CartPole-v1", n_steps=32, batch_size=32, bonus=2.0)
    assert (type(loaded), type(loaded.policy), loaded.bonus) == (OwnAgent, OwnPolicy, 2.0)
    assert torch.equal(
        loaded.policy.networks["actor"].layers[0].weight, agent.policy.networks["actor"].layers[0].weight
    )
    loaded.learn(32)


def test_a_class_that_cannot_be_found_again_is_not_saved(tmp_path):
    class Hidden(A2C):
        pass

    with pytest.raises(ValueError, match=r"Hidden cannot be saved: .* define it in a module"):
        save_model(Hidden("CartPole-v1"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["agent", "policy_class"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pathlib:Path", "'pathlib:Path' is no subclass of"),
        ("os:getcwd", "'os:getcwd' is no subclass of"),
        ("no_such_module:PPO", "unknown 'no_such_module:PPO'"),
        ("agents:DQN", "unknown 'agents:DQN'"),
        (3, "unknown 3"),
    ],
)
def test_a_name_that_is_no_agent_is_not_called(key, name, message, tmp_path):
    save_model(A2C("CartPole-v1"), tmp_path)
    description = yaml.safe_load((tmp_path / "policy.yaml").read_text())
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump({**description, key: name}))
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


# Folders


def test_a_runs_folder_holds_its_model(tmp_path):
    agent = A2C("CartPole-v1", seed=0)
    save_model(agent, tmp_path / "model")
    left, right = agent.policy.state_dict(), load_model(tmp_path).policy.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def saved(tmp_path):
    save_model(A2C(VecNormalize(make_vec_env("CartPole-v1")), hidden=(8,), seed=0), tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["policy.yaml", "policy.safetensors", "vec_normalize.safetensors"])
def test_a_file_that_is_missing_is_named(name, saved):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=name) as caught:
        load_model(saved, "CartPole-v1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"half: [1, 2", b"\xff\xfe\x00", b"- 1\n- 2\n", b"agent: A2C\n", b"3"])
@pytest.mark.parametrize(
    "name", ["policy.yaml", "policy.safetensors", "vec_normalize.yaml", "vec_normalize.safetensors"]
)
def test_a_file_that_is_not_as_it_was_written_is_named(name, content, saved):
    (saved / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"policy|vec_normalize") as caught:
        load_model(saved, "CartPole-v1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": {"hidden": [9]}}, "policy.safetensors is not of the policy in policy.yaml"),
        ({"policy": {"hidden": "wide"}}, "hidden must hold"),
        ({"policy": {"rule": {"name": "readout", "settings": {"bias": 1}}}}, "does not describe a policy"),
        (
            {"policy": {"rule": {"name": "readout", "settings": {"hidden_bias": -1}}}},
            "hidden_bias must be a number from 0",
        ),
        ({"policy": {"rule": "readout"}}, "does not describe a policy"),
        ({"policy": {"wide": True}}, "no argument 'wide'"),
        ({"action_space": {"type": "Text"}}, "unknown space 'Text'"),
        ({"observation_space": {"shape": None}}, "does not describe a policy"),
    ],
)
def test_a_description_that_was_changed_gets_one_line(change, message, saved):
    description = yaml.safe_load((saved / "policy.yaml").read_text())
    description |= {key: {**description[key], **value} for key, value in change.items()}
    (saved / "policy.yaml").write_text(yaml.safe_dump(description))
    with pytest.raises(ValueError, match=message) as caught:
        load_model(saved)
    assert "\n" not in str(caught.value)


def test_what_is_no_folder_holds_no_model(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no model in"):
            load_model(folder)
