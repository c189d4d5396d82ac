"""What one update costs under a rule: counted while the rule makes one, not written down by hand.

Every operation of torch that a rule calls is seen on its way, so that a rule of anybody's is counted as it is. What
is counted is what a machine does, and beside it what a brain would have to do: signals that cross synapses, and how
often they must do so one after another.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bio_rl.activations import tanh_in_one_call
from bio_rl.network import Network

BATCH = 256
"""Samples of an update, where nobody says how many."""


class Cost(NamedTuple):
    """What one update costs, for each of its samples: the sweep that acts, and what the rule makes of it.

    Attributes:
        multiply_accumulates: of the products of matrices, which are nearly all the arithmetic.
        synaptic_events: numbers that cross a synapse, forward or feedback, be they 0 or not.
        sweeps: how many synapses signals cross one after another, over the number of layers: 1 is one
            feedforward sweep. What the error is needed for comes after the output.
        bytes_read, bytes_written: main memory's traffic, if each of torch's kernels reads what it is given and
            writes what it makes.
        rule_floats: numbers that the rule keeps from update to update, feedback weights among them; of the network.
        trace_floats: numbers that are kept from the acting sweep until the error comes.
    """

    multiply_accumulates: float
    synaptic_events: float
    sweeps: float
    bytes_read: float
    bytes_written: float
    rule_floats: int
    trace_floats: float


@torch.no_grad()
def cost(network: Network, batch: int = BATCH) -> Cost:
    """What one update of a network costs by its rule, for each sample of a batch of normal numbers.

    The network, its generators and torch's stay as they are. Where a relaxation ends when nothing is left to
    change, it is counted as far as it goes here.

    Args:
        network: any network; of several members the mean.
        batch: samples. What a rule does once an update, as reading its weights, counts to each by its share.

    Raises:
        Divergence: the rule's sweep diverges.
    """
    twin, layer, noise = copy.deepcopy(network), network.layers[0].weight, torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*network.members, *shape, generator=noise, dtype=layer.dtype).to(layer.device)

    x, output_error = draw(batch, network.in_features), draw(batch, network.out_features) / batch
    twin.modulator = draw(batch)
    kept = [*twin.parameters(), *twin.buffers()]
    lasting = [*twin.rule.parameters(), *twin.rule.buffers()]
    synapses = [each for each in kept if each.dim() >= len(network.members) + 2]
    with (
        torch.random.fork_rng(devices=[layer.device] if layer.is_cuda else []),
        tanh_in_one_call(),
        Operations(synapses, [x, output_error, twin.modulator]) as counted,
    ):
        trace = twin.rule.forward(twin, x)
        counted.await_signals()
        twin.rule.assign(twin, trace, output_error)
    samples, members = batch * math.prod(network.members), math.prod(network.members)
    return Cost(
        multiply_accumulates=counted.multiply_accumulates / samples,
        synaptic_events=counted.synaptic_events / samples,
        sweeps=counted.deepest / len(network.layers),
        bytes_read=counted.bytes_read / samples,
        bytes_written=counted.bytes_written / samples,
        rule_floats=_numbers(lasting) // members,
        trace_floats=_numbers([*trace.activities, *trace.extra], besides=kept) / samples,
    )


class Kind(IntEnum):
    """What a tensor is to the brain; what is made of several is the highest of them, but for products."""

    CONSTANT = 0
    NOISE = 1
    SYNAPSES = 2
    SIGNAL = 3


class Operations(TorchDispatchMode):
    """Counts what torch does while it is on.

    Args:
        synapses: tensors whose products with signals or noise are transmissions.
        signals: what comes from outside: inputs and errors.

    Attributes:
        multiply_accumulates, synaptic_events, bytes_read, bytes_written: see ``Cost``, in all.
        deepest: the most transmissions one after another.
    """

    def __init__(self, synapses: Iterable[Tensor] = (), signals: Iterable[Tensor] = ()):
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiply_accumulates = self.synaptic_events = 0
        self.bytes_read = self.bytes_written = 0
        self.deepest = 0
        self._floor = 0
        # By storage. One that is freed and used again is some operation's result then, and known anew.
        self._kinds = {_storage(each): Kind.SYNAPSES for each in synapses}
        self._kinds |= {_storage(each): Kind.SIGNAL for each in signals}
        self._depths: dict[int, int] = {}

    def await_signals(self) -> None:
        """From here on nothing happens before all that has happened."""
        self._floor = self.deepest

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        form, made = _form(function), list(_tensors(result))
        read = [*_tensors(args), *_tensors([value for name, value in (kwargs or {}).items() if name not in form.outs])]
        if form.overwrites:
            del read[0]
        if not form.mutates and read and made and _storage(made[0]) in map(_storage, read):
            return result  # a view
        if form.leaves_empty:
            read, made = [], []
        self.bytes_written += sum(map(_bytes, made))
        self.bytes_read += sum(map(_bytes, read))
        kinds = [self._kinds.get(_storage(each), Kind.CONSTANT) for each in read]
        kind = max([Kind.NOISE if form.draws else Kind.CONSTANT, *kinds])
        depth = max([self._floor, *(self._depths.get(_storage(each), 0) for each in read)])
        if form.first_factor is not None:
            factors = kinds[form.first_factor : form.first_factor + 2]
            count = made[0].numel() * read[form.first_factor].shape[-1]
            self.multiply_accumulates += count
            if Kind.SYNAPSES in factors and (Kind.NOISE in factors or Kind.SIGNAL in factors):
                self.synaptic_events += count
                kind, depth = Kind.SIGNAL, depth + 1
                self.deepest = max(self.deepest, depth)
        for each in made:
            self._kinds[_storage(each)], self._depths[_storage(each)] = kind, depth
        return result


class _Form(NamedTuple):
    """What is to be known of an operation to count it.

    Attributes:
        first_factor: of a product of matrices, where the first stands among its arguments.
        outs: the arguments that only receive.
        mutates: whether it writes into an argument.
        overwrites: whether its first argument only receives.
        draws: whether it draws random numbers.
        leaves_empty: whether it makes a tensor like another and neither reads nor writes.
    """

    first_factor: int | None
    outs: frozenset[str]
    mutates: bool
    overwrites: bool
    draws: bool
    leaves_empty: bool


FACTORS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}
"""The products of matrices, whose in-place forms have a ``_`` behind them."""
OVERWRITING = ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "random_")
EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


@cache
def _form(function: Any) -> _Form:
    name, schema = function._schema.name.rpartition("::")[2], function._schema
    return _Form(
        first_factor=FACTORS.get(name.removesuffix("_")),
        outs=frozenset(argument.name for argument in schema.arguments if argument.is_out),
        mutates=schema.is_mutable,
        overwrites=name in OVERWRITING,
        draws=torch.Tag.nondeterministic_seeded in function.tags,
        leaves_empty=name in EMPTY,
    )


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among arguments, in lists too."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: Tensor) -> int:
    """What a tensor holds; what is only repeated is not counted again."""
    if 0 not in tensor.stride():
        return tensor.nbytes
    own = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(own) * tensor.itemsize


def _numbers(tensors: Sequence[Tensor], besides: Iterable[Tensor] = ()) -> int:
    """How many numbers are kept by tensors, what several share being counted once."""
    known = set(map(_storage, besides))
    shared = {_storage(each): each.untyped_storage().nbytes() // each.itemsize for each in tensors}
    return sum(numbers for storage, numbers in shared.items() if storage not in known)
