"""What agents collected and learn from."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Rollout(NamedTuple):
    """What members collected, each entry ``(m, b, ...)``, a member's samples environment by environment."""

    features: Tensor
    actions: Tensor
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor

    def spread(self, count: int) -> "Rollout":
        """At most ``count`` samples of each member, evenly spaced."""
        chosen = spread(self.returns.shape[-1], count).to(self.returns.device)
        return Rollout(*(entry.index_select(self.returns.dim() - 1, chosen) for entry in self))

    def minibatches(self, batch_size: int, orders: Sequence[np.random.RandomState]) -> Iterator["Rollout"]:
        """The samples in minibatches, each member's in an order of its own, as SB3's buffer gives them.

        Args:
            batch_size: samples of each member; the last minibatch may have fewer.
            orders: a generator for each member; left alone where one minibatch has all samples, whose order
                tells nothing.
        """
        samples = self.returns.shape[-1]
        if batch_size >= samples:
            yield self
            return
        # Rows of all members lie in one list, which is faster to pick from than a list of each.
        order = np.stack([rng.permutation(samples) + member * samples for member, rng in enumerate(orders)])
        members = self.returns.dim() - 1
        flat = [entry.flatten(0, members) for entry in self]
        for start in range(0, samples, batch_size):
            chosen = order[:, start : start + batch_size]
            rows = torch.as_tensor(chosen.reshape(-1), device=self.returns.device)
            shape = chosen.shape if members else chosen.shape[1:]
            yield Rollout(*(entry[rows].view(*shape, *entry.shape[1:]) for entry in flat))


def spread(total: int, count: int) -> Tensor:
    """At most ``count`` of the indices below ``total``, evenly spaced."""
    return torch.linspace(0, total - 1, min(count, total), dtype=torch.float64).round().long()


def normalized(advantages: Tensor) -> Tensor:
    """Each member's advantages ``(m, b)``, centred and scaled."""
    return (advantages - advantages.mean(-1, keepdim=True)) / (advantages.std(-1, keepdim=True) + 1e-8)
