"""Read-out only: the control that every other rule must beat."""

from torch import Tensor

from bio_rl.layers import Updates
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace
from bio_rl.settings import NotNegative


class Readout(Rule):
    """Only the output layer learns, by its own exact gradient; the hidden layers stay random.

    Random features are as good as they are varied. With the zero biases that agents start from,
    tanh features are odd functions of the observation, while a value is often nearly even; so
    that the control is as strong as it can be, hidden biases are drawn anew.

    Args:
        hidden_bias: hidden biases are drawn uniformly from ``[-hidden_bias, hidden_bias]`` once;
            0 leaves the network's own.

    Raises:
        ValueError: a negative ``hidden_bias``.
    """

    teaches = "some"
    paper = "Rahimi & Recht 2007, Random features for large-scale kernel machines"
    ngrad = "none"
    weight_transport = False
    separate_phases = False
    error_neurons = False
    extra_sweeps = False
    nonlocal_scalars = ""

    def __init__(self, hidden_bias: NotNegative = 1.0):
        super().__init__()
        self.hidden_bias = hidden_bias

    def connect(self, network: Network) -> None:
        if self.hidden_bias == 0:
            return
        for layer in network.layers[:-1]:
            if layer.bias is not None:
                drawn = self.rand(layer.bias.shape, layer.bias).mul_(2 * self.hidden_bias).sub_(self.hidden_bias)
                layer.bias.data.copy_(drawn)

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        layer = network.layers[-1]
        delta = layer.activation.gate(output_error, trace.activities[-1])
        return layer.outer(trace.activities[-2], delta)
