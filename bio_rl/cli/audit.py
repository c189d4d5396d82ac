"""``bio-rl audit``: what the updates of rules depend on, measured, beside what the rules declare."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bio_rl import Rule
from bio_rl.cli.errors import UserError, first_line
from bio_rl.cli.rules import maker, own_rules
from bio_rl.diagnostics.audit import audit, contradictions
from bio_rl.rules import rule_names

COLUMNS = {
    "presynaptic": ("\npre", "the activity of the synapse's own presynaptic neuron"),
    "postsynaptic": ("\npost", "the activity of its own postsynaptic neuron"),
    "feedback": ("feed-\nback", "a signal about the error that synapses bring to that hidden neuron"),
    "weight_transport": ("trans-\nport", "forward weights of other layers, with all activity held"),
    "other_samples": ("\nbatch", "other samples of the batch"),
    "global_scalar": ("\nglobal", "a number that no synapse brings to the neuron"),
    "separate_phases": ("\nphases", "activity in another state than the one that acted"),
    "second_sweep": ("\nsweeps", "another sweep of the same sample"),
    "error_neurons": ("error\ncells", "neurons that hold errors, which no intervention can tell"),
}
"""What an update may depend on: its heading, and its meaning."""
MARKS = {True: "✓", False: "·", "values": "✓", "signs": "±", "none": "·"}
DECLARED = {True: "(✓)", False: "(·)", None: "(?)"}
LEGEND = "What an update moves with: ✓ yes, ± by signs only, · no, (✓) only declared"
WORDS = {True: "yes", False: "no"}


def audits(names: Sequence[str], config_dir: Path | None = None) -> list[dict[str, Any]]:
    """Each rule's findings, what of it can only be declared, and where it declares what was not found.

    Args:
        names: of rules, or ``module:Class``; none for all.
        config_dir: the folder whose ``rule/`` holds files of the user's own rules, known by the files' names.

    Raises:
        UserError: a rule that is not there, or that cannot be made or run.
    """
    torch.set_num_threads(1)  # the networks are small
    own = own_rules(config_dir)
    makers = {name: maker(name, own) for name in names or (*rule_names(), *own)}
    return [audit_row(name, make) for name, make in makers.items()]


def audit_row(name: str, make: Callable[[], Rule]) -> dict[str, Any]:
    """One rule's findings, as in ``audits``.

    Raises:
        UserError: the rule cannot be made or run.
    """
    try:
        rule = make()
        findings = audit(make)
    except Exception as error:  # a rule of the user's may raise anything
        raise UserError(f"{name} cannot be audited: {first_line(error)}") from error
    return {
        "name": name,
        "measured": asdict(findings),
        "declared": {"error_neurons": getattr(rule, "error_neurons", None)},
        "contradictions": [each._asdict() for each in contradictions(rule, findings)],
    }


def marks(row: dict[str, Any]) -> list[str]:
    """A rule's findings as marks, in the order of ``COLUMNS``."""
    measured = [MARKS[row["measured"][key]] for key in COLUMNS if key in row["measured"]]
    return measured + [DECLARED[value] for value in row["declared"].values()]


def headings() -> dict[str, str]:
    """The headings of ``COLUMNS`` in one line each, and what they mean."""
    return {head.replace("-\n", "").replace("\n", " ").strip(): meaning for head, meaning in COLUMNS.values()}


def print_table(rows: list[dict[str, Any]]) -> None:
    """The same for people, in 80 columns; contradictions are left to ``say_contradictions``."""
    table = Table("\nrule", box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    legend = Table.grid(padding=(0, 2, 0, 0))
    table.columns[0].overflow = "fold"
    for heading, _ in COLUMNS.values():
        table.add_column(heading, no_wrap=True)
    for heading, meaning in headings().items():
        legend.add_row(heading, meaning)
    for row in rows:
        table.add_row(row["name"], *marks(row))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\n{LEGEND}")
    console.print(legend)


def say_contradictions(rows: list[dict[str, Any]]) -> bool:
    """One line on the error output for each finding that is not what its rule declares; whether there are any."""
    found = [(row["name"], each) for row in rows for each in row["contradictions"]]
    for name, each in found:
        declared, measured = (WORDS.get(each[key], each[key]) for key in ("declared", "measured"))
        print(
            f"bio-rl audit: {name}: {each['finding'].replace('_', ' ')}: declared {declared} by {each['attribute']}, "
            f"measured {measured}",
            file=sys.stderr,
        )
    return bool(found)
