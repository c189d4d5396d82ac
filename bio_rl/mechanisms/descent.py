"""Signals that descend layer by layer, and the updates that follow from what arrives."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from bio_rl.layers import Updates
from bio_rl.network import Network
from bio_rl.rule import Rule, Trace


def descend(network: Network, trace: Trace, output_error: Tensor, feedback: Iterable[Tensor]) -> Iterator[Tensor]:
    """Every layer's delta, from the last layer to the first, by a signal that descends layer by layer.

    ``delta_l = slope_l * (delta_(l+1) @ feedback_(l+1))``: with the forward weights as feedback
    this is backprop (Rumelhart, Hinton & Williams 1986).

    Args:
        network, trace, output_error: as for ``Rule.assign``.
        feedback: the weights by which each layer's delta descends, from the last layer to the
            second, in the forward weights' orientation. Each is used as it comes.

    Yields:
        One delta ``(*members, batch, o)`` a layer.
    """
    layers, activities = network.layers, trace.activities
    delta = layers[-1].activation.gate(output_error, activities[-1])
    yield delta
    for index, weight in zip(range(len(layers) - 1, 0, -1), feedback, strict=True):
        signal = layers[index].feedback(delta, weight)
        delta = layers[index - 1].activation.gate(signal, activities[index], out=signal)
        yield delta


def local_updates(network: Network, trace: Trace, deltas: Iterable[Tensor]) -> Updates:
    """Each layer's update from the activity below it and its own delta.

    Args:
        network, trace: as for ``Rule.assign``.
        deltas: from the last layer to the first. Each is used as it comes, so that one at a time
            is in memory.
    """
    updates: Updates = {}
    for layer, pre, delta in zip(reversed(network.layers), trace.activities[-2::-1], deltas, strict=True):
        updates.update(layer.outer(pre, delta))
    return updates


class LayerwiseFeedback(Rule):
    """Backprop's equations with feedback weights in place of the transposed forward weights."""

    frees_trace = True

    @abstractmethod
    def feedback_weights(self, network: Network) -> Sequence[Tensor]: ...

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        layers, activities = network.layers, self.take(trace)
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
