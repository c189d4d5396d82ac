"""Proximal policy optimisation."""

import stable_baselines3 as sb3

from agents.base import RuleAgent


class PPO(RuleAgent, sb3.PPO):
    """Stable-Baselines3's PPO (Schulman et al. 2017), whose networks learn by a rule.

    ``PPO("CartPole-v1", rule="feedback_alignment", seed=0).learn(100_000)``. For the arguments
    see ``RuleAgent``, and ``stable_baselines3.PPO`` for all that is not named there.
    """
