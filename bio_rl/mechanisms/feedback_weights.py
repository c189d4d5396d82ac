"""Feedback weights: how they begin, and how those that learn keep to the size of what they go with."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from bio_rl.layers import Updates
from bio_rl.mechanisms.arithmetic import nonzero
from bio_rl.mechanisms.descent import LayerwiseFeedback
from bio_rl.network import Network
from bio_rl.rule import Rule
from bio_rl.settings import Positive


def random_feedback(rule: Rule, like: Tensor, rows: int, columns: int, scale: float) -> nn.Parameter:
    """Fixed random weights ``(*members, rows, columns)``, normal with deviation ``scale / sqrt(columns)``.

    That is the size of a fresh forward weight of the same shape, so that a signal descends with
    about the size that it has under backprop.
    """
    shape = (*like.shape[:-2], rows, columns)
    return nn.Parameter(rule.randn(shape, like).mul_(scale * columns**-0.5), requires_grad=False)


def listed(weights: nn.ParameterList) -> list[nn.Parameter]:
    """What a ParameterList holds, without its search for each by name, which costs as much as a small kernel."""
    return list(weights._parameters.values())  # type: ignore[arg-type]


class RandomFeedback(LayerwiseFeedback):
    """Feedback weights that begin random, fixed unless the subclass learns them.

    Args:
        feedback_scale: their initial size, 1 for that of fresh forward weights.

    Raises:
        ValueError: a ``feedback_scale`` that is not positive.
    """

    learnt: ClassVar[bool] = False

    def __init__(self, feedback_scale: Positive = 1.0):
        super().__init__()
        self.feedback_scale = feedback_scale

    def connect(self, network: Network) -> None:
        self.feedback = nn.ParameterList(
            random_feedback(self, layer.weight, layer.out_features, layer.in_features, self.feedback_scale)
            for layer in network.layers[1:]
        ).requires_grad_(self.learnt)

    def feedback_weights(self, network: Network) -> Sequence[Tensor]:
        return listed(self.feedback)


def learn_alike(updates: Updates, weight: nn.Parameter, feedback: nn.Parameter, decay: float) -> None:
    """Give feedback the forward weights' update, and let both decay in proportion to their own plasticity.

    Of forward weights that do not learn there is nothing to take.
    """
    if not weight.requires_grad:
        updates[feedback] = torch.zeros_like(feedback)
        return
    plasticity = updates[weight]
    size = plasticity.abs()
    updates[feedback] = torch.addcmul(plasticity, size, feedback, value=decay)
    updates[weight] = plasticity.addcmul_(size, weight, value=decay)


def matched(update: Tensor, reference: Tensor) -> Tensor:
    """An update of feedback weights, scaled to the norm of the forward update that it goes with.

    An objective that feedback learns by has a size of its own, often thousands of times that of a
    policy gradient. Unscaled, it would take the whole of a gradient clipped by its norm. Norms are
    taken for each member; where the reference is zero so is the result.
    """
    return update * _norm_ratio(reference, update)


def at_most(update: Tensor, reference: Tensor) -> Tensor:
    """As ``matched``, for an update that vanishes once its weights are learnt: scaled down only, never up."""
    return update * _norm_ratio(reference, update).clamp_max(1)


def _norm_ratio(reference: Tensor, update: Tensor) -> Tensor:
    """``|reference| / |update|`` of each member, ``(*members, 1, 1)``; ``|reference|`` where the update is 0."""
    size, norm = (torch.linalg.vector_norm(tensor, dim=(-2, -1), keepdim=True) for tensor in (reference, update))
    return size / nonzero(norm)
