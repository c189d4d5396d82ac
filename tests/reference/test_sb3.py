"""With backprop, our PPO and A2C are Stable-Baselines3's: same weights, same random numbers, same updates."""

from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from alike import seeded_alike
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents import A2C, PPO

SMALL_PPO = {"n_steps": 64, "batch_size": 32, "n_epochs": 2}
CASES = {
    "ppo-discrete": (PPO, sb3.PPO, "CartPole-v1", SMALL_PPO),
    "ppo-continuous": (PPO, sb3.PPO, "Pendulum-v1", {**SMALL_PPO, "learning_rate": 1e-3}),
    "ppo-stopping": (
        PPO,
        sb3.PPO,
        "CartPole-v1",
        {**SMALL_PPO, "n_epochs": 4, "target_kl": 1e-3, "learning_rate": 3e-3},
    ),
    "ppo-gsde": (PPO, sb3.PPO, "Pendulum-v1", {**SMALL_PPO, "use_sde": True, "sde_sample_freq": 4}),
    "a2c-discrete": (A2C, sb3.A2C, "CartPole-v1", {}),
    "a2c-continuous": (A2C, sb3.A2C, "Pendulum-v1", {"n_steps": 8, "ent_coef": 0.01}),
    "a2c-gsde": (A2C, sb3.A2C, "Pendulum-v1", {"n_steps": 8, "use_sde": True, "normalize_advantage": True}),
}
pytestmark = pytest.mark.parametrize("case", CASES)


def ours(case: str) -> OnPolicyAlgorithm:
    kind, _, env, settings = CASES[case]
    return kind(env, seed=3, **settings)


def theirs(case: str) -> OnPolicyAlgorithm:
    _, kind, env, settings = CASES[case]
    return seeded_alike(kind)("MlpPolicy", env, seed=3, device="cpu", **settings)


def networks_of(policy: Any) -> dict[str, list[torch.Tensor]]:
    """Actor's and critic's parameters in SB3's order, and the log standard deviation where there is one."""
    if hasattr(policy, "networks"):
        nets = {name: [p.detach() for p in policy.networks[name].parameters()] for name in ("actor", "critic")}
    else:
        extractor = policy.mlp_extractor
        heads = {"actor": [extractor.policy_net, policy.action_net], "critic": [extractor.value_net, policy.value_net]}
        nets = {name: [p.detach() for module in parts for p in module.parameters()] for name, parts in heads.items()}
    return nets | ({"log_std": [policy.log_std.detach()]} if hasattr(policy, "log_std") else {})


def assert_equal(agent: OnPolicyAlgorithm, reference: OnPolicyAlgorithm, tolerance: float) -> None:
    left, right = networks_of(agent.policy), networks_of(reference.policy)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def train(agent: OnPolicyAlgorithm, updates: int) -> OnPolicyAlgorithm:
    return agent.learn(updates * agent.n_steps)


def in_double_precision(agent: OnPolicyAlgorithm) -> OnPolicyAlgorithm:
    agent.policy.double()
    agent.policy.features_extractor.register_forward_hook(lambda module, inputs, features: features.double())
    # Advantages too: their mean and deviation, in single precision, depend on the order of the samples.
    buffer = agent.rollout_buffer
    compute = buffer.compute_returns_and_advantage

    def in_double(last_values: torch.Tensor, dones: np.ndarray) -> None:
        buffer.advantages = buffer.advantages.astype(np.float64)
        compute(last_values, dones)

    buffer.compute_returns_and_advantage = in_double
    return agent


# Each agent is made and trained before the next is made: both draw from torch's and numpy's global generators.


def test_initial_weights_are_the_same(case: str) -> None:
    assert_equal(ours(case), theirs(case), tolerance=0)


def test_first_update_agrees_in_single_precision(case: str) -> None:
    assert_equal(train(ours(case), 1), train(theirs(case), 1), tolerance=1e-6)


@pytest.mark.few(3)
def test_twenty_updates_agree_in_double_precision(case: str) -> None:
    agent = train(in_double_precision(ours(case)), 20)
    reference = train(in_double_precision(theirs(case)), 20)
    assert agent._n_updates == reference._n_updates >= 20
    settings = CASES[case][-1]
    assert (reference._n_updates < 20 * settings.get("n_epochs", 1)) == ("target_kl" in settings)
    moved = networks_of(agent.policy)["actor"][0] - networks_of(ours(case).policy)["actor"][0]
    assert moved.abs().max() > 1e-3
    assert_equal(agent, reference, tolerance=1e-9)
