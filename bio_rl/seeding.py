"""Every random number of a run springs from its seed, through one ``numpy.random.SeedSequence``.

Consecutive run seeds, and the copies of an environment within a run, would share their numbers if
seeds were added to one another: copy 1 of run 0 would be copy 0 of run 1. A ``SeedSequence``
hashes what it is given, so that each use below has a stream of its own in each run.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a run draws random seeds for. A stream keeps its number: it is part of what a seed means."""

    AGENT = 0
    """Initial weights, feedback weights, exploration and the order of minibatches."""
    ENVIRONMENTS = 1
    """The copies that the agent learns in."""
    EVALUATION = 2
    """Episodes of an evaluation."""
    DECODER = 3
    """The perturbation of a brain-computer interface's decoder."""


def derive_seeds(run_seed: int, stream: Stream, count: int, *key: int) -> list[int]:
    """Seeds for one use in a run, below 2**32, which is all that old-style generators take.

    Args:
        run_seed: of the run, 0 or more and of any size.
        stream: what they are for.
        count: how many.
        *key: tells several uses of a stream apart, such as the number of an evaluation.
    """
    return np.random.SeedSequence(run_seed, spawn_key=(stream, *key)).generate_state(count).tolist()
