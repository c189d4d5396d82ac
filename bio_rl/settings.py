"""What kind of thing a rule's setting is: said once, where the constructor names it.

``def __init__(self, nudge: Positive = 0.1, variant: Literal["a", "b"] = "a", learn: bool = False)`` is all
that a rule writes. A value of another kind is refused before the constructor runs, in one line that
names the rule, the setting, the value, and what would be right. A number is always finite, and has a
range outside of which it could only overflow or do nothing.

A setting ``preset`` gives others their values by one word: those of the class's ``presets``, each
where it is not given itself.
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


PRESET = "preset"
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

    One that takes a ``preset`` gets what this says of settings that are not given.

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
            given = signature().bind(self, *args, **settings)
        except TypeError:
            return constructor(self, *args, **settings)  # which itself says what argument it misses
        # A preset's word first: others are what it makes them.
        for name, value in sorted(given.arguments.items(), key=lambda setting: setting[0] != PRESET):
            kind = signature().parameters[name].annotation
            if not _is(kind, value):
                raise ValueError(f"{type(self).__name__}: {name} must be {_describe(kind)}, not {value!r}")
        if PRESET in signature().parameters:
            word = given.arguments.get(PRESET, signature().parameters[PRESET].default)
            for name, value in preset_settings(type(self), signature(), word).items():
                given.arguments.setdefault(name, value)
        constructor(*given.args, **given.kwargs)

    return construct


def preset_settings(owner: Any, signature: inspect.Signature, word: object) -> dict[str, Any]:
    """What a preset gives each setting that a preset of the class gives anything.

    Args:
        owner: the class, whose ``presets`` says by each word what differs from the defaults.
        signature: of its constructor.
        word: the preset's; that by default differs in nothing, whether ``presets`` has it or not.

    Raises:
        ValueError: a word that is none of the class's, or a preset of what is no setting.
    """
    parameters, presets = signature.parameters, owner.presets
    words = list(dict.fromkeys([parameters[PRESET].default, *presets]))
    if word not in words:
        raise ValueError(f"{owner.__name__}: {PRESET} must be one of {', '.join(words)}, not {word!r}")
    names = dict.fromkeys(name for preset in presets.values() for name in preset)
    if unknown := [name for name in names if name not in parameters or name == PRESET]:
        raise ValueError(f"{owner.__name__}.presets gives {unknown[0]!r} a value, which is none of its settings")
    return {name: presets.get(word, {}).get(name, parameters[name].default) for name in names}


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
