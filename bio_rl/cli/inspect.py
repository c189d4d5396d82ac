"""``bio-rl inspect``: one run on a page, in the terminal or in a file."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from bio_rl import Rule
from bio_rl.analysis import terminal
from bio_rl.analysis.inspection import report
from bio_rl.analysis.models import FindRule, Model, shipped_rule
from bio_rl.analysis.page import page
from bio_rl.analysis.report import Section, Table, figures
from bio_rl.analysis.runs import NoRun, Run, Unreadable
from bio_rl.cli.audit import LEGEND, audit_row, headings, marks
from bio_rl.cli.cost import MEANINGS
from bio_rl.cli.errors import UserError
from bio_rl.cli.rules import class_of, own_rules
from bio_rl.diagnostics.cost import BATCH, cost
from bio_rl.experiment.provenance import SOURCES_OF_RUN, rule_hashes


def inspect(folder: Path, html: Path | None = None, config_dir: Path | None = None) -> int:
    """Show a run.

    Args:
        folder: of the run.
        html: the file that takes the page; ``None`` for the terminal.
        config_dir: the folder whose ``rule/`` holds files of the user's own rules: of these, and of ours, what has to
            be run to be seen is run.

    Raises:
        UserError: a folder that holds no run, or a file that cannot be written.
    """
    find_rule = finder(config_dir)
    try:
        run = Run(folder)
    except NoRun as error:
        raise UserError(str(error)) from error
    shown = report(run, [_audit(run, find_rule), _cost(run, find_rule)])
    if html is None:
        terminal.show(shown, Console(highlight=False))
        return 0
    for problem in shown.problems:
        print(f"bio-rl inspect: {problem}", file=sys.stderr)
    try:
        html.write_text(page(shown), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--html {html}: the file cannot be written: {error.strerror or error}") from error
    print(f"wrote {html}")
    return 0


def finder(config_dir: Path | None) -> FindRule:
    """What finds our own rules and the user's, and no other that a folder may name."""
    classes = map(class_of, own_rules(config_dir).values())
    own = {f"{each.__module__}:{each.__qualname__}": each for each in classes}

    def find_rule(name: str) -> type[Rule]:
        if name in own:
            return own[name]
        try:
            return shipped_rule(name)
        except ValueError as error:
            raise ValueError(f"{error}; --config-dir DIR shows it, if it has a file in DIR/rule/") from None

    return find_rule


def _audit(run: Run, find_rule: FindRule) -> Section:
    """What the updates of the run's rules depend on, measured now."""
    title = "Locality of the rule"
    if run.trained is None:
        return Section(title, "Nothing to show: the run has saved no model that names its rule.")
    try:
        rules = dict(_distinct(Model(run, run.trained, find_rule).rules))
        columns = [marks(audit_row(name, make)) for name, make in rules.items()]
        changed = _changed(run, rules)
    except Unreadable as error:
        run.note(str(error))
        return Section(title, "Nothing to show: the model cannot be read.")
    except (ValueError, UserError) as error:
        return Section(title, f"Nothing to show: {error}.")
    rows = [(name, *found, meaning) for (name, meaning), *found in zip(headings().items(), *columns, strict=True)]
    text = f"{LEGEND}; measured as by bio-rl audit, with the run's settings.{changed}"
    return Section(title, text, (), [Table(("", *rules, ""), rows)])


def _distinct(rules: Mapping[str, Callable[[], Rule]]) -> Iterator[tuple[str, Callable[[], Rule]]]:
    """Each rule once, by the networks that have it."""
    for make in dict.fromkeys(rules.values()):
        yield " and ".join(name for name, own in rules.items() if own is make), make


def _cost(run: Run, find_rule: FindRule) -> Section:
    """What an update of the run's networks costs, as the run counted it, or if it did not, counted now."""
    title = "Cost of an update"
    costs: Any = run.result.get("cost")
    if not isinstance(costs, Mapping):
        try:
            networks = {} if run.trained is None else Model(run, run.trained, find_rule).networks
            costs = {name: cost(network)._asdict() for name, network in networks.items()}
        except Unreadable as error:
            run.note(str(error))
            costs = {}
        except (ValueError, ArithmeticError) as error:
            return Section(title, f"Nothing to show: {error}.")
    columns = {name: own for name, own in costs.items() if isinstance(own, Mapping)}
    if not columns:
        return Section(title, "Nothing to show: neither has the run counted it, nor is there a model to count it with.")
    rows = [
        (heading, *(_figures(own.get(name)) for own in columns.values()), meaning)
        for name, (heading, meaning) in MEANINGS.items()
    ]
    text = f"For each sample of an update of {costs.get('batch', BATCH)}, the sweep that acts included."
    return Section(title, text, (), [Table(("", *columns, ""), rows)])


def _figures(count: Any) -> str:
    return figures(count) if isinstance(count, int | float) else "–"


def _changed(run: Run, rules: Mapping[str, Callable[[], Rule]]) -> str:
    recorded, today = run.result.get(SOURCES_OF_RUN), rule_hashes(make() for make in rules.values())
    if not isinstance(recorded, Mapping) or today.items() <= recorded.items():
        return ""
    return " The rule's source has changed since the run: what is measured is today's."
