"""Backpropagation: the exact gradient, and the reference for every other rule."""

from torch import Tensor, nn

from bio_rl.mechanisms.descent import LayerwiseFeedback
from bio_rl.network import Network


class Backprop(LayerwiseFeedback):
    """Errors descend through the transposed forward weights; every update is the exact gradient."""

    paper = "Rumelhart, Hinton & Williams 1986, Learning representations by back-propagating errors"
    ngrad = "none"
    separate_phases = False
    error_neurons = False
    extra_sweeps = False
    nonlocal_scalars = ""
    weight_transport = True
    # It draws nothing, so that a network that learns by it holds no more than torch's own would.
    get_extra_state, set_extra_state = nn.Module.get_extra_state, nn.Module.set_extra_state

    def feedback_weights(self, network: Network) -> list[Tensor]:
        return [layer.weight for layer in network.layers[1:]]
