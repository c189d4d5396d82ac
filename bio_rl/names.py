"""Names that a user may give: those that there are, and the one that a misspelt one was meant to be."""

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

TUNED_BY_RULE, TUNED_BY_RULE_IN_FULL = "tuned=rule", "tuned=${env}/${agent}/${rule}"
"""The choice of the file that ``bio-rl tune`` writes, for a reader and for Hydra."""
CRITIC_RULE, CRITIC_RULE_IN_FULL = "critic_rule=", "rule@critic_rule="
"""The choice of the critic's own rule; for Hydra, one from the group ``rule`` that is put at ``critic_rule``."""


def in_full(override: str) -> str:
    """An override as Hydra takes it, of one that may use our short forms."""
    if override == TUNED_BY_RULE:
        return TUNED_BY_RULE_IN_FULL
    return f"rule@{override}" if override.startswith(CRITIC_RULE) else override


def in_short(override: str) -> str:
    """An override as one would type it, of one that Hydra recorded, with its braces escaped."""
    if override.replace("\\", "") == TUNED_BY_RULE_IN_FULL:
        return TUNED_BY_RULE
    return override.replace(CRITIC_RULE_IN_FULL, CRITIC_RULE, 1)


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known name most like this one, or nothing."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def is_within(name: str, groups: Iterable[str]) -> bool:
    """Whether a dotted name, of a module or a setting, is one of these or below one."""
    return any(name == group or name.startswith(f"{group}.") for group in groups)


def argument_names(target: Callable[..., Any]) -> list[str] | None:
    """The names of a callable's arguments, a class's with those that it hands to its bases; ``None``: it takes any."""
    is_class = isinstance(target, type)
    bases: tuple[Any, ...] = inspect.getmro(target) if isinstance(target, type) else ()
    names: list[str] = []
    for maker in [base.__init__ for base in bases if "__init__" in vars(base)] or [target]:
        try:
            parameters = list(inspect.signature(maker).parameters.values())
        except (TypeError, ValueError):
            return None
        named = parameters[1:] if is_class else parameters
        names += [each.name for each in named if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        if all(each.kind is not each.VAR_KEYWORD for each in parameters):
            return names
    return None
