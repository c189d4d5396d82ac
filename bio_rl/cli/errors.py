"""A user's mistakes: one line each, and exit code 2."""

from collections.abc import Iterable

from bio_rl.names import nearest as nearest

LONGEST = 800
"""Characters of a line; what somebody gave may be longer."""


class UserError(Exception):
    """What was wrong, where, and what would be right, in one line that can be read."""

    def __init__(self, message: str):
        line = " ".join(message.split())
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}")


def nearest_of(name: str, known: Iterable[str], place: str = "it") -> str:
    """As ``nearest``, and where none is alike what there is: ``" (it has a, b)"``."""
    known = sorted(known)
    return nearest(name, known) or (f" ({place} has {', '.join(known)})" if known else "")


def first_line(error: BaseException) -> str:
    """What an error says before it goes on about itself."""
    # These two say a key or an index, and not what is wrong with it.
    name = f"{type(error).__name__}: " if type(error) in (KeyError, IndexError) else ""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0].endswith(":") and error.__cause__ is not None:
        # As Hydra writes what it cannot import.
        return f"{lines[0]} {first_line(error.__cause__)}"
    return name + lines[0]


def shortened(text: str) -> str:
    """What somebody gave, as much of it as a line has room for."""
    return text if len(text) <= 100 else f"{text[:80]}...{text[-10:]}"
