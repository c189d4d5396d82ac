"""The output error as the rules that are non-linear in it need it, and what they say when they diverge.

In reinforcement learning nothing labels an output; there is only dL/dy. Its size spans orders of
magnitude between the samples and losses of one agent (a value head's reaches 50, a policy's is
1e-3 / batch), so a rule that nudges with it directly is saturated by some samples and deaf to
others. Such a rule nudges every sample by the same small amount along the error's direction, and
scales what comes out by the error's size.
"""

import torch
from torch import Tensor


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


def unit_error(output_error: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample's output error as a direction and a size.

    Args:
        output_error: ``(*members, batch, out)``.

    Returns:
        The direction, of norm 1 and of the same shape, and the size ``(*members, batch, 1)``,
        whose product is the error. Where the error is zero both are exactly zero, and the direction
        is shorter where the error's square could underflow.
    """
    size = torch.linalg.vector_norm(output_error, dim=-1, keepdim=True)
    return output_error / size.clamp_min(torch.finfo(size.dtype).tiny ** 0.5), size


def matched(update: Tensor, reference: Tensor) -> Tensor:
    """An update of feedback weights, scaled to the norm of the forward update that it goes with.

    An objective that feedback learns by has a size of its own, often thousands of times that of a
    policy gradient. Unscaled, it would take the whole of a gradient clipped by its norm. Norms are
    taken for each member; where the reference is zero so is the result.
    """
    return update * _norm_ratio(reference, update)


def at_most(update: Tensor, reference: Tensor) -> Tensor:
    """As ``matched``, for an update that vanishes once its weights are learnt: scaled down only, never up."""
    return update * _norm_ratio(reference, update).clamp_max(1)


def _norm_ratio(reference: Tensor, update: Tensor) -> Tensor:
    """``|reference| / |update|`` of each member, ``(*members, 1, 1)``; ``|reference|`` where the update is 0."""
    size, norm = (torch.linalg.vector_norm(tensor, dim=(-2, -1), keepdim=True) for tensor in (reference, update))
    return size / nonzero(norm)


def nonzero(divisor: Tensor) -> Tensor:
    """A divisor that leaves 0 / 0 at 0: 1 where it is 0."""
    return divisor.masked_fill(divisor == 0, 1)
