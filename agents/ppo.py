"""Proximal policy optimisation."""

from collections import defaultdict
from typing import Any

import stable_baselines3 as sb3
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from agents.base import RuleAgent
from agents.learning import log_update, rollout_of
from agents.members import Members
from agents.rollout import Rollout, normalized


class PPO(RuleAgent, sb3.PPO):
    """Stable-Baselines3's PPO (Schulman et al. 2017), whose networks learn by a rule.

    ``PPO("CartPole-v1", rule="feedback_alignment", seed=0).learn(100_000)``. For the arguments
    see ``RuleAgent``, and ``stable_baselines3.PPO`` for all that is not named there.
    """

    default_log_interval = 1

    @property
    def learns_apart(self) -> bool:  # type: ignore[override]
        """Each member stops its passes when it has moved far enough."""
        return self.target_kl is not None

    def _update(self, members: Members) -> None:
        """Several passes over the rollout in minibatches, as SB3's ``PPO.train``."""
        if self.learns_apart and members.lead:
            # Each member stops its passes when it has moved far enough, so they learn one by one.
            members.apart()
            return
        members.update_learning_rate()
        rollout = rollout_of(members)
        orders = [agent.minibatch_order for agent in members.agents]
        scalars: dict[str, list[Tensor]] = defaultdict(list)
        go_on = True
        for epoch in range(self.n_epochs):
            scalars["approx_kl"] = []  # of the last pass, as in SB3
            for batch in rollout.minibatches(self.batch_size, orders):
                loss = self._loss(members, batch, scalars)
                if (
                    self.target_kl is not None
                    and (divergence := scalars["approx_kl"][-1].item()) > 1.5 * self.target_kl
                ):
                    go_on = False
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {divergence:.2f}")
                    break
                members.update(loss)
            for _, agent in members.still_learning():
                agent._n_updates += 1
            if not go_on:
                break

        if members.logs:
            scalars["loss"] = [loss.detach()]
            clip_ranges = {"clip_range": self.clip_range, "clip_range_vf": self.clip_range_vf}
            for _, agent in members.still_learning():
                for name, schedule in clip_ranges.items():
                    if schedule is not None:
                        agent.logger.record(f"train/{name}", self._clip_range(schedule))
            log_update(members, scalars)

    def _loss_of_samples(self, members: Members, count: int) -> Tensor | None:
        if not self.rollout_buffer.full:
            return None
        samples = rollout_of(members).spread(count)
        with torch.no_grad():
            distribution, values = members.outputs(samples.features)
            # As in the first minibatch of an update: the policy is the one that acted, and nothing is clipped.
            samples = samples._replace(old_log_prob=distribution.log_prob(samples.actions), old_values=values)
        return self._loss(members, samples, defaultdict(list))

    def _loss(self, members: Members, batch: Rollout, scalars: dict[str, list[Tensor]]) -> Tensor:
        """Each member's loss ``(m,)``; what is to be known of it is appended to ``scalars``."""
        distribution, values = members.outputs(batch.features)
        log_prob, entropy = distribution.evaluate(batch.actions)
        members.modulate(batch.advantages)
        advantages = batch.advantages
        if self.normalize_advantage and advantages.shape[-1] > 1:
            advantages = normalized(advantages)

        clip_range = self._clip_range(self.clip_range)
        policy_loss = clipped_surrogate(log_prob, batch.old_log_prob, advantages, clip_range)
        if self.clip_range_vf is not None:
            limit = self._clip_range(self.clip_range_vf)
            values = batch.old_values + (values - batch.old_values).clamp(-limit, limit)
        value_loss = (batch.returns - values).square().mean(-1)
        # Without an analytical form the entropy is estimated from the samples.
        entropy_loss = (log_prob if entropy is None else -entropy).mean(-1)

        if members.logs or self.target_kl is not None:
            with torch.no_grad():
                log_ratio = log_prob - batch.old_log_prob
                ratio = log_ratio.exp()
                # http://joschu.net/blog/kl-approx.html
                divergence = (ratio - 1 - log_ratio).mean(-1)
                beyond = ((ratio - 1).abs() > clip_range).to(ratio.dtype).mean(-1)
            names = ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction")
            for name, value in zip(names, (policy_loss, value_loss, entropy_loss, divergence, beyond), strict=True):
                scalars[name].append(value.detach())
        return policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss

    def _clip_range(self, schedule: Any) -> float:
        return schedule(self._current_progress_remaining)


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """Each member's mean loss ``(m,)`` of samples ``(m, b)``: -min(r A, clip(r) A) (Schulman et al. 2017, eq. 7).

    With respect to ``log_prob`` alone it has a derivative, which can be written down: -r A where the
    minimum is the unclipped term, and 0 elsewhere.
    """
    loss: Tensor = _ClippedSurrogate.apply(log_prob, old_log_prob, advantages, clip_range)  # type: ignore[no-untyped-call]
    return loss


class _ClippedSurrogate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
        ratio = (log_prob - old_log_prob).exp_()
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range).mul_(advantages)
        gain = ratio.mul_(advantages)
        ctx.save_for_backward(gain * (gain <= clipped))
        return torch.minimum(gain, clipped).mean(-1).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_error: Tensor) -> tuple[Tensor, None, None, None]:
        (active,) = ctx.saved_tensors
        return active * (loss_error.unsqueeze(-1) / -active.shape[-1]), None, None, None
