"""The rules that are shipped, each as it is and in its variants."""

import inspect
from collections.abc import Iterator
from typing import get_args

import pytest

from bio_rl.rules import rule_class, rule_names


def variants(name: str) -> Iterator[object]:
    """The rule as it is shipped, and with each other word that one of its settings may be."""
    yield pytest.param(name, {}, id=name)
    for setting, parameter in inspect.signature(rule_class(name), eval_str=True).parameters.items():
        for word in get_args(parameter.annotation):
            if isinstance(word, str) and word != parameter.default:
                yield pytest.param(name, {setting: word}, id=f"{name}-{word}")


EVERY_RULE = [variant for name in rule_names() for variant in variants(name)]
