"""Kolen–Pollack: feedback that gets the forward weights' update, and decays with them, becomes them."""

from torch import Tensor

from bio_rl.layers import Updates
from bio_rl.mechanisms.feedback_weights import RandomFeedback, learn_alike, listed
from bio_rl.network import Network
from bio_rl.rule import Trace
from bio_rl.settings import NotNegative, Positive


class KolenPollack(RandomFeedback):
    """Forward and feedback weights W and B take the same update g and decay alike.

    Under plain gradient descent with weight decay, ``W - B`` shrinks by a constant factor a step
    (Kolen & Pollack 1994; Akrout et al. 2019), however different they began. Inside
    an adaptive optimizer the same decay would be divided by the size of the gradients and swamp
    them. So a synapse here decays in proportion to its own plasticity::

        update(W) = g + decay * |g| * W        update(B) = g + decay * |g| * B

    which is local, scales with the loss as g does, and leaves of ``W - B`` the factor
    ``1 - learning_rate * decay * |g|`` under gradient descent and about
    ``1 - learning_rate * decay`` under Adam, RMSprop, and their gradients clipped.

    Args:
        decay: the decay; 0 leaves ``W - B`` as it began.
        feedback_scale: the initial size of the feedback weights, 1 for that of fresh forward weights.

    Raises:
        ValueError: a negative ``decay``, or a ``feedback_scale`` that is not positive.
    """

    learnt = True
    frees_trace = True
    paper = "Kolen & Pollack 1994, Backpropagation without weight transport; Akrout et al. 2019"
    ngrad = "none"
    weight_transport = False
    separate_phases = False
    error_neurons = False
    extra_sweeps = False
    nonlocal_scalars = ""

    def __init__(self, decay: NotNegative = 0.5, feedback_scale: Positive = 1.0):
        super().__init__(feedback_scale)
        self.decay = decay

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        updates = super().assign(network, trace, output_error)
        for layer, feedback in zip(network.layers[1:], listed(self.feedback), strict=True):
            learn_alike(updates, layer.weight, feedback, self.decay)
        return updates
