"""Shared by all tests: one thread (small networks are faster so) and random networks to hold rules against."""

import os
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from bio_rl import Dense, Network, Rule


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow the cases of a test that are more than the default run takes of it."""
    if os.environ.get("ALL_CASES"):
        return
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("few") and not item.get_closest_marker("slow"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for several in cases.values():
        (few,) = several[0].get_closest_marker("few").args  # type: ignore[union-attr]
        kept = {number * len(several) // few for number in range(few)}
        for number, item in enumerate(several):
            if number not in kept:
                item.add_marker(pytest.mark.slow)


Build = Callable[..., Network]


@pytest.fixture
def build() -> Build:
    """``build(rule, sizes, activation, output, bias, members, gain)``: a random float64 network."""

    def make(
        rule: Rule,
        sizes: Sequence[int] = (5, 8, 6, 3),
        activation: str = "tanh",
        output: str = "identity",
        bias: bool = True,
        members: Sequence[int] = (),
        gain: float = 1.0,
    ) -> Network:
        names = [activation] * (len(sizes) - 2) + [output]
        layers = [
            Dense(i, o, name, bias, members).double() for (i, o), name in zip(pairwise(sizes), names, strict=True)
        ]
        with torch.no_grad():
            for layer in layers:
                layer.weight *= gain
        return Network(layers, rule)

    return make


@pytest.fixture
def batch() -> Callable[..., tuple[Tensor, Tensor]]:
    """``batch(network, size)``: a random input and output error in the network's dtype."""

    def make(network: Network, size: int = 7) -> tuple[Tensor, Tensor]:
        dtype = network.layers[0].weight.dtype
        x = torch.randn(*network.members, size, network.in_features, dtype=dtype)
        return x, torch.randn(*network.members, size, network.out_features, dtype=dtype)

    return make
