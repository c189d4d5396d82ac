"""Stable-Baselines3's agents seeded as ours are, so that both draw the same numbers."""

from typing import Any

from agents.base import RuleAgent


def seeded_alike(kind: Any) -> Any:
    """SB3's agent, whose seeds spring from the run's as ours do."""
    return type(kind.__name__, (kind,), {"set_random_seed": RuleAgent.set_random_seed})
