"""Random numbers by purpose: no generator lives on, so that none has to be saved."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for."""

    WEIGHTS = 0
    START = 1
    ACTIONS = 2
    EPSILON = 3
    RANDOM_ACTIONS = 4
    EVALUATION = 6
    RELABELING = 7
    BASELINE = 8
    KEY_STATES = 9
    REPLAY = 10


def number(purpose: Purpose, *key: int) -> int:
    """A seed below 2**63 for a purpose and a key, such as the run's seed and the iteration."""
    state = np.random.SeedSequence([int(purpose), *key]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generator(purpose: Purpose, *key: int) -> np.random.Generator:
    """A generator with that seed."""
    return np.random.default_rng(number(purpose, *key))
