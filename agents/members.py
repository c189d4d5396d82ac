"""Agents that learn together: the networks of several runs, held as one stack.

A member is a run: an ordinary agent, with environments, a seed, random generators and a logger of
its own. While members learn together their parameters lie in one stack with a leading member
dimension, and each agent's own parameters are views of its part: what looks at an agent (an
evaluation, a callback, ``save_model``) sees it as it is. A single agent is one member, without
that dimension, and goes the same way.

Shapes: ``m`` members (none for a single agent), ``b`` samples of each, ``f`` features.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

from agents.distributions import Distribution, Draws, StateDependentNoise, of_outputs
from bio_rl import Network, Rule
from bio_rl.tasks.vec_env import BatchedVecEnv

if TYPE_CHECKING:
    from agents.base import RuleAgent

Observations = np.ndarray | dict[str, np.ndarray]
ALIKE = ("n_envs", "n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "use_sde", "device")
"""What members must agree in, beside their class, their spaces and their networks."""


class Members:
    """One agent, or several that are alike but for their seeds.

    Attributes:
        agents: the members.
        lead: the leading dimensions of every tensor: ``()`` for one agent, ``(m,)`` for several.
        networks: by what they are, ``actor`` and ``critic`` or ``shared``, for all members.
        logs: whether the next update's scalars will be looked at.
        failures: what ended a member before its time, by its index.

    Raises:
        ValueError: agents that are not alike.
    """

    def __init__(self, agents: Sequence["RuleAgent"]):
        self.agents = list(agents)
        self.first = agents[0]
        self.lead = () if len(agents) == 1 else (len(agents),)
        self.n_envs = self.first.n_envs
        self.learning = [True] * len(agents)
        self.failures: dict[int, BaseException] = {}
        self.joint_env: BatchedVecEnv | None = None
        self.logs = True
        self._noise: Tensor | None = None
        policy = self.first.policy
        if not self.lead:
            self.networks = policy.networks
            self.log_std = getattr(policy, "log_std", None)
            self.optimizer = policy.optimizer
            self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self.rollout_buffer: Any = self.first.rollout_buffer
        else:
            _check_alike(self.agents)
            self._stack()
            self.rollout_buffer = self.first._make_rollout_buffer(len(agents) * self.n_envs)

    # -- who learns ----------------------------------------------------------------------

    def still_learning(self) -> Iterator[tuple[int, "RuleAgent"]]:
        """The members that go on, with their indices."""
        return ((index, agent) for index, agent in enumerate(self.agents) if self.learning[index])

    @contextmanager
    def alone(self, index: int) -> Iterator[None]:
        """What fails for one member ends that member only. A single agent's error is raised as ever."""
        try:
            yield
        except (Exception, SystemExit) as error:  # an environment may even call sys.exit
            if not self.lead:
                raise
            self.failures[index] = error
            self.drop(index)

    def drop(self, index: int) -> None:
        """End a member's learning: it keeps what it has learnt, in memory of its own.

        Its part of the stack goes on being computed, so that the others' numbers stay what they are
        to the last bit; what is not finite there becomes 0, so that nothing is raised on its account.
        """
        self.learning[index] = False
        if self.lead:
            self._give_back(index)
            with torch.no_grad():
                for tensor in self._tensors():
                    torch.nan_to_num_(tensor[index], 0.0, 0.0, 0.0)

    def drop_finished(self) -> bool:
        """Drop who has used up its time steps; whether anybody is left."""
        for index, agent in self.still_learning():
            if agent.num_timesteps >= agent._total_timesteps:
                self.drop(index)
        return any(self.learning)

    def join_environments(self) -> None:
        """Step all members' environments as one computation, where their task can be batched and nobody waits."""
        batches = [batch for agent in self.agents if (batch := _batch_of(agent.env)) is not None]
        if self.lead and self.first.in_step and all(self.learning) and len(batches) == len(self.agents):
            self.joint_env = BatchedVecEnv.join(batches)

    def columns(self, index: int) -> slice:
        """Where a member's environments stand among those of all."""
        return slice(index * self.n_envs, (index + 1) * self.n_envs)

    # -- the stack -----------------------------------------------------------------------

    def _stack(self) -> None:
        policies = [agent.policy for agent in self.agents]
        self.networks = {
            name: Network.stack([policy.networks[name] for policy in policies]) for name in policies[0].networks
        }
        self.log_std = None
        if hasattr(policies[0], "log_std"):
            self.log_std = nn.Parameter(torch.stack([policy.log_std.detach() for policy in policies]))
        stacked = dict(zip(policies[0].parameters(), self._stacked_parameters(), strict=True))
        self.parameters = list(stacked.values())
        self.optimizer = policies[0].make_optimizer(
            [
                {**group, "params": [stacked[parameter] for parameter in group["params"]]}
                for group in policies[0].optimizer.param_groups
            ]
        )
        states = [policy.optimizer.state_dict()["state"] for policy in policies]
        ordered = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, parameter in enumerate(ordered):
            if any(state.get(number) for state in states):
                self.optimizer.state[parameter] = _stacked_state([state[number] for state in states])
        self._shown: list[int] = []
        for index in range(len(self.agents)):
            self._bind(index)

    def _stacked_parameters(self) -> list[nn.Parameter]:
        """In the order of a member's own ``policy.parameters()``."""
        log_std = [] if self.log_std is None else [self.log_std]
        return [*log_std, *(parameter for network in self.networks.values() for parameter in network.parameters())]

    def _tensors(self) -> Iterator[Tensor]:
        """Every floating-point tensor of the stack: parameters, buffers and the optimizer's state."""
        for network in self.networks.values():
            yield from (tensor for tensor in network.buffers() if tensor.is_floating_point())
        yield from self.parameters
        for state in self.optimizer.state.values():
            yield from (tensor for tensor in state.values() if torch.is_tensor(tensor) and tensor.dim())

    def _bind(self, index: int) -> None:
        """Make a member's parameters and buffers views of its part of the stack, which draws from its generators."""
        policy = self.agents[index].policy
        for own, stacked in zip(policy.parameters(), self.parameters, strict=True):
            own.data = stacked.data[index]
        for name, network in self.networks.items():
            for own_module, module in zip(policy.networks[name].modules(), network.modules(), strict=True):
                if isinstance(module, Rule) and isinstance(own_module, Rule):
                    module.generators[index] = own_module.generators[0]
        self._bind_buffers(index)

    def _bind_buffers(self, index: int) -> None:
        policy = self.agents[index].policy
        for name, network in self.networks.items():
            for own_module, module in zip(policy.networks[name].modules(), network.modules(), strict=True):
                for key, buffer in module._buffers.items():
                    own_module._buffers[key] = None if buffer is None else buffer[index]

    def show_buffers(self) -> None:
        """Show each member the stack's buffers as they are: a rule may have put new ones in the place of old ones."""
        buffers = [id(buffer) for network in self.networks.values() for buffer in network.buffers()]
        if buffers != self._shown:
            self._shown = buffers
            for index, _ in self.still_learning():
                self._bind_buffers(index)

    def apart(self) -> None:
        """Let every member learn from its rollout by itself, by its own networks and optimizer.

        Its parameters are views of the stack, so that it acts by what it has learnt; buffers that
        its rule has replaced are brought back.
        """
        for index, agent in self.still_learning():
            with self.alone(index):
                agent.train()
        with torch.no_grad():
            for index, agent in self.still_learning():
                for name, network in self.networks.items():
                    for own, stacked in zip(agent.policy.networks[name].buffers(), network.buffers(), strict=True):
                        if own.data_ptr() != stacked[index].data_ptr():
                            stacked[index].copy_(own)

    def release(self) -> None:
        """Give every member that is still part of the stack its own memory and environments again."""
        if self.lead:
            for index, _ in self.still_learning():
                self._give_back(index)

    def _give_back(self, index: int) -> None:
        if self.joint_env is not None:
            self.joint_env.split(index)
        policy = self.agents[index].policy
        for group, stacked_group in zip(policy.optimizer.param_groups, self.optimizer.param_groups, strict=True):
            group["lr"] = stacked_group["lr"]
            for parameter, stacked in zip(group["params"], stacked_group["params"], strict=True):
                if state := self.optimizer.state.get(stacked):
                    policy.optimizer.state[parameter] = {key: _part(value, index) for key, value in state.items()}
        for parameter in policy.parameters():
            parameter.data = parameter.data.clone()
        for module in policy.modules():
            for key, buffer in module._buffers.items():
                module._buffers[key] = None if buffer is None else buffer.clone()

    # -- acting --------------------------------------------------------------------------

    def features(self, observations: Observations) -> Tensor:
        """Observations of all members' environments, one member after the other, as ``(m, b, f)``."""
        policy = self.first.policy
        flat = BasePolicy.extract_features(
            policy, obs_as_tensor(observations, self.first.device), policy.pi_features_extractor
        )
        return flat.view(*self.lead, -1, flat.shape[-1])

    def last_observations(self) -> Observations:
        """What the members' environments showed last, one member after the other."""
        return together([agent._last_obs for agent in self.agents])

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

    def draws(self, who: Collection[int] | None = None) -> Draws:
        """Random numbers from each member's own generator, for those of the given indices, or for all that learn."""
        drawing = [index for index, _ in self.still_learning()] if who is None else who
        generators = [agent.generator if index in drawing else None for index, agent in enumerate(self.agents)]
        return Draws(generators, members=bool(self.lead))

    @torch.no_grad()
    def reset_noise(self, draws: Draws) -> None:
        """Draw gSDE's exploration anew: one function of the hidden activity for each environment."""
        settings = self.first.policy.action_dist
        assert isinstance(settings, StateDependentNoiseDistribution)
        assert self.log_std is not None
        std = settings.get_std(self.log_std).unsqueeze(-3)
        # SB3 draws one function more, for batches of any other size, before those of the environments.
        one = draws.normal(std).mul_(std)
        each = draws.normal(std.expand(*self.lead, self.n_envs, *std.shape[-2:])).mul_(std)
        drawn = one if self.n_envs == 1 else each
        for index, generator in enumerate(draws.generators):
            if generator is None:
                if self._noise is not None:
                    drawn[index] = self._noise[index]
                continue
            distribution: Any = self.agents[index].policy.action_dist
            own = (one[index], each[index]) if self.lead else (one, each)
            distribution.exploration_mat, distribution.exploration_matrices = own[0][0], own[1]
        self._noise = drawn

    # -- learning ------------------------------------------------------------------------

    def modulate(self, prediction_errors: Tensor) -> None:
        """Leave each sample's reward-prediction error ``(m, b)`` with the networks, for rules that gate by it."""
        for network in self.networks.values():
            network.modulator = prediction_errors

    def update_learning_rate(self) -> None:
        """Set the optimizer's learning rate to where the schedule is, for all members the same."""
        self.first._update_learning_rate(self.optimizer)
        if self.logs:
            for _, agent in self.still_learning():
                agent._update_learning_rate(self.optimizer)

    def update(self, losses: Tensor) -> None:
        """One step of the optimizer on each member's own loss ``(m,)``, its gradient clipped by its own norm."""
        self.optimizer.zero_grad()
        losses.sum().backward()
        self._clip()
        self.optimizer.step()

    def _clip(self) -> None:
        limit = self.first.max_grad_norm
        if not self.lead:
            nn.utils.clip_grad_norm_(self.parameters, limit)
            return
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
        scale = (limit / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp_(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))


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

    def minibatches(self, batch_size: int | None, orders: Sequence[np.random.RandomState]) -> Iterator["Rollout"]:
        """The samples in minibatches, each member's in an order of its own, as SB3's buffer gives them.

        Args:
            batch_size: samples of each member; the last minibatch may have fewer. ``None`` for all.
            orders: a generator for each member.
        """
        samples = self.returns.shape[-1]
        batch_size = samples if batch_size is None else batch_size
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


def together(observations: Sequence[Any]) -> Observations:
    """The observations of several members' environments as those of one."""
    if len(observations) == 1:
        return observations[0]
    if isinstance(observations[0], Mapping):
        return {key: np.concatenate([part[key] for part in observations]) for key in observations[0]}
    return np.concatenate(observations)


def _batch_of(env: Any) -> BatchedVecEnv | None:
    """The batch of an environment around which there is nothing, or what only looks at its steps."""
    inner = env.venv if hasattr(env, "check_step") else env
    return inner if isinstance(inner, BatchedVecEnv) else None


def _check_alike(agents: Sequence["RuleAgent"]) -> None:
    first = agents[0]
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


def _stacked_state(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state that a torch optimizer keeps of a parameter, for all members; counts of steps are shared."""
    stacked = {}
    for key, first in states[0].items():
        values = [state[key] for state in states]
        if torch.is_tensor(first) and first.dim():
            stacked[key] = torch.stack(values)
        elif all(value == first for value in values):
            stacked[key] = first.clone() if torch.is_tensor(first) else first
        else:
            raise ValueError(f"members must have learnt equally long: their optimizers' {key} differ")
    return stacked


def _part(value: Any, index: int) -> Any:
    """One member's part of an optimizer's state, in memory of its own."""
    if not torch.is_tensor(value):
        return value
    return (value[index] if value.dim() else value).clone()
