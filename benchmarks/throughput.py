"""Steps per second of our PPO and A2C with the rule ``backprop``, against Stable-Baselines3's own.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --agents ppo --env LunarLander-v3 --rule feedback_alignment

Both agents live in one process, with the same settings and seed, and take turns in learning for
some steps, which of them begins included. The figure is the ratio of the median rates; the
quartiles of the neighbours' ratios show how much noise was left. The rate is per second of this
process's processor time (one thread), so that other programs' turns do not count.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import stable_baselines3 as sb3
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

import agents

PAIRS = {"ppo": (agents.PPO, sb3.PPO), "a2c": (agents.A2C, sb3.A2C)}
# rl-baselines3-zoo's for CartPole-v1, hyperparams/ppo.yml and a2c.yml.
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {
        "n_steps": 32,
        "batch_size": 256,
        "n_epochs": 20,
        "gamma": 0.98,
        "gae_lambda": 0.8,
        "learning_rate": 1e-3,
        "clip_range": 0.2,
    },
    "a2c": {},
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    table = Table(title=f"Steps per second on {options.env}, {options.envs} environments, rule {options.rule}")
    for column in ("agent", "ours", "Stable-Baselines3", "ratio of medians", "quartiles"):
        table.add_column(column, justify="left" if column == "agent" else "right")
    for name in options.agents:
        rates, sb3_rates = alternating_rates(name, options)
        ratio = statistics.median(rates) / statistics.median(sb3_rates)
        low, _, high = statistics.quantiles([a / b for a, b in zip(rates, sb3_rates, strict=True)], n=4)
        medians = (f"{statistics.median(values):.0f}" for values in (rates, sb3_rates))
        table.add_row(name, *medians, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}")
    Console().print(table)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--envs", type=int, default=8, help="environments side by side")
    parser.add_argument("--rule", default="backprop")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each of the two")
    parser.add_argument("--timesteps", type=int, default=2048, help="steps of one turn")
    return parser.parse_args(arguments)


def alternating_rates(name: str, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """The steps per second of our agent and of Stable-Baselines3's, turn by turn."""
    our_class, sb3_class = PAIRS[name]
    settings = {**SETTINGS[name], "seed": 0, "device": "cpu"}
    vec_envs = [make_vec_env(options.env, options.envs, seed=0) for _ in range(2)]
    ours = our_class(vec_envs[0], rule=options.rule, **settings)
    theirs = sb3_class("MlpPolicy", vec_envs[1], **settings)
    rates: dict[OnPolicyAlgorithm, list[float]] = {ours: [], theirs: []}
    turns = (ours, theirs)
    for agent in turns:  # warm-up
        steps_per_second(agent, options.timesteps)
    for _ in range(options.rounds):
        for agent in turns:
            rates[agent].append(steps_per_second(agent, options.timesteps))
        turns = turns[::-1]
    return rates[ours], rates[theirs]


def steps_per_second(agent: OnPolicyAlgorithm, timesteps: int) -> float:
    """The rate of one turn; an agent's last rollout may take it beyond ``timesteps``."""
    before, start = agent.num_timesteps, time.process_time()
    agent.learn(timesteps, reset_num_timesteps=False)
    return (agent.num_timesteps - before) / (time.process_time() - start)


if __name__ == "__main__":
    main()
