"""Rules that members can or cannot have."""

import torch
from torch import Tensor

from bio_rl import Network
from bio_rl.layers import Updates
from bio_rl.rule import Trace
from bio_rl.rules import Backprop


class CountsForAll(Backprop):
    """Keeps a number for the whole network, with no dimensions for members."""

    count: Tensor

    def connect(self, network: Network) -> None:
        self.register_buffer("count", torch.zeros(3))


class OneGoesAstray(Backprop):
    """Gives NaN to the network whose first weight is the greatest of a few."""

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        updates = super().assign(network, trace, output_error)
        if network.members and network.members[0] == 3 and trace.activities[0].shape[-2] == 16:
            updates[network.layers[0].weight][1] = torch.nan
        return updates
