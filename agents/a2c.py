"""Advantage actor-critic."""

import stable_baselines3 as sb3
from torch import Tensor

from agents.base import RuleAgent
from agents.learning import log_update, rollout_of
from agents.members import Members
from agents.rollout import Rollout, normalized


class A2C(RuleAgent, sb3.A2C):
    """Stable-Baselines3's A2C (Mnih et al. 2016), whose networks learn by a rule.

    For the arguments see ``RuleAgent``, and ``stable_baselines3.A2C`` for all that is not named there.
    """

    default_log_interval = 100

    def _update(self, members: Members) -> None:
        """One gradient step on the whole rollout, as SB3's ``A2C.train``."""
        members.update_learning_rate()
        loss, scalars = self._loss(members, rollout_of(members))
        members.update(loss)

        for _, agent in members.still_learning():
            agent._n_updates += 1
        if members.logs:
            log_update(members, {name: [scalar.detach()] for name, scalar in scalars.items()})

    def _loss_of_samples(self, members: Members, count: int) -> Tensor | None:
        if not self.rollout_buffer.full:
            return None
        return self._loss(members, rollout_of(members).spread(count))[0]

    def _loss(self, members: Members, rollout: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Each member's loss ``(m,)``, and its parts by their names."""
        distribution, values = members.outputs(rollout.features)
        log_prob, entropy = distribution.evaluate(rollout.actions)
        members.modulate(rollout.advantages)
        advantages = normalized(rollout.advantages) if self.normalize_advantage else rollout.advantages

        policy_loss = -(advantages * log_prob).mean(-1)
        value_loss = (rollout.returns - values).square().mean(-1)
        # Without an analytical form the entropy is estimated from the samples.
        entropy_loss = (log_prob if entropy is None else -entropy).mean(-1)
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
        return loss, {"entropy_loss": entropy_loss, "policy_loss": policy_loss, "value_loss": value_loss}
