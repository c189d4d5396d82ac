"""Sizes that no memory holds, found out before anything of that size is made."""

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from omegaconf import DictConfig, OmegaConf

BYTES = 4
"""Of a number in single precision."""
STEP = 7
"""Numbers that a rollout keeps of each step beside its observation: action, reward, value and what is made of them."""


def check_memory(config: DictConfig) -> None:
    """Raise a ValueError for a setting whose tensors would be larger than this machine's memory.

    What is counted is held at once in any case, whatever the environment's spaces are.
    """
    machine = _memory()
    for key, size in _sizes(config):
        if machine is not None and size * BYTES > machine:
            value = str(OmegaConf.select(config, key)).replace(" ", "")
            needed, present = (f"{each / 2**30:,.0f} GiB" for each in (size * BYTES, machine))
            raise ValueError(f"{key}={value} takes at least {needed} of memory, and here are {present}")


def _sizes(config: DictConfig) -> Iterator[tuple[str, int]]:
    """The settings that sizes follow from, and how many numbers each is."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    agent, hidden, members = settings["agent"], settings["network"]["hidden"], settings["members"]
    actor, critic = (hidden["actor"], hidden["critic"]) if isinstance(hidden, dict) else (hidden, hidden)
    networks = [actor] if settings["network"]["shared_trunk"] else [actor, critic]
    # Each layer with its biases, from one input at least to one output; and as many updates.
    weights = sum((before + 1) * after for widths in networks for before, after in pairwise([1, *widths, 1]))
    yield "network.hidden", 2 * weights * members
    steps = 1
    if isinstance(agent.get("n_steps"), int):
        steps = agent["n_steps"] * settings["env"]["n_envs"]
        yield "agent.n_steps", STEP * steps * members
    samples = min(agent.get("batch_size") or steps, steps)
    for key, widths in (("rule", actor), ("critic_rule", critic)):
        # Noise for every neuron, in each draw and sample.
        if isinstance(draws := (settings[key] or {}).get("draws"), int):
            yield f"{key}.draws", draws * samples * sum(widths)


def _memory() -> int | None:
    """This machine's, in bytes; ``None`` where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
