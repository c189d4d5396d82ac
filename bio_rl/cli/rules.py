"""``bio-rl rules``: what every rule says that it is."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.utils import _locate  # get_class prints its error as well
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from bio_rl import Rule
from bio_rl.cli.errors import UserError, first_line, nearest
from bio_rl.cli.schema import with_preset
from bio_rl.rules import rule_class, rule_names

NEEDS = {
    "weight_transport": "weight transport",
    "separate_phases": "phases",
    "error_neurons": "error neurons",
    "extra_sweeps": "sweeps",
    "nonlocal_scalars": "non-local scalars",
}
"""What a rule may need that a brain may lack, as ``Rule`` names it and in words; their initials stand in the table."""


def properties(config_dir: Path | None = None) -> list[dict[str, Any]]:
    """Each rule's name and properties, as ``Rule`` documents them.

    Args:
        config_dir: the folder whose ``rule/`` holds files of the user's own rules, which come last.

    Raises:
        UserError: a folder that is not there, or a file that names no rule.
    """
    classes = {name: rule_class(name) for name in rule_names()}
    classes |= {name: class_of(file) for name, file in own_rules(config_dir).items()}
    keys = ("ngrad", *NEEDS, "limit", "paper")
    return [{"name": name} | {key: getattr(rule, key, None) for key in keys} for name, rule in classes.items()]


def own_rules(config_dir: Path | None) -> dict[str, Path]:
    """The config files of a user's own rules, by the rules' names.

    Raises:
        UserError: a folder that is not there.
    """
    if config_dir is None:
        return {}
    if not (config_dir / "rule").is_dir():
        raise UserError(f"--config-dir: there is no folder {str(config_dir / 'rule')!r}")
    return {file.stem: file for file in sorted((config_dir / "rule").glob("*.yaml"))}


def class_of(file: Path) -> type[Rule]:
    """The class of the rule that a config file describes.

    Raises:
        UserError: a file that cannot be read or names no rule.
    """
    try:
        target = str(OmegaConf.select(OmegaConf.load(file), "_target_"))
        found = _locate(target)
    except Exception as error:  # of the file, or of the module that it names
        raise UserError(f"{file} names no rule by its _target_: {first_line(error)}") from error
    if not (isinstance(found, type) and issubclass(found, Rule)):
        raise UserError(f"{file}: {target} is not a rule: it is no subclass of bio_rl.Rule")
    return found


def maker(name: str, own: Mapping[str, Path]) -> Callable[[], Rule]:
    """What makes a fresh rule of that name, with the settings of its file.

    Args:
        name: of a rule, or ``module:Class``.
        own: the user's own, see ``own_rules``.

    Raises:
        UserError: there is no such rule.
    """
    if name in own:
        class_of(own[name])
        settings: Mapping[str, Any] = OmegaConf.load(own[name])  # type: ignore[assignment]  # it has a _target_
        return partial(instantiate, with_preset(settings))
    if ":" not in name and name not in rule_names():
        known = (*rule_names(), *own)
        raise UserError(f"unknown rule {name!r}{nearest(name, known)} (rules: {', '.join(known)}, or module:Class)")
    try:
        return rule_class(name)
    except Exception as error:  # of the module that it names
        raise UserError(f"{name}: {first_line(error)}") from error


def print_table(rows: list[dict[str, Any]]) -> None:
    """The same for people, in 80 columns: needs by their initials, papers by author and year."""
    table = Table("\nrule", "differences\nover", "\nneeds", "\npaper", box=None, header_style="bold", pad_edge=False)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in rows:
        needs = " ".join(_mark(row[key], words) for key, words in NEEDS.items())
        table.add_row(row["name"], (row["ngrad"] or "?").replace("none", "·"), needs, _citation(row["paper"] or "?"))
    console = Console(highlight=False)
    console.print(table)
    console.print("\n" + ", ".join(f"[bold]{words[0].upper()}[/] {words}" for words in NEEDS.values()))
    console.print("[bold]±[/] weight transport of signs only")
    console.print("At the small nudge that is shipped, the update takes the direction of")
    for limit in sorted({row["limit"] for row in rows if row["limit"]}):
        names = ", ".join(row["name"] for row in rows if row["limit"] == limit)
        console.print(f"  [bold]{limit}[/]: {names}")
    console.print("bio-rl rules --json says more, with the papers in full")


def _mark(value: bool | str | None, words: str) -> str:
    """A need's initial, a dot where there is none, and a question mark where the rule does not say."""
    return {None: "?", False: "·", "": "·", "signs": "±"}.get(value, words[0].upper())


def _citation(paper: str) -> str:
    """The first paper's authors, three or more by the first one's name, and its year."""
    found = re.match(r"(?P<authors>.*?) (?P<year>\d{4})", paper)
    if found is None:
        return paper
    first, *others = re.split(r", | & ", found["authors"])
    return f"{first} et al. {found['year']}" if len(others) > 1 else found[0]
