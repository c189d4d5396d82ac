"""SB3's rollout buffers, which tell the networks how surprising each sample turned out.

A network cannot know a reward-prediction error: in the brain a neuromodulator brings it. Here the
advantage of every sample of a minibatch is left in ``Network.modulator`` before the minibatch is
learnt from, for the rules that gate plasticity by it.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from torch import Tensor

from bio_rl import Network


def modulate(networks: Iterable[Network], prediction_error: Tensor) -> None:
    """Leave each sample's reward-prediction error ``(batch,)`` with the networks."""
    for network in networks:
        network.modulator = prediction_error


class ModulatingRolloutBuffer(RolloutBuffer):
    """SB3's, with the networks to tell; the agent names them."""

    networks: Iterable[Network] = ()

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
        samples = super()._get_samples(batch_inds, env)
        modulate(self.networks, samples.advantages)
        return samples


class ModulatingDictRolloutBuffer(ModulatingRolloutBuffer, DictRolloutBuffer):
    """The same for Dict observations."""
