"""Random numbers by purpose: no generator lives on, so that none has to be saved."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What random numbers are for."""

    WEIGHTS = 0
    START = 1
    ACTIONS = 2
    MINIBATCHES = 3
    EPISODES = 4
    STEPS = 5


def number(purpose: Purpose, *key: int) -> int:
    """A seed below 2**63 for a purpose and a key, such as the run's seed and the iteration."""
    state = np.random.SeedSequence([int(purpose), *key]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def torch_generator(purpose: Purpose, *key: int) -> torch.Generator:
    """A torch generator on the CPU."""
    return torch.Generator().manual_seed(number(purpose, *key))


def numpy_generator(purpose: Purpose, *key: int) -> np.random.Generator:
    """A NumPy generator."""
    return np.random.default_rng(number(purpose, *key))
