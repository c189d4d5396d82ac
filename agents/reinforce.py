"""REINFORCE: the policy gradient from whole episodes, without bootstrapping."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F

from agents.base import RuleAgent
from agents.buffers import modulate
from agents.policy import RulePolicy

Observations = np.ndarray | dict[str, np.ndarray]


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

    def __init__(
        self,
        policy: str | type[BasePolicy] | GymEnv = RulePolicy,
        env: GymEnv | str | None = None,
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

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: "EpisodeBuffer", n_rollout_steps: int
    ) -> bool:
        """Play until every environment has its share of episodes, or the time steps are used up.

        Args:
            n_rollout_steps: here the number of episodes.

        Returns:
            Whether training goes on: ``False`` if the callback ended it.
        """
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        if not np.all(self._last_episode_starts):
            self._last_obs = env.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        while not rollout_buffer.full and self.num_timesteps < self._total_timesteps:
            if self.use_sde and self.sde_sample_freq > 0 and len(rollout_buffer) % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            actions = self._sample_actions()
            new_obs, rewards, dones, infos = env.step(self._within_bounds(actions))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            rollout_buffer.add(self._last_obs, actions, rewards, dones)
            self._last_obs, self._last_episode_starts = new_obs, dones
        callback.on_rollout_end()
        return True

    @torch.no_grad()
    def _sample_actions(self) -> np.ndarray:
        return self.policy._predict(obs_as_tensor(self._last_obs, self.device)).cpu().numpy()

    def _within_bounds(self, actions: np.ndarray) -> np.ndarray:
        """What the environment gets: a Gaussian knows no bounds, and a squashed action is scaled to [-1, 1]."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        actions = actions.reshape(-1, *self.action_space.shape)
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        return np.clip(actions, self.action_space.low, self.action_space.high)

    def train(self) -> None:
        """One gradient step over all whole episodes; none if there are none."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        observations, actions, returns = self.rollout_buffer.samples()
        if len(returns) == 0:
            return
        values, log_prob, entropy = self.policy.evaluate_actions(observations, actions)
        values = values.flatten()
        advantages = returns - values.detach()
        modulate(self.policy.networks.values(), advantages)
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)

        policy_loss = -(advantages * log_prob).mean()
        # Without an analytical form the entropy is estimated from the samples.
        entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()
        loss = policy_loss + self.ent_coef * entropy_loss
        if self.baseline:
            value_loss = F.mse_loss(values, returns)
            loss = loss + self.vf_coef * value_loss
            self.logger.record("train/value_loss", value_loss.item())
            explained = explained_variance(values.detach().cpu().numpy(), returns.cpu().numpy())
            self.logger.record("train/explained_variance", explained)

        self.policy.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()

        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/policy_loss", policy_loss.item())
        self.logger.record("train/entropy_loss", entropy_loss.item())
        self.logger.record("train/loss", loss.item())
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str = "REINFORCE",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)


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
    def full(self) -> bool:
        """Whether every environment has its share of episodes."""
        return bool((self._finished >= self.quota).all())

    def reset(self) -> None:
        self._finished[:] = 0
        self._steps.clear()

    def add(self, obs: Observations, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray) -> None:
        """One step of every environment; ``dones`` tells which episodes ended with it."""
        self._steps.append((obs, actions, rewards, dones))
        self._finished += dones

    def samples(self) -> tuple[torch.Tensor | dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Observations, actions and returns to go of every environment's first whole episodes, steps first.

        There may be none; a buffer without a step has no samples to ask for.
        """
        observations, actions, rewards, dones = zip(*self._steps, strict=True)
        ended = np.stack(dones)
        chosen = whole_episodes(ended, self.quota)
        returns = returns_to_go(np.stack(rewards), ended, self.gamma)[chosen]
        return (
            obs_as_tensor(_chosen(observations, chosen), self.device),
            torch.as_tensor(np.stack(actions)[chosen], device=self.device),
            torch.as_tensor(returns, device=self.device),
        )


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
