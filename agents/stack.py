"""The networks of several agents as one, which act for all of them at once.

Shapes: ``m`` members (none for a single agent), ``b`` samples of each, ``f`` features.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

from agents.distributions import Distribution, StateDependentNoise, of_outputs
from agents.spaces import in_own_memory
from bio_rl import Network

if TYPE_CHECKING:
    from agents.base import RuleAgent

Observations = np.ndarray | dict[str, np.ndarray]
ALIKE = ("n_envs", "n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "use_sde", "device")
"""What members must agree in, beside their class, their spaces and their networks."""


class Stack:
    """The networks of agents that are alike but for their seeds; those of a single agent as they are.

    Those of several are copies: what they compute draws from no agent's generators, and changes none.

    Attributes:
        agents: whose networks they are.
        lead: the leading dimensions of every tensor: ``()`` for one agent, ``(m,)`` for several.
        networks: by what they are, ``actor`` and ``critic`` or ``shared``, for all agents.
        log_std: of continuous actions, ``(m, ...)``.

    Raises:
        ValueError: agents that are not alike.
    """

    def __init__(self, agents: Sequence["RuleAgent"]):
        self.agents = list(agents)
        self.first = agents[0]
        self.lead = () if len(agents) == 1 else (len(agents),)
        self.log_std: nn.Parameter | None = getattr(self.first.policy, "log_std", None)
        self.networks = self.first.policy.networks
        self._noise: Tensor | None = None
        if self.lead:
            _check_alike(self.agents)
            policies = [agent.policy for agent in self.agents]
            self.networks = {
                name: Network.stack([policy.networks[name] for policy in policies]) for name in self.networks
            }
            if self.log_std is not None:
                self.log_std = nn.Parameter(torch.stack([policy.log_std.detach() for policy in policies]))

    def features(self, observations: Observations) -> Tensor:
        """Observations of all members' environments, one member after the other, as ``(m, b, f)``."""
        policy = self.first.policy
        tensors = in_own_memory(obs_as_tensor(observations, self.first.device))
        flat = BasePolicy.extract_features(policy, tensors, policy.pi_features_extractor)
        return flat.view(*self.lead, -1, flat.shape[-1])

    def distribution(self, features: Tensor) -> Distribution:
        """The distribution of actions."""
        return self._distribution(*self._actor_output(features))

    def values(self, features: Tensor) -> Tensor:
        """The values ``(m, b)``."""
        if "critic" in self.networks:
            return self.networks["critic"](features)[..., 0]
        if "shared" in self.networks:
            return self.networks["shared"](features)[..., -1]
        return features.new_zeros(features.shape[:-1])

    def outputs(self, features: Tensor) -> tuple[Distribution, Tensor]:
        """The distribution of actions, and the values ``(m, b)``."""
        output, hidden = self._actor_output(features)
        values = output[..., -1] if "shared" in self.networks else self.values(features)
        return self._distribution(output, hidden), values

    def _actor_output(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output of the network that acts, and for gSDE its last hidden activity."""
        network = self.networks["shared" if "shared" in self.networks else "actor"]
        if not self.first.use_sde:
            return network(features), None
        # The noise of gSDE asks the hidden layers for no gradient (Raffin et al. 2022).
        activities = network.activities(features)
        return network(features) if torch.is_grad_enabled() else activities[-1], activities[-2]

    def _distribution(self, output: Tensor, hidden: Tensor | None) -> Distribution:
        if "shared" in self.networks:
            output = output[..., :-1]
        if hidden is None:
            return of_outputs(output, self.first.action_space, self.log_std)
        settings = self.first.policy.action_dist
        assert isinstance(settings, StateDependentNoiseDistribution)
        assert self.log_std is not None
        return StateDependentNoise(output, self.log_std, hidden, settings, self._noise)

    @torch.no_grad()
    def predict(self, observations: Observations) -> np.ndarray:
        """What every agent's ``predict(..., deterministic=True)`` gives for its share of the observations.

        Args:
            observations: of all agents, one agent's after the other's.
        """
        return within_bounds(self.first, as_actions(self.first, self.distribution(self.features(observations)).mode()))


def as_actions(agent: "RuleAgent", actions: Tensor) -> np.ndarray:
    """Actions as environments take them, one environment's after the other's."""
    return actions.reshape(-1, *(agent.action_space.shape or ())).cpu().numpy()


def within_bounds(agent: "RuleAgent", actions: np.ndarray) -> np.ndarray:
    """What the environment gets: a Gaussian knows no bounds, and a squashed action is scaled to [-1, 1]."""
    space = agent.action_space
    if not isinstance(space, spaces.Box):
        return actions
    return (
        agent.policy.unscale_action(actions) if agent.policy.squash_output else np.clip(actions, space.low, space.high)
    )


def together(observations: Sequence[Any]) -> Observations:
    """The observations of several members' environments as those of one."""
    if len(observations) == 1:
        return observations[0]
    if isinstance(observations[0], Mapping):
        return {key: np.concatenate([part[key] for part in observations]) for key in observations[0]}
    return np.concatenate(observations)


def _check_alike(agents: Sequence["RuleAgent"]) -> None:
    from agents.base import RuleAgent

    first = agents[0]
    for method in ("train", "collect_rollouts"):
        if getattr(type(first), method) is not getattr(RuleAgent, method):
            raise ValueError(f"{type(first).__name__} has a {method} of its own, which knows one agent: train it alone")
    for agent in agents[1:]:
        if type(agent) is not type(first):
            raise ValueError(
                f"members must be agents of one kind, not {type(first).__name__} and {type(agent).__name__}"
            )
        if agent.observation_space != first.observation_space or agent.action_space != first.action_space:
            raise ValueError("members must act in environments with the same spaces")
        for name in ALIKE:
            if (one := getattr(first, name)) != (other := getattr(agent, name)):
                raise ValueError(f"members must agree in {name}; they have {one} and {other}")
