"""Which keywords a constructor takes, and what to say of any other."""

import inspect
from collections.abc import Iterable

from bio_rl.nearest import nearest


def arguments(kind: type) -> list[str]:
    """The keywords of a class's constructor, and those that it passes on to its parents'."""
    names: list[str] = []
    for parent in kind.__mro__:
        if "__init__" not in vars(parent):
            continue
        _, *parameters = inspect.signature(vars(parent)["__init__"]).parameters.values()
        names += [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


def check_arguments(kind: type, given: Iterable[str]) -> None:
    """Refuse a keyword that no constructor takes.

    Raises:
        TypeError: as Python's, with the nearest name that there is.
    """
    known = [name for name in arguments(kind) if not name.startswith("_")]
    for name in given:
        if name not in known:
            raise TypeError(f"{kind.__name__} has no argument {name!r}{nearest(name, known)}")
