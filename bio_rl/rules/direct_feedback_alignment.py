"""Direct feedback alignment: the output error is broadcast to every hidden layer."""

from torch import Tensor, nn

from bio_rl.layers import Updates
from bio_rl.mechanisms.feedback_weights import listed, random_feedback
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace
from bio_rl.settings import Positive


class DirectFeedbackAlignment(Rule):
    """Each hidden layer's delta is the output layer's, through fixed random weights of its own.

    Args:
        feedback_scale: the size of the feedback weights, 1 for that of fresh forward weights.

    Raises:
        ValueError: a ``feedback_scale`` that is not positive.
    """

    frees_trace = True
    paper = "Nøkland 2016, Direct feedback alignment provides learning in deep neural networks"
    ngrad = "none"
    weight_transport = False
    separate_phases = False
    error_neurons = False
    extra_sweeps = False
    nonlocal_scalars = ""

    def __init__(self, feedback_scale: Positive = 1.0):
        super().__init__()
        self.feedback_scale = feedback_scale

    def connect(self, network: Network) -> None:
        self.feedback = nn.ParameterList(
            random_feedback(self, layer.weight, network.out_features, layer.out_features, self.feedback_scale)
            for layer in network.layers[:-1]
        )

    def direct_feedback(self, network: Network) -> list[Tensor]:
        return list(self.feedback)

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        output, activities = network.layers[-1], self.take(trace)
        output_delta = output.activation.gate(output_error, activities.pop())
        updates = output.outer(activities[-1], output_delta)
        for layer, weight in zip(network.layers[-2::-1], reversed(listed(self.feedback)), strict=True):
            signal = output.feedback(output_delta, weight)
            delta = layer.activation.gate(signal, activities.pop(), out=signal)
            updates.update(layer.outer(activities[-1], delta))
        return updates
