"""What a rule's update of one minibatch is like, beside the one that backprop would have made.

Everything is measured on copies: a network goes on after a measurement as if there had been none,
its rule's state and random generators included. Results are each member's, ``(*members,)``.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bio_rl.activations import Activation
from bio_rl.diagnostics.alignment import after_backward, angle, backward, by_backprop, feedback_angles_by_member
from bio_rl.diagnostics.measure import Measure
from bio_rl.diagnostics.representations import effective_rank
from bio_rl.layers import Dense
from bio_rl.mechanisms.descent import descend
from bio_rl.mechanisms.relaxation import Relaxation, watched
from bio_rl.network import Network
from bio_rl.rule import Trace

FLAT = 0.01
"""A unit is flat where its slope is below this fraction of its activation's steepest: hardly any error passes."""


class Minibatch(NamedTuple):
    """What a network is to learn from.

    Attributes:
        x: input, ``(*members, batch, in)``.
        output_error: dL/dy, ``(*members, batch, out)``.
        modulator: what a rule may read in ``network.modulator``, ``(*members, batch)``.
    """

    x: Tensor
    output_error: Tensor
    modulator: Tensor | None = None


@torch.no_grad()
def measure_updates(network: Network, minibatch: Minibatch, gauss_newton: bool = False) -> list[Measure]:
    """The rule's update of a minibatch, at the network's weights.

    Of each layer's weights:

    ``update_angle``, ``update_norm_ratio``
        to backprop's update for the same output error, in degrees, and its norm over backprop's.
    ``update_norm``, ``weight_norm``
        Frobenius norms.
    ``update_rank``
        how many directions the update has, see ``effective_rank``.
    ``feedback_angle``
        between feedback and forward weights, in degrees, of each layer but the first.
    ``flat_share``, ``silent_share``
        of hidden layers: how often a unit is so flat, saturated or off, that hardly any error
        passes, and how many units are so for the whole minibatch.
    ``gauss_newton_angle``, ``layer_gauss_newton_angle``
        to the updates that ``gauss_newton_updates`` gives, in degrees, if asked for.

    Of the network:

    ``target_alignment``
        see there.
    ``relaxation_steps``, ``relaxation_residual``
        where the rule relaxes: its sweeps, of all phases, and the largest residual left at a phase's end as
        a fraction of the largest in it.

    Raises:
        Divergence: the rule's sweep diverges.
    """
    with watched() as relaxations:
        learner = after_backward(network, *minibatch)
    reference = backward(by_backprop(network), minibatch.x, minibatch.output_error)
    activities = reference.activities(minibatch.x)
    measures = [*_of_layers(learner, reference), *_of_units(network.layers, activities)]
    feedback = enumerate(feedback_angles_by_member(network), start=2)
    measures += [Measure("feedback_angle", number, value) for number, value in feedback]
    measures.append(Measure("target_alignment", None, target_alignment(learner, activities, minibatch.output_error)))
    if relaxations:
        measures += _of_relaxations(network, relaxations)
    if gauss_newton:
        for name, together in (("gauss_newton_angle", True), ("layer_gauss_newton_angle", False)):
            ideal = gauss_newton_updates(network, minibatch.x, minibatch.output_error, together=together)
            for number, (layer, update) in enumerate(zip(learner.layers, ideal, strict=True), start=1):
                measures.append(Measure(name, number, angle(_update(layer), update)))
    return measures


def target_alignment(learner: Network, activities: Sequence[Tensor], output_error: Tensor) -> Tensor:
    """The cosine between how one update moves the outputs and where the loss wants them, -dL/dy.

    1 where a step moves the minibatch's outputs, as one vector, straight to where the loss falls most; at
    0 or below it does not fall. The step is so small that the network is linear, against the
    updates of weights and biases, through the feedforward sweep. After Song et al. 2024, Inferring neural
    activity before plasticity, whose target is the output that is wanted itself.

    Args:
        learner: a network with its updates in ``grad``, as ``after_backward`` gives it.
        activities: of its feedforward sweep, the input first.
        output_error: dL/dy, ``(*members, batch, out)``.
    """
    change = torch.zeros_like(activities[0])
    for layer, pre, activity in zip(learner.layers, activities, activities[1:], strict=False):
        drive = torch.matmul(change, layer.weight.mT) - torch.matmul(pre, _update(layer).mT)
        if layer.bias is not None and layer.bias.grad is not None:
            drive -= layer.bias.grad.unsqueeze(-2)
        change = layer.activation.gate(drive, activity)
    change, wanted = change.flatten(-2).double(), -output_error.flatten(-2).double()
    norms = torch.linalg.vector_norm(change, dim=-1) * torch.linalg.vector_norm(wanted, dim=-1)
    return (change * wanted).sum(-1) / norms


@torch.no_grad()
def gauss_newton_updates(
    network: Network, x: Tensor, output_error: Tensor, damping: float = 0.1, together: bool = True
) -> list[Tensor]:
    """Each layer's update if its neurons' drives take the Gauss-Newton step of least norm, in float64.

    Each sample's deltas are ``J^T (J J^T + damping)^-1 output_error``, with J the Jacobian of the outputs to the
    drives of all layers together, at which deep feedback control aims (Meulemans et al. 2021, lemma 1), or
    to those of each layer by itself, at which target propagation aims where it learns pseudo-inverses (Meulemans
    et al. 2020).

    Args:
        network, x, output_error: as for ``Rule.assign``; for small networks: a sample costs as many sweeps
            as there are outputs.
        damping: what those rules call ``alpha`` and ``damping``; the same as theirs by default.
        together: for all layers' drives together.
    """
    plain = by_backprop(network).double()
    x, output_error = x.double(), output_error.double()
    activities = plain.activities(x)
    jacobians = drive_jacobians(plain, activities)
    loops = [torch.matmul(jacobian, jacobian.mT) for jacobian in jacobians]
    if together:
        loops = [torch.stack(loops).sum(0)] * len(loops)
    one = torch.eye(network.out_features, dtype=x.dtype, device=x.device)
    updates = []
    for layer, pre, jacobian, loop in zip(plain.layers, activities, jacobians, loops, strict=False):
        # Without a check, so that a member that diverged ends nobody else's measurement.
        solved = torch.linalg.solve_ex(loop + damping * one, output_error.unsqueeze(-1)).result
        delta = torch.matmul(solved.mT, jacobian).squeeze(-2)
        updates.append(layer.outer(pre, delta)[layer.weight])
    return updates


def drive_jacobians(network: Network, activities: Sequence[Tensor]) -> list[Tensor]:
    """dy / d drive of each layer, ``(*members, batch, out, o)``, at the activities of a feedforward sweep."""
    rows = torch.eye(network.out_features, dtype=activities[0].dtype, device=activities[0].device)
    rows = rows.expand(*activities[0].shape[:-1], -1, -1)
    trace = Trace([activity.unsqueeze(-2) for activity in activities])
    weights = [layer.weight.unsqueeze(-3) for layer in reversed(network.layers[1:])]
    return list(descend(network, trace, rows, weights))[::-1]


def _of_layers(learner: Network, reference: Network) -> Iterator[Measure]:
    for number, (layer, exact) in enumerate(zip(learner.layers, reference.layers, strict=True), start=1):
        update, gradient = _update(layer), _update(exact)
        yield Measure("update_angle", number, angle(update, gradient))
        yield Measure("update_norm_ratio", number, _norm(update) / _norm(gradient))
        yield Measure("update_norm", number, _norm(update))
        yield Measure("weight_norm", number, _norm(layer.weight))
        yield Measure("update_rank", number, effective_rank(update))


def _of_units(layers: Sequence[Dense], activities: Sequence[Tensor]) -> Iterator[Measure]:
    for number, (layer, activity) in enumerate(zip(layers[:-1], activities[1:], strict=False), start=1):
        flat = (layer.activation.slope(activity) < FLAT * _steepest(layer.activation)).double()
        # What is not finite is neither steep nor flat.
        flat = flat.where(activity.isfinite(), torch.nan)
        yield Measure("flat_share", number, flat.mean((-2, -1)))
        yield Measure("silent_share", number, flat.amin(-2).mean(-1))


def _of_relaxations(network: Network, relaxations: Sequence[Relaxation]) -> Iterator[Measure]:
    steps = torch.tensor([each.steps for each in relaxations], dtype=torch.float64).sum(0)
    residuals = torch.tensor([each.residuals for each in relaxations], dtype=torch.float64).amax(0)
    yield Measure("relaxation_steps", None, steps.view(network.members))
    yield Measure("relaxation_residual", None, residuals.view(network.members))


def _steepest(activation: Activation) -> Tensor:
    """The largest slope: every activation here has it at a drive of 0, or comes to it as the drive grows."""
    return activation.slope(activation.forward(torch.tensor([0.0, 20.0]))).amax()


def _update(layer: Dense) -> Tensor:
    """A rule that assigns nothing to a layer leaves it as it is."""
    return torch.zeros_like(layer.weight) if layer.weight.grad is None else layer.weight.grad


def _norm(matrix: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrix.double(), dim=(-2, -1))
