"""A preset gives settings their values by one word; what is given wins, and what ran is recorded."""

import inspect
import json
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
import yaml

from agents import PPO, load_model
from bio_rl import Rule, make_rule
from bio_rl.cli import main
from bio_rl.cli.configs import compose
from bio_rl.cli.loader import config_folder
from bio_rl.rule import rule_settings
from bio_rl.rules import rule_class, rule_names

NUDGING = [name for name in rule_names() if rule_class(name).presets]
WORDS = ["limit", "prospective"]
SMALL = ("env.timesteps=64", "env.n_envs=2", "agent.n_steps=16", "evaluation.episodes=1", "hydra.run.dir=run")


def defaults(kind):
    return {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}


def test_a_rule_that_nudges_says_what_it_is_in_the_limit():
    limits = {name: rule_class(name).limit for name in rule_names()}
    assert [name for name, limit in limits.items() if limit] == NUDGING
    assert set(filter(None, limits.values())) <= {*rule_names(), "gauss_newton"}


FROM_THE_START = sorted({*NUDGING} - {"target_propagation", "deep_feedback_control"})
"""Rules whose limit holds before feedback has been learnt; for the others see tests/theory."""


@pytest.mark.parametrize("name", FROM_THE_START)
def test_a_small_nudge_takes_the_direction_of_the_limit(name, build, batch):
    kind = rule_class(name)
    close = {"predictive_coding": {"steps": 500, "tolerance": 0.0}, "equilibrium_propagation": {"kappa": 0.001}}
    network = build(kind(nudge=1e-4, **close.get(name, {})))
    limit = build(rule_class(kind.limit)())
    limit.load_state_dict({**limit.state_dict(), **network_weights(network)})
    if kind.limit != "backprop":
        for own, other in zip(limit.rule.feedback, network.rule.feedback, strict=True):
            own.data.copy_(other)
    x, error = batch(network)
    for own, other in zip(updates_of(network, x, error), updates_of(limit, x, error), strict=True):
        assert torch.cosine_similarity(own.flatten(), other.flatten(), dim=0) > 0.999


def network_weights(network):
    return {key: value for key, value in network.state_dict().items() if not key.startswith("rule.")}


def updates_of(network, x, error):
    output = network(x)
    output.backward(error)
    return [layer.weight.grad for layer in network.layers]


def test_all_rules_that_nudge_have_presets():
    assert NUDGING == [
        "burst",
        "deep_feedback_control",
        "dendritic_microcircuit",
        "equilibrium_propagation",
        "predictive_coding",
        "segregated_dendrites",
        "target_propagation",
    ]


@pytest.mark.parametrize("name", NUDGING)
def test_the_limit_is_the_default_and_the_prospective_regime_another(name):
    kind = rule_class(name)
    assert rule_settings(make_rule(name, preset="limit")) == rule_settings(make_rule(name)) == defaults(kind)
    far = kind.presets["prospective"]
    assert far["nudge"] > defaults(kind)["nudge"]
    assert rule_settings(make_rule(name, preset="prospective")) == defaults(kind) | far | {"preset": "prospective"}


@pytest.mark.few(3)
@pytest.mark.parametrize("name", NUDGING)
def test_what_is_given_wins(name):
    assert make_rule(name, nudge=0.07, preset="prospective").nudge == 0.07
    nudge = defaults(rule_class(name))["nudge"]
    assert make_rule(name, nudge=nudge, preset="prospective").nudge == nudge
    config = compose(f"rule={name}", "rule.preset=prospective", "rule.nudge=0.07").rule
    assert config.nudge == 0.07


@pytest.mark.few(5)
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", rule_names())
def test_a_rules_file_leaves_to_its_preset_what_presets_set_and_nothing_else(name, word):
    kind, file = rule_class(name), yaml.safe_load((config_folder() / "rule" / f"{name}.yaml").read_text())
    left = {setting for preset in kind.presets.values() for setting in preset}
    if name in NUDGING:
        assert {setting for setting, value in file.items() if value is None} == left
        config = dict(compose(f"rule={name}", f"rule.preset={word}").rule)
        assert config == {"_target_": file["_target_"]} | rule_settings(make_rule(name, preset=word))
    elif word == "limit":
        assert "preset" not in file


def test_actor_and_critic_have_presets_of_their_own():
    config = compose("rule=burst", "critic_rule=burst", "critic_rule.preset=prospective")
    assert (config.rule.nudge, config.critic_rule.nudge) == (0.1, 0.5)
    assert compose("rule=burst", "rule.preset=prospective").critic_rule is None  # the actor's


def test_a_sweep_over_presets_leaves_a_folder_for_each_and_says_what_ran(train):
    assert train("-m", "rule=predictive_coding", "rule.preset=limit,prospective", "rule.steps=3") == 0
    results = sorted(Path("runs").rglob("result.json"))
    assert len(results) == 2
    for path, word in zip(results, WORDS, strict=True):
        assert f"rule.preset={word}" in str(path)
        expected = rule_settings(make_rule("predictive_coding", preset=word, steps=3))
        assert json.loads(path.read_text())["rule_settings"] == {"actor": expected, "critic": expected}
        config = yaml.safe_load((path.parent / ".hydra/config.yaml").read_text())["rule"]
        assert config | expected == config
        agent = load_model(path.parent, "CartPole-v1")
        assert rule_settings(agent.policy.networks["actor"].rule) == expected


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rule=burst rule.preset=prospctive", "Burst: preset must be one of limit, prospective, not 'prospctive'"),
        ("rule=burst rule.preset=1", "Burst: preset must be one of limit, prospective, not 1"),
        ("rule=burst rule.preset=null", "Burst: preset must be one of limit, prospective, not None"),
        ("rule=burst ~rule.preset", "rule.nudge=null: rule.nudge must be a number, as in rule.nudge=0.1"),
        ("rule=backprop rule.preset=limit", "rule (rule/backprop.yaml) has no key 'preset'"),
        ("rule=burst rule.presets=limit", "did you mean 'preset'"),
        ("rule=burst critic_rule=pepita critic_rule.preset=limit", "(rule/pepita.yaml) has no key 'preset'"),
        (
            "rule=predictive_coding rule.preset=prospective rule.variant=fixed_prediction",
            "clamping needs predictions that follow values",
        ),
        (
            "rule=equilibrium_propagation rule.preset=prospective rule.nudging=symmetric",
            "clamping needs nudging 'one_sided'",
        ),
        ("rule=gated rule.rule=burst rule.settings={preset: far}", "preset must be one of limit, prospective"),
    ],
)
def test_a_wrong_preset_is_one_line(train, capsys, line, expected):
    arguments = line.split(" ") if "{" not in line else [*line.split(" ")[:2], line.split(" ", 2)[2]]
    assert train(*arguments) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert not Path("run").exists()


# -- a rule of the user's own --------------------------------------------------------------------------


class Own(Rule):
    paper = "none"
    presets: ClassVar = {"bold": {"gain": 5.0, "kind": "b"}}

    def __init__(self, gain: float = 1.0, kind: Literal["a", "b"] = "a", preset: str = "careful"):
        super().__init__()
        self.gain, self.kind, self.preset = gain, kind, preset


class Heir(Own):
    """Has its parent's presets, and hands some settings on."""

    def __init__(self, gain: float = 1.0, preset: Literal["careful", "bold"] = "careful"):
        super().__init__(gain=gain, preset=preset)


class Misspelt(Own):
    presets: ClassVar = {"bold": {"gian": 5.0}}


def test_a_rule_of_ones_own_has_presets_by_naming_them():
    assert rule_settings(Own()) == {"gain": 1.0, "kind": "a", "preset": "careful"}
    assert rule_settings(Own(preset="bold")) == {"gain": 5.0, "kind": "b", "preset": "bold"}
    assert rule_settings(Own(2.0, preset="bold")) == {"gain": 2.0, "kind": "b", "preset": "bold"}
    assert Own.preset_settings("bold") == {"gain": 5.0, "kind": "b"}
    with pytest.raises(ValueError, match=r"Own: preset must be one of careful, bold, not 'brave'"):
        Own(preset="brave")
    with pytest.raises(ValueError, match=r"Misspelt.presets gives 'gian' a value, which is none of its settings"):
        Misspelt()


def test_an_heirs_presets_set_what_it_has():
    with pytest.raises(ValueError, match=r"Heir.presets gives 'kind' a value, which is none of its settings"):
        Heir(preset="bold")


def write_own_rule(settings):
    Path("own").mkdir()
    Path("own/bold_rule.py").write_text(
        "from bio_rl.rules import FeedbackAlignment\n\n\n"
        "class BoldRule(FeedbackAlignment):\n"
        "    presets = {'bold': {'feedback_scale': 3.0}}\n\n"
        "    def __init__(self, feedback_scale: float = 1.0, preset: str = 'careful'):\n"
        "        super().__init__(feedback_scale)\n"
        "        self.preset = preset\n"
    )
    Path("own/rule").mkdir()
    Path("own/rule/bold_rule.yaml").write_text("_target_: bold_rule.BoldRule\n" + settings)


def test_a_rule_of_ones_own_has_presets_in_its_file(train, monkeypatch):
    write_own_rule("preset: careful\nfeedback_scale: null\n")
    monkeypatch.syspath_prepend(Path("own").resolve())
    own = ("--config-dir", "own")
    assert main(["audit", "bold_rule", *own]) == 0
    assert main(["train", *own, "rule=bold_rule", "rule.preset=bold", *SMALL]) == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["rule_settings"]["actor"] == {"feedback_scale": 3.0, "preset": "bold"}


def test_presets_are_words_of_python_too():
    agent = PPO("CartPole-v1", rule=make_rule("burst", preset="prospective"), n_steps=16, batch_size=16, n_epochs=1)
    agent.learn(16)
    assert agent.policy.networks["actor"].rule.nudge == 0.5
