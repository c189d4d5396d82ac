"""The output error as the rules that are non-linear in it need it.

In reinforcement learning nothing labels an output; there is only dL/dy. Its size spans orders of
magnitude between the samples and losses of one agent (a value head's reaches 50, a policy's is
1e-3 / batch), so a rule that nudges with it directly is saturated by some samples and deaf to
others. Such a rule nudges every sample by the same small amount along the error's direction, and
scales what comes out by the error's size.
"""

import torch
from torch import Tensor


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
