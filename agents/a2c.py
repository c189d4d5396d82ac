"""Advantage actor-critic."""

import stable_baselines3 as sb3

from agents.base import RuleAgent


class A2C(RuleAgent, sb3.A2C):
    """Stable-Baselines3's A2C (Mnih et al. 2016), whose networks learn by a rule.

    For the arguments see ``RuleAgent``, and ``stable_baselines3.A2C`` for all that is not named there.
    """
