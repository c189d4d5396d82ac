"""Weight perturbation: noise in the synapses, correlated with what it did to the loss."""

from bio_rl.mechanisms.perturbation import FiniteDifference, Readout, Scale
from bio_rl.settings import Count, Positive


class WeightPerturbation(FiniteDifference):
    """A synapse whose noise lowered the loss should have changed that way.

    Every sample and draw has weight noise xi of its own, and the update is the mean over draws of
    ``(change of the loss / noise) * xi`` (Jabri & Flower 1992; Cauwenberghs 1993). Its variance grows
    as the number of perturbed *weights* over ``draws``, node perturbation's as the number of
    neurons. No noise matrix is made for a sample: ``bio_rl.mechanisms.perturbation`` draws one of the same
    distribution for all. The noise meets the undisturbed presynaptic activities; that they are
    disturbed too matters in the noise's second order only.

    Args:
        draws: noise directions per sample, all of them run in one sweep.
        noise: the size of the noise in the weights; the update's bias is of its second order.
        scale: ``fixed``, the same for all; or ``drive``, such that the noise that reaches a drive is in
            proportion to the root mean square of a sample's drives in the layer.
        antithetic: whether each direction is run with both signs, at twice the sweeps.
        readout: ``exact``, output neurons learn from their own error, or ``perturbed``, by noise.

    Raises:
        ValueError: fewer than 1 ``draws``, ``noise`` that is not positive, or an unknown
            ``scale`` or ``readout``.
    """

    paper = "Jabri & Flower 1992, Weight perturbation; Cauwenberghs 1993, A fast stochastic error-descent algorithm"
    ngrad = "perturbation"
    weight_transport = False
    separate_phases = True
    error_neurons = False
    extra_sweeps = True
    nonlocal_scalars = "weight noise that no sample feels, drawn once for the whole batch"

    def __init__(
        self,
        draws: Count = 16,
        noise: Positive = 0.001,
        scale: Scale = "fixed",
        antithetic: bool = False,
        readout: Readout = "exact",
    ):
        super().__init__(draws, readout, in_weights=True, noise=noise, scale=scale, antithetic=antithetic)
