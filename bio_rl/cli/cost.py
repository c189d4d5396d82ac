"""``bio-rl rules --cost``: what one update costs under each rule, counted on a network of a stated size."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bio_rl import Dense, Network
from bio_rl.analysis.report import figures
from bio_rl.cli.errors import UserError, first_line
from bio_rl.cli.rules import maker, own_rules
from bio_rl.diagnostics.cost import cost
from bio_rl.rules import rule_names

NETWORK = (8, 64, 64, 4)
MEANINGS = {
    "multiply_accumulates": ("MACs", "multiply-accumulates of the products of matrices"),
    "synaptic_events": ("events", "numbers that cross a synapse, forward or feedback"),
    "sweeps": ("sweeps", "synapses that signals cross one after another, over the number of layers"),
    "bytes_read": ("read", "bytes that torch's kernels read"),
    "bytes_written": ("written", "bytes that they write"),
    "rule_floats": ("kept", "numbers that the rule keeps from update to update, of the whole network"),
    "trace_floats": ("trace", "numbers that are kept until the error comes"),
}
"""What is counted: its heading, and its meaning. All but one is for a sample."""


def costs(sizes: Sequence[int], batch: int, config_dir: Path | None = None) -> dict[str, dict[str, Any]]:
    """What one update costs under each rule, in its settings as shipped, by the rule's name.

    Args:
        sizes: of the network, from its inputs to its outputs; tanh between them.
        batch: samples of the update.
        config_dir: the folder whose ``rule/`` holds files of the user's own rules, which come last.

    Raises:
        UserError: a folder that is not there, or a rule that cannot be made or run.
    """
    own = own_rules(config_dir)
    return {name: _cost_of(name, own, sizes, batch) for name in (*rule_names(), *own)}


def _cost_of(name: str, own: dict[str, Path], sizes: Sequence[int], batch: int) -> dict[str, Any]:
    make = maker(name, own)
    activations = ["tanh"] * (len(sizes) - 2) + ["identity"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [Dense(i, o, each) for (i, o), each in zip(pairwise(sizes), activations, strict=True)]
        try:
            return cost(Network(layers, make(), [0]), batch)._asdict()
        except Exception as error:  # a rule of the user's may raise anything
            raise UserError(f"the cost of {name} cannot be counted: {first_line(error)}") from error


def print_costs(found: dict[str, dict[str, Any]], sizes: Sequence[int], batch: int) -> None:
    """The same for people, in 80 columns, beside backprop's arithmetic."""
    table = Table("rule", box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.columns[0].overflow = "fold"
    legend = Table.grid(padding=(0, 2, 0, 0))
    for name, (heading, meaning) in MEANINGS.items():
        table.add_column(heading, justify="right", no_wrap=True)
        legend.add_row(heading, meaning)
        if name == "multiply_accumulates":
            table.add_column("×", justify="right", no_wrap=True)
            legend.add_row("×", "the same over backprop's")
    exact = found["backprop"]["multiply_accumulates"]
    for rule, own in found.items():
        counts = [_short(own[name]) for name in MEANINGS]
        table.add_row(rule, counts[0], f"{own['multiply_accumulates'] / exact:.2g}", *counts[1:])
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\nOne update of a network {'-'.join(map(str, sizes))}, for each of {batch} samples")
    console.print(legend)


def _short(count: float) -> str:
    """A count in at most six characters."""
    return figures(count / 1000, 3) + "k" if count >= 1000 else figures(count, 3)
