"""``bio-rl rules``: what every rule says that it is."""

import re
from typing import Any

from rich.console import Console
from rich.table import Table

from bio_rl.rules import rule_class, rule_names

PROPERTIES = {
    "ngrad": "differences\nover",
    "weight_transport": "weight\ntransport",
    "separate_phases": "\nphases",
    "error_neurons": "error\nneurons",
    "extra_sweeps": "extra\nsweeps",
    "nonlocal_scalars": "non-local\nscalars",
    "paper": "\npaper",
}
"""Class attributes of ``Rule`` and the headings they stand under."""


def properties() -> list[dict[str, Any]]:
    """Each rule's name and properties, as ``Rule`` documents them."""
    return [{"name": name} | {key: getattr(rule_class(name), key) for key in PROPERTIES} for name in rule_names()]


def print_table(rows: list[dict[str, Any]]) -> None:
    """The same for people, with papers by author and year."""
    table = Table("\nrule", *PROPERTIES.values(), box=None, header_style="bold", pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(row["name"], *(_cell(key, row[key]) for key in PROPERTIES))
    Console().print(table)


def _cell(key: str, value: bool | str) -> str:
    if value in (False, "", "none"):
        return "·"
    if key == "paper":
        return _citation(str(value))
    return str(value) if key == "ngrad" else "yes"


def _citation(paper: str) -> str:
    """The first paper's authors, three or more by the first one's name, and its year."""
    found = re.match(r"(?P<authors>.*?) (?P<year>\d{4})", paper)
    if found is None:
        return paper
    first, *others = re.split(r", | & ", found["authors"])
    return f"{first} et al. {found['year']}" if len(others) > 1 else found[0]
