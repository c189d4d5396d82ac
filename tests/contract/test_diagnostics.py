"""Looking changes nothing: what is measured goes on as if nobody had looked."""

import copy
import csv
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from variants import EVERY_RULE

from agents import load_model
from bio_rl import make_rule
from bio_rl.cli import main
from bio_rl.diagnostics.updates import Minibatch, measure_updates
from bio_rl.rule import Divergence
from bio_rl.rules import rule_names


def states(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.few(26)
@pytest.mark.parametrize("members", [(), (2,)])
@pytest.mark.parametrize(("name", "settings"), EVERY_RULE)
def test_a_measurement_leaves_no_trace(build, batch, name, settings, members):
    watched = build(make_rule(name, **settings), members=members)
    unwatched = copy.deepcopy(watched)
    optimizers = [torch.optim.Adam(network.parameters(), lr=0.01) for network in (watched, unwatched)]
    for step in range(3):
        x, output_error = batch(watched)
        minibatch = Minibatch(x, output_error, torch.randn(x.shape[:-1], dtype=x.dtype))
        kept, state, drawn = copy.deepcopy(minibatch), states(watched), torch.get_rng_state()
        gradients = [None if p.grad is None else p.grad.clone() for p in watched.parameters()]
        modulator = watched.modulator
        measures = measure_updates(watched, minibatch, gauss_newton=True)
        assert {each.value.shape for each in measures} == {torch.Size(members)}
        assert torch.equal(torch.get_rng_state(), drawn)
        assert watched.modulator is modulator
        torch.testing.assert_close(states(watched), state, rtol=0, atol=0)
        torch.testing.assert_close(tuple(minibatch), tuple(kept), rtol=0, atol=0)
        for parameter, gradient in zip(watched.parameters(), gradients, strict=True):
            assert (parameter.grad is None) if gradient is None else torch.equal(parameter.grad, gradient)
        for network, optimizer in zip((watched, unwatched), optimizers, strict=True):
            network.modulator = minibatch.modulator
            optimizer.zero_grad()
            network(x).backward(output_error)
            optimizer.step()
        torch.testing.assert_close(states(watched), states(unwatched), rtol=0, atol=0, msg=f"step {step}")


# In a run


def rows(folder="run"):
    with Path(folder, "diagnostics.csv").open() as file:
        return list(csv.DictReader(file))


def measured(folder="run"):
    """``{(timesteps, network, layer, name): value}``; what is of no layer has the layer ''."""
    return {
        (int(row["timesteps"]), row["network"], row["layer"], row["name"]): float(row["value"]) for row in rows(folder)
    }


OFTEN = ("diagnostics=full", "diagnostics.interval=32", "diagnostics.samples=20", "diagnostics.probes=12")
# Every kind of state: a running mean and a modulator, draws, feedback that learns, relaxation with an optimizer's.
SEVERAL = ("gated", "node_perturbation", "kolen_pollack", "equilibrium_propagation")

DRAWS = ("noisily", "globally")
"""From where a forward sweep may draw: the rule's generator, or torch's, from which a task may draw as well."""
DRAWING_TASK = ("env=gymnasium", "env.id=misbehaving_envs:GlobalGenerators-v0")


def assert_diagnostics_change_nothing(train, *settings):
    assert train(*settings, *OFTEN, "hydra.run.dir=watched") == 0
    assert train(*settings, "hydra.run.dir=alone") == 0
    assert len(rows("watched")) > 50
    a, b = (load_file(f"{folder}/model/policy.safetensors") for folder in ("watched", "alone"))
    assert a.keys() == b.keys()
    assert all(a[name].equal(b[name]) for name in a)
    a, b = (Path(folder, "evaluations.csv").read_bytes() for folder in ("watched", "alone"))
    assert a == b


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "rule",
    [
        *((f"rule={rule}",) for rule in SEVERAL),
        *(("rule=misbehaving", f"rule.how={how}", *DRAWING_TASK) for how in DRAWS),
    ],
)
def test_diagnostics_change_nothing_that_is_learnt(train, rule):
    assert_diagnostics_change_nothing(train, *rule)


@pytest.mark.slow
@pytest.mark.parametrize("rule", sorted({*rule_names()} - {*SEVERAL}))
def test_diagnostics_change_nothing_that_is_learnt_by_any_rule(train, rule):
    assert_diagnostics_change_nothing(train, f"rule={rule}")


@pytest.mark.slow
@pytest.mark.parametrize("rule", SEVERAL)
@pytest.mark.parametrize("agent", [("agent=a2c",), ("agent=reinforce", "agent.n_episodes=2")])
def test_diagnostics_change_nothing_that_any_agent_learns(rule, agent):
    def train(*settings):
        small = ("env.timesteps=400", "env.n_envs=2", "evaluation.episodes=2", "logging=none")
        return main(["train", *agent, *small, *settings])

    assert_diagnostics_change_nothing(train, f"rule={rule}")


def test_a_run_records_what_it_measures(train):
    assert train("rule=kolen_pollack", *OFTEN, "env.timesteps=96", "logging=tensorboard") == 0
    found = measured()
    assert sorted({timesteps for timesteps, *_ in found}) == [0, 32, 64, 96]
    for network in ("actor", "critic"):
        for layer in ("1", "2", "3"):
            assert 0 < found[64, network, layer, "update_angle"] < 180
            assert found[0, network, layer, "cka"] == pytest.approx(1)
            assert found[96, network, layer, "cka"] < 1
            assert found[96, network, layer, "procrustes"] > found[0, network, layer, "procrustes"]
        assert (0, network, "2", "potent_share") not in found, "nothing has changed yet"
        assert (96, network, "1", "potent_share") not in found, "nobody reads it out"
        assert 0 < found[96, network, "2", "potent_share"] < 1
        assert -1 <= found[96, network, "", "target_alignment"] <= 1
    result = json.loads(Path("run/result.json").read_text())["diagnostics"]
    assert result.pop("seconds") > 0
    last = {(network, name): value for network, measures in result.items() for name, value in measures.items()}
    assert last["critic", "update_angle"]["layer_2"] == found[96, "critic", "2", "update_angle"]
    assert last["actor", "target_alignment"] == found[96, "actor", "", "target_alignment"]
    assert sum(len(value) if isinstance(value, dict) else 1 for value in last.values()) == sum(
        timesteps == 96 for timesteps, *_ in found
    )

    events = EventAccumulator("run/tensorboard")
    events.Reload()
    scalars = events.Scalars("diagnostics/update_angle/actor/layer_1")
    assert [event.step for event in scalars] == [0, 32, 64, 96]
    assert [event.value for event in scalars] == pytest.approx(
        [found[t, "actor", "1", "update_angle"] for t in (0, 32, 64, 96)]
    )
    content = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(content)
    assert [category.title for category in layout.category] == ["actor", "critic"]
    tags = events.Tags()["scalars"]
    for category in layout.category:
        for chart in category.chart:
            shown = [tag for pattern in chart.multiline.tag for tag in tags if re.match(pattern, tag)]
            assert shown, chart.title
            assert all(f"/{category.title}" in tag for tag in shown)
    angles = layout.category[0].chart[0].multiline.tag[0]
    assert [tag for tag in tags if re.match(angles, tag)] == [
        f"diagnostics/update_angle/actor/layer_{n}" for n in (1, 2, 3)
    ]


def test_a_member_records_what_it_would_alone_and_learns_the_same(train):
    settings = ("rule=gated", "env.timesteps=96")
    assert train(*settings, *OFTEN, "seed=5", "members=2", "hydra.run.dir='watched/seed=5'") == 0
    assert train(*settings, "seed=5", "members=2", "hydra.run.dir='alone/seed=5'") == 0
    for seed in (5, 6):
        a, b = (load_file(f"{folder}/seed={seed}/model/policy.safetensors") for folder in ("watched", "alone"))
        assert all(a[name].equal(b[name]) for name in a)
    assert train(*settings, *OFTEN, "seed=6", "hydra.run.dir=run") == 0
    together, alone = measured("watched/seed=6"), measured("run")
    assert together.keys() == alone.keys()
    # In float32 an angle of nearly 0 is uncertain by this much, in degrees.
    assert [*together.values()] == pytest.approx([*alone.values()], rel=1e-2, abs=1e-3)


def test_the_probes_are_kept_with_what_the_untrained_networks_made_of_them(train):
    assert train(*OFTEN, "env.timesteps=32", "optimizer.learning_rate=1e-12") == 0
    probes = load_file("run/probes.safetensors")
    networks = load_model("run/model").policy.networks
    assert probes["observations"].shape == (12, 4)
    for name, network in networks.items():
        for number, activity in enumerate(network.activities(probes["observations"])[1:], start=1):
            # Nearly nothing was learnt.
            torch.testing.assert_close(probes[f"{name}.layer_{number}"], activity, rtol=0, atol=1e-6)


def test_backprop_is_at_0_degrees_throughout(train):
    assert train("rule=backprop", *OFTEN) == 0
    angles = [value for (*_, name), value in measured().items() if name == "update_angle"]
    assert len(angles) == 3 * 6
    assert max(angles) < 1e-6


def test_without_diagnostics_there_is_nothing_of_them(train):
    assert train() == 0
    assert not {"diagnostics.csv", "probes.safetensors"} & {path.name for path in Path("run").iterdir()}
    assert json.loads(Path("run/result.json").read_text())["diagnostics"] == {}


def test_a_new_run_replaces_the_diagnostics_of_an_earlier_one(train):
    assert train(*OFTEN) == 0
    assert train("overwrite=true") == 0
    assert not Path("run/diagnostics.csv").exists()
    assert not Path("run/probes.safetensors").exists()


def test_a_rollout_too_short_for_representations_says_so(train, capsys):
    assert train(*OFTEN, "env.n_envs=1", "agent.n_steps=3", "agent.batch_size=3", "env.timesteps=6") == 0
    assert capsys.readouterr().err == "no representations are compared: of 4 probes the first rollout has 3\n"
    names = {name for *_, name in measured()}
    assert "update_angle" in names
    assert "cka" not in names


def test_an_update_that_diverges_while_it_is_looked_at_ends_nothing(train, monkeypatch):
    def diverges(*_):
        raise Divergence("predictive_coding", layer=1, step=2)

    monkeypatch.setattr("bio_rl.experiment.diagnostics.measure_updates", diverges)
    assert train(*OFTEN) == 0
    names = {name for *_, name in measured()}
    assert "cka" in names
    assert "update_angle" not in names


def test_a_run_that_breaks_off_says_what_was_measured(train):
    assert train("rule=misbehaving", "rule.how=fails", *OFTEN) == 1
    result = json.loads(Path("run/result.json").read_text())
    assert result["status"] == "failed"
    assert result["diagnostics"]["actor"]["cka"]["layer_1"] == pytest.approx(1)


def test_a_run_that_ends_within_a_rollout_keeps_what_was_whole(train):
    stop = ("callbacks=max_episodes", "callbacks.stop.max_episodes=2")
    assert train(*OFTEN, *stop, "env.timesteps=3200") == 0
    found = measured()
    ended = json.loads(Path("run/result.json").read_text())["timesteps"]
    assert ended == max(timesteps for timesteps, *_ in found)
    assert ended % 32, "the callback ended it within a rollout"
    names = {name for timesteps, *_, name in found if timesteps == ended}
    assert "cka" in names
    assert "update_angle" not in names


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("diagnostics.interval=-1", "diagnostics.interval must be a whole number of at least 0"),
        ("diagnostics.samples=1", "diagnostics.samples must be a whole number of at least 2"),
        ("diagnostics.probes=many", "diagnostics.probes must be a whole number"),
        ("diagnostics.intervall=3", "did you mean"),
        ("diagnostics=ful", "full"),
    ],
)
def test_settings_of_diagnostics_are_checked(train, capsys, setting, message):
    assert train(setting) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_kolen_pollacks_feedback_comes_within_ten_degrees_on_cartpole() -> None:
    arguments = ("rule=kolen_pollack", "rule.decay=3", "members=4", "evaluation.interval=0", "logging=none")
    assert main(["train", *arguments, "hydra.run.dir=run"]) == 0
    for seed in range(4):
        result = json.loads(Path(f"run/seed={seed}/result.json").read_text())
        assert max(angle for network in result["feedback_angle"].values() for angle in network) < 10
        assert result["return_mean"] > 100, "it has learnt as well"
