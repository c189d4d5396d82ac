"""Products and quotients of which the mechanisms are made."""

import torch
from torch import Tensor


def add_product(base: Tensor, signal: Tensor, weight: Tensor, *, out: Tensor, scale: float = 1.0) -> Tensor:
    """``base + scale * signal @ weight`` as one matrix product.

    Args:
        base: ``(*members, b, o)``, or whatever broadcasts to it.
        signal: ``(*members, b, i)``.
        weight: ``(*members, i, o)``.
        out: receives the result; may be ``base`` itself.
        scale: a factor of the product.
    """
    if signal.dim() == 2:
        return torch.addmm(base, signal, weight, alpha=scale, out=out)
    flat_out, *flat = (tensor.flatten(0, -3) for tensor in (out, base, signal, weight))
    torch.baddbmm(*flat, alpha=scale, out=flat_out)
    return out


def outer_product(post: Tensor, pre: Tensor) -> Tensor:
    """The Hebbian update of weights of any shape: ``(*members, b, o), (*members, b, i) -> (*members, o, i)``."""
    return torch.matmul(post.mT, pre)


def nonzero(divisor: Tensor) -> Tensor:
    """A divisor that leaves 0 / 0 at 0: 1 where it is 0."""
    return divisor.masked_fill(divisor == 0, 1)
