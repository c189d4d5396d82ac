"""What a credit-assignment rule is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bio_rl.layers import Updates

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

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()
        self._attached = False

    def attach(self, network: Network) -> None:
        """Bind the rule to its network; ``Network`` calls this once.

        The rule's generator takes its seed from torch's global one, which is left where it was:
        the choice of a rule changes no other random number of a run.
        """
        if self._attached:
            raise ValueError(f"this {type(self).__name__} belongs to a network already; make one for each network")
        self._attached = True
        with torch.random.fork_rng(devices=[]):
            self.generator.manual_seed(int(torch.randint(2**62, ()).item()))
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
        """Standard normal numbers from the rule's generator, with the dtype and device of ``like``.

        They are drawn on the CPU, so that one seed gives the same numbers on every device.
        """
        return torch.randn(tuple(shape), generator=self.generator, dtype=like.dtype).to(like.device)

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())
