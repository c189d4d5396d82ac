"""A training loop of one's own: a task that is not linear, learnt by feedback alignment, with nothing but torch.

Run it with ``python examples/plain_torch.py``.
"""

import torch
from torch import nn

from bio_rl import Network
from bio_rl.rules import FeedbackAlignment


def parity(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the plane, and whether the signs of their coordinates agree: no linear map can tell."""
    x = torch.randn(count, 2)
    return x, (x.prod(dim=1) > 0).long()


def main() -> float:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    network = Network.from_sequential(mlp, rule=FeedbackAlignment())  # the only line that differs
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(500):
        x, label = parity(128)
        loss = nn.functional.cross_entropy(network(x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, label = parity(10_000)
    return (network(x).argmax(dim=1) == label).float().mean().item()


if __name__ == "__main__":
    print(f"accuracy on new points: {main():.3f}")
