"""What is measured on a network, by its name."""

from typing import NamedTuple

from torch import Tensor


class Measure(NamedTuple):
    """A number for each member.

    Attributes:
        name: what was measured.
        layer: of which layer, counted from 1 at the input; ``None`` for a network as a whole.
        value: ``(*members,)``; NaN where there is none, as the angle of an update that is 0.
    """

    name: str
    layer: int | None
    value: Tensor
