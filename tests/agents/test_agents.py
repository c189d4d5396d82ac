"""Our agents keep Stable-Baselines3's habits, and their networks learn by the rules they are given."""

import subprocess
import sys

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from alike import seeded_alike
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecNormalize

from agents import A2C, PPO, REINFORCE, RulePolicy
from bio_rl import Network, Rule
from bio_rl.rules.backprop import Backprop
from bio_rl.rules.gated import Surprise

AGENTS = {
    "ppo": (PPO, {"n_steps": 64, "batch_size": 32, "n_epochs": 2}),
    "a2c": (A2C, {}),
    "reinforce": (REINFORCE, {"n_episodes": 2}),
}
each_agent = pytest.mark.parametrize("name", AGENTS)


def make(name, env="CartPole-v1", seed=0, **settings):
    kind, defaults = AGENTS[name]
    return kind(env, seed=seed, **{**defaults, **settings})


def weights(network):
    return torch.cat([p.detach().flatten() for layer in network.layers for p in layer.parameters()])


class Recorder(KVWriter):
    """Keeps what a logger writes."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append(key_values.copy())

    def close(self):
        pass


def record(agent):
    recorder = Recorder()
    agent.set_logger(Logger(None, [recorder]))
    return recorder


# Habits


@each_agent
def test_callbacks_see_every_step_and_can_stop(name):
    class Stop(BaseCallback):
        started = 0

        def _on_rollout_start(self):
            self.started += 1

        def _on_step(self):
            assert {"actions", "rewards", "infos", "dones"} <= self.locals.keys()
            return self.n_calls < 30

    stop = Stop()
    agent = make(name).learn(1000, callback=stop)
    assert agent.num_timesteps == stop.n_calls == 30
    assert stop.started >= 1


@each_agent
def test_predict_and_evaluate(name):
    agent = make(name, rule="feedback_alignment").learn(200)
    action, state = agent.predict(np.zeros(4, dtype=np.float32), deterministic=True)
    assert action.shape == ()
    assert state is None
    mean, deviation = evaluate_policy(agent, agent.get_env(), n_eval_episodes=3, warn=False)
    assert 1 <= mean <= 500
    assert deviation >= 0


@pytest.mark.few(3)
@each_agent
@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment"])
def test_save_and_load(name, rule, tmp_path):
    agent = make(name, rule=rule, critic_learning_rate=1e-2, hidden=(16,)).learn(200)
    agent.save(tmp_path / "agent.zip")
    loaded = type(agent).load(tmp_path / "agent.zip", env=agent.get_env(), device="cpu")
    for part in ("policy", "policy.optimizer"):
        assert_same(agent.get_parameters()[part], loaded.get_parameters()[part])
    assert loaded.num_timesteps == agent.num_timesteps
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded.num_timesteps >= agent.num_timesteps + 100


def assert_same(left, right):
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


@pytest.mark.few(1)
@each_agent
def test_a_seed_repeats_a_training(name):
    first, second = (make(name, rule="weight_mirror", seed=5).learn(300) for _ in range(2))
    assert_same(first.get_parameters(), second.get_parameters())


def test_set_parameters_carries_one_agent_to_another():
    agent, other = make("ppo", seed=0), make("ppo", seed=1)
    other.set_parameters(agent.get_parameters())
    assert_same(agent.policy.state_dict(), other.policy.state_dict())


def test_policy_saves_and_loads_by_itself(tmp_path):
    agent = make("ppo", rule="feedback_alignment", critic_rule="backprop")
    agent.policy.save(tmp_path / "policy.pt")
    loaded = RulePolicy.load(tmp_path / "policy.pt", device="cpu")
    assert_same(agent.policy.state_dict(), loaded.state_dict())


def test_policy_serves_sb3s_own_agent():
    agent = sb3.PPO(RulePolicy, "CartPole-v1", n_steps=64, device="cpu", policy_kwargs={"rule": "feedback_alignment"})
    assert list(agent.learn(64).policy.networks) == ["actor", "critic"]


@each_agent
def test_logs_have_sb3s_names(name):
    agent = make(name)
    recorder = record(agent)
    agent.learn(600, log_interval=1)
    keys = set().union(*recorder.rows)
    loss = "train/policy_gradient_loss" if name == "ppo" else "train/policy_loss"
    assert {loss, "train/value_loss", "train/entropy_loss", "train/explained_variance"} <= keys
    assert {"train/learning_rate", "train/n_updates", "rollout/ep_rew_mean", "time/total_timesteps"} <= keys


@each_agent
def test_vec_normalize(name):
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=0), gamma=0.9)
    agent = make(name, env, gamma=0.9).learn(900)
    assert agent.get_vec_normalize_env() is env
    assert env.obs_rms.count > 800


# Rules


def test_actor_and_critic_learn_each_by_its_own_rule():
    agent = make("ppo", rule="feedback_alignment", critic_rule="readout")
    actor, critic = agent.policy.networks["actor"], agent.policy.networks["critic"]
    before = {net: [layer.weight.detach().clone() for layer in net.layers] for net in (actor, critic)}
    agent.learn(128)
    moved = {
        net: [not torch.equal(w, layer.weight) for w, layer in zip(before[net], net.layers, strict=True)]
        for net in before
    }
    assert moved[actor] == [True, True, True]
    assert moved[critic] == [False, False, True]


def test_the_rule_and_not_autograd_moves_the_weights():
    exact, aligned = (  # unclipped: the norm is of all layers, so that hidden ones would scale the output's
        make("a2c", rule=rule, seed=4, max_grad_norm=1e9).learn(5).policy.networks
        for rule in ("backprop", "feedback_alignment")
    )
    for name in ("actor", "critic"):
        output, hidden = exact[name].layers[-1], exact[name].layers[0]
        torch.testing.assert_close(output.weight, aligned[name].layers[-1].weight, atol=1e-7, rtol=0)
        assert (hidden.weight - aligned[name].layers[0].weight).abs().max() > 1e-3


def test_a_rule_object_is_a_pattern_for_both_networks():
    from bio_rl import make_rule

    pattern = make_rule("feedback_alignment", feedback_scale=0.5)
    networks = make("ppo", rule=pattern).policy.networks
    rules = [networks["actor"].rule, networks["critic"].rule]
    assert [rule.feedback_scale for rule in rules] == [0.5, 0.5]
    assert len({id(rule) for rule in (pattern, *rules)}) == 3
    assert not torch.equal(rules[0].feedback[0], rules[1].feedback[0])


def test_the_choice_of_a_rule_changes_no_other_random_number():
    draws = set()
    for rule in ("backprop", "feedback_alignment", "readout"):
        make("ppo", rule=rule, seed=2)
        draws.add(torch.rand(()).item())
    seeded_alike(sb3.PPO)("MlpPolicy", "CartPole-v1", n_steps=64, seed=2, device="cpu")
    assert draws == {torch.rand(()).item()}


@each_agent
@pytest.mark.parametrize("shared_trunk", [False, True])
def test_networks_hear_each_samples_prediction_error(name, shared_trunk, monkeypatch):
    """The advantage of the very sample that is learnt from, however the minibatch was shuffled."""
    agent = make(name, rule="gated", shared_trunk=shared_trunk)
    whole, gate, heard = [], Surprise.forward, []

    def listen(self, network, trace):
        buffer, (x, *_, y) = agent.rollout_buffer, trace.activities
        if name == "reinforce":
            observations, _, returns = buffer.samples()
            observations = torch.as_tensor(observations)
            if y.shape[-1] != 2:  # a critic, or a shared trunk: its last output is the value
                whole[:] = [returns - y[:, -1]]
            advantages = whole[0]
        else:
            observations, advantages = torch.as_tensor(buffer.observations), torch.as_tensor(buffer.advantages)
        samples = observations.reshape(-1, 4)
        assert len(samples.unique(dim=0)) == len(samples)
        distance, which = torch.cdist(x, samples).min(-1)
        assert distance.max() < 1e-3
        torch.testing.assert_close(network.modulator, advantages.flatten()[which], rtol=1e-5, atol=1e-5)
        heard.append(network)
        return gate(self, network, trace)

    monkeypatch.setattr(Surprise, "forward", listen)
    agent.learn(200)
    assert set(heard) == set(agent.policy.networks.values())


# Networks and optimizers


def test_critic_learning_rate_keeps_its_ratio_under_a_schedule():
    agent = make("ppo", learning_rate="lin_0.001", critic_learning_rate=0.004)
    recorder = record(agent)
    agent.learn(256)
    rates = [(row["train/learning_rate"], row["train/critic_learning_rate"]) for row in recorder.rows[1:]]
    assert [actor for actor, _ in rates] == pytest.approx([0.00075, 0.0005, 0.00025])
    assert [critic for _, critic in rates] == pytest.approx([0.003, 0.002, 0.001])
    actor, critic = agent.policy.optimizer.param_groups
    assert {id(p) for p in critic["params"]} == {id(p) for p in agent.policy.networks["critic"].parameters()}
    assert len(actor["params"]) == len(critic["params"])


def test_critic_learning_rate_moves_the_critic_alone():
    def moved(rate):
        agent = make("a2c", optimizer="sgd", learning_rate=1e-3, critic_learning_rate=rate)
        before = {name: weights(net) for name, net in agent.policy.networks.items()}
        agent.learn(5)
        return {name: weights(net) - before[name] for name, net in agent.policy.networks.items()}

    slow, fast = moved(1e-3), moved(1e-2)
    torch.testing.assert_close(slow["actor"], fast["actor"])
    torch.testing.assert_close(10 * slow["critic"], fast["critic"], atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"use_sde": True, "env": "Pendulum-v1"}])
def test_shared_trunk_is_one_network_with_both_heads(settings):
    settings = {"env": "CartPole-v1", **settings}
    shared, separate = (make("ppo", shared_trunk=trunk, **settings) for trunk in (True, False))
    assert list(shared.policy.networks) == ["shared"]
    network = shared.policy.networks["shared"]
    heads = [separate.policy.networks[name].layers[-1].weight for name in ("actor", "critic")]
    assert torch.equal(network.layers[-1].weight, torch.cat(heads))
    assert torch.equal(network.layers[0].weight, separate.policy.networks["actor"].layers[0].weight)
    obs = torch.randn(5, *shared.observation_space.shape)
    output = network(obs)
    _, values, _ = shared.policy(obs)
    assert torch.equal(values, output[:, -1:])
    assert torch.equal(shared.policy.predict_values(obs), values)
    before = weights(network)
    shared.learn(64)
    assert (weights(network) != before).float().mean() > 0.9


def test_only_networks_and_the_log_deviation_learn():
    policy = make("ppo", "Pendulum-v1", rule="kolen_pollack").policy
    inside = {id(p) for network in policy.networks.values() for p in network.parameters()}
    outside = [name for name, p in policy.named_parameters() if id(p) not in inside]
    assert outside == ["log_std"]


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("adam", torch.optim.Adam, {"eps": 1e-5}),
        ("rmsprop", torch.optim.RMSprop, {"alpha": 0.99, "eps": 1e-5}),
        ("sgd", torch.optim.SGD, {"momentum": 0.5}),
    ],
)
def test_optimizers(name, kind, settings):
    optimizer = make(
        "ppo", optimizer=name, optimizer_kwargs={"momentum": 0.5} if name == "sgd" else None
    ).policy.optimizer
    assert type(optimizer) is kind
    assert settings.items() <= optimizer.param_groups[0].items()


def test_networks_are_as_asked_for():
    agent = make("ppo", hidden=(12, 7), activation="relu")
    for network in agent.policy.networks.values():
        assert [(layer.out_features, layer.activation_name) for layer in network.layers[:-1]] == [
            (12, "relu"),
            (7, "relu"),
        ]
        assert network.layers[-1].activation_name == "identity"


def test_linear_networks_work():
    agent = make("ppo", "Pendulum-v1", hidden=(), use_sde=True).learn(64)
    assert len(agent.policy.networks["actor"].layers) == 1


# Mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "no_such_rule"}, "unknown rule 'no_such_rule'"),
        ({"critic_rule": "no_such_rule"}, "unknown rule"),
        ({"rule": torch.nn.Tanh()}, r"Tanh\(\) is not a rule"),
        ({"critic_rule": 3}, "3 is not a rule"),
        ({"activation": "swish"}, "unknown activation 'swish'"),
        ({"hidden": (64, 0)}, r"hidden must .* not \[64, 0\]"),
        ({"optimizer": "adamw"}, "unknown optimizer 'adamw'; known: adam, rmsprop, sgd"),
        ({"optimizer_kwargs": {"eps": 1.0}}, "optimizer_kwargs need an optimizer"),
        ({"learning_rate": "linear_0.1"}, "learning_rate must be .* not 'linear_0.1'"),
        ({"clip_range": "lin_a"}, "clip_range must be .* not 'lin_a'"),
        ({"critic_learning_rate": 1e-3, "learning_rate": 0.0}, "begins above 0"),
        ({"shared_trunk": True, "critic_rule": "backprop"}, "are for a critic network"),
        ({"shared_trunk": True, "critic_learning_rate": 1.0}, "are for a critic network"),
        ({"policy_kwargs": {"rule": "backprop"}}, "give rule to the agent itself"),
    ],
)
def test_a_mistake_gets_one_clear_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        make("ppo", **settings)
    assert "\n" not in str(caught.value)


class Assigning(Rule):
    """Makes of backprop's updates what it is told."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def assign(self, network, trace, output_error):
        torch.rand(3)
        return self.what(network, Backprop.assign(Backprop(), network, trace, output_error))


WRONG = {
    "nothing": (lambda network, exact: {}, "assign gives no update to layers.0.weight"),
    "a name": (lambda network, exact: {**exact, "weight": 1}, "an update to 'weight', which is no parameter"),
    "no dictionary": (lambda network, exact: None, "must return a dictionary of updates, not None"),
    "NaN": (
        lambda network, exact: {**exact, network.layers[1].bias: exact[network.layers[1].bias] * torch.nan},
        "the update of layers.1.bias is not finite at the first step",
    ),
}


@each_agent
@pytest.mark.parametrize("argument", ["rule", "critic_rule"])
@pytest.mark.parametrize(("what", "message"), WRONG.values(), ids=WRONG)
def test_a_rule_that_assigns_what_it_should_not_makes_no_agent(name, argument, what, message, tmp_path):
    with pytest.raises(ValueError, match=f"Assigning: .*{message}"):
        make(name, **{argument: Assigning(what)})
    make(name).save(tmp_path / "agent")
    with pytest.raises(ValueError, match=f"Assigning: .*{message}"):
        AGENTS[name][0].load(tmp_path / "agent", **{argument: Assigning(what)})


@pytest.mark.parametrize("rule", ["weight_mirror", "node_perturbation", Assigning(lambda network, exact: exact)])
def test_to_look_at_a_rule_beforehand_changes_nothing(rule, monkeypatch):
    looked = make("ppo", rule=rule)
    after = torch.rand(())
    monkeypatch.setattr(Network, "probe", lambda network: None)
    blind = make("ppo", rule=rule)
    assert torch.equal(after, torch.rand(()))
    left, right = looked.policy.state_dict(), blind.policy.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize(
    ("name", "env", "settings"),
    [
        ("a2c", "CartPole-v1", {"n_steps": 1, "normalize_advantage": True}),
        ("ppo", "CartPole-v1", {"n_steps": 17, "batch_size": 16}),
        ("ppo", lambda: make_vec_env("CartPole-v1", 3), {"n_steps": 11, "batch_size": 8}),
    ],
)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_a_single_advantage_is_not_normalised(name, env, settings):
    with pytest.raises(ValueError, match="normalize_advantage cannot normalise a single advantage"):
        make(name, env, **settings)
    make(name, env, **{**settings, "normalize_advantage": False})


def test_reinforce_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="n_episodes must be at least 1, not 0"):
        make("reinforce", n_episodes=0)
    with pytest.raises(ValueError, match="shared_trunk=True needs a critic"):
        make("reinforce", baseline=False, shared_trunk=True)
    with pytest.raises(ValueError, match="are for a critic network"):
        make("reinforce", baseline=False, critic_rule="readout")


def test_the_library_imports_no_agents_and_no_tools():
    code = "import sys, bio_rl; print(*[m for m in %r if m in sys.modules])"
    unwanted = ["agents", "stable_baselines3", "gymnasium", "hydra", "omegaconf", "tensorboard", "matplotlib"]
    out = subprocess.run([sys.executable, "-c", code % unwanted], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""
