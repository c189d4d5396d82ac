"""REINFORCE: the policy gradient from whole episodes, without bootstrapping."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import explained_variance
from torch.nn import functional as F

from agents.base import RuleAgent
from agents.learning import act, log_state, start_rollout, step_environments
from agents.members import Members
from agents.policy import RulePolicy
from agents.rollout import normalized, spread
from agents.stack import Observations


class REINFORCE(RuleAgent):
    """REINFORCE (Williams 1992) with returns to go, and a learnt value as baseline or none.

    One update maximises the mean over all steps of ``log pi(a|s) * (G - V(s))``, where G is the
    discounted return from that step to the episode's end; as usual, the step's own discount
    ``gamma ** t`` is left out (Sutton & Barto 2018, section 13.3, without it). An episode that a
    time limit cuts ends there: what would have come after is not estimated.

    Every environment contributes the same number of episodes to an update, those that it begins
    after the last one. Taking the first to finish instead would favour short episodes. So
    steps that an environment takes while others finish are counted but not learnt from, and one
    environment wastes none.

    Args:
        policy, env: see ``RuleAgent``, as for all that is not named here.
        n_episodes: episodes for one update, rounded up to a multiple of the environments.
        baseline: whether a critic learns the value; without, V = 0 and there is no critic.
        normalize_advantage: whether ``G - V`` is centred and scaled over the update's steps.
        learning_rate, gamma, ent_coef, vf_coef, max_grad_norm: as in SB3's A2C.
    """

    rollout_buffer: "EpisodeBuffer"  # type: ignore[assignment]
    _last_obs: Any

    default_log_interval = 10
    in_step = False
    learns_apart = True

    def __init__(
        self,
        policy: str | type[BasePolicy] | GymEnv | Callable[[], GymEnv] = RulePolicy,
        env: GymEnv | str | Callable[[], GymEnv] | None = None,
        *,
        n_episodes: int = 8,
        baseline: bool = True,
        normalize_advantage: bool = True,
        learning_rate: float | str | Schedule = 3e-3,
        gamma: float = 0.99,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        _init_setup_model: bool = True,
        **settings: Any,
    ):
        if n_episodes < 1:
            raise ValueError(f"n_episodes must be at least 1, not {n_episodes}")
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_episodes,
            gamma=gamma,
            gae_lambda=1.0,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=EpisodeBuffer,
            _init_setup_model=False,
            **settings,
        )
        self.normalize_advantage = normalize_advantage
        self.policy_kwargs["critic"] = baseline
        if _init_setup_model:
            self._setup_model()

    @property
    def baseline(self) -> bool:
        """Whether a critic learns the value."""
        return self.policy_kwargs["critic"]

    def _collect(self, members: Members, callbacks: dict[int, BaseCallback]) -> None:
        """Play until every environment has its share of episodes, or the time steps are used up.

        Members need different numbers of steps: who has its episodes waits for the others.
        """
        for index, agent in members.still_learning():
            agent.rollout_buffer.reset()
            if not np.all(agent._last_episode_starts):
                assert agent.env is not None
                with members.alone(index):
                    agent._last_obs = agent.env.reset()  # type: ignore[assignment]
        start_rollout(members, callbacks)
        steps = 0
        while playing := _playing(members):
            draws = members.draws(playing)
            if self.use_sde and self.sde_sample_freq > 0 and steps % self.sde_sample_freq == 0:
                members.reset_noise(draws)
            actions = act(members, members.last_observations(), draws)
            before = {index: agent._last_obs for index, agent in playing.items()}
            for index, step in step_environments(members, playing, actions, callbacks):
                playing[index]._keep(before[index], actions[members.columns(index)], *step)
            steps += 1
        for index, _ in members.still_learning():
            with members.alone(index):
                callbacks[index].on_rollout_end()

    def _keep(
        self,
        observations: Observations,
        actions: np.ndarray,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        # Episodes beyond an environment's share are mostly short ones: to log them would bias the mean return.
        shared = self.rollout_buffer.in_share
        self._update_info_buffer([info for info, counts in zip(infos, shared, strict=True) if counts], dones[shared])
        self.rollout_buffer.add(observations, actions, rewards, dones)

    def _update(self, members: Members) -> None:
        """One gradient step over all whole episodes; none if there are none."""
        if members.lead:
            # Episodes differ in length, so that members learn one by one.
            members.apart()
            return
        members.update_learning_rate()
        observations, actions, returns = self.rollout_buffer.samples()
        if len(returns) == 0:
            return
        values, scalars = self._loss(members, members.features(observations), actions, returns)
        if self.baseline:
            explained = explained_variance(values.detach().cpu().numpy(), returns.cpu().numpy())
            self.logger.record("train/explained_variance", explained)
        members.update(scalars["loss"])

        self._n_updates += 1
        log_state(members)
        for name, scalar in scalars.items():
            self.logger.record(f"train/{name}", scalar.item())

    def _loss_of_samples(self, members: Members, count: int) -> torch.Tensor | None:
        if not len(self.rollout_buffer):
            return None
        observations, actions, returns = self.rollout_buffer.samples()
        if len(returns) == 0:
            return None
        chosen = spread(len(returns), count)
        features = members.features(observations)[chosen]
        return self._loss(members, features, actions[chosen], returns[chosen])[1]["loss"]

    def _loss(
        self, members: Members, features: torch.Tensor, actions: torch.Tensor, returns: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The values ``(b,)``, and the loss and its parts by their names."""
        distribution, values = members.outputs(features)
        log_prob, entropy = distribution.evaluate(actions)
        advantages = returns - values.detach()
        members.modulate(advantages)
        if self.normalize_advantage and len(advantages) > 1:
            advantages = normalized(advantages)

        policy_loss = -(advantages * log_prob).mean()
        # Without an analytical form the entropy is estimated from the samples.
        entropy_loss = (log_prob if entropy is None else -entropy).mean()
        loss = policy_loss + self.ent_coef * entropy_loss
        scalars = {"policy_loss": policy_loss, "entropy_loss": entropy_loss}
        if self.baseline:
            # torch 2.6 has no gradient between two precisions.
            scalars["value_loss"] = F.mse_loss(values, returns.to(values.dtype))
            loss = loss + self.vf_coef * scalars["value_loss"]
        return values, scalars | {"loss": loss}


def _playing(members: Members) -> dict[int, REINFORCE]:
    """Who lacks episodes, and has time steps left."""
    agents: Any = members.still_learning()
    return {
        index: agent
        for index, agent in agents
        if not agent.rollout_buffer.full and agent.num_timesteps < agent._total_timesteps
    }


class EpisodeBuffer:
    """The steps of one update, of which the whole episodes are learnt from.

    Args:
        buffer_size: episodes, rounded up to a multiple of ``n_envs``.
        device: where the samples go.
        gamma: the discount.
        n_envs: environments that step together.
        *_, **__: what else SB3 tells its buffers; here steps are kept as they come.
    """

    def __init__(self, buffer_size: int, *_: spaces.Space, device: torch.device, gamma: float, n_envs: int, **__: Any):
        self.device = device
        self.gamma = gamma
        self.quota = -(-buffer_size // n_envs)
        self._finished = np.zeros(n_envs, dtype=int)
        self._steps: list[tuple[Observations, np.ndarray, np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def in_share(self) -> np.ndarray:
        """Whose episode counts: the environments that have not finished their share yet."""
        return self._finished < self.quota

    @property
    def full(self) -> bool:
        """Whether every environment has its share of episodes."""
        return not self.in_share.any()

    def reset(self) -> None:
        self._finished[:] = 0
        self._steps.clear()

    def add(self, obs: Observations, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray) -> None:
        """One step of every environment; ``dones`` tells which episodes ended with it."""
        self._steps.append((obs, actions, rewards, dones))
        self._finished += dones

    def samples(self) -> tuple[Observations, torch.Tensor, torch.Tensor]:
        """Observations, actions and returns to go of every environment's first whole episodes, steps first.

        There may be none; a buffer without a step has no samples to ask for.
        """
        observations, actions, rewards, dones = zip(*self._steps, strict=True)
        ended = np.stack(dones)
        chosen = whole_episodes(ended, self.quota)
        returns = returns_to_go(np.stack(rewards), ended, self.gamma)[chosen]
        return (
            _chosen(observations, chosen),
            torch.as_tensor(_rows(np.stack(actions)[chosen]), device=self.device),
            torch.as_tensor(returns, device=self.device),
        )


def _rows(actions: np.ndarray) -> np.ndarray:
    """Each action as a row of numbers; a single number stays one."""
    return actions.reshape(len(actions), *([math.prod(actions.shape[1:])] if actions.ndim > 1 else []))


def _chosen(observations: Sequence[Observations], chosen: np.ndarray) -> Observations:
    first = observations[0]
    if isinstance(first, dict):
        return {key: np.stack([obs[key] for obs in observations])[chosen] for key in first}
    return np.stack(observations)[chosen]  # type: ignore[arg-type]


def returns_to_go(rewards: np.ndarray, dones: np.ndarray, gamma: float) -> np.ndarray:
    """The discounted return from each step to the end of its episode.

    Args:
        rewards: ``(steps, environments)``.
        dones: which steps ended an episode, of the same shape.
        gamma: the discount.

    Returns:
        ``(steps, environments)``, single precision as SB3's buffers have it.
    """
    returns = np.zeros(rewards.shape, dtype=np.float32)
    following = np.zeros(rewards.shape[1], dtype=np.float32)
    for step in range(len(rewards) - 1, -1, -1):
        following = rewards[step] + gamma * following * ~dones[step]
        returns[step] = following
    return returns


def whole_episodes(dones: np.ndarray, quota: int) -> np.ndarray:
    """Which steps belong to the first ``quota`` episodes of their environment, if these ended.

    Args:
        dones: which steps ended an episode, ``(steps, environments)``.
        quota: episodes of each environment.
    """
    ended_before = dones.cumsum(axis=0) - dones
    will_end = dones[::-1].cumsum(axis=0)[::-1] > 0
    return (ended_before < quota) & will_end
