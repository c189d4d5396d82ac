"""Which tasks need deep credit, and in which network: returns with hidden layers that learn and with some that do not.

    python benchmarks/controls.py benchmarks/controls.csv --jobs 2
    python benchmarks/controls.py benchmarks/controls.csv --tasks digit_sum interface --seeds 16

Each task is learnt by PPO with its shipped settings, by backprop, by feedback alignment and with three controls:
`readout` in both networks, in the actor, in the critic. Each of the five gets the learning rate, of the same
three, that did best on seeds of its own; it is then run on other seeds, which learn together in one process. Rows
that the file has already are not run again. What it prints are medians over seeds with bootstrap intervals of 95 %.
"""

import argparse
import csv
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

TASKS = (
    "digits",
    "digit_sum",
    "interface",
    "evidence_accumulation",
    "context_decision",
    "delayed_match",
    "two_step",
    "centre_out",
    "cue_maze",
)
LEARNERS = {
    "backprop": ("rule=backprop",),
    "readout": ("rule=readout",),
    "readout in the actor": ("rule=readout", "critic_rule=backprop"),
    "readout in the critic": ("rule=backprop", "critic_rule=readout"),
    "feedback_alignment": ("rule=feedback_alignment",),
}
RATES = (0.001, 0.003, 0.01)
TUNING_SEEDS = (1000, 1001)
SEEDS = tuple(range(8))
EPISODES = 1000
RESAMPLES = 10_000
COLUMNS = ("task", "learner", "learning_rate", "seed", "return", "untrained_return")


class Condition(NamedTuple):
    task: str
    learner: str
    rate: float


Returns = dict[Condition, dict[int, float]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="the CSV file, to which rows are added")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many, from 0")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)  # one condition: what the processes are told
    options = parser.parse_args(arguments)
    if options.run is not None:
        task, learner, rate, *own_seeds = options.run
        append(options.table, Condition(task, learner, float(rate)), [int(seed) for seed in own_seeds])
        return
    seeds = tuple(range(options.seeds))
    if not options.table.exists():
        options.table.write_text(",".join(COLUMNS) + "\n")
    for task in options.tasks:
        run_all(options.table, conditions_of(task), TUNING_SEEDS, options.jobs)
        run_all(options.table, best_rates(read(options.table), [task]), seeds, options.jobs)
    returns = read(options.table)
    for line in markdown(returns, options.tasks, seeds):
        print(line)


def run_all(table: Path, conditions: Sequence[Condition], seeds: Sequence[int], jobs: int) -> None:
    """Run those that the table lacks, each in a process of its own."""
    left = missing(read(table), conditions, seeds)

    def run(each: Condition) -> None:
        chosen = [each.task, each.learner, str(each.rate), *map(str, seeds)]
        subprocess.run([sys.executable, __file__, str(table), "--run", *chosen], check=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, left))


def append(table: Path, condition: Condition, seeds: Sequence[int]) -> None:
    rows = list(measure(condition, seeds))
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for seed, trained, untrained in rows:
            writer.writerow((*condition, seed, f"{trained:.4f}", f"{untrained:.4f}"))


def measure(condition: Condition, seeds: Sequence[int]) -> Iterator[tuple[int, float, float]]:
    """Each seed, its mean return after training and before, in episodes of the evaluation's environment."""
    from agents import learn_together
    from bio_rl.cli.configs import compose
    from bio_rl.experiment.callbacks import make_callbacks
    from bio_rl.experiment.environments import training_envs
    from bio_rl.experiment.run import build_agent

    torch.set_num_threads(1)
    overrides = (f"env={condition.task}", *LEARNERS[condition.learner])
    rate = f"optimizer.learning_rate=lin_{condition.rate}"
    configs = [compose(*overrides, rate, f"seed={seed}") for seed in seeds]
    agents = [build_agent(config, training_envs(config.env, config.agent.gamma)) for config in configs]
    callbacks: list[list[BaseCallback]] = [make_callbacks(config.callbacks) for config in configs]
    before = [mean_return(agent, config) for agent, config in zip(agents, configs, strict=True)]
    failures = learn_together(agents, configs[0].env.timesteps, callbacks, None)  # type: ignore[arg-type]
    for error in failures.values():
        raise error
    after = [mean_return(agent, config) for agent, config in zip(agents, configs, strict=True)]
    yield from zip(seeds, after, before, strict=True)


def mean_return(agent: object, config: object) -> float:
    from bio_rl.experiment.environments import evaluation_envs
    from bio_rl.experiment.evaluation import play_episodes
    from bio_rl.seeding import Stream, derive_seeds
    from bio_rl.tasks.vec_env import seed_copies

    envs = evaluation_envs(config.env, EPISODES)  # type: ignore[attr-defined]
    seed_copies(envs, derive_seeds(config.seed, Stream.EVALUATION, EPISODES, 1))  # type: ignore[attr-defined]
    predict = agent.predict  # type: ignore[attr-defined]
    return play_episodes(envs, envs.reset(), lambda seen, _: predict(seen, deterministic=True)[0]).return_mean


def read(table: Path) -> Returns:
    returns: Returns = defaultdict(dict)
    if table.exists():
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                condition = Condition(row["task"], row["learner"], float(row["learning_rate"]))
                returns[condition][int(row["seed"])] = float(row["return"])
    return returns


def best_rates(returns: Returns, tasks: Sequence[str]) -> list[Condition]:
    """Of each task and learner the learning rate with the highest mean return on the seeds for that."""

    def score(condition: Condition) -> float:
        return float(np.mean([returns[condition][seed] for seed in TUNING_SEEDS]))

    return [
        max((Condition(task, learner, rate) for rate in RATES), key=score) for task in tasks for learner in LEARNERS
    ]


def is_whole(returns: Returns, task: str, seeds: Sequence[int]) -> bool:
    """Whether all of a task's conditions have run, on the seeds for tuning and on the others."""
    return not (
        missing(returns, conditions_of(task), TUNING_SEEDS) or missing(returns, best_rates(returns, [task]), seeds)
    )


def missing(returns: Returns, conditions: Sequence[Condition], seeds: Sequence[int]) -> list[Condition]:
    """Those that have not run on all of the seeds."""
    return [each for each in conditions if not set(seeds) <= returns.get(each, {}).keys()]


def conditions_of(task: str) -> list[Condition]:
    """Every learner of a task at every learning rate."""
    return [Condition(task, learner, rate) for learner in LEARNERS for rate in RATES]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the median, by percentiles of the bootstrap over seeds."""
    rng = np.random.default_rng(0)
    draws = rng.choice(values, size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(low), float(high)


def markdown(returns: Returns, tasks: Sequence[str], seeds: Sequence[int]) -> Iterator[str]:
    """A row for each task: each learner's median and interval, and the networks that need credit."""
    yield f"| task | {' | '.join(LEARNERS)} | needs credit in |"
    yield "|---" * (len(LEARNERS) + 2) + "|"
    for task in tasks:
        values = {each.learner: [returns[each][seed] for seed in seeds] for each in best_rates(returns, [task])}
        intervals = {learner: interval(own) for learner, own in values.items()}
        cells = [f"{median(values[name]):.2f} ({low:.2f}, {high:.2f})" for name, (low, high) in intervals.items()]
        below = [name for name, (_, high) in intervals.items() if high < intervals["backprop"][0]]
        yield f"| `{task}` | {' | '.join(cells)} | {needs(below)} |"


def needs(below: Sequence[str]) -> str:
    """Which network needed credit, by the learners whose intervals lie below backprop's."""
    if "readout" not in below:
        return "neither: does not discriminate"
    apart = [network for network in ("actor", "critic") if f"readout in the {network}" in below]
    return " and ".join(apart) or "either: one suffices"


if __name__ == "__main__":
    main()
