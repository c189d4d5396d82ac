"""Looking without touching: what looks at a run draws from random generators of its own."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's global generators, seeded for what is inside; afterwards they go on as before.

    An environment may draw from them, or seed them in its ``reset``. Without this its evaluation
    would change which episodes training sees.

    Args:
        seed: the same one gives the same numbers inside, whatever was drawn before.
    """
    python, legacy_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    # A GPU that nothing has used yet has no generator to keep, and asking for it would start it.
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(gpus)):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.default_generator.manual_seed(seed)
            if gpus:
                torch.cuda.manual_seed_all(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy_numpy)  # noqa: NPY002
