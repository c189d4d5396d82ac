"""Sign symmetry: feedback shares the forward weights' signs, not their sizes."""

from collections.abc import Iterable
from typing import Literal, get_args

from torch import Tensor, nn

from bio_rl.layers import Updates
from bio_rl.network import Network
from bio_rl.rules.base import Trace, check_positive, descend, local_updates, random_feedback
from bio_rl.rules.layerwise import LayerwiseFeedback

Magnitudes = Literal["uniform", "fixed_random", "batch_random"]


class SignSymmetry(LayerwiseFeedback):
    """Errors descend through ``sign(W) * M``.

    Args:
        magnitudes: what M is. ``uniform``: the same number everywhere in a layer (uSF, which Xiao
            et al. 2019 scale up); ``fixed_random``: half-normal numbers drawn once (frSF);
            ``batch_random``: drawn anew for every update (brSF).
        feedback_scale: the root mean square of M, 1 for that of fresh forward weights.

    Raises:
        ValueError: unknown ``magnitudes``, or a ``feedback_scale`` that is not positive.
    """

    paper = "Liao, Leibo & Poggio 2016, How important is weight symmetry in backpropagation?"
    # The sign of every forward weight is transported, its value is not.
    weight_transport = False

    def __init__(self, magnitudes: Magnitudes = "uniform", feedback_scale: float = 1.0):
        super().__init__()
        if magnitudes not in get_args(Magnitudes):
            raise ValueError(f"magnitudes must be one of {', '.join(get_args(Magnitudes))}, not {magnitudes!r}")
        check_positive(feedback_scale=feedback_scale)
        self.magnitudes = magnitudes
        self.feedback_scale = feedback_scale

    def connect(self, network: Network) -> None:
        self.fixed = nn.ParameterList(self._draw(network) if self.magnitudes == "fixed_random" else ())

    def feedback_weights(self, network: Network) -> list[Tensor]:
        """As used by ``assign``; for ``batch_random``, with the magnitudes' root mean square in their place."""
        if self.magnitudes == "fixed_random":
            return self._signed(network, self.fixed)
        return [layer.weight.sign().mul_(self.feedback_scale * layer.in_features**-0.5) for layer in network.layers[1:]]

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        if self.magnitudes != "batch_random":
            return super().assign(network, trace, output_error)
        feedback = self._signed(network, self._draw(network))
        return local_updates(network, trace, descend(network, trace, output_error, feedback))

    def _draw(self, network: Network) -> Iterable[nn.Parameter]:
        for layer in network.layers[1:]:
            weight = random_feedback(self, layer.weight, layer.out_features, layer.in_features, self.feedback_scale)
            yield nn.Parameter(weight.abs(), requires_grad=False)

    def _signed(self, network: Network, magnitudes: Iterable[Tensor]) -> list[Tensor]:
        layers = network.layers[1:]
        return [layer.weight.sign().mul_(magnitude) for layer, magnitude in zip(layers, magnitudes, strict=True)]
