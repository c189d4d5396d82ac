"""What a credit-assignment rule is."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from bio_rl.layers import Updates
from bio_rl.settings import PRESET, checked, preset_settings

if TYPE_CHECKING:
    from bio_rl.network import Network


class Trace(NamedTuple):
    """What a forward sweep leaves behind for ``assign``.

    Attributes:
        activities: the input, then every layer's activity up to the output, each
            ``(*members, batch, features)``.
        extra: whatever else the rule's own sweep wants to find again.
        disposable: whether nobody wants the activities after ``assign``, so that it may free each of
            them as soon as it has served, as autograd does.
    """

    activities: list[Tensor]
    extra: Sequence[Tensor] = ()
    disposable: bool = False


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

    # What a rule is, in its own words; a rule that leaves one of these out counts as not having said.
    paper: ClassVar[str]
    """Authors, year and title of the source."""
    ngrad: ClassVar[Literal["time", "space", "population", "perturbation", "none"]]
    """Where differences of activity carry the credit (Lillicrap et al. 2020)."""
    weight_transport: ClassVar[bool | Literal["signs"]]
    """Whether feedback reads the forward weights' values, or their ``signs``."""
    separate_phases: ClassVar[bool]
    """Whether inference and learning need phases of their own."""
    error_neurons: ClassVar[bool]
    """Whether dedicated neurons hold errors."""
    extra_sweeps: ClassVar[bool]
    """Whether a sample needs more than one forward sweep."""
    nonlocal_scalars: ClassVar[str]
    """What uses a number that a neuron cannot know, by name, with the batch if it is one over the batch; else empty."""

    limit: ClassVar[str] = ""
    """Of a rule that nudges: the rule whose direction its update takes as the nudge goes to 0, once feedback has been
    learnt where it is; ``gauss_newton`` for a damped step of that kind. Empty where nothing is nudged."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """By each word of a setting ``preset``, the settings that it gives another value than their default.

    A setting that is given itself wins. The word by default, which changes nothing, may be left out.
    """
    teaches: ClassVar[Literal["all", "some", "none"]] = "all"
    """Whether ``assign`` gives an update to all parameters that learn, leaves some out on purpose, or all."""
    frees_trace: ClassVar[bool] = False
    """Whether ``assign`` is through with the activities that it has taken by ``take``; never inherited by another's."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "assign" in vars(cls) and "frees_trace" not in vars(cls):
            cls.frees_trace = False
        if "__init__" in vars(cls):
            cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]

    def __init__(self) -> None:
        super().__init__()
        self.generators: list[torch.Generator] = []
        self._members: tuple[int, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # The __setstate__ of torch's generators, by which copy would copy them, leaves them referred to for ever.
        memo.update({id(each): each.clone_state() for each in self.generators})
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    @classmethod
    def preset_settings(cls, word: object) -> dict[str, Any]:
        """The values that a word gives, by the settings' names; none if there is no setting ``preset``.

        Raises:
            ValueError: a word that is none of the rule's.
        """
        signature = inspect.signature(cls)
        return preset_settings(cls, signature, word) if PRESET in signature.parameters else {}

    def attach(self, network: Network, seeds: Sequence[int] | None = None) -> None:
        """Bind the rule to its network; ``Network`` calls this once.

        Args:
            network: its network.
            seeds: one for each member's generator. By default they come from torch's global
                generator, which is left where it was: the choice of a rule changes no other random
                number of a run.

        Raises:
            ValueError: a rule that is in use already, or whose constructor has left out ``Rule``'s; or seeds
                that are not one a member.
        """
        if "generators" not in vars(self):
            raise ValueError(f"{type(self).__name__}.__init__ must begin with super().__init__()")
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
            is left out does not learn, which a rule says by ``teaches``.
        """
        raise NotImplementedError

    def feedback_weights(self, network: Network) -> Sequence[Tensor]:
        """The weights by which a signal descends, one ``(*members, o, i)`` for each layer but the first.

        Empty where nothing descends layer by layer. Asking changes nothing in the rule.
        """
        return ()

    def direct_feedback(self, network: Network) -> Sequence[Tensor]:
        """The weights by which the output's error reaches each hidden layer, one ``(*members, out, o)`` a hidden layer.

        Empty where none does so straight away. Asking changes nothing in the rule.
        """
        return ()

    def diagnostics(self, network: Network) -> dict[str, float]:
        """Numbers of the rule's own that a run logs with every evaluation, as ``rule/<network>/<name>``.

        Asking changes nothing in the rule: no state, no random numbers.
        """
        return {}

    def take(self, trace: Trace) -> list[Tensor]:
        """The trace's activities, to be popped as they have served: of a trace that others may want, a copy."""
        return trace.activities if trace.disposable and self.frees_trace else list(trace.activities)

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

    def extra_repr(self) -> str:
        names = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names if hasattr(self, name))

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
