"""Steps per second of our agents, one or several that learn together, against Stable-Baselines3's own.

    python benchmarks/throughput.py                      # the claims: PPO and A2C, alone and with 16 members
    python benchmarks/throughput.py --rules all          # 16 members under each rule, against the same rule alone
    python benchmarks/throughput.py --curve              # over 1, 2, 4, ... 64 members, with memory
    python benchmarks/throughput.py --device cuda        # 16, 256 and 1024 members there, and on one core beside it

Both sides live in one process, with the same settings, and take turns in learning for some steps,
which of them begins included; the other side's turns go through all the seeds that the members
have. A figure is the ratio of the median rates; the quartiles of the neighbours' ratios show how
much noise was left. A rate is in steps of all members per second of this process's processor time
(one thread), so that other programs' turns do not count; with ``--device`` per second of wall time.
"""

import argparse
import csv
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import stable_baselines3 as sb3
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import agents
from agents.learning import learn_together
from bio_rl.rules import rule_names
from bio_rl.tasks import make_batched
from bio_rl.tasks.vec_env import BatchedVecEnv

HERE = Path(__file__).parent
PAIRS = {"ppo": (agents.PPO, sb3.PPO), "a2c": (agents.A2C, sb3.A2C)}


class Case(NamedTuple):
    """An agent on a task, with the settings of rl-baselines3-zoo (hyperparams/ppo.yml and a2c.yml)."""

    agent: str
    env: str
    n_envs: int
    settings: dict[str, Any]


PPO_CARTPOLE = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8}
PPO_PENDULUM = {"n_steps": 1024, "gamma": 0.9, "use_sde": True, "sde_sample_freq": 4}
CASES = {
    "ppo-cartpole": Case("ppo", "CartPole-v1", 8, {**PPO_CARTPOLE, "learning_rate": 1e-3}),
    "a2c-cartpole": Case("a2c", "CartPole-v1", 8, {}),
    "ppo-pendulum": Case("ppo", "Pendulum-v1", 4, {**PPO_PENDULUM, "learning_rate": 1e-3}),
}
CURVE = (1, 2, 4, 8, 16, 32, 64)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    if options.memory_of is not None:
        print(json.dumps(peak_memory_mb(CASES[options.cases[0]], options)))
    elif options.device != "cpu":
        compare_devices(CASES[options.cases[0]], options)
    elif options.curve:
        curve(CASES[options.cases[0]], options)
    elif options.rules is not None:
        compare_rules(CASES[options.cases[0]], options)
    else:
        compare_agents(options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--members", nargs="+", type=int, help="1 and 16; 16, 256 and 1024 with --device")
    parser.add_argument("--device", default="cpu", help="cuda: against the processor, both in wall time")
    parser.add_argument("--rules", nargs="+", help="against the same rule alone; 'all' for every rule")
    parser.add_argument("--curve", action="store_true", help="writes members.csv and members.png")
    parser.add_argument("--rounds", type=int, default=16, help="turns of each of the two")
    parser.add_argument("--timesteps", type=int, default=2048, help="steps of one agent's turn")
    parser.add_argument("--output", type=Path, default=HERE / "members", help="of the curve, without suffix")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.members is None:
        options.members = [1, 16] if options.device == "cpu" else [16, 256, 1024]
    return options


# -- the two sides -----------------------------------------------------------------------


class Side:
    """Agents that take turns in learning: all together, or one at a turn.

    Args:
        agents: with seeds 0, 1, ...
        turn: which agents learn in a turn, given its number.
        clock: in seconds.
    """

    def __init__(
        self,
        agents: Sequence[OnPolicyAlgorithm],
        turn: Callable[[int], Sequence[OnPolicyAlgorithm]],
        clock: Callable[[], float] = time.process_time,
    ):
        self.agents = agents
        self.turn = turn
        self.clock = clock
        self.rates: list[float] = []

    def learn(self, number: int, timesteps: int) -> None:
        learning = self.turn(number)
        before = sum(agent.num_timesteps for agent in learning)
        start = self.clock()
        if isinstance(learning[0], agents.base.RuleAgent):
            nobody = [None] * len(learning)
            learn_together(learning, timesteps, nobody, None, "run", reset_num_timesteps=False)  # type: ignore[arg-type]
        else:
            learning[0].learn(timesteps, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
        taken = sum(agent.num_timesteps for agent in learning) - before
        self.rates.append(taken / (self.clock() - start))


def together(case: Case, members: int, rule: str = "backprop", device: str = "cpu", wall: bool = False) -> Side:
    """Ours: so many members, in the environments that ``env.vec=auto`` gives."""
    kind, _ = PAIRS[case.agent]
    made = [kind(environments(case), rule=rule, seed=seed, device=device, **case.settings) for seed in range(members)]
    return Side(made, lambda _: made, wall_clock if wall else time.process_time)


def wall_clock() -> float:
    """Seconds, once all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def one_by_one(case: Case, members: int, rule: str | None = None) -> Side:
    """As many runs of one agent each, a turn each: Stable-Baselines3's own, or ours under a rule."""
    ours, theirs = PAIRS[case.agent]
    made: list[OnPolicyAlgorithm]
    if rule is None:
        made = [
            theirs(
                "MlpPolicy", make_vec_env(case.env, case.n_envs, seed=seed), seed=seed, device="cpu", **case.settings
            )
            for seed in range(members)
        ]
    else:
        made = [ours(environments(case), rule=rule, seed=seed, **case.settings) for seed in range(members)]
    return Side(made, lambda number: [made[number % members]])


def environments(case: Case) -> VecEnv:
    batch = make_batched(case.env, case.n_envs)
    return make_vec_env(case.env, case.n_envs) if batch is None else BatchedVecEnv(batch)


def measured(sides: tuple[Side, Side], options: argparse.Namespace) -> tuple[float, float, list[float]]:
    """The median rates of the two, and the quartiles of their ratio."""
    for side in sides:  # warm-up
        side.learn(0, options.timesteps)
        side.rates.clear()
    for number in range(options.rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            side.learn(number, options.timesteps)
    left, right = (side.rates for side in sides)
    ratios = [ours / theirs for ours, theirs in zip(left, right, strict=True)]
    return statistics.median(left), statistics.median(right), statistics.quantiles(ratios, n=4)


# -- what is compared --------------------------------------------------------------------


def compare_agents(options: argparse.Namespace) -> None:
    table = _table("Steps per second, rule backprop", "case", "members", "ours", "Stable-Baselines3")
    for name, members in itertools.product(options.cases, options.members):
        case = CASES[name]
        _add(table, (name, str(members)), measured((together(case, members), one_by_one(case, members)), options))
    Console().print(table)


def compare_devices(case: Case, options: argparse.Namespace) -> None:
    rules = options.rules or ["backprop"]
    table = _table(f"Steps per second, {case.agent} on {case.env}", "rule", "members", options.device, "one core")
    for rule, members in itertools.product(rules, options.members):
        sides = (together(case, members, rule, device, wall=True) for device in (options.device, "cpu"))
        _add(table, (rule, str(members)), measured(tuple(sides), options))  # type: ignore[arg-type]
    Console().print(table)


def compare_rules(case: Case, options: argparse.Namespace) -> None:
    members = max(options.members)
    table = _table(f"Steps per second of {members} members, {case.env}", "rule", "together", "alone")
    for rule in rule_names() if options.rules == ["all"] else options.rules:
        sides = together(case, members, rule), one_by_one(case, members, rule)
        _add(table, (rule,), measured(sides, options))
    Console().print(table)


def curve(case: Case, options: argparse.Namespace) -> None:
    """Rate and memory over the number of members, as a table, a CSV and a picture."""
    rows = list(_curve(case, options))
    with options.output.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    _draw(rows, case, options.output.with_suffix(".png"))
    table = Table(title=f"{case.agent} on {case.env}, rule backprop", box=None)
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" for value in row.values()))
    Console().print(table)


def _curve(case: Case, options: argparse.Namespace) -> Iterator[dict[str, float]]:
    for members in CURVE:
        ours, theirs, quartiles = measured((together(case, members), one_by_one(case, members)), options)
        name = next(name for name, known in CASES.items() if known is case)
        command = [sys.executable, __file__, "--cases", name, "--memory-of", str(members)]
        memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        yield {
            "members": members,
            "steps_per_second": round(ours),
            "sb3_steps_per_second": round(theirs),
            "ratio": round(ours / theirs, 3),
            "lower_quartile": round(quartiles[0], 3),
            "upper_quartile": round(quartiles[2], 3),
            "memory_mb": memory,
        }


def peak_memory_mb(case: Case, options: argparse.Namespace) -> float:
    """The most that a process with so many members held, in MiB."""
    from bio_rl.experiment.result import peak_memory_mb as peak

    together(case, options.memory_of).learn(0, options.timesteps)
    return peak() or float("nan")


def _draw(rows: Sequence[dict[str, float]], case: Case, path: Path) -> None:
    import matplotlib.pyplot as plt

    members = [row["members"] for row in rows]
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    speed.plot(members, [row["ratio"] for row in rows], "o-", color="#0072B2")
    spread = [[row[f"{end}_quartile"] for row in rows] for end in ("lower", "upper")]
    speed.fill_between(members, *spread, color="#0072B2", alpha=0.2, linewidth=0)
    speed.axhline(1, color="0.6", linewidth=1)
    speed.set(ylabel="steps per second / SB3's", title=f"{case.agent.upper()} on {case.env}, one core")
    memory.plot(members, [row["memory_mb"] for row in rows], "o-", color="#D55E00", label="members in one process")
    alone = rows[0]["memory_mb"]
    memory.plot(members, [alone * count for count in members], "--", color="0.6", label="as many processes")
    memory.set(ylabel="peak memory (MiB)", yscale="log", title="Memory")
    memory.legend(frameon=False)
    for axes in (speed, memory):
        axes.set_xscale("log", base=2)
        axes.set_xticks(members, list(map(str, members)))
        axes.set_xlabel("members")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for column in (*columns, "ratio of medians", "quartiles"):
        table.add_column(column, justify="left" if column in ("case", "rule") else "right")
    return table


def _add(table: Table, names: Sequence[str], figures: tuple[float, float, list[float]]) -> None:
    left, right, (low, _, high) = figures
    table.add_row(*names, f"{left:.0f}", f"{right:.0f}", f"{left / right:.2f}", f"{low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
