"""The house: imports run down its floors, and a folder holds what its name says."""

import ast
from pathlib import Path

import pytest

import bio_rl
from bio_rl.rules import rule_class, rule_names

HOUSE = Path(bio_rl.__file__).parent
FLOORS = [
    "names",
    "trust",
    "snapshot",
    "seeding",
    "activations",
    "layers",
    "settings",
    "rule",
    "network",
    "mechanisms",
    "rules",
    "diagnostics",
    "tasks",
    "experiment",
    "analysis",
    "cli",
    "__main__",
]
"""From the ground up."""
MODULES = sorted(path for path in HOUSE.rglob("*.py") if path.parent != HOUSE or path.stem != "__init__")


def room(path):
    inside = path.relative_to(HOUSE).parts
    return inside[0].removesuffix(".py")


def imported_rooms(path):
    """Those that a module imports when it is imported; what only types need is not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bio_rl."):
            yield node.module.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_run_down_only(path):
    above = FLOORS[FLOORS.index(room(path)) + 1 :]
    assert not set(imported_rooms(path)) & set(above)


@pytest.mark.parametrize("name", rule_names())
def test_a_file_among_the_rules_is_a_rule(name):
    assert rule_class(name).__module__ == f"bio_rl.rules.{name}"
