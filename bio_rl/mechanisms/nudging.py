"""The output error as the rules that are non-linear in it need it.

In reinforcement learning nothing labels an output; there is only dL/dy. Its size spans orders of
magnitude between the samples and losses of one agent (a value head's reaches 50, a policy's is
1e-3 / batch), so a rule that nudges with it directly is saturated by some samples and deaf to
others. Such a rule nudges every sample by the same small amount along the error's direction, and
scales what comes out by the error's size.

How far it is nudged makes two regimes, which the rules that nudge have as presets:

``limit``
    So little that activity hardly moves, and the update is one for which the rule has a theorem: the gradient,
    or that of feedback alignment.
``prospective``
    As far as the rule's own paper teaches it. Where feedback moves the activity that learns, it is first that which
    should follow from learning, and synapses then learn to bring it about (Song et al. 2024, Inferring neural
    activity before plasticity): the output is held to a target at a finite distance, by a spring and not by a
    constant force, so that what is left to explain shrinks as hidden layers explain it.

The distance is the same for all samples, whatever their error's size, in the limit and beyond it: only so do
updates scale with a loss.
"""

from typing import Literal

import torch
from torch import Tensor

Preset = Literal["limit", "prospective"]


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


def held(pull: Tensor, clamping: float, change: Tensor) -> Tensor:
    """The force on an output that is held to a target by a spring, ``clamping * (target - output)``.

    With ``target - output = pull / clamping - change``; where the clamping is 0 the force is the pull, wherever
    the output goes.

    Args:
        pull: the force at the output that acted.
        clamping: the spring's stiffness.
        change: how far the output has moved since, of the same shape.
    """
    return pull if clamping == 0 else pull.sub(change, alpha=clamping)
