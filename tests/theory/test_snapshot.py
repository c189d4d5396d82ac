"""A snapshot put into an object built alike makes it the same; nothing else is made from it."""

import gc
import random
from collections import deque
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces

from bio_rl.snapshot import Damaged, digest, put, read, take, write


class Pair(NamedTuple):
    left: int
    right: np.ndarray


class Thing:
    def __init__(self, seed):
        self.name = f"thing {seed}"
        self.numbers = np.random.default_rng(seed).normal(size=3)
        self.shared = self.numbers
        self.scalar = np.float32(seed)
        self.count = seed
        self.recent = deque([seed], maxlen=2)
        self.table = {"a": [seed, (seed, None)], 3: True}
        self.generators = [np.random.default_rng(seed), np.random.RandomState(seed), random.Random(seed)]
        self.torchs = torch.Generator().manual_seed(seed)
        self.weights = torch.nn.Linear(2, 2)
        self.pair = Pair(seed, self.numbers + 1)
        self.space = spaces.Discrete(3, seed=seed)
        self.act = lambda: self.count
        self.loop = self


def through_file(tree, tmp_path):
    file = tmp_path / "snapshot"
    file.write_bytes(write(tree))
    return read(file)


def draws(thing):
    legacy = [generator.random() for generator in thing.generators[2:]]
    return [
        *legacy,
        thing.generators[0].random(),
        thing.generators[1].random_sample(),
        torch.rand((), generator=thing.torchs).item(),
        int(thing.space.sample()),
    ]


def test_an_object_becomes_the_other(tmp_path):
    one, other = Thing(1), Thing(2)
    one.recent.extend([5, 6, 7])
    one.table["b"] = np.arange(2)
    tree = through_file(take(one), tmp_path)
    expected = draws(one)
    held, drawing = other.shared, [*other.generators, other.torchs]
    assert put(other, tree) is other
    assert all(new is old for new, old in zip([*other.generators, other.torchs], drawing, strict=True)), (
        "others draw too"
    )
    assert draws(other) == expected
    assert (other.count, other.scalar, other.table["a"], other.table[3]) == (1, np.float32(1), [1, (1, None)], True)
    assert type(other.scalar) is np.float32
    assert list(other.table["b"]) == [0, 1]
    assert (list(other.recent), other.recent.maxlen) == ([6, 7], 2)
    assert np.array_equal(held, one.numbers), "who held the array before sees it change"
    assert other.shared is other.numbers
    assert torch.equal(other.weights.weight, one.weights.weight)
    assert isinstance(other.pair, Pair)
    assert np.array_equal(other.pair.right, one.pair.right)
    assert other.name == "thing 2", "texts are settings"
    assert other.act() == 1
    assert other.loop is other


def test_what_was_not_there_is_made_if_it_is_data_only(tmp_path):
    one, other = Thing(1), Thing(2)
    for name in ("table", "recent", "pair", "numbers", "weights", "act"):
        setattr(other, name, None)
    put(other, through_file(take(one), tmp_path))
    assert (other.table, list(other.recent), other.recent.maxlen) == (one.table, [1], 2)
    assert isinstance(other.pair, Pair)
    assert np.array_equal(other.numbers, one.numbers)
    assert other.weights is None
    assert other.act is None


def test_nothing_is_made_of_a_name_but_named_tuples():
    for name in ("os:system", "pathlib:Path", "builtins:tuple", "subprocess:Popen", "no_such:Thing", 3):
        tree = {"kind": "tuple", "values": ["touch canary", 1], "class": name}
        assert put(None, tree) == ("touch canary", 1)


def test_what_is_left_out_stays():
    one, other = Thing(1), Thing(2)
    put(other, take(one, without=[one.table], unnamed=["count"]))
    assert other.table == Thing(2).table
    assert other.count == 2
    assert other.scalar == 1


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:-9] + b"x" + b[-8:], lambda b: b"", lambda b: b"{}" * 9]
)
def test_a_damaged_file_is_noticed(damage, tmp_path):
    file = tmp_path / "snapshot"
    file.write_bytes(damage(write(take(Thing(1)))))
    with pytest.raises(Damaged, match="snapshot"):
        read(file)


def test_the_memory_order_of_an_array_is_kept_where_it_is_put():
    other = np.zeros((2, 3), order="F")
    put(other, take(np.arange(6.0).reshape(2, 3)))
    assert other.flags.f_contiguous
    assert np.array_equal(other, np.arange(6.0).reshape(2, 3))


def test_a_digest_is_of_all_numbers_to_the_last_bit():
    image = np.zeros((96, 96, 3), np.float32)
    other = image.copy()
    other[50, 50, 1] = np.nextafter(np.float32(0), np.float32(1))
    assert {digest(take([image.copy(), 1.0])) for _ in range(20)} == {digest(take([image, 1.0]))}
    assert digest(take([image, 1.0])) != digest(take([other, 1.0]))
    assert digest(take([image, 1.0])) != digest(take([image, np.nextafter(1.0, 2.0).item()]))


def test_writing_and_reading_leave_nothing_to_the_collector_of_cycles(tmp_path):
    """A state is saved every minute of a run, and is as large as its agent."""
    tree = take({"a": np.zeros(1000), "b": [1, {"c": np.ones(3)}]})
    through_file(tree, tmp_path)
    gc.collect()
    gc.disable()
    try:
        through_file(tree, tmp_path)
        assert gc.collect() == 0
    finally:
        gc.enable()
