"""What the strength of the nudge makes of a rule: the angle of its update to backprop's, and the return.

    python benchmarks/nudge.py
    python benchmarks/nudge.py --rules burst predictive_coding --seeds 16

Each rule that nudges learns CartPole by PPO as its preset `limit`, and as `prospective` with the preset's own nudge and
with a tenth, a hundredth and a thousandth of it; the seeds of one condition learn together. Angles are those between
hidden layers' updates and backprop's on the same minibatch and weights, of trained networks, averaged over layers.
Rows that nudge.csv has already are not run again; nudge.png is drawn from it, and what differs is printed.
"""

import argparse
import csv
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from bio_rl.analysis.statistics import Estimate, estimate

HERE = Path(__file__).parent
RULES = (
    "predictive_coding",
    "equilibrium_propagation",
    "target_propagation",
    "deep_feedback_control",
    "dendritic_microcircuit",
    "burst",
    "segregated_dendrites",
)
SHARES = (0.001, 0.01, 0.1, 1.0)
"""Of the prospective preset's nudge."""
LIMIT = "limit"
"""In the place of a share: the preset of that name."""
NETWORKS = ("actor", "critic")
COLUMNS = ("rule", "nudge", "seed", "return", "actor_angle", "critic_angle")


class Run(NamedTuple):
    """One seed's mean final return, and the angles of its trained networks, in degrees."""

    final_return: float
    actor_angle: float
    critic_angle: float


Runs = dict[tuple[str, str], dict[int, Run]]
"""By rule and nudge, by seed."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=RULES)
    parser.add_argument("--seeds", type=int, default=8, help="how many, from 0")
    parser.add_argument("--timesteps", type=int, default=50_000, help="of each seed")
    parser.add_argument("--output", type=Path, default=HERE / "nudge", help="the table and the picture, without suffix")
    options = parser.parse_args(arguments)
    table, picture = (options.output.with_suffix(suffix) for suffix in (".csv", ".png"))
    if not table.exists():
        table.write_text(",".join(COLUMNS) + "\n")
    for rule in options.rules:
        for nudge in (LIMIT, *map(str, SHARES)):
            if not set(range(options.seeds)) <= read(table)[rule, nudge].keys():
                append(table, rule, nudge, train(rule, nudge, options.seeds, options.timesteps))
    runs = read(table)
    draw(runs, picture)
    for line in markdown(runs, options.rules):
        print(line)


def train(rule: str, nudge: str, seeds: int, timesteps: int) -> list[Run]:
    """Runs of one condition, by the command that anybody would give."""
    from bio_rl.cli import main as bio_rl

    chosen = (
        ["rule.preset=limit"] if nudge == LIMIT else ["rule.preset=prospective", f"rule.nudge={absolute(rule, nudge)}"]
    )
    looking = [
        "diagnostics=light",
        "diagnostics.probes=0",
        "evaluation.interval=0",
        "evaluation.episodes=100",
        "logging=none",
    ]
    with tempfile.TemporaryDirectory() as folder:
        where = [f"hydra.run.dir={folder}", "resume.interval=0"]
        learning = ["train", f"rule={rule}", f"members={seeds}", f"env.timesteps={timesteps}"]
        if code := bio_rl([*learning, *chosen, *looking, *where]):
            raise SystemExit(code)
        return [run_of(Path(folder, f"seed={seed}") if seeds > 1 else Path(folder)) for seed in range(seeds)]


def absolute(rule: str, share: str) -> float:
    """The nudge of a share of the prospective preset's."""
    from bio_rl.rules import rule_class

    return float(share) * float(rule_class(rule).presets["prospective"]["nudge"])


def run_of(folder: Path) -> Run:
    from bio_rl.analysis.records import record_of
    from bio_rl.analysis.runs import Run as Folder

    record = record_of(Folder(folder))
    assert record is not None, "the command has ended well"
    return Run(*(record.numbers[name] for name in ("return_mean", "actor_angle", "critic_angle")))


def append(table: Path, rule: str, nudge: str, runs: Sequence[Run]) -> None:
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for seed, run in enumerate(runs):
            writer.writerow((rule, nudge, seed, *(f"{number:.4g}" for number in run)))


def read(table: Path) -> Runs:
    runs: Runs = defaultdict(dict)
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            numbers = (float(row[name]) for name in ("return", "actor_angle", "critic_angle"))
            runs[row["rule"], row["nudge"]][int(row["seed"])] = Run(*numbers)
    return runs


def interval(values: Sequence[float]) -> Estimate:
    """The mean, and its bootstrap interval over seeds."""
    return estimate(lambda scores: scores[0].mean(axis=-1), np.random.default_rng(0), [np.array(values)])


def markdown(runs: Runs, rules: Sequence[str]) -> Iterator[str]:
    """A row for each rule: both presets' angles and returns, and which return is higher, if the seeds tell."""
    yield "| rule | actor's angle, limit → prospective | critic's | return, limit | return, prospective | |"
    yield "|---|---|---|---|---|---|"
    for rule in rules:
        both = [list(runs[rule, nudge].values()) for nudge in (LIMIT, "1.0")]
        angles = [
            " → ".join(f"{fmean(getattr(run, f'{network}_angle') for run in each):.0f}°" for each in both)
            for network in NETWORKS
        ]
        estimates = [interval([run.final_return for run in each]) for each in both]
        returns = [f"{each.value:.0f} ({each.low:.0f}, {each.high:.0f})" for each in estimates]
        limit, prospective = estimates
        told = "prospective" if prospective.value > limit.value else "limit"
        if limit.overlaps(prospective) or None in (limit.interval, prospective.interval):
            told = "not told apart"
        yield f"| `{rule}` | {' | '.join([*angles, *returns, told])} |"


def draw(runs: Runs, path: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rules = list(dict.fromkeys(rule for rule, _ in runs))
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 2.1 * len(rules)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(rules), 2, sharex=True, squeeze=False)
        for rule, (angle_axis, return_axis) in zip(rules, axes, strict=True):
            for network, colour in (("actor", "#0072B2"), ("critic", "#D55E00")):
                draw_line(angle_axis, runs, rule, f"{network}_angle", colour, network)
            draw_line(return_axis, runs, rule, "final_return", "black", "")
            angle_axis.set_ylim(0, 95)
            angle_axis.set_yticks([0, 45, 90])
            return_axis.set_ylim(0, 520)
            angle_axis.set_ylabel("angle to backprop, °")
            return_axis.set_ylabel("return")
            angle_axis.set_title(rule, loc="left", fontweight="bold", fontsize=10)
        axes[0, 0].legend(frameon=False, loc="upper left", ncols=2)
        for axis in axes[-1]:
            axis.set_xlabel("nudge, as a share of the preset prospective's")
        figure.savefig(path, dpi=120)


def draw_line(axis: Any, runs: Runs, rule: str, measure: str, colour: str, label: str) -> None:
    """The mean over seeds and its interval, over three decades; the preset `limit` stands apart, at the left."""
    shares = [share for share in SHARES if runs.get((rule, str(share)))]
    points = [interval([getattr(run, measure) for run in runs[rule, str(share)].values()]) for share in shares]
    if points:
        axis.plot(shares, [each.value for each in points], "-o", color=colour, label=label or None, markersize=4)
        ends = [each.low for each in points], [each.high for each in points]
        axis.fill_between(shares, *ends, color=colour, alpha=0.2, linewidth=0)
    if at_limit := list(runs.get((rule, LIMIT), {}).values()):
        found = interval([getattr(run, measure) for run in at_limit])
        place = SHARES[0] / 4
        axis.plot([place], [found.value], "s", color=colour, markersize=5)
        axis.plot([place, place], [found.low, found.high], color=colour, linewidth=1)
    axis.set_xscale("log")
    ticks = [SHARES[0] / 4, *SHARES]
    axis.set_xticks(ticks, [LIMIT, *(f"{share:g}" for share in SHARES)], minor=False)
    axis.minorticks_off()


if __name__ == "__main__":
    main()
