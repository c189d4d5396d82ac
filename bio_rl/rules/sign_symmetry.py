"""Sign symmetry: feedback shares the forward weights' signs, not their sizes."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from bio_rl.layers import Dense
from bio_rl.mechanisms.descent import LayerwiseFeedback
from bio_rl.mechanisms.feedback_weights import listed
from bio_rl.network import Network
from bio_rl.settings import Positive

Magnitudes = Literal["uniform", "fixed_random", "batch_random"]


class SignSymmetry(LayerwiseFeedback):
    """Errors descend through ``sign(W) * M``; a weight of exactly 0 counts as positive.

    Args:
        magnitudes: what M is. ``uniform``: the same number everywhere in a layer (uSF, which Xiao
            et al. 2019 scale up); ``fixed_random``: half-normal numbers drawn once (frSF);
            ``batch_random``: drawn anew for every update (brSF).
        feedback_scale: the root mean square of M, 1 for that of fresh forward weights.

    Raises:
        ValueError: unknown ``magnitudes``, or a ``feedback_scale`` that is not positive.
    """

    paper = "Liao, Leibo & Poggio 2016, How important is weight symmetry in backpropagation?"
    ngrad = "none"
    separate_phases = False
    error_neurons = False
    extra_sweeps = False
    nonlocal_scalars = ""
    weight_transport = "signs"

    def __init__(self, magnitudes: Magnitudes = "uniform", feedback_scale: Positive = 1.0):
        super().__init__()
        self.magnitudes = magnitudes
        self.feedback_scale = feedback_scale

    def connect(self, network: Network) -> None:
        fixed = self.magnitudes == "fixed_random"
        self.sizes = nn.ParameterList(
            nn.Parameter(self._draw(layer) if fixed else self._size(layer), requires_grad=False)
            for layer in network.layers[1:]
        )

    def feedback_weights(self, network: Network) -> list[Tensor]:
        """As used by ``assign``; for ``batch_random``, with the magnitudes' root mean square in their place."""
        return [torch.copysign(size, layer.weight) for size, layer in zip(self.sizes, network.layers[1:], strict=True)]

    def descending_weights(self, network: Network) -> Iterator[Tensor]:
        for layer, size in zip(reversed(network.layers[1:]), reversed(listed(self.sizes)), strict=True):
            yield torch.copysign(self._draw(layer) if self.magnitudes == "batch_random" else size, layer.weight)

    def _draw(self, layer: Dense) -> Tensor:
        """Half-normal magnitudes of a root mean square of ``_size``."""
        return self.randn(layer.weight.shape, layer.weight).abs_().mul_(self._size(layer))

    def _size(self, layer: Dense) -> Tensor:
        return layer.weight.new_full((*layer.members, 1, 1), self.feedback_scale * layer.in_features**-0.5)
