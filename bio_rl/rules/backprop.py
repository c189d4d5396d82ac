"""Backpropagation: the exact gradient, and the reference for every other rule."""

from torch import Tensor

from bio_rl.mechanisms.descent import LayerwiseFeedback
from bio_rl.network import Network


class Backprop(LayerwiseFeedback):
    """Errors descend through the transposed forward weights; every update is the exact gradient."""

    paper = "Rumelhart, Hinton & Williams 1986, Learning representations by back-propagating errors"
    weight_transport = True

    def feedback_weights(self, network: Network) -> list[Tensor]:
        return [layer.weight for layer in network.layers[1:]]
