"""A rule of your own: feedback alignment through synapses that sometimes fail."""

from typing import Annotated

from torch import Tensor, nn

from bio_rl import Network, Rule
from bio_rl.layers import Updates
from bio_rl.mechanisms.descent import descend, local_updates
from bio_rl.mechanisms.feedback_weights import random_feedback
from bio_rl.rule import Trace
from bio_rl.settings import Between


class NoisyFeedback(Rule):
    """Errors descend through fixed random weights, each silent for an update with some probability.

    Args:
        failure: the probability.

    Raises:
        ValueError: a probability outside of 0 to 0.99.
    """

    paper = "an example"
    ngrad = "none"
    weight_transport = False
    separate_phases = False
    error_neurons = False
    extra_sweeps = False
    nonlocal_scalars = ""

    def __init__(self, failure: Annotated[float, Between(0, 0.99)] = 0.2):
        super().__init__()
        self.failure = failure

    def connect(self, network: Network) -> None:
        self.feedback = nn.ParameterList(
            random_feedback(self, layer.weight, layer.out_features, layer.in_features, scale=1.0)
            for layer in network.layers[1:]
        )

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        feedback = (self._transmitted(weight) for weight in reversed(self.feedback))
        return local_updates(network, trace, descend(network, trace, output_error, feedback))

    def _transmitted(self, weight: Tensor) -> Tensor:
        works = self.rand(weight.shape, weight) >= self.failure
        return weight * works.to(weight)
