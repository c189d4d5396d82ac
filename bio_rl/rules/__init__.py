"""Credit-assignment rules, one file each.

``bio_rl/rules/feedback_alignment.py`` holds the class ``FeedbackAlignment``, and its name is
``feedback_alignment``: the file's name is the registration, so that a new rule edits nothing.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from bio_rl.rule import Rule, Trace

__all__ = ["Rule", "Trace", "make_rule", "rule_class", "rule_names"]


def rule_names() -> list[str]:
    """The names of the rules that bio_rl ships."""
    return sorted(module.name for module in iter_modules(__path__))


def rule_class(name: str) -> type[Rule]:
    """The class of a rule by its name, or by ``module:Class`` for one of your own.

    Raises:
        ValueError: there is no such rule, or what has the name is none.
    """
    if not isinstance(name, str):
        raise ValueError(
            f"{name!r} is not a rule: give a name, module:Class, or an object of a subclass of bio_rl.Rule"
        )
    module_name, _, class_name = name.partition(":") if ":" in name else (f"{__name__}.{name}", "", _class_name(name))
    try:
        found = getattr(import_module(module_name), class_name, None)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        found = None
    if found is None:
        raise ValueError(f"unknown rule {name!r}; known: {', '.join(rule_names())}, or module:Class")
    if not (isinstance(found, type) and issubclass(found, Rule)):
        raise ValueError(f"{name!r} is not a rule: it is no subclass of bio_rl.Rule")
    return found


def make_rule(rule: str | Rule, /, **settings: Any) -> Rule:
    """A fresh rule by its name (see ``rule_class``) and its settings; a rule object is returned as it is.

    Raises:
        ValueError: there is no such rule, or a setting has a value that it cannot have.
        TypeError: a setting that the rule does not have, or settings for a rule object, which has its own.
    """
    if not isinstance(rule, Rule):
        return rule_class(rule)(**settings)
    if settings:
        raise TypeError(f"{rule} has its settings already; {', '.join(settings)} cannot be given to it")
    return rule


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def __getattr__(name: str) -> type[Rule]:
    """``from bio_rl.rules import FeedbackAlignment``: looked up when asked for."""
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
    module = f"{__name__}.{snake}"
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
