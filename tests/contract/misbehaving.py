"""A rule that goes wrong in the ways in which a run can."""

import torch
from torch import Tensor

from bio_rl import Network
from bio_rl.layers import Updates
from bio_rl.rule import Divergence
from bio_rl.rules import Backprop, Trace


class Misbehaving(Backprop):
    def __init__(self, how: str = "not"):
        super().__init__()
        self.how = how
        self.updates = 0

    def forward(self, network: Network, x: Tensor) -> Trace:
        trace = super().forward(network, x)
        if self.how == "globally":
            torch.rand(1)
        if self.how == "noisily":
            trace.activities[-1].add_(self.randn(trace.activities[-1].shape, like=x), alpha=0.1)
        return trace

    def assign(self, network: Network, trace: Trace, output_error: Tensor) -> Updates:
        if self.how == "forgets":
            return {}
        self.updates += 1
        if self.updates == 1:  # the probe before a run sees nothing yet
            return super().assign(network, trace, output_error)
        match self.how:
            case "fails":
                raise RuntimeError("no such synapse")
            case "diverges":
                raise Divergence("misbehaving", layer=1, step=2)
            case "interrupts":
                raise KeyboardInterrupt
            case "overflows":
                return {p: torch.full_like(p, torch.inf) for p in network.parameters()}
        return super().assign(network, trace, output_error)
