"""A layer: one bundle of synapses and the activation behind it.

Shapes, everywhere: ``m`` members (any number of leading dimensions, none for a single network),
``b`` batch, ``i`` inputs, ``o`` outputs. A rule builds its sweeps from four operations and never
looks inside a layer:

===============================  =====================================================
``drive(pre)``                   ``(m, b, i) -> (m, b, o)``: weighted input and bias
``forward(pre)``                 the activity: the activation of the drive
``feedback(delta, weight)``      ``(m, b, o) -> (m, b, i)``: a signal carried down
``outer(pre, delta)``            the update of each of the layer's parameters
===============================  =====================================================
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bio_rl.activations import find_activation

NARROW, FEW = 16, 8
"""Columns below which a matrix product is several times slower than the product that gives its transpose: of products
over the samples, and over a layer's inputs."""

Updates = dict[nn.Parameter, Tensor]
"""What a rule returns: each parameter's update, in the gradient's convention and shape."""


class Dense(nn.Module):
    """A fully connected layer, ``activation(pre @ weight.T + bias)``.

    Initial weights are those of ``torch.nn.Linear``, drawn for each member.

    Args:
        in_features: inputs.
        out_features: neurons.
        activation: a name from ``bio_rl.activations.ACTIVATIONS``.
        bias: whether the neurons have a bias.
        members: leading dimensions of the parameters; ``()`` for a single network.

    Raises:
        ValueError: an unknown activation, or a size below one.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "identity",
        bias: bool = True,
        members: Sequence[int] = (),
    ):
        super().__init__()
        if min(in_features, out_features, *members) < 1:
            raise ValueError(f"a layer's sizes must be at least 1, not {in_features} -> {out_features}")
        self.in_features = in_features
        self.out_features = out_features
        self.members = tuple(members)
        self.activation_name = activation
        self.activation = find_activation(activation)
        bound = 1 / math.sqrt(in_features)

        def draw(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*members, *size).uniform_(-bound, bound))

        self._parameters["weight"] = draw(out_features, in_features)
        self._parameters["bias"] = draw(out_features) if bias else None

    # Where an nn.Module finds a parameter only after a failed search, a look-up costs as much as a
    # small kernel, and every sweep of every rule makes them.

    @property
    def weight(self) -> nn.Parameter:
        """``(m, o, i)``."""
        return self._parameters["weight"]  # type: ignore[return-value]

    @property
    def bias(self) -> nn.Parameter | None:
        """``(m, o)``, or ``None``."""
        return self._parameters["bias"]

    @property
    def learns(self) -> bool:
        """Whether its synapses do: see ``Network.freeze``."""
        return self.weight.requires_grad

    def drive(self, pre: Tensor) -> Tensor:
        """The weighted input and the bias, ``(m, b, i) -> (m, b, o)``."""
        if not self.members:
            return F.linear(pre, self.weight, self.bias)
        if self.bias is None:
            return torch.matmul(pre, self.weight.mT)
        if len(self.members) == 1:
            if self.out_features < FEW:
                return torch.baddbmm(self.bias.unsqueeze(-1), self.weight, pre.mT).mT
            return torch.baddbmm(self.bias.unsqueeze(-2), pre, self.weight.mT)
        return torch.matmul(pre, self.weight.mT).add_(self.bias.unsqueeze(-2))

    def forward(self, pre: Tensor) -> Tensor:
        """The activity, ``(m, b, i) -> (m, b, o)``. Not for autograd: the drive is overwritten."""
        drive = self.drive(pre)
        return self.activation.forward(drive, out=drive)

    def feedback(self, delta: Tensor, weight: Tensor | None = None) -> Tensor:
        """A signal at the drive carried down to the inputs, ``(m, b, o) -> (m, b, i)``.

        Args:
            delta: the signal.
            weight: feedback weights in the forward weights' orientation ``(m, o, i)``; the
                forward weights themselves where none are given (weight transport).
        """
        return torch.matmul(delta, self.weight if weight is None else weight)

    def outer(self, pre: Tensor, delta: Tensor) -> Updates:
        """The update of each parameter: presynaptic activity times postsynaptic delta, batch-summed."""
        if self.in_features < NARROW:
            updates: Updates = {self.weight: torch.matmul(pre.mT, delta).mT}
        else:
            updates = {self.weight: torch.matmul(delta.mT, pre)}
        if self.bias is not None:
            updates[self.bias] = delta.sum(-2)
        return updates

    def extra_repr(self) -> str:
        members = f", members={self.members}" if self.members else ""
        bias = "" if self.bias is not None else ", bias=False"
        return f"{self.in_features}, {self.out_features}, {self.activation_name}{bias}{members}"
