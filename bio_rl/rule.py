"""What a credit-assignment rule is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bio_rl.layers import Updates
from bio_rl.settings import checked

if TYPE_CHECKING:
    from bio_rl.network import Network


class Trace(NamedTuple):
    """What a forward sweep leaves behind for ``assign``.

    Attributes:
        activities: the input, then every layer's activity up to the output, each
            ``(*members, batch, features)``.
        extra: whatever else the rule's own sweep wants to find again.
    """

    activities: list[Tensor]
    extra: Sequence[Tensor] = ()


class Divergence(ArithmeticError):
    """A sweep whose numbers are no longer finite, or whose energy grows without bound.

    Raised for a single network. Of several members the others go on: see ``Network.report``.

    Args:
        rule: the rule's name.
        layer: the layer, counted from 1 at the input.
        step: the relaxation step, counted from 1.
    """

    def __init__(self, rule: str, layer: int, step: int):
        super().__init__(f"{rule} diverged in layer {layer} at relaxation step {step}")
        self.rule, self.layer, self.step = rule, layer, step


class Rule(nn.Module):
    """How an error at a network's output becomes an update of every synapse.

    A subclass overrides ``assign``, and where it needs them ``connect`` and ``forward``. It
    keeps no state between ``forward`` and ``assign``: everything is in the trace. Feedback
    weights that learn are parameters of the rule; fixed ones are parameters that require no
    gradient. Both are saved with the network.
    """

    paper: ClassVar[str]
    """Authors, year and title of the source."""
    ngrad: ClassVar[Literal["time", "space", "population", "perturbation", "none"]] = "none"
    """Where differences of activity carry the credit (Lillicrap et al. 2020)."""
    weight_transport: ClassVar[bool] = False
    """Whether feedback reads the values of the forward weights."""
    separate_phases: ClassVar[bool] = False
    """Whether inference and learning need phases of their own."""
    error_neurons: ClassVar[bool] = False
    """Whether dedicated neurons hold errors."""
    extra_sweeps: ClassVar[bool] = False
    """Whether a sample needs more than one forward sweep."""
    nonlocal_scalars: ClassVar[str] = ""
    """Stabilisers that use a number which a neuron cannot know, by name; empty where there are none."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "__init__" in vars(cls):
            cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]

    def __init__(self) -> None:
        super().__init__()
        self.generators: list[torch.Generator] = []
        self._members: tuple[int, ...] = ()

    def attach(self, network: Network, seeds: Sequence[int] | None = None) -> None:
        """Bind the rule to its network; ``Network`` calls this once.

        Args:
            network: its network.
            seeds: one for each member's generator. By default they come from torch's global
                generator, which is left where it was: the choice of a rule changes no other random
                number of a run.

        Raises:
            ValueError: a rule that is in use already, or seeds that are not one a member.
        """
        if self.generators:
            raise ValueError(f"this {type(self).__name__} belongs to a network already; make one for each network")
        count = math.prod(network.members)
        if seeds is None:
            with torch.random.fork_rng(devices=[]):
                seeds = torch.randint(2**62, (count,)).tolist()
        if len(seeds) != count:
            raise ValueError(f"there must be one seed for each member: {count}, not {len(seeds)}")
        self._members = network.members
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.connect(network)

    def connect(self, network: Network) -> None:
        """Make feedback weights and other lasting state, once."""

    def forward(self, network: Network, x: Tensor) -> Trace:
        """The sweep that acts: ``x (*members, batch, in)`` to the trace that ``assign`` gets."""
        activities = [x]
        for layer in network.layers:
            activities.append(layer.forward(activities[-1]))
        return Trace(activities)

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        """The update of each parameter, those of the rule's own feedback included.

        Args:
            network: the network that ran the sweep.
            trace: what the sweep left behind.
            output_error: dL/dy, ``(*members, batch, out)``; the 1/batch of a mean loss is in it.

        Returns:
            Updates in the gradient's convention: the optimizer subtracts them. A parameter that
            is left out does not learn.
        """
        raise NotImplementedError

    def feedback_weights(self, network: Network) -> Sequence[Tensor]:
        """The weights by which a signal descends, one ``(*members, o, i)`` for each layer but the first.

        Empty where nothing descends layer by layer. Asking changes nothing in the rule.
        """
        return ()

    def randn(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal numbers of a shape ``(*members, ...)``, with the dtype and device of ``like``.

        Each member's come from its own generator, so that it draws what it would draw alone. They
        are drawn on the CPU, so that one seed gives the same numbers on every device.

        Raises:
            ValueError: a shape that does not begin with the members.
        """
        numbers = self._empty(shape, like)
        for own, generator in zip(self._by_member(numbers), self.generators, strict=True):
            own.normal_(generator=generator)
        return numbers.to(like.device)

    def rand(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Numbers uniform in [0, 1); otherwise as ``randn``."""
        numbers = self._empty(shape, like)
        for own, generator in zip(self._by_member(numbers), self.generators, strict=True):
            own.uniform_(generator=generator)
        return numbers.to(like.device)

    def _empty(self, shape: Sequence[int], like: Tensor) -> Tensor:
        members = self._members
        if members and tuple(shape[: len(members)]) != members:
            raise ValueError(f"random numbers for members {members} must begin with these dimensions, not {shape}")
        return torch.empty(tuple(shape), dtype=like.dtype)

    def _by_member(self, numbers: Tensor) -> Sequence[Tensor]:
        if not self._members:
            return (numbers,)
        return numbers.view(len(self.generators), *numbers.shape[len(self._members) :]).unbind()

    def get_extra_state(self) -> Tensor:
        """The generators' states, ``(*members, bytes)``."""
        if not self.generators:
            return torch.empty(0, dtype=torch.uint8)
        return torch.stack([each.get_state() for each in self.generators]).view(*self._members, -1)

    def set_extra_state(self, state: Tensor) -> None:
        states = state.cpu().reshape(len(self.generators), -1)
        for generator, own in zip(self.generators, states, strict=True):
            generator.set_state(own.clone())


def rule_settings(rule: Rule) -> dict[str, Any]:
    """A rule's settings by the names of its constructor's arguments.

    Every rule keeps each argument in an attribute of the same name.

    Raises:
        ValueError: an argument that the rule does not keep.
    """
    names = list(inspect.signature(type(rule)).parameters)
    if missing := [name for name in names if not hasattr(rule, name)]:
        raise ValueError(
            f"{type(rule).__name__} cannot be saved: it must keep its setting {missing[0]!r} as self.{missing[0]}"
        )
    return {name: getattr(rule, name) for name in names}
