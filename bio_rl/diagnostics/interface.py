"""What experiments with brain-computer interfaces choose and measure, of a network whose last layer is the decoder.

Shapes: ``n`` samples, ``t`` trials, ``s`` steps of each, ``N`` neurons of the last hidden layer, ``k`` dimensions of
their manifold, and 2 coordinates of the cursor's velocity. Everything is in float64.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bio_rl.diagnostics.alignment import after_backward
from bio_rl.diagnostics.representations import activities_of, potent_share
from bio_rl.network import Network

Perturbation = Literal["within", "outside", "none"]
CANDIDATES = 200
"""Perturbations that are drawn, of which one is chosen."""
SMALL_STEP = 0.01
"""The size of a predicted change of activity, as a share of the activity's own."""
RIDGE = 1e-6


class Manifold(NamedTuple):
    """Where activity lies: its mean ``(N,)``, orthonormal axes ``(N, k)``, and its deviation along each ``(k,)``."""

    mean: Tensor
    axes: Tensor
    sizes: Tensor

    def latents(self, activity: Tensor) -> Tensor:
        """The standardised coordinates ``(..., k)`` of activity ``(..., N)``."""
        return (activity.double() - self.mean) @ self.axes / self.sizes


class Reading(NamedTuple):
    """A decoder: the velocity is ``activity @ weight.T + bias``, ``weight (2, N)`` and ``bias (2,)``."""

    weight: Tensor
    bias: Tensor

    def velocities(self, activity: Tensor) -> Tensor:
        return activity.double() @ self.weight.mT + self.bias


def intrinsic_manifold(activity: Tensor, dimensions: int) -> Manifold:
    """The principal components of activity ``(n, N)``, where Sadtler et al. 2014 have factors.

    Raises:
        ValueError: more dimensions than the activity has.
    """
    activity = activity.double()
    mean = activity.mean(0)
    _, sizes, axes = torch.linalg.svd(activity - mean, full_matrices=False)
    sizes = sizes / np.sqrt(len(activity) - 1)
    rank = int((sizes > 1e-6 * sizes[0]).sum())
    if not 2 <= dimensions <= rank:
        raise ValueError(
            f"dimensions must be from 2 to {rank}, of which the hidden activity has no more, not {dimensions}"
        )
    return Manifold(mean, axes[:dimensions].mT, sizes[:dimensions])


def intuitive_decoder(manifold: Manifold, activity: Tensor, velocities: Tensor) -> Reading:
    """What reads the wanted velocities ``(n, 2)`` best from the manifold's latents, by least squares."""
    latents = manifold.latents(activity)
    weights = torch.linalg.lstsq(latents, velocities.double() - velocities.double().mean(0)).solution.mT
    return _reading(manifold, weights / manifold.sizes @ manifold.axes.mT, velocities.double().mean(0))


def perturbed_decoder(
    manifold: Manifold,
    intuitive: Reading,
    activity: Tensor,
    kind: Perturbation,
    angle: float,
    rng: np.random.Generator,
) -> Reading:
    """The decoder after the swap (Sadtler et al. 2014, methods; Golub et al. 2018).

    ``within`` permutes the latents that the decoder reads, so that it still reads the manifold; ``outside`` permutes
    the neurons, so that it reads what the manifold hardly reaches. Of 200 drawn the one is taken whose velocities, were
    the activity to stay, are turned most nearly by ``angle``, so that both kinds are equally hard at first; they are
    scaled to be as fast.

    Args:
        manifold, intuitive: of the early activity.
        activity: the same, ``(n, N)``.
        kind: ``within``, ``outside`` or ``none``.
        angle: the mean angle between the velocities of before and after, in degrees.
        rng: draws permutations.
    """
    if kind == "none":
        return intuitive
    before = intuitive.velocities(activity)
    by_latents = intuitive.weight @ manifold.axes * manifold.sizes
    candidates = []
    for _ in range(CANDIDATES):
        if kind == "within":
            weights = by_latents[:, rng.permutation(len(manifold.sizes))] / manifold.sizes @ manifold.axes.mT
        else:
            weights = intuitive.weight[:, rng.permutation(intuitive.weight.shape[1])]
        reading = _reading(manifold, weights, before.mean(0))
        speed = (reading.velocities(activity) - before.mean(0)).norm()
        weights = weights * ((before - before.mean(0)).norm() / speed)
        candidates.append(_reading(manifold, weights, before.mean(0)))
    turns = [abs(mean_angle(before, each.velocities(activity)) - angle) for each in candidates]
    return candidates[int(np.argmin(turns))]


def mean_angle(one: Tensor, other: Tensor) -> float:
    """The mean angle between vectors ``(n, 2)``, in degrees."""
    return float(torch.rad2deg(torch.arccos(torch.cosine_similarity(one, other).clamp(-1, 1))).mean())


@torch.no_grad()
def causal_effects(network: Network, x: Tensor) -> Tensor:
    """How a little more drive of each neuron would move the cursor, ``(2, N)``, the mean over inputs ``(n, in)``."""
    hidden, decoder = network.layers[-2:]
    slopes = hidden.activation.slope(activities_of(network, x)[-2]).mean(0).double()
    return decoder.weight.double() * slopes


@torch.no_grad()
def teaching_signals(network: Network, x: Tensor) -> Tensor:
    """What the rule tells each neuron when the cursor should move less along either axis, ``(2, N)``.

    By how much the rule lowers a neuron's bias where the output error is 1 along that axis in all inputs ``(n, in)``:
    in this form every rule's signal can be had, whatever carries it. Under backprop it is the causal effect.

    Raises:
        ValueError: the layer has no biases.
    """
    signals = []
    for axis in range(network.out_features):
        error = x.new_zeros(len(x), network.out_features)
        error[:, axis] = 1 / len(x)
        bias = after_backward(network, x, error, x.new_ones(len(x))).layers[-2].bias
        if bias is None:
            raise ValueError("a neuron's teaching signal is read off its bias, and this layer has none")
        signals.append(torch.zeros_like(bias) if bias.grad is None else bias.grad)
    return torch.stack(signals).double()


def teaching_correlation(network: Network, x: Tensor) -> float:
    """The correlation over neurons of teaching signal and causal effect; NaN where nothing is taught.

    1 where each neuron is taught by what it does to the cursor, 0 where all hear the same or anything else: what
    Francioni et al. 2026 looked for in dendrites, whose neurons the decoder read with one sign or the other.
    """
    return correlation(teaching_signals(network, x), causal_effects(network, x))


def flow_field(latents: Tensor) -> Tensor:
    """The linear flow ``z(s+1) - z(s) = F z(s) + f`` that fits trajectories ``(t, s, k)`` best, as ``(k, k + 1)``."""
    here = latents[:, :-1].flatten(0, 1).double()
    here = torch.cat([here, torch.ones_like(here[:, :1])], dim=1)
    change = latents.diff(dim=1).flatten(0, 1).double()
    gram = here.mT @ here
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    return torch.linalg.solve(gram, here.mT @ change).mT


def flow_correlation(manifold: Manifold, before: Tensor, after: Tensor, errors: Tensor, credit: Tensor) -> float:
    """How well credit by some decoder predicts how the flow of activity changed in learning.

    After Portes, Schmid & Murray 2022: a supervised rule moves activity along the errors as its own model of the
    decoder assigns them, which may be an old one; reinforcement learning needs no model, and follows, noise aside,
    the decoder there is. Correlate the observed change of the flow field with the change that follows for activity
    that has moved a small way along ``errors @ credit``; compare the correlation for the one and the other decoder.
    (Their networks are recurrent. Here activity flows because the cursor moves.)

    Args:
        manifold: in which the flow is measured.
        before, after: activity in the same trials early and late in learning, ``(t, s, N)``.
        errors: wanted minus decoded velocities early in learning, ``(t, s, 2)``.
        credit: the decoder's weights by which a rule would assign them, ``(2, N)``.
    """
    step = errors.double() @ credit.double()
    step = step * (SMALL_STEP * (before.double() - manifold.mean).norm() / step.norm())
    early, late, predicted = (flow_field(manifold.latents(each)) for each in (before, after, before.double() + step))
    return correlation(late - early, predicted - early)


def shares_of_change(manifold: Manifold, before: Tensor, after: Tensor, decoder: Tensor) -> dict[str, float]:
    """Of the squared change of activity ``(n, N)``: what the decoder ``(2, N)`` sees, and what is in the old manifold.

    The one is the output-potent share, the rest is output-null (Kaufman et al. 2014). A change in no particular
    direction has the shares 2 / N and k / N.
    """
    change = after.double() - before.double()
    return {
        "potent_share": float(potent_share(change, decoder)),
        "manifold_share": float(potent_share(change, manifold.axes.mT)),
    }


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's, over all numbers; NaN where either does not vary."""
    x, y = (each.double().flatten() - each.double().mean() for each in (one, other))
    return float((x @ y) / (x.norm() * y.norm()))


def _reading(manifold: Manifold, weight: Tensor, at_mean: Tensor) -> Reading:
    """The decoder of these weights that reads ``at_mean`` from the manifold's mean."""
    return Reading(weight, at_mean - weight @ manifold.mean)
