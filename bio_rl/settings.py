"""What kind of thing a rule's setting is: said once, where the constructor names it.

``def __init__(self, nudge: Positive = 0.1, variant: Literal["a", "b"] = "a", learn: bool = False)`` is all
that a rule writes. A value of another kind is refused before the constructor runs, in one line that
names the rule, the setting, the value, and what would be right. A number is always finite, and has a
range outside of which it could only overflow or do nothing.
"""

import functools
import inspect
import numbers
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin


class Between(NamedTuple):
    """The smallest and the largest value of a number, both allowed: ``Annotated[float, Between(0.1, 2)]``."""

    low: float
    high: float


FINITE = Between(-sys.float_info.max, sys.float_info.max)
Positive = Annotated[float, Between(1e-9, 1e9)]
NotNegative = Annotated[float, Between(0, 1e9)]
Fraction = Annotated[float, Between(0, 1)]
Share = Annotated[float, Between(1e-6, 1)]
"""A fraction that is not nothing."""
Count = Annotated[int, Between(1, 10**6)]


def checked(constructor: Callable[..., None]) -> Callable[..., None]:
    """A constructor that refuses settings of another kind than its annotations say.

    ``float``, ``int``, ``bool``, ``str``, ``Literal`` and ``Annotated[number, Between]`` are checked; an
    argument with any other annotation is the constructor's own business.

    Raises:
        ValueError: from the constructor, naming the rule, the setting and what it must be.
    """

    @functools.cache
    def signature() -> inspect.Signature:
        try:
            return inspect.signature(constructor, eval_str=True)
        except NameError:  # a name that only the type checker knows
            return inspect.signature(constructor)

    @functools.wraps(constructor)
    def construct(self: Any, *args: Any, **settings: Any) -> None:
        try:
            given = signature().bind(self, *args, **settings).arguments
        except TypeError:
            given = {}  # the constructor itself says which argument it misses
        for name, value in given.items():
            kind = signature().parameters[name].annotation
            if not _is(kind, value):
                raise ValueError(f"{type(self).__name__}: {name} must be {_describe(kind)}, not {value!r}")
        constructor(self, *args, **settings)

    return construct


def _is(kind: Any, value: object) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str | int) and value in get_args(kind)
    number, limits = _number(kind)
    if number is not None:
        whole_enough = isinstance(value, numbers.Integral if number is int else numbers.Real)
        return whole_enough and not isinstance(value, bool) and limits.low <= value <= limits.high  # type: ignore[operator]
    return isinstance(value, kind) if kind in (bool, str) else True


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    number, limits = _number(kind)
    if number is None:
        return "true or false" if kind is bool else "a word"
    noun = "a whole number" if number is int else "a number"
    return f"{noun} from {limits.low:g} to {limits.high:g}" if limits != FINITE else f"{noun} that is finite"


def _number(kind: Any) -> tuple[type | None, Between]:
    """The type and the limits of an annotation that is a number's; ``None`` for any other."""
    if get_origin(kind) is Annotated:
        number, *notes = get_args(kind)
        limits = next((note for note in notes if isinstance(note, Between)), FINITE)
        return (number if number in (int, float) else None), limits
    return (kind if kind in (int, float) else None), FINITE
