"""A setting's kind is declared where it is named, and a value of another kind is one clear line."""

import inspect
import math
from typing import Annotated, Literal, get_args, get_origin

import pytest

from bio_rl import Rule, make_rule
from bio_rl.rules import rule_class, rule_names
from bio_rl.settings import Between, Positive

ABSURD = [math.nan, math.inf, -math.inf, 1e308, -1, True, None, "1", [1], 1j]


def settings():
    for name in rule_names():
        for setting, parameter in inspect.signature(rule_class(name), eval_str=True).parameters.items():
            if name != "gated" or setting not in ("rule", "settings"):  # which it looks into by itself
                yield pytest.param(name, setting, parameter.annotation, id=f"{name}-{setting}")


def wrong_values(kind):
    if get_origin(kind) is Literal:
        return [*ABSURD, "nonesuch", ""]
    if kind is bool:
        return [each for each in ABSURD if each is not True] + [0, 1]
    assert get_origin(kind) is Annotated, "a number has its range"
    number, limits = get_args(kind)
    outside = [math.nextafter(limits.low, -math.inf), math.nextafter(limits.high, math.inf)]
    return ABSURD + outside + ([1.5] if number is int else []) + ([1e-320] if limits.low > 0 else [])


@pytest.mark.parametrize(("name", "setting", "kind"), settings())
def test_a_wrong_value_is_one_line_that_names_rule_setting_and_value(name, setting, kind):
    for value in wrong_values(kind):
        with pytest.raises(ValueError, match=f"{setting} must be (one of|a number|a whole number|true or)") as caught:
            make_rule(name, **{setting: value})
        message = str(caught.value)
        assert message.startswith(f"{rule_class(name).__name__}: {setting} must be ")
        assert message.endswith(f", not {value!r}")
        assert "\n" not in message


NEEDS = {
    ("gated", "window"): lambda value: {"period": value},
    ("gated", "period"): lambda value: {"window": 1},
    ("equilibrium_propagation", "clamping"): lambda value: {"nudging": "one_sided"},
}
"""What another setting must be for a value to be one that the rule can have."""


@pytest.mark.parametrize(("name", "setting", "kind"), settings())
def test_both_ends_of_a_range_are_taken(name, setting, kind):
    if get_origin(kind) is Annotated:
        for value in get_args(kind)[1]:
            others = NEEDS.get((name, setting), lambda value: {})(value)
            assert getattr(make_rule(name, **{setting: value, **others}), setting) == value


class Own(Rule):
    paper = "none"

    def __init__(self, gain: Positive = 1.0, plain: float = 0.0, count: Annotated[int, Between(2, 4)] = 2, free=None):
        super().__init__()
        self.gain, self.plain, self.count, self.free = gain, plain, count, free


class Heir(Own):
    """Has its parent's settings, and hands one on that is wrong."""

    def __init__(self, gain: float = 1.0):
        super().__init__(gain)


def test_a_rule_of_ones_own_is_checked_by_its_annotations():
    Own(2, plain=-5, count=4, free=object())
    for arguments, message in [
        ({"gain": 0}, "Own: gain must be a number from 1e-09 to 1e+09, not 0"),
        ({"plain": math.inf}, "Own: plain must be a number that is finite, not inf"),
        ({"count": 2.5}, "Own: count must be a whole number from 2 to 4, not 2.5"),
    ]:
        with pytest.raises(ValueError, match="must be") as caught:
            Own(**arguments)
        assert str(caught.value) == message
    with pytest.raises(ValueError, match="Heir: gain must be a number from 1e-09"):
        Heir(0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'gian'"):
        Own(gian=1)
