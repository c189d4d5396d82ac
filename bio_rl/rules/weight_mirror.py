"""Weight mirror: feedback learns the forward weights from the responses to noise."""

from typing import Annotated

from torch import Tensor

from bio_rl.layers import Dense, Updates
from bio_rl.mechanisms.arithmetic import outer_product
from bio_rl.mechanisms.feedback_weights import RandomFeedback, listed, matched
from bio_rl.network import Network
from bio_rl.rule import Trace
from bio_rl.settings import Between, Positive


class WeightMirror(RandomFeedback):
    """Every update is followed by a mirror phase in which each layer's inputs are noise.

    The covariance of noise x with the drive ``z = W x + b`` that it evokes is W, so the Hebbian
    update with decay, ``B += cov(z, x) - B``, carries B to W without ever reading it (Akrout et
    al. 2019). Only its direction is kept: the update has the norm of the forward
    weights' own, so that it cannot outweigh them where gradients are clipped together.

    Args:
        samples: noise patterns shown to each layer a mirror phase.
        feedback_scale: the initial size of the feedback weights, 1 for that of fresh forward weights.

    Raises:
        ValueError: fewer than 2 ``samples``, or a ``feedback_scale`` that is not positive.
    """

    learnt = True
    frees_trace = True
    paper = "Akrout, Wilson, Humphreys, Lillicrap & Tweed 2019, Deep learning without weight transport"
    ngrad = "none"
    weight_transport = False
    error_neurons = False
    extra_sweeps = False
    separate_phases = True
    nonlocal_scalars = "norm of the feedback update"

    def __init__(self, samples: Annotated[int, Between(2, 10**6)] = 64, feedback_scale: Positive = 1.0):
        super().__init__(feedback_scale)
        self.samples = samples

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        updates = super().assign(network, trace, output_error)
        for layer, feedback in zip(network.layers[1:], listed(self.feedback), strict=True):
            updates[feedback] = matched(feedback - self._mirror(layer), updates[layer.weight])
        return updates

    def _mirror(self, layer: Dense) -> Tensor:
        """The covariance of the layer's drive with noise at its inputs, ``(*members, o, i)``."""
        noise = self.randn((*layer.members, self.samples, layer.in_features), like=layer.weight)
        drive = layer.drive(noise)
        drive -= drive.mean(-2, keepdim=True)
        return outer_product(drive, noise).div_(self.samples - 1)
