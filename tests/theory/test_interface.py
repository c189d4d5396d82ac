"""The brain-computer interface: its decoders and measures against closed forms, and its experimenter."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stable_baselines3.common.logger import Logger

from agents import PPO, learn_together
from bio_rl.diagnostics import interface as measures
from bio_rl.diagnostics.interface import (
    correlation,
    flow_correlation,
    flow_field,
    intrinsic_manifold,
    intuitive_decoder,
    mean_angle,
    perturbed_decoder,
    shares_of_change,
    teaching_correlation,
)
from bio_rl.experiment import interface
from bio_rl.experiment.interface import Decoder
from bio_rl.rules import make_rule

N, K = 30, 5


@pytest.fixture
def activity():
    """Of 30 neurons in 5 dimensions, and velocities that are linear in it."""
    torch.manual_seed(1)
    latents = torch.randn(400, K, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.5, 1.0, 0.5])
    activity = latents @ torch.randn(K, N, dtype=torch.float64) + torch.randn(N, dtype=torch.float64)
    return activity, latents @ torch.randn(K, 2, dtype=torch.float64)


# -- decoders ------------------------------------------------------------------------------------


def test_the_manifold_holds_the_activity_and_the_intuitive_decoder_reads_the_velocities(activity):
    activity, velocities = activity
    manifold = intrinsic_manifold(activity, K)
    torch.testing.assert_close(manifold.axes.mT @ manifold.axes, torch.eye(K, dtype=torch.float64))
    torch.testing.assert_close((activity - manifold.mean) @ manifold.axes @ manifold.axes.mT, activity - manifold.mean)
    torch.testing.assert_close(manifold.latents(activity).std(0), torch.ones(K, dtype=torch.float64))
    decoder = intuitive_decoder(manifold, activity, velocities)
    torch.testing.assert_close(decoder.velocities(activity), velocities)
    for dimensions in (1, K + 1):
        with pytest.raises(ValueError, match=f"dimensions must be from 2 to {K}"):
            intrinsic_manifold(activity, dimensions)


@pytest.mark.parametrize("kind", ["within", "outside"])
def test_a_perturbation_stays_in_the_manifold_or_leaves_it_and_turns_as_asked(activity, kind):
    activity, velocities = activity
    manifold = intrinsic_manifold(activity, K)
    intuitive = intuitive_decoder(manifold, activity, velocities)
    perturbed = perturbed_decoder(manifold, intuitive, activity, kind, 80.0, np.random.default_rng(0))
    inside = perturbed.weight @ manifold.axes @ manifold.axes.mT
    outside_share = float((perturbed.weight - inside).norm() ** 2 / perturbed.weight.norm() ** 2)
    assert outside_share == pytest.approx(0, abs=1e-12) if kind == "within" else outside_share > 0.5
    before, after = intuitive.velocities(activity), perturbed.velocities(activity)
    assert mean_angle(before, after) == pytest.approx(80, abs=5)
    torch.testing.assert_close(after.mean(0), before.mean(0))
    torch.testing.assert_close((after - after.mean(0)).norm(), (before - before.mean(0)).norm())
    if kind == "within":
        # The same weights on standardised latents, in another order.
        was, now = (each.weight @ manifold.axes * manifold.sizes for each in (intuitive, perturbed))
        ratio = now.norm() / was.norm()
        torch.testing.assert_close((now / ratio).sort(dim=1).values, was.sort(dim=1).values)


def test_without_a_perturbation_the_decoder_stays(activity):
    manifold = intrinsic_manifold(activity[0], K)
    intuitive = intuitive_decoder(manifold, *activity)
    assert perturbed_decoder(manifold, intuitive, activity[0], "none", 90, np.random.default_rng(0)) is intuitive


# -- measures ------------------------------------------------------------------------------------


def test_a_neurons_causal_effect_is_what_more_drive_does_to_the_cursor(build, batch):
    network = build(make_rule("backprop"), sizes=(5, 8, 6, 2))
    x, _ = batch(network, 50)
    effects = measures.causal_effects(network, x)
    for neuron in range(6):
        moved = copy.deepcopy(network)
        with torch.no_grad():
            moved.layers[-2].bias[neuron] += 1e-6
            change = (moved(x) - network(x)).mean(0) / 1e-6
        torch.testing.assert_close(effects[:, neuron], change, rtol=1e-4, atol=1e-8)


def test_backprop_teaches_each_neuron_by_its_effect_and_readout_none(build, batch):
    network = build(make_rule("backprop"), sizes=(5, 20, 40, 2))
    network.freeze([-1])
    x, _ = batch(network, 50)
    torch.testing.assert_close(measures.teaching_signals(network, x), measures.causal_effects(network, x))
    assert teaching_correlation(network, x) == pytest.approx(1)
    random = build(make_rule("feedback_alignment"), sizes=(5, 20, 200, 2))
    assert abs(teaching_correlation(random, x)) < 0.25
    signs = build(make_rule("sign_symmetry"), sizes=(5, 20, 200, 2))
    assert 0.7 < teaching_correlation(signs, x) < 0.99
    assert np.isnan(teaching_correlation(build(make_rule("readout"), sizes=(5, 20, 40, 2)), x))


def test_a_flow_field_is_the_dynamics():
    torch.manual_seed(0)
    dynamics, drift = 0.3 * torch.randn(K, K, dtype=torch.float64), torch.randn(K, dtype=torch.float64)
    states = [torch.randn(40, K, dtype=torch.float64)]
    for _ in range(6):
        states.append(states[-1] + states[-1] @ dynamics.mT + drift)
    flow = flow_field(torch.stack(states, dim=1))
    torch.testing.assert_close(flow, torch.cat([dynamics, drift[:, None]], dim=1), rtol=1e-3, atol=1e-3)


def test_the_change_of_flow_tells_by_which_decoder_credit_was_assigned(activity):
    torch.manual_seed(2)
    manifold = intrinsic_manifold(activity[0], K)
    before = activity[0].view(50, 8, N)
    errors = torch.randn(50, 8, 2, dtype=torch.float64)
    one, other = torch.randn(2, 2, N, dtype=torch.float64) @ manifold.axes @ manifold.axes.mT
    after = before + 1e-3 * errors @ one
    assert flow_correlation(manifold, before, after, errors, one) > 0.99
    assert abs(flow_correlation(manifold, before, after, errors, other)) < 0.8
    assert flow_correlation(manifold, before, before - 1e-3 * errors @ one, errors, one) < -0.99


def test_shares_of_a_change_that_the_decoder_sees_and_of_one_in_no_direction(activity):
    torch.manual_seed(0)
    manifold = intrinsic_manifold(activity[0], K)
    decoder = torch.randn(2, N, dtype=torch.float64)
    still = torch.zeros(2000, N, dtype=torch.float64)
    seen = shares_of_change(manifold, still, torch.randn(2000, 2, dtype=torch.float64) @ decoder, decoder)
    assert seen["potent_share"] == pytest.approx(1)
    unseen = shares_of_change(manifold, still, torch.randn(2000, K, dtype=torch.float64) @ manifold.axes.mT, decoder)
    assert unseen["manifold_share"] == pytest.approx(1)
    anywhere = shares_of_change(manifold, still, torch.randn(2000, N, dtype=torch.float64), decoder)
    assert anywhere["potent_share"] == pytest.approx(2 / N, rel=0.1)
    assert anywhere["manifold_share"] == pytest.approx(K / N, rel=0.1)


def test_a_correlation_is_pearsons():
    one, other = torch.randn(2, 50, dtype=torch.float64)
    assert correlation(one, other) == pytest.approx(np.corrcoef(one, other)[0, 1])


# -- the experimenter ----------------------------------------------------------------------------

SETTINGS = {"n_steps": 64, "batch_size": 64, "n_epochs": 2, "learning_rate": 1e-3, "frozen": {"actor": [-1]}}


def agent(seed=0, **settings):
    return PPO("bio_rl/Interface-v0", seed=seed, **{**SETTINGS, **settings})


def weights(each):
    return [layer.weight.detach().clone() for layer in each.policy.networks["actor"].layers]


@pytest.mark.parametrize("perturbation", ["within", "outside"])
def test_the_decoder_is_chosen_before_anything_is_learnt_and_swapped_once(perturbation):
    seen = []

    class Watching(Decoder):
        def _on_step(self):
            seen.append((self.num_timesteps, weights(self.model)[-1]))
            return True

    decoder = Watching(perturbation, swap_at=100)
    agent().learn(320, decoder)
    for timesteps, weight in seen:
        # The swap waits for the rollout in which step 100 falls.
        expected = decoder.intuitive if timesteps <= 128 else decoder.perturbed
        torch.testing.assert_close(weight.double(), expected.weight, rtol=1e-5, atol=1e-6)
    assert decoder.open_loop_angle == pytest.approx(90, abs=10)


def test_under_readout_nothing_of_the_actor_learns():
    learner = agent(rule="readout")
    before = weights(learner)
    decoder = Decoder(swap_at=64)
    learner.learn(192, decoder)
    hidden = weights(learner)[:-1]
    assert all(one.equal(other) for one, other in zip(hidden, before, strict=False))
    torch.testing.assert_close(weights(learner)[-1].double(), decoder.perturbed.weight, rtol=1e-5, atol=1e-6)


def test_members_have_the_decoders_that_each_would_have_alone():
    together = [agent(seed) for seed in range(2)]
    assert not learn_together(together, 192, [Decoder(swap_at=64) for _ in range(2)])
    alone = agent(1).learn(192, Decoder(swap_at=64))
    for one, other in zip(weights(together[1]), weights(alone), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(weights(together[0])[-1], weights(alone)[-1])


def test_measuring_changes_nothing_that_is_learnt(monkeypatch):
    measured = agent(rule="kolen_pollack").learn(192, Decoder(swap_at=64))
    monkeypatch.setattr(Decoder, "_log", lambda *_: None)
    monkeypatch.setattr(Decoder, "_on_training_end", lambda *_: None)
    unmeasured = agent(rule="kolen_pollack").learn(192, Decoder(swap_at=64))
    for one, other in zip(weights(measured), weights(unmeasured), strict=True):
        assert one.equal(other)


def test_what_was_measured_is_left_behind(tmp_path, monkeypatch):
    rows = []
    monkeypatch.setattr(interface, "write_row", lambda logger, values, timesteps: rows.append((timesteps, values)))
    learner = agent()
    learner.set_logger(Logger(str(tmp_path), []))
    learner.learn(192, Decoder(swap_at=64))
    (at_swap, first), (at_end, last) = rows
    assert (at_swap, at_end) == (64, 192)
    assert first.keys() == {"interface/open_loop_angle", "interface/teaching_correlation"}
    assert last.keys() == {
        "interface/teaching_correlation",
        "interface/potent_share",
        "interface/manifold_share",
        "interface/flow_correlation",
        "interface/flow_correlation_before",
    }
    assert first["interface/teaching_correlation"] == pytest.approx(1, abs=1e-4), "backprop's"
    arrays = load_file(tmp_path / "interface.safetensors")
    assert arrays["at_end.activity"].shape == (8, 20, 64)
    assert arrays["perturbed.weight"].shape == (2, 64)


@pytest.mark.parametrize(
    ("settings", "task", "expected"),
    [
        ({"frozen": None}, "bio_rl/Interface-v0", "network=decoder freezes it"),
        ({}, "Pendulum-v1", "is for env=interface"),
    ],
)
def test_a_decoder_in_the_wrong_place_is_refused(settings, task, expected):
    with pytest.raises(ValueError, match=expected):
        PPO(task, seed=0, **{**SETTINGS, **settings}).learn(64, Decoder())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"perturbation": "sideways"}, "perturbation must be one of within, outside, none"),
        ({"dimensions": 1}, "dimensions must be a whole number from 2"),
        ({"angle": 200}, "angle must be a number from 0 to 180"),
        ({"swap_at": -1}, "swap_at must be a whole number from 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings, expected):
    with pytest.raises(ValueError, match=expected):
        Decoder(**settings)
