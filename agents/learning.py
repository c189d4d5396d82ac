"""The one training loop, for any number of members.

It is Stable-Baselines3's (``on_policy_algorithm.py``): collect a rollout, log, update, until the
time steps are used up. Networks act and learn for all members at once; environments, callbacks
and loggers are each member's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from agents.distributions import Draws
from agents.heap import keep_freed_memory
from agents.members import Members
from agents.rollout import Rollout
from agents.stack import Observations, as_actions, within_bounds

if TYPE_CHECKING:
    from agents.base import RuleAgent

Step = tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]
"""Rewards, dones and infos of one member's environments."""
COLUMNS = ("observations", "actions", "rewards", "returns", "episode_starts", "values", "log_probs", "advantages")
"""What a rollout buffer keeps, an environment a column."""


def learn_together(
    agents: Sequence["RuleAgent"],
    total_timesteps: int | Sequence[int],
    callbacks: Sequence[MaybeCallback],
    log_interval: int | None = -1,
    tb_log_name: str | None = None,
    reset_num_timesteps: bool = True,
    progress_bar: bool = False,
    after_update: Callable[[Members], None] | None = None,
) -> dict[int, BaseException]:
    """Train agents that are alike but for their seeds; each learns what it would learn alone.

    Args:
        agents: one, or several.
        total_timesteps: of each, or one number for each; without ``reset_num_timesteps``, beyond those that it has.
        callbacks: one for each agent, in Stable-Baselines3's sense.
        log_interval: rollouts from one dump of the logs to the next; -1 for SB3's default, ``None`` for never.
        tb_log_name: the agents' name by default.
        reset_num_timesteps, progress_bar: as for SB3's ``learn``.
        after_update: called between an update and the next rollout: there, after ``Members.settle``, an agent is
            whole and ``save_checkpoint`` may save it.

    Returns:
        What ended a member before its time, by its index; a single agent's error is raised.

    Raises:
        ValueError: agents that are not alike.
    """
    keep_freed_memory()
    members = Members(agents)
    log_interval = members.first.default_log_interval if log_interval == -1 else log_interval
    name = type(members.first).__name__ if tb_log_name is None else tb_log_name
    totals = [total_timesteps] * len(agents) if isinstance(total_timesteps, int) else total_timesteps
    running: dict[int, BaseCallback] = {}
    try:
        for index, agent in members.still_learning():
            with members.alone(index):
                _, running[index] = agent._setup_learn(
                    totals[index], callbacks[index], reset_num_timesteps, name, progress_bar and index == 0
                )
                running[index].on_training_start(locals(), globals())
        members.join_environments()
        iteration = 0 if reset_num_timesteps else members.first.iterations
        while members.drop_finished():
            _collect(members, running)
            iteration += 1
            for index, agent in members.still_learning():
                agent._update_current_progress_remaining(agent.num_timesteps, agent._total_timesteps)
                if log_interval is not None and iteration % log_interval == 0:
                    with members.alone(index):
                        agent.dump_logs(iteration)
            if any(members.learning):
                # Scalars that the next update overwrites before anybody sees them need not be written.
                is_last = any(agent.num_timesteps >= agent._total_timesteps for _, agent in members.still_learning())
                members.logs = is_last or (log_interval is not None and (iteration + 1) % log_interval == 0)
                _update(members)
            if after_update is not None:
                for _, agent in members.still_learning():
                    agent.iterations = iteration
                after_update(members)
    finally:
        members.release()
    for index in running.keys() - members.failures.keys():
        with members.alone(index):
            running[index].on_training_end()
    return members.failures


def _collect(members: Members, callbacks: dict[int, BaseCallback]) -> None:
    if members.lead:
        members.first._collect(members, callbacks)
    else:
        # By the methods that SB3's `learn` calls, which a subclass of somebody's own may override.
        agent = members.first
        assert agent.env is not None
        members.learning[0] = agent.collect_rollouts(agent.env, callbacks[0], agent.rollout_buffer, agent.n_steps)


def _update(members: Members) -> None:
    if members.lead:
        members.first._update(members)
        members.show_buffers()
    else:
        # By SB3's own method, as above; whoever calls it himself wants its scalars.
        members.first._logs_update = members.logs
        members.first.train()
        members.first._logs_update = True


def collect_rollout(
    members: Members, callbacks: dict[int, BaseCallback], buffer: RolloutBuffer, n_rollout_steps: int
) -> None:
    """Play ``n_rollout_steps`` in every environment, and estimate advantages.

    A member whose callback ends its training is dropped before it learns from the rollout.
    """
    first = members.first
    buffer.reset()
    start_rollout(members, callbacks)
    later, drawn = torch.zeros(buffer.n_envs), list[np.ndarray]()
    for step in range(n_rollout_steps):
        if first.use_sde and first.sde_sample_freq > 0 and step % first.sde_sample_freq == 0:
            members.reset_noise(members.draws())
        observations = members.last_observations()
        actions = act(members, observations, members.draws())
        drawn.append(actions)
        rewards, episode_starts = np.zeros((2, buffer.n_envs), dtype=np.float32)
        everyone = dict(members.still_learning())
        for index, agent in everyone.items():
            episode_starts[members.columns(index)] = agent._last_episode_starts
        for index, taken in step_environments(members, everyone, actions, callbacks):
            with members.alone(index):
                rewards[members.columns(index)] = bootstrapped(everyone[index], *taken)
        if not any(members.learning):
            return
        # Nobody needs values and log-probabilities before the end: all are then computed at once.
        buffer.add(observations, actions, rewards, episode_starts, later, later)  # type: ignore[arg-type]
    with torch.no_grad():
        distribution, values = members.outputs(members.features(_samples(buffer.observations)))
        # Of the actions as they were drawn: the buffer has them in single precision.
        log_prob = distribution.log_prob(_actions(members, np.stack(drawn).reshape(buffer.actions.shape)))
        for kept, computed in ((buffer.values, values), (buffer.log_probs, log_prob)):
            kept[:] = computed.reshape(buffer.n_envs, -1).cpu().numpy().T
        last_values = members.values(members.features(members.last_observations()))
    dones = np.zeros(buffer.n_envs, dtype=bool)
    for index, agent in members.still_learning():
        dones[members.columns(index)] = agent._last_episode_starts
    buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
    for index, agent in members.still_learning():
        if members.lead:
            _show(buffer, agent.rollout_buffer, members.columns(index))
        with members.alone(index):
            callbacks[index].on_rollout_end()


def start_rollout(members: Members, callbacks: dict[int, BaseCallback]) -> None:
    """What comes before the first step of a rollout."""
    if members.first.use_sde:
        members.reset_noise(members.draws())
    for index, _ in members.still_learning():
        with members.alone(index):
            callbacks[index].on_rollout_start()


@torch.no_grad()
def act(members: Members, observations: Observations, draws: Draws) -> np.ndarray:
    """Actions of all environments, one member's after the other's."""
    return as_actions(members.first, members.distribution(members.features(observations)).sample(draws))


def step_environments(
    members: Members, playing: Mapping[int, "RuleAgent"], actions: np.ndarray, callbacks: dict[int, BaseCallback]
) -> Iterator[tuple[int, Step]]:
    """One step of the environments of those who play: each one's index, rewards, dones and infos.

    Who fails, or is ended by its callback, is dropped and does not appear.

    Args:
        members: all of them.
        playing: those who play, by their indices.
        actions: for all members' environments.
        callbacks: each sees its member's step.
    """
    joint = members.joint_env
    everything: Any = None if joint is None else joint.step(within_bounds(members.first, actions))
    for index, agent in playing.items():
        mine = members.columns(index)
        with members.alone(index):
            env: Any = agent.env
            if joint is None:
                step = env.step(within_bounds(agent, actions[mine]))
            else:
                step = tuple(part[mine] for part in everything)
                if hasattr(env, "check_step"):
                    env.check_step(*step)
            new_obs, rewards, dones, infos = step
            agent.num_timesteps += members.n_envs
            seen = {"self": agent, "env": env, "rollout_buffer": agent.rollout_buffer, "actions": actions[mine]}
            callbacks[index].update_locals(
                {**seen, "new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos}
            )
            if not callbacks[index].on_step():
                members.drop(index)
                continue
            agent._last_obs, agent._last_episode_starts = new_obs, dones
            yield index, (rewards, dones, infos)


def bootstrapped(agent: "RuleAgent", rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
    """Rewards, with the value of what would have come after where a time limit cut the episode (Pardo et al. 2018)."""
    if not np.count_nonzero(dones):  # a fifth of any()'s time, at every step of every member
        return rewards
    agent._update_info_buffer(infos, dones)
    cut = [
        copy
        for copy in np.flatnonzero(dones)
        if infos[copy].get("TimeLimit.truncated", False) and infos[copy].get("terminal_observation") is not None
    ]
    for copy in cut:
        observation, _ = agent.policy.obs_to_tensor(infos[copy]["terminal_observation"])
        with torch.no_grad():
            following = agent.gamma * agent.policy.predict_values(observation)[0].item()
        rewards[copy] = float(rewards[copy]) + following
    return rewards


def rollout_of(members: Members) -> Rollout:
    """What the members' buffer holds, as tensors."""
    buffer: RolloutBuffer = members.rollout_buffer
    with torch.no_grad():
        features = members.features(_samples(buffer.observations))
    numbers = (buffer.values, buffer.log_probs, buffer.advantages, buffer.returns)
    return Rollout(features, _actions(members, buffer.actions), *(_tensor(members, each) for each in numbers))


def _actions(members: Members, kept: np.ndarray) -> Tensor:
    """As distributions take them, ``(m, b)`` or ``(m, b, a)``."""
    actions = _tensor(members, kept)
    return actions.squeeze(-1) if isinstance(members.first.action_space, spaces.Discrete) else actions


def _tensor(members: Members, kept: np.ndarray) -> Tensor:
    """What a buffer has kept, ``(steps, environments, ...)``, as ``(m, b, ...)``."""
    samples = torch.as_tensor(_samples(kept), device=members.first.device)
    return samples.view(*members.lead, -1, *samples.shape[1:])


def _samples(kept: Any) -> Any:
    """``(steps, environments, ...)`` as one list of samples, environment by environment."""
    if isinstance(kept, dict):
        return {key: _samples(part) for key, part in kept.items()}
    return kept.swapaxes(0, 1).reshape(-1, *kept.shape[2:])


def log_update(members: Members, scalars: Mapping[str, Sequence[Tensor]]) -> None:
    """What an update did, in each member's log.

    Args:
        members: those that learnt.
        scalars: by their names, each minibatch's, ``(m,)``; their means are logged.
    """
    means = {name: torch.stack(list(values)).mean(0).reshape(-1).tolist() for name, values in scalars.items()}
    means["explained_variance"] = _explained_variance(members).tolist()
    for index, agent in members.still_learning():
        for name, values in means.items():
            agent.logger.record(f"train/{name}", values[index])
    log_state(members)


def log_state(members: Members) -> None:
    """How many updates there were, and a Gaussian's mean standard deviation, in each member's log."""
    for _, agent in members.still_learning():
        if hasattr(agent.policy, "log_std"):
            agent.logger.record("train/std", agent.policy.log_std.exp().mean().item())
        agent.logger.record("train/n_updates", agent._n_updates, exclude="tensorboard")


def _explained_variance(members: Members) -> np.ndarray:
    """How much of the variance of a member's returns its values explain, ``(members,)``; NaN where there is none."""
    buffer: RolloutBuffer = members.rollout_buffer
    shape = (buffer.buffer_size, len(members.agents), members.n_envs)
    variance = buffer.returns.reshape(shape).var(axis=(0, 2))
    unexplained = (buffer.returns - buffer.values).reshape(shape).var(axis=(0, 2))
    return 1 - unexplained / np.where(variance == 0, np.nan, variance)


def _show(buffer: RolloutBuffer, own: RolloutBuffer, columns: slice) -> None:
    """Let a member's own buffer show its columns of the common one, to callbacks that look."""
    for name in COLUMNS:
        kept = getattr(buffer, name)
        shown = {key: part[:, columns] for key, part in kept.items()} if isinstance(kept, dict) else kept[:, columns]
        setattr(own, name, shown)
    own.pos, own.full, own.generator_ready = buffer.pos, buffer.full, False
