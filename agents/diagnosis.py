"""What an agent's networks are about to learn from, for whoever compares what rules make of it."""

import copy

import torch
from torch import Tensor

from agents.base import RuleAgent
from agents.members import Members
from bio_rl.diagnostics.updates import Minibatch
from bio_rl.network import Network


def minibatches(agent: RuleAgent, samples: int) -> dict[str, Minibatch]:
    """For each network an input and the output error that the agent's loss has there.

    The agent, its networks and its random generators stay as they are.

    Args:
        agent: at the end of a rollout, or later: it is the last one that is whole.
        samples: at most; they are spread evenly over the rollout, so that no random number decides which.

    Returns:
        By the network's name; nothing before there is a whole rollout.
    """
    members = Members([agent])
    outputs = {name: _Output(network) for name, network in members.networks.items()}
    members.networks = outputs  # type: ignore[assignment]
    with torch.enable_grad():
        loss = agent._loss_of_samples(members, samples)
        if loss is None:
            return {}
        leaves = [each.output for each in outputs.values()]
        errors = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return {
        name: Minibatch(each.x, error, each.modulator)
        for (name, each), error in zip(outputs.items(), errors, strict=True)
    }


class _Output:
    """In a network's place while a loss is computed: its output is where autograd begins.

    Attributes:
        x, output: of the last sweep.
        modulator: as a network's.
    """

    x: Tensor
    output: Tensor

    def __init__(self, network: Network):
        # A sweep may draw from the rule's generators, or move its state.
        self._network = copy.deepcopy(network)
        self.modulator: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        self.x, self.output = x, self.activities(x)[-1].detach().clone().requires_grad_()
        return self.output

    def activities(self, x: Tensor) -> list[Tensor]:
        return list(self._network.activities(x))
