"""``bio-rl rules``: what every rule says that it is."""

import re
from typing import Any

from rich.console import Console
from rich.table import Table

from bio_rl.rules import rule_class, rule_names

NEEDS = {
    "weight_transport": "weight transport",
    "separate_phases": "phases",
    "error_neurons": "error neurons",
    "extra_sweeps": "sweeps",
    "nonlocal_scalars": "non-local scalars",
}
"""What a rule may need that a brain may lack, as ``Rule`` names it and in words; their initials stand in the table."""


def properties() -> list[dict[str, Any]]:
    """Each rule's name and properties, as ``Rule`` documents them."""
    keys = ("ngrad", *NEEDS, "paper")
    return [{"name": name} | {key: getattr(rule_class(name), key) for key in keys} for name in rule_names()]


def print_table(rows: list[dict[str, Any]]) -> None:
    """The same for people, in 80 columns: needs by their initials, papers by author and year."""
    table = Table("\nrule", "differences\nover", "\nneeds", "\npaper", box=None, header_style="bold", pad_edge=False)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in rows:
        needs = " ".join(words[0].upper() if row[key] else "·" for key, words in NEEDS.items())
        table.add_row(row["name"], row["ngrad"].replace("none", "·"), needs, _citation(row["paper"]))
    console = Console(highlight=False)
    console.print(table)
    console.print("\n" + ", ".join(f"[bold]{words[0].upper()}[/] {words}" for words in NEEDS.values()))
    console.print("bio-rl rules --json says more, with the papers in full")


def _citation(paper: str) -> str:
    """The first paper's authors, three or more by the first one's name, and its year."""
    found = re.match(r"(?P<authors>.*?) (?P<year>\d{4})", paper)
    if found is None:
        return paper
    first, *others = re.split(r", | & ", found["authors"])
    return f"{first} et al. {found['year']}" if len(others) > 1 else found[0]
