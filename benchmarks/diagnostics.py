"""What diagnostics cost: seconds of measuring over seconds of learning, both of one and the same run.

    python benchmarks/diagnostics.py
    python benchmarks/diagnostics.py --agents ppo --rules backprop --settings full

Each run is ``bio-rl train`` with the settings that are shipped, of as many steps as are asked for. The
evaluations count for neither side. Both are times of one process by one clock, taken in turns all
through the run, so that what slows the machine down slows both.
"""

import argparse
import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from bio_rl.cli import main as bio_rl

RULES = ("backprop", "kolen_pollack", "gated", "node_perturbation", "predictive_coding", "deep_feedback_control")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    table = Table(title=f"Diagnostics of {options.steps} steps on {options.env}")
    for column in ("setting", "agent", "rule", "records", "ms a record", "share of learning"):
        table.add_column(column, justify="left" if column in ("setting", "agent", "rule") else "right")
    for setting in options.settings:
        for agent in options.agents:
            for rule in options.rules:
                cost = cost_of(setting, agent, rule, options.env, options.steps)
                milliseconds = 1000 * cost["seconds"] / cost["records"]
                table.add_row(setting, agent, rule, str(cost["records"]), f"{milliseconds:.1f}", f"{cost['share']:.2%}")
    Console(width=100).print(table)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=["light", "full"], choices=["light", "full"])
    parser.add_argument("--agents", nargs="+", default=["ppo", "a2c", "reinforce"])
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--env", default="cartpole")
    parser.add_argument("--steps", type=int, default=100_000)
    return parser.parse_args(arguments)


def cost_of(setting: str, agent: str, rule: str, env: str, steps: int) -> dict[str, Any]:
    """Of one run the records, the seconds that they took, and their share of the seconds of learning.

    Raises:
        RuntimeError: the run failed.
    """
    with TemporaryDirectory() as folder:
        run = Path(folder, "run")
        settings = [f"diagnostics={setting}", f"agent={agent}", f"rule={rule}", f"env={env}", f"env.timesteps={steps}"]
        settings += ["evaluation.interval=0", "evaluation.episodes=1", f"hydra.run.dir={run}"]
        with contextlib.redirect_stdout(io.StringIO()):
            code = bio_rl(["train", *settings])
        if code != 0:
            raise RuntimeError(f"bio-rl train {' '.join(settings)} ended with exit code {code}")
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        rows = (run / "diagnostics.csv").read_text(encoding="utf-8").splitlines()[1:]
    seconds = result["diagnostics"]["seconds"]
    return {
        "records": len({row.partition(",")[0] for row in rows}),
        "seconds": seconds,
        "share": seconds / (result["timesteps"] / result["steps_per_second"]),
    }


if __name__ == "__main__":
    main()
