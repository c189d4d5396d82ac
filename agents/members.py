"""Agents that learn together: the networks of several runs, held as one stack.

A member is a run: an ordinary agent, with environments, a seed, random generators and a logger of
its own. While members learn together their parameters lie in one stack with a leading member
dimension, and each agent's own parameters are views of its part: what looks at an agent (an
evaluation, a callback, ``save_model``) sees it as it is. A single agent is one member, without
that dimension, and goes the same way.

Shapes: ``m`` members (none for a single agent), ``b`` samples of each, ``f`` features.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import Tensor, nn

from agents.distributions import Draws
from agents.stack import Observations, Stack, together
from bio_rl import Rule
from bio_rl.tasks.vec_env import BatchedVecEnv

if TYPE_CHECKING:
    from agents.base import RuleAgent


class Members(Stack):
    """One agent, or several that are alike but for their seeds, while they learn.

    Attributes:
        logs: whether the next update's scalars will be looked at.
        failures: what ended a member before its time, by its index.
        joint_env: the environments of all, where they are stepped as one.
    """

    def __init__(self, agents: Sequence["RuleAgent"]):
        super().__init__(agents)
        self.n_envs = self.first.n_envs
        self.learning = [True] * len(agents)
        self.failures: dict[int, BaseException] = {}
        self.joint_env: BatchedVecEnv | None = None
        self.logs = True
        if self.lead:
            self._bind_all()
            self.rollout_buffer: Any = self.first._make_rollout_buffer(len(agents) * self.n_envs)
        else:
            self.optimizer = self.first.policy.optimizer
            self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self.rollout_buffer = self.first.rollout_buffer

    # -- who learns ----------------------------------------------------------------------

    def still_learning(self) -> Iterator[tuple[int, "RuleAgent"]]:
        """The members that go on, with their indices."""
        return ((index, agent) for index, agent in enumerate(self.agents) if self.learning[index])

    def alone(self, index: int) -> "_Alone":
        """What fails for one member within ends that member only. A single agent's error is raised as ever."""
        # Made anew each time: one that was kept would be a cycle, and this with its networks wait for the collector.
        return _Alone(self, index)

    def drop(self, index: int) -> None:
        """End a member's learning: it keeps what it has learnt, in memory of its own.

        Its part of the stack goes on being computed, so that the others' numbers stay what they are
        to the last bit; what is not finite there becomes 0, so that nothing is raised on its account.
        """
        self.learning[index] = False
        # Schedules are read off one member, which must be one that goes on.
        self.first = next((agent for _, agent in self.still_learning()), self.first)
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

    def _bind_all(self) -> None:
        """Give the stack an optimizer with the members' states, and make their parameters views of it.

        Members that learn apart go on with their own optimizers, each of which may have made more steps.
        """
        policies = [agent.policy for agent in self.agents]
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
            if not self.first.learns_apart and any(state.get(number) for state in states):
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
        for own, stacked in zip(self.agents[index].policy.parameters(), self.parameters, strict=True):
            own.data = stacked.data[index]
        for own_module, module in self._modules_of(index):
            if isinstance(module, Rule) and isinstance(own_module, Rule):
                module.generators[index] = own_module.generators[0]
        self._bind_buffers(index)

    def _bind_buffers(self, index: int) -> None:
        for own_module, module in self._modules_of(index):
            for key, buffer in module._buffers.items():
                own_module._buffers[key] = None if buffer is None else buffer[index]

    def _modules_of(self, index: int) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Every module of a member's networks, with the stack's."""
        for name, network in self.networks.items():
            yield from zip(self.agents[index].policy.networks[name].modules(), network.modules(), strict=True)

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

    def settle(self, index: int) -> None:
        """Bring all that a member's training depends on to the member, which goes on learning with the others."""
        if self.joint_env is not None:
            self.joint_env.split(index)
        if not self.lead or self.first.learns_apart:
            return
        policy = self.agents[index].policy
        for group, stacked_group in zip(policy.optimizer.param_groups, self.optimizer.param_groups, strict=True):
            group["lr"] = stacked_group["lr"]
            for parameter, stacked in zip(group["params"], stacked_group["params"], strict=True):
                if state := self.optimizer.state.get(stacked):
                    policy.optimizer.state[parameter] = {key: _part(value, index) for key, value in state.items()}

    def _give_back(self, index: int) -> None:
        self.settle(index)
        policy = self.agents[index].policy
        for parameter in policy.parameters():
            parameter.data = parameter.data.clone()
        for module in policy.modules():
            for key, buffer in module._buffers.items():
                module._buffers[key] = None if buffer is None else buffer.clone()

    # -- acting --------------------------------------------------------------------------

    def last_observations(self) -> Observations:
        """What the members' environments showed last, one member after the other.

        Who failed before it saw anything has the observations of one who goes on.
        """
        known = self.first._last_obs
        shown = [known if agent._last_obs is None else agent._last_obs for agent in self.agents]
        return together(shown)

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
        for _, agent in self.still_learning():
            if agent is not self.first:
                agent._highest_rate = self.first._highest_rate
                if self.logs:
                    agent._update_learning_rate(self.optimizer)

    def update(self, losses: Tensor) -> None:
        """One step of the optimizer on each member's own loss ``(m,)``, its gradient clipped by its own norm."""
        for parameter in self.parameters:
            parameter.grad = None
        losses.sum().backward()
        if gradients := [parameter.grad for parameter in self.parameters if parameter.grad is not None]:
            self._clip(gradients)
        self.optimizer.step()

    def _clip(self, gradients: list[Tensor]) -> None:
        """As ``nn.utils.clip_grad_norm_``, for each member, and without what that does around its kernels."""
        if self.lead:
            norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
        else:
            norms = torch.stack(torch._foreach_norm(gradients))
        scale = (self.first.max_grad_norm / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp_(max=1.0)
        if self.lead:
            for gradient in gradients:
                gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))
        else:
            torch._foreach_mul_(gradients, scale)


class _Alone:
    """A context in which an error ends one member. As a class it takes a third of a generator's time, at every step."""

    def __init__(self, members: Members, index: int):
        self.members = members
        self.index = index

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        # An environment may even call sys.exit.
        if not (self.members.lead and isinstance(error, Exception | SystemExit)):
            return False
        self.members.failures[self.index] = error
        self.members.drop(self.index)
        return True


def _batch_of(env: Any) -> BatchedVecEnv | None:
    """The batch of an environment around which there is nothing, or what only looks at its steps."""
    inner = env.venv if hasattr(env, "check_step") else env
    return inner if isinstance(inner, BatchedVecEnv) else None


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
