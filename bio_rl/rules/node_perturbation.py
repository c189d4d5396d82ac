"""Node perturbation: noise in the neurons, correlated with what it did to the loss."""

from bio_rl.mechanisms.perturbation import FiniteDifference, Readout, Scale
from bio_rl.settings import Count, Positive


class NodePerturbation(FiniteDifference):
    """A neuron whose noise lowered the loss should have been driven that way.

    ``delta = mean over draws of (change of the loss / noise) * xi`` estimates the loss's derivative
    at every drive, with no feedback weights (Werfel, Xie & Seung 2005). The network acts without
    noise, and each noisy sweep is compared with that one. The estimate's variance grows as the
    number of perturbed neurons over ``draws``. How the change of the loss is known:
    ``bio_rl.mechanisms.perturbation``.

    Args:
        draws: noise directions per sample, all of them run in one sweep.
        noise: the size of the noise in the drives; the update's bias is of its second order.
        scale: ``fixed``, the same for all; or ``drive``, in proportion to the root mean square of a
            sample's drives in the layer.
        antithetic: whether each direction is run with both signs, at twice the sweeps.
        readout: ``exact``, output neurons learn from their own error, or ``perturbed``, by noise.

    Raises:
        ValueError: fewer than 1 ``draws``, ``noise`` that is not positive, or an unknown
            ``scale`` or ``readout``.
    """

    paper = "Werfel, Xie & Seung 2005, Learning curves for stochastic gradient descent in linear feedforward networks"
    ngrad = "perturbation"
    weight_transport = False
    separate_phases = True
    error_neurons = False
    extra_sweeps = True
    nonlocal_scalars = ""

    def __init__(
        self,
        draws: Count = 4,
        noise: Positive = 0.01,
        scale: Scale = "fixed",
        antithetic: bool = False,
        readout: Readout = "exact",
    ):
        super().__init__(draws, readout, in_weights=False, noise=noise, scale=scale, antithetic=antithetic)
