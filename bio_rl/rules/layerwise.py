"""The rules whose errors descend layer by layer differ in one thing: the weights they descend by."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from bio_rl.layers import Updates
from bio_rl.network import Network
from bio_rl.rules.base import Rule, Trace, check_positive, listed, random_feedback


class LayerwiseFeedback(Rule):
    """Backprop's equations with feedback weights in place of the transposed forward weights."""

    @abstractmethod
    def feedback_weights(self, network: Network) -> Sequence[Tensor]: ...

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        # Each activity leaves the trace once it has served, so that memory falls as it does in autograd.
        layers, activities = network.layers, trace.activities
        updates: Updates = {}
        feedback = iter(self.descending_weights(network))
        delta = layers[-1].activation.gate(output_error, activities.pop())
        for layer, below in zip(layers[:0:-1], layers[-2::-1], strict=True):
            if (weight := next(feedback, None)) is None:
                raise ValueError("there must be a feedback weight for each layer but the first")
            signal = layer.feedback(delta, weight)
            del weight  # one that was made for this product is freed before the update is made
            updates.update(layer.outer(activities[-1], delta))
            delta = below.activation.gate(signal, activities.pop(), out=signal)
        updates.update(layers[0].outer(activities[-1], delta))
        if next(feedback, None) is not None:
            raise ValueError("there must be no more feedback weights than layers but the first")
        return updates

    def descending_weights(self, network: Network) -> Iterable[Tensor]:
        """The feedback weights of one update, from the last layer to the second."""
        return reversed(self.feedback_weights(network))


class RandomFeedback(LayerwiseFeedback):
    """Feedback weights that begin random, fixed unless the subclass learns them.

    Args:
        feedback_scale: their initial size, 1 for that of fresh forward weights.

    Raises:
        ValueError: a ``feedback_scale`` that is not positive.
    """

    learnt: ClassVar[bool] = False

    def __init__(self, feedback_scale: float = 1.0):
        super().__init__()
        check_positive(feedback_scale=feedback_scale)
        self.feedback_scale = feedback_scale

    def connect(self, network: Network) -> None:
        self.feedback = nn.ParameterList(
            random_feedback(self, layer.weight, layer.out_features, layer.in_features, self.feedback_scale)
            for layer in network.layers[1:]
        ).requires_grad_(self.learnt)

    def feedback_weights(self, network: Network) -> Sequence[Tensor]:
        return listed(self.feedback)
